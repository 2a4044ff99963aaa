/** Owns the choice of engines: those that the configured capabilities need, and no other. */
import type { Log } from './broker/deps.js'
import type { Config } from './config-schema.js'
import type { CredentialId } from './domain/ids.js'
import { jwtEngine } from './engines/jwt.js'
import { memoryEngine } from './engines/memory.js'
import type { Clock, CredentialEngine, Reconcilable, Signer } from './ports.js'

export interface EngineDeps {
  readonly signer: Signer
  readonly isLive: (id: CredentialId) => Promise<boolean>
  readonly clock: Clock
  readonly log: Log
}

export interface Engines {
  readonly engines: ReadonlyMap<string, CredentialEngine>
  readonly reconcilables: readonly Reconcilable[]
  close(): Promise<void>
}

export function composeEngines(config: Config, deps: EngineDeps): Engines {
  const engines = new Map<string, CredentialEngine>()
  const reconcilables: Reconcilable[] = []
  for (const kind of new Set(config.capabilities.map(c => c.engine))) {
    switch (kind) {
      case 'jwt':
        engines.set(kind, jwtEngine({ ...deps, issuerUrl: config.server.url }))
        break
      case 'memory':
        engines.set(kind, memoryEngine())
        break
      case 'vault-database':
        throw new TypeError('composed when its engine is in the house')
      default:
        kind satisfies never
    }
  }
  return { engines, reconcilables, close: async () => {} }
}
