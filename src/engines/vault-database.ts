/** Owns the engine of PostgreSQL users made by Vault: crash-safe to make, certain to end (security.md 3.3, 3.4; real-parts.md 2.1). */
import { z } from 'zod'
import type { Target } from '../clients/target.js'
import type { Credential, Probe } from '../domain/credential.js'
import { Secret } from '../domain/secret.js'
import type { CredentialEngine } from '../ports.js'
import { userNamed } from './database-users.js'
import { endAtVault, failing, issuanceTokens, lookAtVault, NEVER_MADE, unrecordedLease, type VaultEngineDeps } from './issuance-token.js'
import { checkParameters, segment, tokenPolicy } from './parameters.js'

export const DATABASE_PARAMETERS = z.strictObject({
  mount: segment.default('database'),
  role: segment,
  /** Reads the role's one path: `database/creds/<role>`. */
  policy: tokenPolicy,
  connection: z.strictObject({
    host: z.string().min(1).max(255),
    port: z.int().min(1).max(65_535).default(5_432),
    database: segment,
    sslmode: z.enum(['disable', 'prefer', 'require', 'verify-ca', 'verify-full']).default('verify-full'),
  }),
})
export type DatabaseParameters = z.output<typeof DATABASE_PARAMETERS>

export interface VaultDatabaseDeps extends VaultEngineDeps {
  /** The login of a capability's target, opened once; null when it has none. */
  readonly targetOf: (capability: string) => Target | null
  readonly parametersOf: (capability: string) => DatabaseParameters
}

/** With the token Vault ends the leases of it behind its answer; where two drop one user at a time, one fails, and Vault tries again only much later. */
const VAULTS_TURN_MS = 2_000

const failed = failing('the database user')

/** As it was made; when the answer that tells its name was lost, as the shipped username_template names it. */
const userOf = ({ id, handle }: Credential) => (handle?.role === undefined ? userNamed(id) : String(handle.role))

export function vaultDatabaseEngine(deps: VaultDatabaseDeps): CredentialEngine {
  const tokens = issuanceTokens(deps)
  return {
    kind: 'vault-database',
    revocation: 'backend',
    local: false,
    check: parameters => checkParameters('vault-database', DATABASE_PARAMETERS, parameters),

    prepare(grant, signal) {
      const { policy } = deps.parametersOf(grant.terms.capability.name)
      return tokens.make(grant, policy, signal).catch(cause => Promise.reject(failed('prepared', cause)))
    },

    async mint(grant, _handle, signal) {
      const token = tokens.take(grant)
      const { mount, role, connection } = deps.parametersOf(grant.terms.capability.name)
      const asked = deps.clock.now()
      const made = await deps.issuer.readDynamic(mount, role, token, signal).catch(cause => Promise.reject(failed('made', cause)))
      const oid = await deps.targetOf(grant.terms.capability.name)?.oidOf(made.username)
      return {
        secret: new Secret(
          {
            PGHOST: connection.host,
            PGPORT: String(connection.port),
            PGDATABASE: connection.database,
            PGSSLMODE: connection.sslmode,
            PGUSER: made.username,
            PGPASSWORD: made.password,
            PGAPPNAME: `curfew/${grant.id}`,
          },
          'PGPASSWORD',
        ),
        handle: { leaseId: made.leaseId, role: made.username, ...(oid === undefined || oid === null ? {} : { oid }) },
        expiresAt: made.leaseSeconds > 0 ? new Date(asked.getTime() + made.leaseSeconds * 1000) : null,
        kid: null,
      }
    },

    extend: (credential, signal) => tokens.keep(credential, signal).catch(cause => Promise.reject(failed('kept', cause))),

    async destroy(credential, signal) {
      tokens.forget(credential)
      const handle = credential.handle
      if (!handle) return
      const target = deps.targetOf(credential.capability)
      const user = userOf(credential)
      try {
        // In this order and in transactions of their own: inside Vault's single transaction NOLOGIN is invisible until commit, and a client
        // that reconnects between terminate and commit keeps a session that outlives its role.
        if (target) await target.noLogin(user)
        await endAtVault(deps.revoker, handle, signal)
        if (target && handle.oid !== undefined) await target.endSessions(Number(handle.oid), signal)
        // A read that was cut off may leave a user of which Vault has no lease: it will never end what it does not know of.
        if (target && handle.leaseId === undefined) await target.drop(user, signal, VAULTS_TURN_MS)
      } catch (cause) {
        throw failed('ended', cause)
      }
    },

    async probe(credential, signal): Promise<Probe> {
      const handle = credential.handle
      if (!handle) return NEVER_MADE
      const looked: string[] = []
      const alive = (detail: string): Probe => ({ outcome: 'alive', looked, detail })
      try {
        const left = await lookAtVault(deps.revoker, handle, looked, signal)
        if (left !== null) return alive(left)
        const target = deps.targetOf(credential.capability)
        if (target) {
          looked.push('role', 'sessions')
          const seen = await target.look(userOf(credential), handle.oid === undefined ? null : Number(handle.oid))
          if (seen.role) return alive('the role is still there')
          if (seen.sessions > 0) return alive('a session is still there')
        }
      } catch (cause) {
        throw failed('probed', cause)
      }
      return handle.leaseId === undefined ? unrecordedLease(credential, deps, looked) : { outcome: 'dead', looked, detail: null }
    },
  }
}
