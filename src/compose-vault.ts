/** Owns the engines that live at Vault: one client an identity, one listing for all of them, and the parameters of each capability, read once. */
import type { z } from 'zod'
import { createTarget, type Target } from './clients/target.js'
import type { EngineDeps } from './compose-engines.js'
import type { Config } from './config-schema.js'
import type { VaultEngineDeps } from './engines/issuance-token.js'
import { DATABASE_PARAMETERS, vaultDatabaseEngine } from './engines/vault-database.js'
import { TOKEN_PARAMETERS, vaultTokenEngine } from './engines/vault-token.js'
import { vaultUpstream } from './engines/vault-upstream.js'
import type { CredentialEngine, Reconcilable } from './ports.js'

type Capability = Config['capabilities'][number]
export type VaultKind = Extract<Capability['engine'], `vault-${string}`>

export interface VaultEngines {
  readonly engines: ReadonlyMap<VaultKind, CredentialEngine>
  readonly reconcilable: Reconcilable | null
  close(): Promise<void>
}

export async function composeVault(config: Config, kinds: ReadonlySet<VaultKind>, deps: EngineDeps): Promise<VaultEngines> {
  const vault = config.vault
  if (!vault) throw new TypeError('the schema demands vault for its engines')
  // Loaded here: a house of signed tokens alone needs none of it.
  const { createVault } = await import('./clients/vault.js')
  const issuer = createVault(vault, 'issuer', deps)
  const revoker = createVault(vault, 'revoker', deps)
  const reconciler = vault.reconciler ? createVault(vault, 'reconciler', deps) : null
  const targets = new Map<string, Target>()
  for (const c of config.capabilities) if (c.target) targets.set(c.name, createTarget(c.target.url))

  const databases = parametersOf(config, 'vault-database', DATABASE_PARAMETERS)
  const tokens = parametersOf(config, 'vault-token', TOKEN_PARAMETERS)
  const upstream = reconciler
    ? vaultUpstream({
        reconciler,
        clock: deps.clock,
        credentialOf: deps.leaseOwners,
        engines: [...kinds],
        paths: databases.known.map(([capability, p]) => ({ capability, prefix: `${p.mount}/creds/${p.role}` })),
      })
    : null
  if (!upstream)
    deps.log.warn({}, 'vault.reconciler is not configured: orphans upstream are not looked for, and a read in flight at a crash waits for a person')
  const common: VaultEngineDeps = {
    issuer,
    revoker,
    clock: deps.clock,
    issuanceTokenSeconds: config.timers.issuanceTokenSeconds,
    clearSince: name => upstream?.clearSince(name) ?? null,
  }
  const engineOf = (kind: VaultKind): CredentialEngine => {
    switch (kind) {
      case 'vault-database':
        return vaultDatabaseEngine({ ...common, targetOf: name => targets.get(name) ?? null, parametersOf: databases.of })
      case 'vault-token':
        return vaultTokenEngine({ ...common, address: vault.address, namespace: vault.namespace ?? null, parametersOf: tokens.of })
      default:
        return kind satisfies never
    }
  }
  return {
    engines: new Map([...kinds].map(kind => [kind, engineOf(kind)])),
    reconcilable: upstream,
    async close() {
      await Promise.all([issuer.close(), revoker.close(), reconciler?.close(), ...[...targets.values()].map(t => t.close())])
    },
  }
}

/** Judged here once; what cannot work is refused by its path, by the engine's `check`, before anything is served. */
function parametersOf<S extends z.ZodType>(config: Config, kind: VaultKind, shape: S) {
  const read = new Map(config.capabilities.filter(c => c.engine === kind).map(c => [c.name, shape.safeParse(c.parameters)]))
  return {
    known: [...read].flatMap(([name, { success, data }]): [string, z.output<S>][] => (success ? [[name, data]] : [])),
    of(name: string): z.output<S> {
      const parameters = read.get(name)
      if (!parameters?.success) throw new TypeError(`the parameters of ${name} were not checked`)
      return parameters.data
    },
  }
}
