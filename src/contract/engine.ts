/** Owns `curfew/engine`: what an engine outside this repository is written against (docs/engines.md). It imports nothing of ours but this. */
import type { Secret } from '../domain/secret.js'
import type { Awaitable, Clock, CredentialEngine } from '../ports.js'

export type { RevocationClass } from '../domain/capability.js'
export type { Credential, Handle, Probe } from '../domain/credential.js'
export type { AskParams, Grant } from '../domain/decision.js'
export { CurfewError, PermanentError } from '../domain/errors.js'
export { dashed } from '../domain/ids.js'
export { Secret } from '../domain/secret.js'
export type { Clock, CredentialEngine, Minted } from '../ports.js'

export interface EngineContext {
  /** The store's time, by which lives begin and end. */
  readonly clock: Clock
  /** What the configuration names under `secrets` of this engine, each `reveal().token`. */
  readonly secrets: Readonly<Record<string, Secret>>
  readonly log: Log
}

/** Fields first, then one sentence. Secrets in it are redacted by their names; put none there. */
export interface Log {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

export interface EngineModule {
  /** As `engines[].kind` and `capabilities[].engine` name it. */
  readonly kind: string
  /** Once, at start. Throws for settings that cannot work. `close` is called at the end. */
  create(settings: Readonly<Record<string, unknown>>, context: EngineContext): Awaitable<CredentialEngine & { close?(): Promise<void> }>
}

const defined = new WeakSet<EngineModule>()

/** The default export of an engine's module. */
export function defineEngine(module: EngineModule): EngineModule {
  defined.add(module)
  return module
}

/** False for what another copy of this package defined: its errors and secrets would not be ours, and not be told apart from a fault. */
export function isDefined(module: unknown): module is EngineModule {
  return typeof module === 'object' && module !== null && defined.has(module as EngineModule)
}
