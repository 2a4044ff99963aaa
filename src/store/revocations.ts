/** Owns the one committed act: everything that a revocation changes, in one short transaction under the exclusive cut-off lock. */
import { CurfewError } from '../domain/errors.js'
import { newId } from '../domain/ids.js'
import { type FeedEntry, isForCause, type Reason, type Revocation, type Selector } from '../domain/revocation.js'
import type { CommitOptions, RevocationLog } from '../ports.js'
import { noSuchTask, scopeOf } from './admission.js'
import { writeAudit } from './audit.js'
import { type Act, bury, closeBehind, closeCredentialsOf, closeRows, drain, endTasks } from './closing.js'
import { markerSet, revocationCommitted } from './events.js'
import { lockCutoffs } from './facts.js'
import { consume } from './marks.js'
import { toRevocation } from './rows.js'
import type { Row, Sql, Tx } from './sql.js'

/** A feed entry must outlive the longest credential that it refuses, and a verifier's clock. Seconds: 12 h and 5 min. */
export const SCOPE_SECONDS = 43_500
/** Beyond the end of a single credential or task, in seconds. */
export const ENTRY_MARGIN = 60
/** What is behind a scope is closed inside the commit up to this many rows, and in batches behind it beyond: no lock is held for long. */
export const INLINE_ROWS = 200

export const noSuchCredential = () => new CurfewError('not_found', 'no such credential', { reason: 'not_found', field: 'selector.credential' })

/** What one commit did, and how long its feed entry matters. */
interface Effect {
  readonly credentials: number
  readonly tasks: number
  readonly until: Date
  readonly issuedBefore: Date | null
  readonly closed: boolean
}

/** @param sql connections of its own: revocation never waits behind issuing for one. */
export function revocationLog(sql: Sql): RevocationLog {
  return {
    commit: (selector, reason, options) => sql.tx(tx => commit(tx, selector, reason, options)),
    deny: (marker, context) =>
      sql.tx(async tx => {
        // Exclusive: whoever passed the markers before this commits has settled before it, or is refused after it.
        await lockCutoffs(tx, 'exclusive')
        // A single credential cannot be issued again; what stands behind it is its task.
        const [row] = marker.kind === 'credential' ? await tx.query<{ task: string }>('select task from curfew.credentials where id = $1', [marker.key]) : []
        await tx.query(
          `insert into curfew.deny_markers as m (scope, until, message, set_by)
           select $1, n.at + make_interval(secs => $2::double precision), $3, $4::jsonb from (select curfew.now() as at) n
           on conflict (scope) do update set until = greatest(m.until, excluded.until), message = excluded.message, set_by = excluded.set_by`,
          [row ? scopeOf('task', row.task) : scopeOf(marker.kind, marker.key), marker.seconds, marker.message, JSON.stringify(context.actor)],
        )
        await writeAudit(tx, [markerSet(marker, context)])
      }),
    async get(id) {
      const [row] = await sql.query('select * from curfew.revocations where id = $1', [id])
      return row ? toRevocation(row) : null
    },
    async list(limit) {
      return (await sql.query('select * from curfew.revocations order by seq desc limit $1', [limit])).map(toRevocation)
    },
    async since(seq, limit) {
      const rows = await sql.query<{ seq: number; kind: FeedEntry['kind']; key: string; issued_before: Date | null; until: Date }>(
        'select seq, kind, key, issued_before, until from curfew.revocations where seq > $1 and until > (select curfew.now()) order by seq limit $2',
        [seq, limit],
      )
      return rows.map(r => ({ seq: r.seq, kind: r.kind, key: r.key, issuedBefore: r.issued_before, until: r.until }))
    },
  }
}

async function commit(tx: Tx, selector: Selector, reason: Reason, options: CommitOptions): Promise<Revocation> {
  await lockCutoffs(tx, 'exclusive')
  // Under the lock, or two commits could take their times in another order than their seq.
  const [clock] = await tx.query<{ at: Date }>('select curfew.now() as at')
  const at = clock?.at as Date
  const act: Act = { id: newId('revocation'), reason, actor: options.actor, requestId: options.requestId ?? null, outcome: options.outcome ?? null }
  const effect = await take(tx, selector, act, at)
  await consume(tx, options.marks ?? [])
  const [row] = await tx.query(
    `with next as (update curfew.counters set value = value + 1 where name = 'seq' returning value)
     insert into curfew.revocations (id, seq, kind, key, issued_before, reason, actor, message, at, until, credentials, tasks, closed_at)
     select $1, next.value, $2, $3, $4, $5, $6::jsonb, $7, $8, $9, $10, $11, case when $12::boolean then $8::timestamptz end from next returning *`,
    [
      act.id,
      selector.kind,
      selector.key,
      effect.issuedBefore,
      reason,
      JSON.stringify(options.actor),
      options.message ?? null,
      at,
      effect.until,
      effect.credentials,
      effect.tasks,
      effect.closed,
    ],
  )
  const revocation = toRevocation(row as Row)
  await writeAudit(tx, [revocationCommitted(revocation, options)])
  return revocation
}

async function take(tx: Tx, selector: Selector, act: Act, at: Date): Promise<Effect> {
  switch (selector.kind) {
    case 'credential':
      return takeCredential(tx, selector.key, act)
    case 'task':
      return takeTask(tx, selector.key, act)
    default:
      return takeScope(tx, selector, act, at)
  }
}

async function takeCredential(tx: Tx, id: string, act: Act): Promise<Effect> {
  const [row] = await tx.query<{ task: string; expires_at: Date }>('select task, expires_at from curfew.credentials where id = $1 for update', [id])
  if (!row) throw noSuchCredential()
  const moved = await closeRows(tx, [{ id, reason: act.reason, revocation: act.id }], act.actor, act.requestId)
  if (isForCause(act.reason)) await bury(tx, [row.task], act.id)
  return { credentials: moved.length, tasks: 0, until: after(row.expires_at, ENTRY_MARGIN), issuedBefore: null, closed: true }
}

/** The entry names the top: verifiers find it among the ancestors that every token below carries, and nothing below outlives it. */
async function takeTask(tx: Tx, id: string, act: Act): Promise<Effect> {
  const [row] = await tx.query<{ deadline_at: Date }>('select deadline_at from curfew.tasks where id = $1', [id])
  if (!row) throw noSuchTask()
  const { all, ended } = await endTasks(tx, [id], act, true)
  const moved = await closeCredentialsOf(tx, all, null, act.actor, act.requestId)
  return { credentials: moved.length, tasks: ended.length, until: after(row.deadline_at, ENTRY_MARGIN), issuedBefore: null, closed: true }
}

async function takeScope(tx: Tx, selector: Exclude<Selector, { kind: 'credential' | 'task' }>, act: Act, at: Date): Promise<Effect> {
  // A cut-off in the future would refuse what nobody has issued yet: that is a deny marker's business.
  const issuedBefore = selector.issuedBefore && selector.issuedBefore < at ? selector.issuedBefore : at
  const { credentials, tasks } = await closeBehind(tx, { id: act.id, kind: selector.kind, key: selector.key, issuedBefore, act }, INLINE_ROWS)
  const drained = credentials.length < INLINE_ROWS && tasks.length > 0 ? await drain(tx, INLINE_ROWS - credentials.length, act.actor) : []
  return { credentials: credentials.length + drained.length, tasks: tasks.length, until: after(at, SCOPE_SECONDS), issuedBefore, closed: false }
}

const after = (at: Date, seconds: number) => new Date(at.getTime() + seconds * 1000)
