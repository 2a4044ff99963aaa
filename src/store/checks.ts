/** Owns what is checked again under the locks, right before a row is written: nothing decided earlier is believed by then. */
import { CurfewError } from '../domain/errors.js'
import type { TaskId } from '../domain/ids.js'
import { CUTOFF_LOCK, type Tx } from './sql.js'

/** Issuing holds it shared and a revocation's commit exclusively: without it, row locks do not order an issue against the cut-off of an identity (security.md 3.3). */
export async function lockCutoffs(tx: Tx, mode: 'shared' | 'exclusive'): Promise<void> {
  await tx.query(`select pg_advisory_xact_lock${mode === 'shared' ? '_shared' : ''}($1::bigint)`, [CUTOFF_LOCK])
}

export interface Standing {
  readonly identity: string
  readonly issuer: string
  readonly issuerId: string
  readonly capabilities: readonly string[]
  readonly kid: string | null
  readonly run: string | null
  /** `iat` of what is about to exist, or of the evidence it stands on. */
  readonly issuedAt: Date
}

/** Throws `policy_denied` when a deny marker, a tombstone or a cut-off at or after `issuedAt` hits. */
export async function refuseBarred(tx: Tx, s: Standing): Promise<void> {
  const kinds = ['identity', 'issuer', 'issuer', 'all', ...(s.kid ? ['key'] : []), ...s.capabilities.map(() => 'capability')]
  const keys = [s.identity, s.issuer, s.issuerId, '*', ...(s.kid ? [s.kid] : []), ...s.capabilities]
  const [row] = await tx.query<{ marked: boolean; buried: boolean; cut: boolean }>(
    `with scope as (select * from unnest($1::text[], $2::text[]) as s(kind, key))
     select exists (select 1 from curfew.deny_markers m join scope using (kind, key) where m.until > curfew.now()) as marked,
            exists (select 1 from curfew.tombstones t where t.run = $3 and t.until > curfew.now()) as buried,
            exists (select 1 from curfew.revocations r join scope using (kind, key) where r.issued_before >= $4) as cut`,
    [kinds, keys, s.run, s.issuedAt],
  )
  if (row?.buried) throw barred('tombstoned', 'this job run was revoked: it may not begin anything new', 'start a new run')
  if (row?.marked) throw barred('denied_marker', 'new credentials are denied for this workload for now', 'ask a responder')
  if (row?.cut) throw barred('cut_off', 'what this rests on was revoked', 'attest again with new evidence')
}

const barred = (reason: string, message: string, next: string) => new CurfewError('policy_denied', message, { reason, next })

/** Task and ancestors, locked in id order, all open and before their deadline. Answers the earliest deadline. */
export async function lockOpenTasks(tx: Tx, ids: readonly TaskId[]): Promise<Date> {
  const rows = await tx.query<{ id: string; state: string; deadline_at: Date; late: boolean }>(
    'select id, state, deadline_at, deadline_at <= curfew.now() as late from curfew.tasks where id = any($1::text[]) order by id for share',
    [ids],
  )
  if (rows.length !== new Set(ids).size) throw new CurfewError('not_found', 'no such task', { reason: 'not_found' })
  const ended = rows.find(r => r.state !== 'open' || r.late)
  if (ended) throw new CurfewError('task_ended', 'this task has ended', { reason: ended.state === 'open' ? 'deadline' : ended.state })
  return new Date(Math.min(...rows.map(r => r.deadline_at.getTime())))
}
