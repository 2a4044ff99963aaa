/** Owns what every verb is given: the ports, the judged configuration, and two narrow ways to tell what happened. */
import type { Audience, Capability } from '../domain/capability.js'
import type { Nonces } from '../domain/dpop-nonce.js'
import type { Signal, SignalAct } from '../domain/signal.js'
import type { Attestation } from '../domain/workload.js'
import type { Attestor, CredentialEngine, JobQueue, PolicyEngine, Reconcilable, RevocationPublisher, Signer, Store } from '../ports.js'
import type { Limits } from './ration.js'

export interface BrokerDeps {
  /** The public URL: issuer of our tokens, audience of task tokens, base of every `htu`. */
  readonly serverUrl: string
  readonly store: Store
  readonly attestors: readonly Attestor[]
  readonly policy: PolicyEngine
  readonly engines: ReadonlyMap<string, CredentialEngine>
  readonly reconcilables: readonly Reconcilable[]
  readonly signer: Signer
  readonly queue: JobQueue
  readonly publisher: RevocationPublisher
  readonly capabilities: ReadonlyMap<string, Capability>
  /** By name. */
  readonly audiences: ReadonlyMap<string, Audience>
  /** By name. */
  readonly issuers: ReadonlyMap<string, Issuer>
  readonly signals: SignalRules
  readonly limits: Limits
  /** Null: a proof needs none. */
  readonly nonces: Nonces | null
  readonly tasks: { readonly maxLifeSeconds: number; readonly defaultLifeSeconds: number }
  readonly log: Log
  readonly meter: Meter
}

export interface Issuer {
  readonly enabled: boolean
  /** The ceiling on what is issued on this issuer's word. */
  readonly maxTtlSeconds: number
  /** How the identities begin that only it can attest. */
  readonly identityPrefix: string
  /** What is true of every attestation by it. The owner of a registered agent is the agent's own. */
  readonly attests: Pick<Attestation, 'kind' | 'profile' | 'strength' | 'owner'>
}

export interface SignalRules {
  readonly sources: readonly { readonly name: string; readonly issuers: readonly string[] }[]
  readonly rules: readonly SignalRule[]
}

export interface SignalRule {
  readonly name: string
  readonly source?: string | undefined
  readonly type?: string | undefined
  readonly minSeverity: Signal['severity']
  readonly act: SignalAct
}

export interface Log {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** What is counted. Names of capabilities, issuers and engines are labels; ids never are. */
export interface Meter {
  issued(capability: string, issuer: string, result: 'ok' | 'failed', seconds: number): void
  decided(result: 'permitted' | 'denied', reason: string): void
  attestationRefused(reason: string): void
  /** Evidence that is tied to one key came with another. */
  secondKey(issuer: string): void
  revoked(reason: string, credentials: number): void
  confirmed(engine: string, seconds: number): void
  engineFailed(engine: string, step: string): void
  swept(): void
  found(kind: string): void
  /** A run was over and its holder had not said so. */
  abandoned(source: string): void
  hook(source: string, result: string): void
  rateLimited(limit: 'source' | 'identity'): void
}
