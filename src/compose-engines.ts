/** Owns the choice of engines: those that the configured capabilities need, and no other. */
import type { Log } from './broker/deps.js'
import { createTarget, type Target } from './clients/target.js'
import type { Config } from './config-schema.js'
import type { CredentialId } from './domain/ids.js'
import { jwtEngine } from './engines/jwt.js'
import { memoryEngine } from './engines/memory.js'
import { DATABASE_PARAMETERS, vaultDatabaseEngine } from './engines/vault-database.js'
import { vaultUpstream } from './engines/vault-upstream.js'
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
  const engines = new Map<string, CredentialEngine>()
  const reconcilables: Reconcilable[] = []
  const closing: (() => Promise<void>)[] = []
  for (const kind of new Set(config.capabilities.map(c => c.engine))) {
    switch (kind) {
      case 'jwt':
        engines.set(kind, jwtEngine({ ...deps, issuerUrl: config.server.url }))
        break
      case 'memory':
        engines.set(kind, memoryEngine())
        break
      case 'vault-database': {
        const made = await composeVaultDatabase(config, deps)
        engines.set(kind, made.engine)
        if (made.reconcilable) reconcilables.push(made.reconcilable)
        closing.push(made.close)
        break
      }
      default:
        kind satisfies never
    }
  }
  return {
    engines,
    reconcilables,
    async close() {
      for (const close of closing) await close()
    },
  }
}

async function composeVaultDatabase(config: Config, deps: EngineDeps) {
  const vault = config.vault
  if (!vault) throw new TypeError('the schema demands vault for vault-database')
  // Loaded here: a house of signed tokens alone needs none of it.
  const { createVault } = await import('./clients/vault.js')
  const issuer = createVault(vault, 'issuer', deps)
  const revoker = createVault(vault, 'revoker', deps)
  const reconciler = vault.reconciler ? createVault(vault, 'reconciler', deps) : null

  const ours = config.capabilities.filter(c => c.engine === 'vault-database')
  // Judged here once; what cannot work is refused by its path before anything is served.
  const parameters = new Map(ours.map(c => [c.name, DATABASE_PARAMETERS.safeParse(c.parameters)]))
  const parametersOf = (name: string) => {
    const read = parameters.get(name)
    if (!read?.success) throw new TypeError(`the parameters of ${name} were not checked`)
    return read.data
  }
  const targets = new Map<string, Target>()
  for (const c of ours) if (c.target) targets.set(c.name, createTarget(c.target.url))

  const upstream = reconciler
    ? vaultUpstream({
        reconciler,
        clock: deps.clock,
        credentialOf: deps.leaseOwners,
        paths: [...parameters].flatMap(([capability, read]) => (read.success ? [{ capability, mount: read.data.mount, role: read.data.role }] : [])),
      })
    : null
  if (!upstream)
    deps.log.warn({}, 'vault.reconciler is not configured: orphans upstream are not looked for, and a read in flight at a crash waits for a person')
  const engine = vaultDatabaseEngine({
    issuer,
    revoker,
    clock: deps.clock,
    targetOf: name => targets.get(name) ?? null,
    parametersOf,
    issuanceTokenSeconds: config.timers.issuanceTokenSeconds,
    clearSince: name => upstream?.clearSince(name) ?? null,
  })
  return {
    engine,
    reconcilable: upstream,
    async close() {
      await Promise.all([issuer.close(), revoker.close(), reconciler?.close(), ...[...targets.values()].map(t => t.close())])
    },
  }
}
