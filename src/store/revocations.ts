/** Owns the one committed act: everything that a revocation changes, in one short transaction under the exclusive cut-off lock. */
import { CurfewError } from '../domain/errors.js'
import { newId } from '../domain/ids.js'
import { type Actor, type FeedEntry, FOR_GOOD, isForCause, type Reason, type Revocation, type Selector } from '../domain/revocation.js'
import type { Where } from '../domain/where.js'
import type { CommitOptions, RevocationLog } from '../ports.js'
import { noSuchTask } from './admission.js'
import { writeAudit } from './audit.js'
import { type Act, bury, closeBehind, closeCredentialsOf, closeRows, drain, endTasks, TASKS_A_PASS } from './closing.js'
import { revocationCommitted } from './events.js'
import { keyReused } from './issue.js'
import { withdrawKey } from './keys.js'
import { consume } from './marks.js'
import { outcomeOf } from './outcome.js'
import { insertQuarantine } from './quarantines.js'
import { toRevocation } from './rows.js'
import { reachOf, tasksWhere } from './selecting.js'
import type { Row, Sql, Tx } from './sql.js'

/** A feed entry must outlive the longest credential that it refuses, and a verifier's clock. Seconds: 12 h and 5 min. */
export const SCOPE_SECONDS = 43_500
/** And that of a withdrawn key the time that a verifier cut off from our key set goes on believing it: 24 h and 5 min. */
export const WITHDRAWN_SECONDS = 86_700
/** Beyond the end of a single credential or task, in seconds. */
export const ENTRY_MARGIN = 60
/** More acts than there can have been since any backup, and few enough that a store can be restored a million times. */
export const RESTORED_ACTS = 1_000_000_000
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
  /** Tasks that attributes named. */
  readonly named?: readonly string[]
}

/** @param sql connections of its own: revocation never waits behind issuing for one. */
export function revocationLog(sql: Sql): RevocationLog {
  const one = async (query: string, params: readonly unknown[]) => {
    const [row] = await sql.query(query, params)
    return row ? toRevocation(row) : null
  }
  return {
    async commit(selector, reason, options) {
      const first = await sql.tx(tx => commit(tx, selector, reason, options), 'exclusive')
      if (selector.kind !== 'where' || first.repeated) return first.revocation
      // Whoever dies here has answered nobody: the caller asks again, and what is left is ended then.
      for (let after = first.last; after !== null; )
        after = await sql.tx(tx => commitPart(tx, selector, reason, options, first.revocation.id, after as string), 'exclusive')
      return (await one('select * from curfew.revocations where id = $1', [first.revocation.id])) as Revocation
    },
    get: id => one('select * from curfew.revocations where id = $1', [id]),
    async seq() {
      const [row] = await sql.query<{ value: number }>(`select value from curfew.counters where name = 'seq'`)
      return row?.value ?? 0
    },
    byReceipt: id => one('select * from curfew.revocations where receipt = $1', [id]),
    async endedBy(selector) {
      if (selector.kind !== 'credential' && selector.kind !== 'task') return null
      const table = selector.kind === 'credential' ? 'credentials' : 'tasks'
      return one(`select r.* from curfew.${table} x join curfew.revocations r on r.id = x.revocation where x.id = $1`, [selector.key])
    },
    async list(limit) {
      return (await sql.query('select * from curfew.revocations where part_of is null order by seq desc limit $1', [limit])).map(toRevocation)
    },
    async since(seq, limit) {
      const rows = await sql.query<{ seq: number; kind: FeedEntry['kind']; key: string; issued_before: Date | null; until: Date }>(
        `with acts as (select * from curfew.revocations where seq > $1 and until > (select curfew.now()) order by seq limit $2)
         select seq, kind, key, issued_before, until from acts where kind <> 'where'
         union all select seq, 'task', n.task, null, until from acts, unnest(acts.named) as n(task) where kind = 'where' order by seq, key`,
        [seq, limit],
      )
      return rows.map(r => ({ seq: r.seq, kind: r.kind, key: r.key, issuedBefore: r.issued_before, until: r.until }))
    },
    reach: selector => sql.tx(tx => reachOf(tx, selector)),
    outcome: id => sql.tx(tx => outcomeOf(tx, id)),
  }
}

interface Committed {
  readonly revocation: Revocation
  /** It was committed before, by the same key or plan. */
  readonly repeated: boolean
  /** The last task of a full chunk: more may follow it. */
  readonly last: string | null
}

