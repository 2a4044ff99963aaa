/** Owns reading, under their locks, the facts that admission judges: the cut-off lock is held, then tasks in id order, then everything else. */
import type { TaskId } from '../domain/ids.js'
import { whereOf } from '../domain/where.js'
import { type Facts, runKeys, type TaskFacts } from './admission.js'
import type { Row, Tx } from './sql.js'

const TASK_FACTS = 'id, state, ancestors, opened_at, deadline_at, identity, issuer, issuer_id, run'

/** In id order, so that two batches wait for each other instead of deadlocking. What does not exist is not in the answer. */
export async function lockTasks(tx: Tx, ids: Iterable<TaskId>): Promise<Map<string, TaskFacts>> {
  const wanted = [...new Set(ids)]
  if (wanted.length === 0) return new Map()
  return byId(await tx.query(`select ${TASK_FACTS} from curfew.tasks where id = any($1::text[]) order by id for share`, [wanted]))
}

/**
 * One task about to be changed, and its ancestors only read: while the cut-off lock is held, no revocation can end them. Locking the
 * row shared first, as for an issue, would deadlock two changes of one task.
 */
export async function lockTask(tx: Tx, id: TaskId): Promise<Map<string, TaskFacts>> {
  const own = byId(await tx.query(`select ${TASK_FACTS} from curfew.tasks where id = $1 for update`, [id]))
  const above = own.get(id)?.ancestors ?? []
  if (above.length > 0)
    for (const [key, t] of byId(await tx.query(`select ${TASK_FACTS} from curfew.tasks where id = any($1::text[])`, [above]))) own.set(key, t)
  return own
}

const byId = (rows: Row[]): Map<string, TaskFacts> => new Map(rows.map(r => [r.id as string, taskFacts(r)]))

const taskFacts = (r: Row): TaskFacts => ({
  id: r.id as TaskId,
  state: r.state as TaskFacts['state'],
  ancestors: r.ancestors as TaskId[],
  openedAt: r.opened_at as Date,
  deadlineAt: r.deadline_at as Date,
  identity: r.identity as string,
  issuer: r.issuer as string,
  issuerId: r.issuer_id as string,
  run: r.run as string | null,
})

/** @param scopes whatever could bar; @param runs of `runKeys`; those of `tasks` are looked at in any case. */
export async function readFacts(tx: Tx, tasks: ReadonlyMap<string, TaskFacts>, scopes: Iterable<string>, runs: Iterable<string>): Promise<Facts> {
  const rows = await tx.query<{ what: string; key: string; at: Date; message: string | null; filter: Record<string, unknown> | null }>(
    `select 'now' as what, '' as key, curfew.now() as at, null as message, null::jsonb as filter
     union all select 'cut_off', scope, max(issued_before), null, null from curfew.revocations where scope = any($1::text[]) and issued_before is not null group by scope
     union all select 'quarantine', coalesce(scope, ''), until, message, filter from curfew.quarantines
       where (scope = any($1::text[]) or filter is not null) and lifted_at is null and until > (select curfew.now())
     union all select 'tombstone', run, until, null, null from curfew.tombstones where run = any($2::text[]) and until > (select curfew.now())`,
    [[...new Set(scopes)], [...new Set([...runs, ...[...tasks.values()].flatMap(runKeys)])]],
  )
  const of = (what: string) => rows.filter(r => r.what === what)
  const filters = of('quarantine').flatMap(r => (r.filter ? [{ where: whereOf(r.filter), message: r.message }] : []))
  return {
    now: of('now')[0]?.at as Date,
    tasks: filters.length > 0 ? await withAttestations(tx, tasks) : tasks,
    cutOffs: new Map(of('cut_off').map(r => [r.key, r.at])),
    quarantines: new Map(of('quarantine').flatMap(r => (r.filter ? [] : [[r.key, r.message]]))),
    filters,
    tombstones: new Set(of('tombstone').map(r => r.key)),
  }
}

/** What a quarantine of attributes says of a task holds for all below it. Without one nobody needs these, and they are large. */
async function withAttestations(tx: Tx, tasks: ReadonlyMap<string, TaskFacts>): Promise<ReadonlyMap<string, TaskFacts>> {
  if (tasks.size === 0) return tasks
  const rows = await tx.query<{ id: string; attestation: NonNullable<TaskFacts['attestation']> }>(
    'select id, attestation from curfew.tasks where id = any($1::text[])',
    [[...tasks.keys()]],
  )
  return new Map(rows.map(r => [r.id, { ...(tasks.get(r.id) as TaskFacts), attestation: r.attestation }]))
}
