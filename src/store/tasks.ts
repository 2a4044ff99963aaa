/** Owns tasks at rest. */
import type { Decision } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { TaskId } from '../domain/ids.js'
import { HEARTBEATS_MISSED, MAX_ANCESTORS, type NewTask, type Task, type TaskAttestation } from '../domain/task.js'
import type { Mark } from '../domain/workload.js'
import type { Context, TaskStore } from '../ports.js'
import { writeAudit } from './audit.js'
import { lockCutoffs, lockOpenTasks, refuseBarred } from './checks.js'
import { writeDecisions } from './decisions.js'
import { consume } from './marks.js'
import { toTask } from './rows.js'
import type { Sql, Tx } from './sql.js'

/** Under the shared cut-off lock, which the caller holds: the same for a task alone and for a task with its first credential. */
export async function openIn(tx: Tx, task: NewTask, decisions: readonly Decision[], context: Context): Promise<Task> {
  const a = task.attestation
  await refuseBarred(tx, { identity: a.identity, issuer: a.issuer, issuerId: a.issuerId, capabilities: task.capabilities, kid: null, run: a.run, issuedAt: a.evidenceAt })
  const parentDeadline = task.parent ? await lockParent(tx, task) : null
  const [row] = await tx.query(
    `insert into curfew.tasks (id, purpose, capabilities, parent, ancestors, owner, labels, attestation, issuer, identity, run, jkt, state,
                               opened_at, deadline_at, heartbeat_seconds, heartbeat_at)
     select $1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb, $9, $10, $11, $12, 'open',
            n.at, least(n.at + make_interval(secs => $13::double precision), $14::timestamptz), $15, n.at
     from (select curfew.now() as at) n
     returning *`,
    [
      task.id,
      task.purpose,
      task.capabilities,
      task.parent,
      task.ancestors,
      task.owner,
      JSON.stringify(task.labels),
      JSON.stringify(a),
      a.issuer,
      a.identity,
      a.run,
      task.jkt,
      task.lifeSeconds,
      parentDeadline,
      task.heartbeatSeconds,
    ],
  )
  const opened = toTask(row as Record<string, unknown>)
  await writeDecisions(
    tx,
    decisions.map(d => ({ ...d, task: task.id })),
    context,
  )
  await writeAudit(tx, [
    {
      kind: 'task.opened',
      actor: context.actor,
      subject: task.id,
      reason: null,
      requestId: context.requestId,
      data: { identity: a.identity, issuer: a.issuer, evidence: a.digest, capabilities: task.capabilities, purpose: task.purpose, parent: task.parent, deadline: opened.deadlineAt },
    },
  ])
  return opened
}

/** A child's ancestors are its parent and the parent's own, all open, and it ends no later than they (P57). */
async function lockParent(tx: Tx, task: NewTask): Promise<Date> {
  const deadline = await lockOpenTasks(tx, task.ancestors)
  const [parent] = await tx.query<{ ancestors: string[] }>('select ancestors from curfew.tasks where id = $1', [task.parent])
  const expected = [task.parent, ...(parent?.ancestors ?? [])]
  if (expected.length > MAX_ANCESTORS || expected.join() !== task.ancestors.join()) {
    throw new CurfewError('malformed', 'the task does not fit below its parent', { reason: 'ancestors_invalid', field: 'parent' })
  }
  return deadline
}

const ended = (state: string) => new CurfewError('task_ended', 'this task has ended', { reason: state })

export function taskStore(sql: Sql): TaskStore {
  async function get(id: TaskId): Promise<Task | null> {
    const [row] = await sql.query('select * from curfew.tasks where id = $1', [id])
    return row ? toTask(row) : null
  }

  /** Changes an open task by compare-and-set on its state; tells apart what has ended and what never was. */
  async function change(tx: Tx, id: TaskId, set: string, params: readonly unknown[]): Promise<Task> {
    const [row] = await tx.query(
      `update curfew.tasks set ${set}, version = version + 1 where id = $1 and state = 'open' and deadline_at > curfew.now() returning *`,
      [id, ...params],
    )
    if (row) return toTask(row)
    const [found] = await tx.query<{ state: string }>('select state from curfew.tasks where id = $1', [id])
    if (!found) throw new CurfewError('not_found', 'no such task', { reason: 'not_found' })
    throw ended(found.state === 'open' ? 'deadline' : found.state)
  }

  return {
    get,
    open: (task, decisions, marks, context) =>
      sql.tx(async tx => {
        await lockCutoffs(tx, 'shared')
        const opened = await openIn(tx, task, decisions, context)
        await consume(tx, marks)
        return opened
      }),
    async list({ identity, state, limit }) {
      const rows = await sql.query(
        'select * from curfew.tasks where ($1::text is null or identity = $1) and ($2::text is null or state = $2) order by id desc limit $3',
        [identity ?? null, state ?? null, limit],
      )
      return rows.map(toTask)
    },
    heartbeat: (id, marks: readonly Mark[], _context) =>
      sql.tx(async tx => {
        // No audit row: a heartbeat is not a decision, and one every few seconds for every task would bury those that are.
        const task = await change(tx, id, 'heartbeat_at = curfew.now()', [])
        await consume(tx, marks)
        return task
      }),
    attest: (id, attestation: TaskAttestation, marks, context) =>
      sql.tx(async tx => {
        await lockCutoffs(tx, 'shared')
        await refuseBarred(tx, { ...attestation, capabilities: [], kid: null, issuedAt: attestation.evidenceAt })
        const task = await change(tx, id, 'attestation = $2::jsonb, run = $3, heartbeat_at = curfew.now()', [JSON.stringify(attestation), attestation.run])
        await consume(tx, marks)
        await writeAudit(tx, [{ kind: 'task.attested', actor: context.actor, subject: id, reason: null, requestId: context.requestId, data: { evidence: attestation.digest } }])
        return task
      }),
    async due(limit) {
      return sql.query<{ id: TaskId; reason: 'deadline' | 'heartbeat_missed' }>(
        `(select id, 'deadline' as reason from curfew.tasks where state = 'open' and deadline_at <= curfew.now() order by deadline_at limit $1)
         union all
         (select id, 'heartbeat_missed' from curfew.tasks
          where state = 'open' and deadline_at > curfew.now() and heartbeat_seconds is not null
            and heartbeat_at <= curfew.now() - make_interval(secs => heartbeat_seconds * $2::int)
          order by heartbeat_at limit $1)`,
        [limit, HEARTBEATS_MISSED],
      )
    },
  }
}
