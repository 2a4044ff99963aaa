/** Owns the choice of engines: those that the configured capabilities need, and no other. */
import type { Log } from './broker/deps.js'
import type { VaultKind } from './compose-vault.js'
import { BUILT_IN_ENGINES, type Config } from './config-schema.js'
import type { CredentialId } from './domain/ids.js'
import { jwtEngine } from './engines/jwt.js'
import { memoryEngine } from './engines/memory.js'
import type { Clock, CredentialEngine, CredentialStore, Reconcilable, Signer } from './ports.js'

export interface EngineDeps {
  readonly signer: Signer
  readonly isLive: (id: CredentialId) => Promise<boolean>
  readonly liveAmong: CredentialStore['liveAmong']
  readonly leaseOwners: CredentialStore['leaseOwners']
  readonly clock: Clock
  readonly log: Log
}

export interface Engines {
  readonly engines: ReadonlyMap<string, CredentialEngine>
  readonly reconcilables: readonly Reconcilable[]
  close(): Promise<void>
}

export async function composeEngines(config: Config, deps: EngineDeps): Promise<Engines> {
  const closing: (() => Promise<void>)[] = []
  const close = async () => {
    for (const one of closing.splice(0)) await one()
  }
  try {
    return { ...(await composed(config, deps, closing)), close }
  } catch (error) {
    await close()
    throw error
  }
}

async function composed(config: Config, deps: EngineDeps, closing: (() => Promise<void>)[]): Promise<Omit<Engines, 'close'>> {
  const engines = new Map<string, CredentialEngine>()
  const reconcilables: Reconcilable[] = []
  const atVault = new Set<VaultKind>()
  const needed = new Set(config.capabilities.map(c => c.engine))
  for (const kind of BUILT_IN_ENGINES.filter(k => needed.has(k))) {
    switch (kind) {
      case 'jwt':
        engines.set(kind, jwtEngine({ ...deps, issuerUrl: config.server.url }))
        break
      case 'memory':
        engines.set(kind, memoryEngine())
        break
      case 'vault-database':
      case 'vault-pki':
      case 'vault-ssh':
      case 'vault-token':
        atVault.add(kind)
        break
      default:
        kind satisfies never
    }
  }
  if (atVault.size > 0) {
    const { composeVault } = await import('./compose-vault.js')
    const made = await composeVault(config, atVault, deps)
    for (const [kind, engine] of made.engines) engines.set(kind, engine)
    reconcilables.push(...made.reconcilables)
    closing.push(made.close)
  }
  for (const [i, entry] of config.engines.entries()) {
    // Loaded here: a house without one runs no code but ours.
    const { loadEngine } = await import('./compose-modules.js')
    const { engine, close } = await loadEngine(entry, i, deps)
    engines.set(entry.kind, engine)
    closing.push(close)
  }
  return { engines, reconcilables }
}
