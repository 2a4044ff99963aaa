/** Owns the engines that live at Vault: one client an identity, one listing for all of them, and the parameters of each capability, read once. */
import type { z } from 'zod'
import { createTarget, type Target } from './clients/target.js'
import type { VaultClient } from './clients/vault.js'
import type { EngineDeps } from './compose-engines.js'
import type { BuiltInEngine, Config } from './config-schema.js'
import { within } from './domain/deadline.js'
import { databaseUsers } from './engines/database-users.js'
import type { VaultEngineDeps } from './engines/issuance-token.js'
import { DATABASE_PARAMETERS, vaultDatabaseEngine } from './engines/vault-database.js'
import { PKI_PARAMETERS, vaultPkiEngine } from './engines/vault-pki.js'
import { faultsOfRole } from './engines/vault-roles.js'
import { SSH_PARAMETERS, vaultSshEngine } from './engines/vault-ssh.js'
import { TOKEN_PARAMETERS, vaultTokenEngine } from './engines/vault-token.js'
import { vaultUpstream } from './engines/vault-upstream.js'
import type { CredentialEngine, Reconcilable } from './ports.js'

export type VaultKind = Extract<BuiltInEngine, `vault-${string}`>

export interface VaultEngines {
  readonly engines: ReadonlyMap<VaultKind, CredentialEngine>
  readonly reconcilables: readonly Reconcilable[]
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
  const certificates = parametersOf(config, 'vault-pki', PKI_PARAMETERS)
  const keys = parametersOf(config, 'vault-ssh', SSH_PARAMETERS)
  const tokens = parametersOf(config, 'vault-token', TOKEN_PARAMETERS)
  const upstream = reconciler
    ? vaultUpstream({
        reconciler,
        clock: deps.clock,
        credentialOf: deps.leaseOwners,
        // The token of an SSH certificate has done its work when the certificate is there.
        engines: [...kinds].filter(kind => kind !== 'vault-ssh'),
        paths: [
          ...databases.known.map(([capability, p]) => ({ capability, prefix: `${p.mount}/creds/${p.role}` })),
          ...certificates.known.flatMap(([capability, p]) => ['issue', 'sign'].map(act => ({ capability, prefix: `${p.mount}/${act}/${p.role}` }))),
        ],
      })
    : null
  if (!upstream)
    deps.log.warn({}, 'vault.reconciler is not configured: orphans upstream are not looked for, and a read in flight at a crash waits for a person')
  if (reconciler) void tellFaultsOfRoles(config, reconciler, deps)
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
      case 'vault-pki':
        return vaultPkiEngine({ ...common, parametersOf: certificates.of })
      case 'vault-ssh':
        return vaultSshEngine({ ...common, parametersOf: keys.of })
      case 'vault-token':
        return vaultTokenEngine({ ...common, address: vault.address, namespace: vault.namespace ?? null, parametersOf: tokens.of })
      default:
        return kind satisfies never
    }
  }
  return {
    engines: new Map([...kinds].map(kind => [kind, engineOf(kind)])),
    reconcilables: [...(upstream ? [upstream] : []), ...[...targets].map(([capability, target]) => databaseUsers(capability, target))],
    async close() {
      await Promise.all([issuer.close(), revoker.close(), reconciler?.close(), ...[...targets.values()].map(t => t.close())])
    },
  }
}

/**
 * At the start, as far as our own identity may look: a role that was misconfigured is told before somebody needs it. Nothing waits for
 * it, and nothing depends on it: an engine refuses by itself what it cannot end.
 */
async function tellFaultsOfRoles(config: Config, reconciler: VaultClient, { log }: EngineDeps): Promise<void> {
  for (const capability of config.capabilities) {
    const { name, engine, parameters } = capability
    const mount = READABLE_ROLES[engine]
    if (mount === undefined) continue
    try {
      const role = await reconciler.role(String(parameters.mount ?? mount), String(parameters.role), within(ROLE_MS))
      for (const { fault, fix } of faultsOfRole(capability, role)) log.error({ capability: name, fix }, `its Vault role ${fault}`)
    } catch (error) {
      log.info({ err: error, capability: name }, 'its Vault role could not be looked at')
    }
  }
}
const ROLE_MS = 5_000
/** Of these kinds the shipped reconciler may read the roles; where they are, unless a capability says otherwise. */
const READABLE_ROLES: Readonly<Record<string, string>> = { 'vault-pki': 'pki', 'vault-ssh': 'ssh' }

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