async function commit(tx: Tx, selector: Selector, reason: Reason, options: CommitOptions): Promise<Committed> {
  const met = await committedBefore(tx, options)
  if (met) return { revocation: met, repeated: true, last: null }
  const act = newAct(reason, options)
  const { revocation, last } = await write(tx, selector, act, options, null, '')
  await consume(tx, options.marks ?? [])
  if (options.plan) await tx.query('update curfew.plans set revocation = $2 where id = $1', [options.plan, revocation.id])
  if (options.quarantine) await insertQuarantine(tx, options.quarantine, options.actor, revocation.id, act.requestId)
  return { revocation, repeated: false, last }
}

/** A further chunk of what attributes name. Answers its last task when it was full. */
async function commitPart(tx: Tx, selector: Selector, reason: Reason, options: CommitOptions, whole: string, after: string): Promise<string | null> {
  const { actor, message, requestId } = options
  const said: CommitOptions = { actor, requestId: requestId ?? null, ...(message === undefined ? {} : { message }) }
  const { revocation, last } = await write(tx, selector, newAct(reason, said), said, whole, after)
  await tx.query('update curfew.revocations set tasks = tasks + $2, credentials = credentials + $3 where id = $1', [
    whole,
    revocation.tasks,
    revocation.credentials,
  ])
  return last
}

const newAct = (reason: Reason, options: CommitOptions): Act => ({
  id: newId('revocation'),
  reason,
  actor: options.actor,
  requestId: options.requestId ?? null,
  outcome: options.outcome ?? null,
})

async function committedBefore(tx: Tx, { idempotency, plan, actor }: CommitOptions): Promise<Revocation | null> {
  if (idempotency) {
    const [row] = await tx.query<{ request_hash: string }>('select * from curfew.revocations where idempotency = $1', [ownKey(actor, idempotency.key)])
    if (row && row.request_hash !== idempotency.hash) throw keyReused()
    if (row) return toRevocation(row)
  }
  if (!plan) return null
  const [made] = await tx.query<{ revocation: string | null; lapsed: boolean }>(
    'select revocation, valid_until <= (select curfew.now()) as lapsed from curfew.plans where id = $1 for update',
    [plan],
  )
  if (!made) throw new CurfewError('not_found', 'no such plan', { reason: 'not_found', field: 'plan' })
  if (made.revocation !== null) {
    const [row] = await tx.query('select * from curfew.revocations where id = $1', [made.revocation])
    return toRevocation(row as Row)
  }
  if (made.lapsed)
    throw new CurfewError('conflict', 'this plan has lapsed', { reason: 'plan_lapsed', field: 'plan', next: 'make it again and look at its numbers' })
  return null
}

export const planLapsed = () =>
  new CurfewError('conflict', 'this plan has lapsed', { reason: 'plan_lapsed', field: 'plan', next: 'make it again and look at its numbers' })

const ownKey = (actor: Actor, key: string) => `${actor.kind}:${actor.id}:${key}`

/** Ends what is meant and writes the act's row, with the next `seq`. @param after where a chunk of named tasks begins. */
async function write(
  tx: Tx,
  selector: Selector,
  act: Act,
  options: CommitOptions,
  partOf: string | null,
  after: string,
): Promise<{ revocation: Revocation; last: string | null }> {
  // Under the lock, or two commits could take their times in another order than their seq.
  const [clock] = await tx.query<{ at: Date }>('select curfew.now() as at')
  const at = clock?.at as Date
  if (options.withdraw) await withdrawKey(tx, selector.key, act.id, { requestId: act.requestId, actor: act.actor })
  const effect = await take(tx, selector, act, at, after, options.withdraw === true)
  const [row] = await tx.query(
    `with next as (update curfew.counters set value = value + $19::bigint where name = 'seq' returning value)
     insert into curfew.revocations (id, seq, kind, key, issued_before, reason, actor, message, at, until, credentials, tasks, closed_at, filter, named, part_of, receipt,
                                     idempotency, request_hash)
     select $1, next.value, $2, $3, $4, $5, $6::jsonb, $7, $8, $9, $10, $11, case when $12::boolean then $8::timestamptz end, $13::jsonb, $14, $15, $16, $17, $18
     from next returning *`,
    [
      act.id,
      selector.kind,
      selector.key,
      effect.issuedBefore,
      act.reason,
      JSON.stringify(options.actor),
      options.message ?? null,
      at,
      effect.until,
      effect.credentials,
      effect.tasks,
      effect.closed,
      selector.kind === 'where' ? JSON.stringify(selector.where) : null,
      effect.named ?? null,
      partOf,
      newId('receipt'),
      options.idempotency ? ownKey(options.actor, options.idempotency.key) : null,
      options.idempotency?.hash ?? null,
      options.restored ? RESTORED_ACTS : 1,
    ],
  )
  const revocation = toRevocation(row as Row)
  await writeAudit(tx, [revocationCommitted(revocation, options)])
  return { revocation, last: effect.named?.length === TASKS_A_PASS ? (effect.named.at(-1) as string) : null }
}

