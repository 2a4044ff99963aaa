/** Owns the engine of PostgreSQL users made by Vault: crash-safe to make, certain to end (security.md 3.3, 3.4; real-parts.md 2.1). */
import { z } from 'zod'
import type { Target } from '../clients/target.js'
import type { VaultClient } from '../clients/vault.js'
import { VaultError } from '../clients/vault.js'
import type { Credential, Probe } from '../domain/credential.js'
import { CurfewError } from '../domain/errors.js'
import { dashed } from '../domain/ids.js'
import { Secret } from '../domain/secret.js'
import type { Clock, CredentialEngine } from '../ports.js'

const name = z.string().regex(/^[A-Za-z0-9_-]{1,100}$/, 'must be letters, digits, _ and -')

export const DATABASE_PARAMETERS = z.strictObject({
  mount: name.default('database'),
  role: name,
  /** The one-path policy that the per-issuance token is given. */
  policy: z.string().regex(/^curfew-cap-[a-z0-9-]{1,80}$/, 'must begin with curfew-cap-'),
  connection: z.strictObject({
    host: z.string().min(1).max(255),
    port: z.int().min(1).max(65_535).default(5_432),
    database: name,
    sslmode: z.enum(['disable', 'prefer', 'require', 'verify-ca', 'verify-full']).default('verify-full'),
  }),
})
export type DatabaseParameters = z.output<typeof DATABASE_PARAMETERS>

export interface VaultDatabaseDeps {
  readonly issuer: VaultClient
  readonly revoker: VaultClient
  readonly clock: Clock
  /** The login of a capability's target, opened once; null when it has none. */
  readonly targetOf: (capability: string) => Target | null
  readonly parametersOf: (capability: string) => DatabaseParameters
  /** The dead man's switch. Seconds. */
  readonly issuanceTokenSeconds: number
  /** The moment up to which a complete listing showed that every lease issued before it is known to a row; null when none was made. */
  readonly clearSince: (capability: string) => Date | null
}

/** Above the grant, so that a clock's difference does not kill what is still granted. Seconds. */
const MAX_TTL_MARGIN = 30
/** Vault's own limit on a request: a read that began before its token died may still make a lease until then. Seconds. */
const READ_IN_FLIGHT = 90

const failed = (step: string, cause: unknown) =>
  new CurfewError('engine_failed', `the database user could not be ${step}`, { reason: reasonOf(cause), retryAfterSeconds: 1 }, { cause })

function reasonOf(cause: unknown): string {
  if (cause instanceof VaultError) return `vault_${cause.outcome}`
  return cause instanceof CurfewError ? (cause.facts.reason ?? 'engine_failed') : 'engine_failed'
}

