/** Owns the one committed act: everything that a revocation changes, in one short transaction under the exclusive cut-off lock. */
import { CurfewError } from '../domain/errors.js'
import { newId } from '../domain/ids.js'
import { type Actor, type FeedEntry, isForCause, type Reason, type Selector, taskStateAfter } from '../domain/revocation.js'
import type { CommitOptions, RevocationLog } from '../ports.js'
import { writeAudit } from './audit.js'
import { lockCutoffs } from './checks.js'
import { closeRows } from './credential-writes.js'
import { consume } from './marks.js'
import { toRevocation } from './rows.js'
import type { Sql, Tx } from './sql.js'

/** A feed entry must outlive the longest credential that it refuses, and a verifier's clock. Seconds: 12 h and 5 min. */
const SCOPE_UNTIL = 43_500
/** Beyond the end of a single credential or task. */
const MARGIN = 60
/** A job run is refused for as long as any runner lives. Seconds. */
const TOMBSTONE = 86_400
/** A scope with no more rows than this is closed inside the commit; a larger one behind it, in batches, so that no lock is held for long. */
const INLINE_ROWS = 200

interface Hit {
  readonly tasks: readonly string[]
  readonly credentials: readonly string[]
  readonly untilSeconds: number
  readonly issuedBefore: Date | null
}

export function revocationLog(sql: Sql): RevocationLog {
  return {
    commit: (selector, reason, options) => sql.tx(tx => commit(tx, selector, reason, options)),
    deny: (marker, context) =>
      sql.tx(async tx => {
        // Exclusive: whoever passed the markers before this commits has settled before it, or is refused after it.
        await lockCutoffs(tx, 'exclusive')
        await tx.query(
          `insert into curfew.deny_markers (kind, key, until, message, set_by) values ($1, $2, curfew.now() + make_interval(secs => $3::double precision), $4, $5::jsonb)
           on conflict (kind, key) do update set until = greatest(curfew.deny_markers.until, excluded.until), message = excluded.message, set_by = excluded.set_by`,
          [marker.kind, marker.key, marker.seconds, marker.message, JSON.stringify(context.actor)],
        )
        await writeAudit(tx, [
          { kind: 'marker.set', actor: context.actor, subject: marker.key, reason: marker.message, requestId: context.requestId, data: { kind: marker.kind, seconds: marker.seconds } },
        ])
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
        'select seq, kind, key, issued_before, until from curfew.revocations where seq > $1 and until > curfew.now() order by seq limit $2',
        [seq, limit],
      )
      return rows.map(r => ({ seq: r.seq, kind: r.kind, key: r.key, issuedBefore: r.issued_before, until: r.until }))
    },
  }
}

async function commit(tx: Tx, selector: Selector, reason: Reason, options: CommitOptions) {
  await lockCutoffs(tx, 'exclusive')
  await consume(tx, options.marks ?? [])
  const hit = await select(tx, selector)
  const id = newId('revocation')
  const ended = await endTasks(tx, hit.tasks, selector, reason, options.outcome ?? null)
  const closed = await closeRows(tx, hit.credentials, reason, id, options.actor, options.requestId ?? null)
  if (isForCause(reason)) await bury(tx, hit, id)
  const [row] = await tx.query(
    `with next as (update curfew.counters set value = value + 1 where name = 'seq' returning value)
     insert into curfew.revocations (id, seq, kind, key, issued_before, reason, actor, message, at, until, credentials, tasks)
     select $1, next.value, $2, $3, $4, $5, $6::jsonb, $7, curfew.now(), curfew.now() + make_interval(secs => $8::double precision), $9, $10 from next returning *`,
    [id, selector.kind, selector.key, hit.issuedBefore, reason, JSON.stringify(options.actor), options.message ?? null, hit.untilSeconds, closed.length, ended.length],
  )
  await writeAudit(tx, [
    ...ended.map(task => ({ kind: 'task.ended' as const, actor: options.actor, subject: task, reason, requestId: options.requestId ?? null, data: { revocation: id, outcome: options.outcome ?? null } })),
    auditOf(id, selector, reason, options, closed.length, ended.length),
  ])
  return toRevocation(row as Record<string, unknown>)
}

function auditOf(id: string, selector: Selector, reason: Reason, options: CommitOptions, credentials: number, tasks: number) {
  const actor: Actor = options.actor
  return {
    kind: 'revocation.committed' as const,
    actor,
    subject: id,
    reason,
    requestId: options.requestId ?? null,
    data: { selector: { [selector.kind]: selector.key }, credentials, tasks, message: options.message ?? null },
  }
}

