/** Owns the walk of a row from `revoking` to `revoked`: claims fenced by version, confirmation by a probe alone, retries without end. */
import { backoffSeconds, CLAIM_MS, type Claim, type Credential, type Probe, STUCK_AFTER } from '../domain/credential.js'
import type { CredentialId } from '../domain/ids.js'
import { byBroker } from '../domain/revocation.js'
import type { CredentialStore } from '../ports.js'
import { auditDead, writeAudit } from './audit.js'
import { destroyFailed } from './events.js'
import { toCredential } from './rows.js'
import { inState, type Row, rowsJson, type Sql, type Tx } from './sql.js'

/** Seconds until a waiting row is looked at again: it waits for a listing, not for a backend. */
const WAIT_SECONDS = 5

type Postponement = Parameters<CredentialStore['postpone']>[1]

/** What a failure makes of a row. Pure, and the same for every implementation. */
export function postponed({ credential }: Claim, outcome: Postponement): { attempts: number; stuck: boolean; seconds: number } {
  const attempts = credential.attempts + (outcome.waiting ? 0 : 1)
  // Nobody can end what only its own end ends: no person need look (architecture.md section 1).
  const stuck = credential.revocationClass !== 'expiry-only' && !outcome.waiting && (outcome.permanent || attempts >= STUCK_AFTER)
  return { attempts, stuck, seconds: outcome.waiting ? WAIT_SECONDS : backoffSeconds(attempts) }
}

/** Requested is not confirmed (rule 4). */
export function assertDead(probe: Probe): void {
  if (probe.outcome !== 'dead') throw new TypeError('only a probe that found it dead confirms a revocation')
}

interface Looked {
  readonly id: CredentialId
  readonly version: number
  readonly probe: Probe
}

/** One statement that moves and tells, however many they are. Answers which moved. @param unclaimed what else must hold of `c` where nobody claimed it. */
async function confirm(tx: Pick<Tx, 'query'>, looked: readonly Looked[], unclaimed: string): Promise<CredentialId[]> {
  for (const { probe } of looked) assertDead(probe)
  const rows = await tx.query<{ id: CredentialId }>(
    `with n as materialized (select curfew.now() as at),
       dead as (
         update curfew.credentials c
         set state = 'revoked', version = c.version + 1, revoked_at = n.at, probe = m.probe, failure = null, next_attempt_at = null, claimed_until = null
         from jsonb_to_recordset($1::jsonb) as m(id text, version int, probe jsonb), n
         where c.id = m.id and c.version = m.version and ${inState('c.state', 'revoking', 'stuck')} and ${unclaimed}
         returning c.id, c.reason, c.revocation, c.attempts, c.probe, c.revoked_at),
       told as (${auditDead('dead', '$2')})
     select id from dead`,
    [rowsJson(looked), JSON.stringify(byBroker('destroy'))],
  )
  return rows.map(r => r.id)
}

export function destroying(sql: Sql): Pick<CredentialStore, 'due' | 'claim' | 'confirm' | 'confirmMany' | 'postpone'> {
  const one = (rows: Row[]): Credential | null => (rows[0] ? toCredential(rows[0]) : null)
  return {
    async due(limit, engine) {
      const rows = await sql.query(
        `select * from curfew.credentials
         where state in ('revoking', 'stuck') ${engine === undefined ? '' : 'and engine = $2'} and next_attempt_at <= (select curfew.now())
           and (claimed_until is null or claimed_until < (select curfew.now()))
         order by next_attempt_at limit $1`,
        engine === undefined ? [limit] : [limit, engine],
      )
      return rows.map(toCredential)
    },
    async claim(id, version) {
      const credential = one(
        await sql.query(
          `update curfew.credentials set version = version + 1, claimed_until = curfew.now() + make_interval(secs => $3::double precision)
           where id = (select id from curfew.credentials
                       where id = $1 and ${inState('state', 'revoking', 'stuck')} and ($2::int is null or version = $2) and next_attempt_at <= curfew.now()
                         and (claimed_until is null or claimed_until < curfew.now())
                       for update skip locked)
           returning *`,
          [id, version, CLAIM_MS / 1000],
        ),
      )
      return credential ? { credential, version: credential.version } : null
    },
    async confirm({ credential: { id }, version }, probe) {
      return (await confirm(sql, [{ id, version, probe }], 'true')).length > 0
    },
    async confirmMany(dead) {
      if (dead.length === 0) return []
      const looked = dead.map(({ credential: { id, version }, probe }) => ({ id, version, probe }))
      return sql.tx(tx => confirm(tx, looked, '(c.claimed_until is null or c.claimed_until < n.at)'))
    },
    postpone: (claim, outcome) =>
      sql.tx(async tx => {
        const { attempts, stuck, seconds } = postponed(claim, outcome)
        const credential = one(
          await tx.query(
            `update curfew.credentials c
             set state = case when $3::boolean then 'stuck' else state end, version = version + 1, attempts = $4, failure = $5, probe = $6::jsonb, claimed_until = null,
                 next_attempt_at = case when class = 'expiry-only' then greatest(expires_at, n.at + make_interval(secs => $7::double precision))
                                        else n.at + make_interval(secs => $7::double precision) end
             from (select curfew.now() as at) n
             where id = $1 and version = $2 and ${inState('state', 'revoking', 'stuck')} returning c.*`,
            [claim.credential.id, claim.version, stuck, attempts, outcome.failure, outcome.probe ? JSON.stringify(outcome.probe) : null, seconds],
          ),
        )
        if (credential && !outcome.waiting)
          await writeAudit(tx, [destroyFailed(credential, credential.state === 'stuck' && claim.credential.state !== 'stuck')])
        return credential
      }),
  }
}
