/** Owns the ending of rows: credentials into `revoking`, tasks with their whole subtree, and what a cut-off still has behind it. */
import type { Closed } from '../domain/credential.js'
import type { TaskId } from '../domain/ids.js'
import { type Actor, isForCause, type Reason, type SelectorKind, taskStateAfter } from '../domain/revocation.js'
import { LONGEST_RUN_SECONDS } from '../domain/run.js'
import { auditClosed, writeAudit } from './audit.js'
import { type EndedTask, taskEndedEvents } from './events.js'
import { toClosed } from './rows.js'
import { inState, type Row, rowsJson, type Tx } from './sql.js'

/** A job run is refused for as long as any runner may go on. */
export const TOMBSTONE_SECONDS = LONGEST_RUN_SECONDS

export interface Closing {
  readonly id: string
  readonly reason: Reason
  readonly revocation: string | null
}

/** `pending | active → revoking`; the first reason wins. Answers the rows that moved. */
export async function closeRows(tx: Tx, closings: readonly Closing[], actor: Actor, requestId: string | null): Promise<Closed[]> {
  if (closings.length === 0) return []
  const named = 'select id, reason, revocation from jsonb_to_recordset($1::jsonb) as named(id text, reason text, revocation text)'
  return closeFound(tx, named, [rowsJson(closings)], actor, requestId)
}

/**
 * The same for whatever a query finds: one statement that locks, moves and tells, so that a hundred thousand rows do not travel here and
 * back. The time is materialized: a plan may ask a mere subquery anew for each row, which took longer than all the rest. What only its
 * own end can end is looked at again then, unless nobody was ever given it. @param found answers id, reason and revocation of each row.
 */
export async function closeFound(tx: Tx, found: string, params: readonly unknown[], actor: Actor, requestId: string | null): Promise<Closed[]> {
  const rows = await tx.query(
    `with found as materialized (${found}),
       n as materialized (select curfew.now() as at),
       moved as (
         update curfew.credentials c
         set state = 'revoking', version = c.version + 1, reason = f.reason, revocation = f.revocation, revoking_at = n.at, claimed_until = null,
             next_attempt_at = case when c.class = 'expiry-only' and c.state = 'active' then greatest(c.expires_at, n.at) else n.at end
         from found f, n
         where c.id = f.id and ${inState('c.state', 'pending', 'active')}
         returning c.id, c.task, c.capability, c.engine, c.state, c.version, c.reason, c.revocation, c.revoking_at, c.next_attempt_at),
       told as (${auditClosed('moved', `$${params.length + 1}`, `$${params.length + 2}`)})
     select id, task, engine, state, version, reason, revocation, next_attempt_at from moved`,
    [...params, JSON.stringify(actor), requestId],
  )
  return rows.map(toClosed)
}

export interface Act {
  readonly id: string
  readonly reason: Reason
  readonly actor: Actor
  readonly requestId: string | null
  readonly outcome: string | null
}

/**
 * Ends these tasks for the act's reason and everything below them because its parent ended; the first end stands. Their rows are
 * locked parents first. @param drained whether the caller closes all their credentials in this transaction.
 */
export async function endTasks(tx: Tx, roots: readonly string[], act: Act, drained: boolean): Promise<{ all: string[]; ended: EndedTask[] }> {
  if (roots.length === 0) return { all: [], ended: [] }
  const tree = await tx.query<{ id: string; named: boolean }>(
    `with recursive tree as (
       select id, true as named from curfew.tasks where id = any($1::text[])
       union
       select t.id, t.id = any($1::text[]) from curfew.tasks t join tree on t.parent = tree.id)
     select id, named from tree`,
    [roots],
  )
  const all = tree.map(t => t.id)
  await tx.query('select id from curfew.tasks where id = any($1::text[]) order by id for update', [all])
  const rows = await tx.query<{ id: string; end_reason: Reason }>(
    `update curfew.tasks t
     set state = $3, end_reason = case when m.named then $4 else 'parent_ended' end, ended_at = n.at, outcome = case when m.named then $5 end,
         ended_by = $7::jsonb, revocation = $2, drained = $6, version = t.version + 1
     from jsonb_to_recordset($1::jsonb) as m(id text, named boolean), (select curfew.now() as at) n
     where t.id = m.id and ${inState('t.state', 'open')} returning t.id, t.end_reason`,
    [rowsJson(tree), act.id, taskStateAfter(act.reason), act.reason, act.outcome, drained, JSON.stringify(act.actor)],
  )
  const named = new Set(roots)
  const ended = rows.map(r => ({ id: r.id, reason: r.end_reason, revocation: act.id, outcome: named.has(r.id) ? act.outcome : null }))
  if (isForCause(act.reason)) await bury(tx, all, act.id)
  await writeAudit(
    tx,
    ended.flatMap(t => taskEndedEvents(t, act.actor, act.requestId)),
  )
  return { all, ended }
}

/** The runs behind what was ended for cause: a live runner could mint fresh evidence and begin again (T71). */
export async function bury(tx: Tx, tasks: readonly string[], revocation: string): Promise<void> {
  await tx.query(
    // One time for all: asked anew for each task, it would make two rows of one run, and the insert refuses to meet a row twice.
    `with n as materialized (select curfew.now() as at)
     insert into curfew.tombstones (run, until, revocation)
     select distinct t.issuer_id || ' ' || t.run, n.at + make_interval(secs => $2::double precision), $3
     from curfew.tasks t, n where t.run is not null and t.id = any($1::text[]) order by 1
     on conflict (run) do update set until = greatest(curfew.tombstones.until, excluded.until)`,
    [tasks, TOMBSTONE_SECONDS, revocation],
  )
}

