/** Owns tasks at rest. */
import type { CurfewError } from '../domain/errors.js'
import type { TaskId } from '../domain/ids.js'
import { HEARTBEATS_MISSED, type NewTask, type Task } from '../domain/task.js'
import type { Mark } from '../domain/workload.js'
import type { Context, TaskStore } from '../ports.js'
import { judgeAttesting, judgeOpening, noSuchTask, type Opening, openScopes, refuseEnded, runKeys, type TaskFacts, workloadScopes } from './admission.js'
import { writeAudit } from './audit.js'
import { writeDecisions } from './decisions.js'
import { taskAttested, taskOpened } from './events.js'
import { lockTask, lockTasks, readFacts } from './facts.js'
import { consume } from './marks.js'
import { toTask } from './rows.js'
import { shortenTasks } from './shortening.js'
import { type Row, rowsJson, type Sql, type Tx } from './sql.js'

export interface PlannedTask {
  readonly task: NewTask
  readonly opening: Opening
  readonly marks: readonly Mark[]
  readonly context: Context
}

/** The task as the rules will see it once it is written. */
export const factsOf = ({ task, opening }: Pick<PlannedTask, 'task' | 'opening'>, now: Date): TaskFacts => ({
  id: task.id,
  state: 'open',
  ancestors: opening.ancestors,
  openedAt: now,
  deadlineAt: opening.deadlineAt,
  identity: task.attestation.identity,
  issuer: task.attestation.issuer,
  issuerId: task.attestation.issuerId,
  run: task.attestation.run,
})

/** Rows and evidence of tasks that were judged in this transaction at `now`. */
export async function insertTasks(tx: Tx, planned: readonly PlannedTask[], now: Date): Promise<Task[]> {
  if (planned.length === 0) return []
  const rows = await tx.query(
    `insert into curfew.tasks (id, purpose, capabilities, parent, ancestors, actors, owner, labels, attestation, identity, issuer, issuer_id, run, jkt, state,
                               opened_at, deadline_at, heartbeat_seconds, heartbeat_at, due_at, drained, version)
     select id, purpose, capabilities, parent, ancestors, actors, owner, labels, attestation, identity, issuer, issuer_id, run, jkt, 'open',
            opened_at, deadline_at, heartbeat_seconds, opened_at,
            least(deadline_at, opened_at + make_interval(secs => heartbeat_seconds * $2::double precision)), true, 1
     from jsonb_populate_recordset(null::curfew.tasks, $1::jsonb) returning *`,
    [rowsJson(planned.map(p => rowOf(p, now))), HEARTBEATS_MISSED],
  )
  await writeAudit(
    tx,
    planned.map(p => taskOpened(p.task, p.opening.deadlineAt, p.marks, p.context)),
  )
  const opened = new Map(rows.map(r => [r.id, toTask(r)]))
  return planned.map(p => opened.get(p.task.id) as Task)
}

const rowOf = ({ task, opening }: PlannedTask, now: Date) => ({
  id: task.id,
  purpose: task.purpose,
  capabilities: task.capabilities,
  parent: task.parent,
  ancestors: opening.ancestors,
  actors: task.actors,
  owner: task.owner,
  labels: task.labels,
  attestation: task.attestation,
  identity: task.attestation.identity,
  issuer: task.attestation.issuer,
  issuer_id: task.attestation.issuerId,
  run: task.attestation.run,
  jkt: task.jkt,
  opened_at: now,
  deadline_at: opening.deadlineAt,
  heartbeat_seconds: task.heartbeatSeconds,
})

export function taskStore(sql: Sql): TaskStore {
  return {
    open: (task, decisions, marks, context) =>
      sql.tx(async tx => {
        const above = await lockTasks(tx, task.ancestors)
        const facts = await readFacts(tx, above, [...openScopes(task), ...[...above.values()].flatMap(workloadScopes)], runKeys(task.attestation))
        const opening = judgeOpening(facts, task)
        await consume(tx, marks)
        const [opened] = await insertTasks(tx, [{ task, opening, marks, context }], facts.now)
        await writeDecisions(
          tx,
          decisions.map(d => ({ decision: { ...d, task: task.id }, context })),
        )
        return opened as Task
      }, 'shared'),

    async get(id) {
      const [row] = await sql.query('select * from curfew.tasks where id = $1', [id])
      return row ? toTask(row) : null
    },
    async list({ identity, state, limit }) {
      const rows = await sql.query(
        'select * from curfew.tasks where ($1::text is null or identity = $1) and ($2::text is null or state = $2) order by id desc limit $3',
        [identity ?? null, state ?? null, limit],
      )
      return rows.map(toTask)
    },

    heartbeat: (id, marks, _context) =>
      change(sql, id, async (tx, tasks) => {
        refuseEnded(await readFacts(tx, tasks, [...tasks.values()].flatMap(workloadScopes), []), id)
        await consume(tx, marks)
        // No audit row: a heartbeat is not a decision, and one every few seconds for every task would bury those that are.
        return update(tx, id, '', [])
      }),

    attest: (id, attestation, marks, context) =>
      change(sql, id, async (tx, tasks) => {
        const scopes = [...[...tasks.values()].flatMap(workloadScopes), ...workloadScopes(attestation), `task:${id}`]
        judgeAttesting(await readFacts(tx, tasks, scopes, runKeys(attestation)), id, attestation)
        await consume(tx, marks)
        const task = await update(tx, id, 'attestation = $3::jsonb, run = $4,', [JSON.stringify(attestation), attestation.run])
        await writeAudit(tx, [taskAttested(id, attestation, context)])
        return task
      }),

    shorten: (subject, seconds, context) => sql.tx(tx => shortenTasks(tx, subject, seconds, context), 'exclusive'),

    async due(limit) {
      return sql.query<{ id: TaskId; reason: 'deadline' | 'heartbeat_missed' }>(
        `select id, case when deadline_at <= n.at then 'deadline' else 'heartbeat_missed' end as reason
         from curfew.tasks, (select curfew.now() as at) n where state = 'open' and due_at <= (select curfew.now()) order by due_at limit $1`,
        [limit],
      )
    },
  }
}

/** Locks a task for a change of its holder. @throws {CurfewError} `not_found`. */
function change(sql: Sql, id: TaskId, act: (tx: Tx, tasks: Map<string, TaskFacts>) => Promise<Task>): Promise<Task> {
  return sql.tx(async tx => {
    const tasks = await lockTask(tx, id)
    if (!tasks.has(id)) throw noSuchTask() satisfies CurfewError
    return act(tx, tasks)
  }, 'shared')
}

/** Any word of the holder is a sign of life. */
async function update(tx: Tx, id: TaskId, set: string, params: readonly unknown[]): Promise<Task> {
  const [row] = await tx.query(
    `update curfew.tasks set ${set} heartbeat_at = n.at, version = version + 1,
            due_at = least(deadline_at, n.at + make_interval(secs => heartbeat_seconds * $2::double precision))
     from (select curfew.now() as at) n where id = $1 returning tasks.*`,
    [id, HEARTBEATS_MISSED, ...params],
  )
  return toTask(row as Row)
}