export function vaultDatabaseEngine(deps: VaultDatabaseDeps): CredentialEngine {
  /** Between prepare and mint, in memory only: the handle holds the accessor, which can end the token and not use it. */
  const tokens = new Map<string, { readonly token: Secret; readonly until: number }>()
  /** What nobody came back for is dead at Vault by then, and is not kept here either. */
  const keep = (id: string, token: Secret) => {
    const now = performance.now()
    for (const [other, held] of tokens) if (held.until <= now) tokens.delete(other)
    tokens.set(id, { token, until: now + deps.issuanceTokenSeconds * 1000 })
  }

  return {
    kind: 'vault-database',
    revocation: 'backend',
    local: false,
    check(parameters) {
      const result = DATABASE_PARAMETERS.safeParse(parameters)
      if (result.success) return
      const issue = result.error.issues[0]
      const unknown = issue?.code === 'unrecognized_keys' ? issue.keys.slice(0, 1) : []
      throw new CurfewError('malformed', unknown.length > 0 ? 'the vault-database engine has no such parameter' : (issue?.message ?? 'invalid'), {
        reason: unknown.length > 0 ? 'unknown_field' : 'invalid_field',
        field: ['parameters', ...(issue?.path ?? []), ...unknown].join('.'),
      })
    },

    async prepare(grant, signal) {
      const parameters = deps.parametersOf(grant.terms.capability.name)
      try {
        const { token, accessor } = await deps.issuer.createIssuanceToken(
          {
            credential: grant.id,
            displayName: dashed(grant.id),
            policy: parameters.policy,
            ttlSeconds: Math.min(deps.issuanceTokenSeconds, grant.ttlSeconds),
            maxTtlSeconds: grant.ttlSeconds + MAX_TTL_MARGIN,
          },
          signal,
        )
        keep(grant.id, token)
        return { accessor }
      } catch (cause) {
        throw failed('prepared', cause)
      }
    },

    async mint(grant, _handle, signal) {
      const token = tokens.get(grant.id)?.token
      tokens.delete(grant.id)
      if (!token) throw new CurfewError('engine_failed', 'the credential was ended while it was being made', { reason: 'overtaken' })
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

    async extend(credential, signal) {
      const lifeSeconds = (credential.expiresAt.getTime() - credential.issuedAt.getTime()) / 1000
      // By the whole life, not by what is left of it: the token's seconds have been running since prepare.
      if (lifeSeconds <= deps.issuanceTokenSeconds) return
      const left = Math.ceil((credential.expiresAt.getTime() - deps.clock.now().getTime()) / 1000)
      try {
        await deps.issuer.renewAccessor(String(credential.handle?.accessor), left, signal)
      } catch (cause) {
        throw failed('kept', cause)
      }
    },

    async destroy(credential, signal) {
      tokens.delete(credential.id)
      const handle = credential.handle
      if (!handle) return
      const target = deps.targetOf(credential.capability)
      const role = handle.role === undefined ? null : String(handle.role)
      try {
        // In this order and in transactions of their own: inside Vault's single transaction NOLOGIN is invisible until commit, and a client
        // that reconnects between terminate and commit keeps a session that outlives its role.
        if (target && role) await target.noLogin(role)
        if (handle.leaseId !== undefined) await deps.revoker.revokeLease(String(handle.leaseId), signal)
        if (handle.accessor !== undefined) await deps.revoker.revokeAccessor(String(handle.accessor), signal)
        if (target && handle.oid !== undefined) await target.endSessions(Number(handle.oid), signal)
      } catch (cause) {
        throw failed('ended', cause)
      }
    },

    async probe(credential, signal): Promise<Probe> {
      const handle = credential.handle
      // Nothing was recorded, so nothing was made, and nothing can be: the compare-and-set of the handle will fail.
      if (!handle) return { outcome: 'dead', looked: ['row'], detail: null }
      const looked: string[] = []
      const alive = (detail: string): Probe => ({ outcome: 'alive', looked, detail })
      try {
        if (handle.leaseId !== undefined) {
          looked.push('lease')
          if (await deps.revoker.leaseExists(String(handle.leaseId), signal)) return alive('the lease is still there')
        }
        if (handle.accessor !== undefined) {
          looked.push('accessor')
          if (await deps.revoker.accessorExists(String(handle.accessor), signal)) return alive('the token is still there')
        }
        const target = deps.targetOf(credential.capability)
        if (target && handle.role !== undefined) {
          looked.push('role', 'sessions')
          const seen = await target.look(String(handle.role), handle.oid === undefined ? null : Number(handle.oid))
          if (seen.role) return alive('the role is still there')
          if (seen.sessions > 0) return alive('a session is still there')
        }
      } catch (cause) {
        throw failed('probed', cause)
      }
      return handle.leaseId === undefined
        ? unrecorded(credential, deps.issuanceTokenSeconds, deps.clearSince(credential.capability), looked)
        : { outcome: 'dead', looked, detail: null }
    },
  }
}

/**
 * A read may have been in flight when its token died: only a listing made after its last moment tells that it left no lease
 * (security.md 3.4). The handle is recorded inside the mint window, so the token was made before its end and dies by itself one life
 * later; a read that began with its last breath takes as long as Vault lets a request take.
 */
function unrecorded(credential: Credential, tokenSeconds: number, clearSince: Date | null, looked: readonly string[]): Probe {
  const over = credential.deadlineAt.getTime() + (tokenSeconds + READ_IN_FLIGHT) * 1000
  if (clearSince && clearSince.getTime() > over) return { outcome: 'dead', looked: [...looked, 'listing'], detail: null }
  return { outcome: 'waiting', looked, detail: 'a read may have been in flight: waiting for a listing that shows no lease of it' }
}