/** All credentials of tasks that have ended, each for its task's reason. */
export async function closeCredentialsOf(tx: Tx, tasks: readonly string[], actor: Actor, requestId: string | null): Promise<Closed[]> {
  if (tasks.length === 0) return []
  return closeFound(
    tx,
    `select c.id, t.end_reason as reason, t.revocation from curfew.tasks t join curfew.credentials c on c.task = t.id
     where t.id = any($1::text[]) and t.state <> 'open' and ${inState('c.state', 'pending', 'active')} order by c.id for update of c`,
    [tasks],
    actor,
    requestId,
  )
}

/** A revocation that named a scope, as far as closing what is behind it goes. */
export interface CutOff {
  readonly id: string
  readonly kind: SelectorKind
  readonly key: string
  readonly issuedBefore: Date
  readonly act: Act
}

export const MATCHES: Readonly<Record<string, string>> = {
  identity: 'identity = $1',
  issuer: '(issuer = $1 or issuer_id = $1)',
  key: 'kid = $1',
  capability: 'capability = $1',
  all: '$1::text is not null',
}
/** The scopes that end tasks as well: a live task token would ask again with the same old evidence. */
export const ENDS_TASKS: ReadonlySet<SelectorKind> = new Set(['identity', 'issuer', 'all'])
/** Tasks a pass, their credentials counted apart: few, for the first pass is made under the lock that every other revocation waits for. */
export const TASKS_A_PASS = 200
/** Few, so that two who close find tasks each. */
const DRAINED_A_PASS = 200

/** One batch of what a cut-off hits. `done` when nothing more is behind it; nothing can come to it any more, for issuing refuses what is that old. */
export async function closeBehind(tx: Tx, cut: CutOff, limit: number): Promise<{ credentials: Closed[]; tasks: EndedTask[]; done: boolean }> {
  const { act } = cut
  const credentials = await closeFound(
    tx,
    `select id, $4::text as reason, $5::text as revocation from curfew.credentials where ${MATCHES[cut.kind]} and issued_at <= $2 and state in ('pending', 'active')
     order by issued_at limit $3 for update skip locked`,
    [cut.key, cut.issuedBefore, limit, act.reason, cut.id],
    act.actor,
    act.requestId,
  )
  if (credentials.length >= limit) return { credentials, tasks: [], done: false }
  if (!ENDS_TASKS.has(cut.kind)) return { credentials, tasks: [], done: credentials.length === 0 && !(await isLeft(tx, cut)) }
  const roots = await tx.query<{ id: string }>(
    `select id from curfew.tasks where ${MATCHES[cut.kind]} and opened_at <= $2 and state = 'open' order by opened_at limit $3`,
    [cut.key, cut.issuedBefore, TASKS_A_PASS],
  )
  const { ended } = await endTasks(
    tx,
    roots.map(r => r.id as TaskId),
    act,
    false,
  )
  return { credentials, tasks: ended, done: credentials.length === 0 && roots.length === 0 && !(await isLeft(tx, cut)) }
}

/** Rows that another closes just now are passed over; until he has committed, it is not over. */
async function isLeft(tx: Tx, cut: CutOff): Promise<boolean> {
  const [row] = await tx.query<{ left: boolean }>(
    `select exists (select 1 from curfew.credentials where ${MATCHES[cut.kind]} and issued_at <= $2 and state in ('pending', 'active')) as left`,
    [cut.key, cut.issuedBefore],
  )
  return row?.left === true
}

/** A batch of the credentials of tasks that ended behind a cut-off. `more` when it was full, or when there may be more such tasks. */
export async function drain(tx: Tx, limit: number, actor: Actor): Promise<{ closed: Closed[]; more: boolean }> {
  const tasks = await tx.query<{ id: string }>('select id from curfew.tasks where not drained order by id limit $1 for update skip locked', [DRAINED_A_PASS])
  if (tasks.length === 0) return { closed: [], more: false }
  const ids = tasks.map(t => t.id)
  // Task by task, and no further than the batch goes: to join and sort all that is left for each batch is quadratic.
  const closed = await closeFound(
    tx,
    `select c.id, t.end_reason as reason, t.revocation from unnest($1::text[]) as wanted(id) join curfew.tasks t on t.id = wanted.id
       cross join lateral (select c.id from curfew.credentials c where c.task = t.id and ${inState('c.state', 'pending', 'active')} order by c.id limit $2 for update) c
     where t.state <> 'open' limit $2`,
    [ids, limit],
    actor,
    null,
  )
  const isFull = closed.length >= limit
  await tx.query(
    `update curfew.tasks t set drained = true where t.id = any($1::text[]) ${
      isFull ? `and not exists (select 1 from curfew.credentials c where c.task = t.id and ${inState('c.state', 'pending', 'active')})` : ''
    }`,
    [isFull ? [...new Set(closed.map(c => c.task))] : ids],
  )
  return { closed, more: isFull || tasks.length === DRAINED_A_PASS }
}

export const actOf = (r: Row): Act => ({ id: r.id as string, reason: r.reason as Reason, actor: r.actor as Actor, requestId: null, outcome: null })