async function take(tx: Tx, selector: Selector, act: Act, at: Date, after: string, forGood: boolean): Promise<Effect> {
  switch (selector.kind) {
    case 'where':
      return takeNamed(tx, selector.where, act, at, after)
    case 'credential':
      return takeCredential(tx, selector.key, act)
    case 'task':
      return takeTask(tx, selector.key, act)
    default:
      return takeScope(tx, selector, act, at, forGood)
  }
}

async function takeCredential(tx: Tx, id: string, act: Act): Promise<Effect> {
  const [row] = await tx.query<{ task: string; expires_at: Date }>('select task, expires_at from curfew.credentials where id = $1 for update', [id])
  if (!row) throw noSuchCredential()
  const moved = await closeRows(tx, [{ id, reason: act.reason, revocation: act.id }], act.actor, act.requestId)
  // One that was closed by no act is told by this one.
  if (moved.length === 0)
    await tx.query(`update curfew.credentials set revocation = $2 where id = $1 and revocation is null and state not in ('pending', 'active')`, [id, act.id])
  if (isForCause(act.reason)) await bury(tx, [row.task], act.id)
  return { credentials: moved.length, tasks: 0, until: after(row.expires_at, ENTRY_MARGIN), issuedBefore: null, closed: true }
}

/** The entry names the top: verifiers find it among the ancestors that every token below carries, and nothing below outlives it. */
async function takeTask(tx: Tx, id: string, act: Act): Promise<Effect> {
  const [row] = await tx.query<{ deadline_at: Date }>('select deadline_at from curfew.tasks where id = $1', [id])
  if (!row) throw noSuchTask()
  const { all, ended } = await endTasks(tx, [id], act, true)
  const moved = await closeCredentialsOf(tx, all, act.actor, act.requestId)
  return { credentials: moved.length, tasks: ended.length, until: after(row.deadline_at, ENTRY_MARGIN), issuedBefore: null, closed: true }
}

/** Frozen here: verifiers are told the tasks. Their credentials close behind them, and refuse from now on for their tasks have ended. */
async function takeNamed(tx: Tx, where: Where, act: Act, at: Date, from: string): Promise<Effect> {
  const named = await tasksWhere(tx, where, from, TASKS_A_PASS)
  const { ended } = await endTasks(tx, named, act, false)
  // A full chunk is one of many: what hangs on it can wait for those who close behind, and whoever waits for the lock need not.
  const drained = ended.length > 0 && named.length < TASKS_A_PASS ? (await drain(tx, INLINE_ROWS, act.actor)).closed : []
  const [last] = await tx.query<{ at: Date | null }>('select max(deadline_at) as at from curfew.tasks where id = any($1::text[])', [named])
  return {
    credentials: drained.filter(c => c.revocation === act.id).length,
    tasks: ended.length,
    until: after(last?.at ?? at, ENTRY_MARGIN),
    issuedBefore: null,
    closed: true,
    named,
  }
}

type Scope = Exclude<Selector, { kind: 'credential' | 'task' | 'where' }>

async function takeScope(tx: Tx, selector: Scope, act: Act, at: Date, forGood: boolean): Promise<Effect> {
  const issuedBefore = cutOffOf(selector, at, forGood)
  const { credentials, tasks } = await closeBehind(tx, { id: act.id, kind: selector.kind, key: selector.key, issuedBefore, act }, INLINE_ROWS)
  const drained = credentials.length < INLINE_ROWS && tasks.length > 0 ? (await drain(tx, INLINE_ROWS - credentials.length, act.actor)).closed : []
  const until = after(at, forGood ? WITHDRAWN_SECONDS : SCOPE_SECONDS)
  return { credentials: credentials.length + drained.length, tasks: tasks.length, until, issuedBefore, closed: false }
}

/** One in the future would refuse what nobody has issued yet, which is a deny marker's business; by a withdrawn key we issue nothing. */
export const cutOffOf = ({ issuedBefore }: Scope, at: Date, forGood: boolean): Date =>
  forGood ? FOR_GOOD : issuedBefore && issuedBefore < at ? issuedBefore : at

const after = (at: Date, seconds: number) => new Date(at.getTime() + seconds * 1000)