/** What the selector hits now; what a scope hits later is refused by its cut-off. */
async function select(tx: Tx, selector: Selector): Promise<Hit> {
  switch (selector.kind) {
    case 'credential': {
      const [row] = await tx.query<{ id: string; left: number }>(
        `select id, greatest(0, extract(epoch from expires_at - curfew.now()))::float8 as left from curfew.credentials where id = $1`,
        [selector.key],
      )
      if (!row) throw new CurfewError('not_found', 'no such credential', { reason: 'not_found', field: 'selector.credential' })
      return { tasks: [], credentials: [row.id], untilSeconds: row.left + MARGIN, issuedBefore: null }
    }
    case 'task': {
      // Parents first, so that a child cannot be opened below a task that is already ending.
      const rows = await tx.query<{ id: string; left: number }>(
        `select id, greatest(0, extract(epoch from deadline_at - curfew.now()))::float8 as left from curfew.tasks
         where id = $1 or $1 = any(ancestors) order by cardinality(ancestors), id for update`,
        [selector.key],
      )
      const root = rows.find(r => r.id === selector.key)
      if (!root) throw new CurfewError('not_found', 'no such task', { reason: 'not_found', field: 'selector.task' })
      const tasks = rows.map(r => r.id)
      const credentials = await tx.query<{ id: string }>(`select id from curfew.credentials where task = any($1::text[]) and state in ('pending', 'active') order by id`, [tasks])
      return { tasks, credentials: credentials.map(r => r.id), untilSeconds: root.left + MARGIN, issuedBefore: null }
    }
    default:
      return selectScope(tx, selector)
  }
}

const COLUMN = { identity: 'identity', issuer: 'issuer', key: 'kid', capability: 'capability' } as const

async function selectScope(tx: Tx, selector: Exclude<Selector, { kind: 'credential' | 'task' }>): Promise<Hit> {
  const [now] = await tx.query<{ at: Date }>('select curfew.now() as at')
  const issuedBefore = selector.issuedBefore ?? (now?.at as Date)
  // Fixed names from our own table; the key itself is always a parameter.
  const scope = selector.kind === 'all' ? '$1::text = $1' : selector.kind === 'issuer' ? '(issuer = $1 or issuer_id = $1)' : `${COLUMN[selector.kind]} = $1`
  const credentials = await tx.query<{ id: string }>(
    `select id from curfew.credentials where ${scope} and issued_at <= $2 and state in ('pending', 'active') order by id limit ${INLINE_ROWS}`,
    [selector.key, issuedBefore],
  )
  // An identity or issuer ends with its open tasks: a live task token would ask again with the same old evidence.
  const tasks =
    selector.kind === 'identity' || selector.kind === 'issuer' || selector.kind === 'all'
      ? await tx.query<{ id: string }>(
          `select id from curfew.tasks where ${selector.kind === 'all' ? '$1::text = $1' : `${selector.kind === 'issuer' ? 'issuer' : 'identity'} = $1`}
           and state = 'open' and opened_at <= $2 order by cardinality(ancestors), id limit ${INLINE_ROWS} for update`,
          [selector.key, issuedBefore],
        )
      : []
  return { tasks: tasks.map(r => r.id), credentials: credentials.map(r => r.id), untilSeconds: SCOPE_UNTIL, issuedBefore }
}

/** The named task ends for the reason; what hangs below it, because its parent ended. The first end stands. */
async function endTasks(tx: Tx, ids: readonly string[], selector: Selector, reason: Reason, outcome: string | null): Promise<string[]> {
  if (ids.length === 0) return []
  const named = selector.kind === 'task' ? [selector.key as string] : ids
  const rows = await tx.query<{ id: string }>(
    `update curfew.tasks
     set state = case when id = any($2::text[]) then $3 else 'revoked' end, end_reason = case when id = any($2::text[]) then $4 else 'parent_ended' end,
         ended_at = curfew.now(), outcome = case when id = any($2::text[]) then $5 else null end, version = version + 1
     where id = any($1::text[]) and state = 'open' returning id`,
    [ids, named, taskStateAfter(reason), reason, outcome],
  )
  return rows.map(r => r.id)
}

/** The runs behind what was ended for cause: a live runner could mint fresh evidence and begin again (T71). */
async function bury(tx: Tx, hit: Hit, revocation: string): Promise<void> {
  await tx.query(
    `insert into curfew.tombstones (run, until, revocation)
     select distinct t.run, curfew.now() + make_interval(secs => $3::double precision), $4 from curfew.tasks t
     where t.run is not null and (t.id = any($1::text[]) or t.id in (select task from curfew.credentials where id = any($2::text[])))
     on conflict (run) do update set until = greatest(curfew.tombstones.until, excluded.until)`,
    [hit.tasks, hit.credentials, TOMBSTONE, revocation],
  )
}
