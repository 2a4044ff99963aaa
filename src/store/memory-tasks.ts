/** Owns tasks in memory. */
import { HEARTBEATS_MISSED, type NewTask, type Task } from '../domain/task.js'
import type { Mark } from '../domain/workload.js'
import type { Context, TaskStore } from '../ports.js'
import { judgeAttesting, judgeOpening, noSuchTask, type Opening, refuseEnded } from './admission.js'
import { taskAttested, taskOpened, tasksShortened } from './events.js'
import { after, bareTask, consume, earliest, factsOf, newestFirst, refuseUnstorable, type State, type TaskRow, write, writeDecisions } from './memory-state.js'

const dueOf = (t: Pick<Task, 'deadlineAt' | 'heartbeatSeconds'>, alive: Date): Date =>
  earliest(t.deadlineAt, t.heartbeatSeconds === null ? null : after(alive, t.heartbeatSeconds * HEARTBEATS_MISSED))

export function planTask(task: NewTask, { deadlineAt, ancestors }: Opening, now: Date): TaskRow {
  const { lifeSeconds: _life, ...kept } = structuredClone(task)
  const opened = {
    ...kept,
    ancestors,
    state: 'open' as const,
    openedAt: now,
    deadlineAt,
    heartbeatAt: now,
    endedAt: null,
    endReason: null,
    endedBy: null,
    version: 1,
    revocation: null,
  }
  return { ...opened, dueAt: dueOf(opened, now) }
}

export function insertTask(state: State, row: TaskRow, task: NewTask, marks: readonly Mark[], context: Context): void {
  state.tasks.set(row.id, row)
  write(state, [taskOpened(task, row.deadlineAt, marks, context)])
}

export function memoryTasks(state: State): TaskStore {
  const change = (id: Task['id'], fields: Partial<TaskRow>): Task => {
    const now = state.now()
    const t = state.tasks.get(id) as TaskRow
    const changed = { ...t, ...fields, heartbeatAt: now, dueAt: dueOf(t, now), version: t.version + 1 }
    state.tasks.set(id, changed)
    return bareTask(changed)
  }
  return {
    async open(task, decisions, marks, context) {
      refuseUnstorable(task)
      const facts = factsOf(state)
      const row = planTask(task, judgeOpening(facts, task), facts.now)
      consume(state, marks)
      insertTask(state, row, task, marks, context)
      writeDecisions(
        state,
        decisions.map(d => ({ ...d, task: task.id })),
        context,
      )
      return bareTask(row)
    },
    async get(id) {
      const row = state.tasks.get(id)
      return row ? bareTask(row) : null
    },
    async list({ identity, state: wanted, limit }) {
      return [...state.tasks.values()]
        .filter(t => (identity === undefined || t.attestation.identity === identity) && (wanted === undefined || t.state === wanted))
        .sort(newestFirst)
        .slice(0, limit)
        .map(bareTask)
    },
    async heartbeat(id, marks) {
      if (!state.tasks.has(id)) throw noSuchTask()
      refuseEnded(factsOf(state), id)
      consume(state, marks)
      return change(id, {})
    },
    async attest(id, attestation, marks, context) {
      if (!state.tasks.has(id)) throw noSuchTask()
      refuseUnstorable(attestation)
      judgeAttesting(factsOf(state), id, attestation)
      consume(state, marks)
      const task = change(id, { attestation: structuredClone(attestation) })
      write(state, [taskAttested(id, attestation, context)])
      return task
    },
    async shorten(subject, seconds, context) {
      const until = after(state.now(), seconds)
      const top = subject.kind === 'credential' ? state.credentials.get(subject.key)?.task : subject.key
      const isMeant = (t: TaskRow) =>
        subject.kind === 'identity'
          ? [t, ...t.ancestors.map(a => state.tasks.get(a))].some(x => x?.state === 'open' && x.attestation.identity === subject.key)
          : t.id === top || t.ancestors.some(a => a === top)
      const meant = [...state.tasks.values()].filter(t => t.state === 'open' && t.deadlineAt > until && isMeant(t))
      for (const t of meant) state.tasks.set(t.id, { ...t, deadlineAt: until, dueAt: earliest(t.dueAt, until), version: t.version + 1 })
      write(state, [tasksShortened(subject, meant.length, seconds, context)])
      return meant.length
    },
    async due(limit) {
      const now = state.now()
      return [...state.tasks.values()]
        .filter(t => t.state === 'open' && t.dueAt <= now)
        .sort((a, b) => a.dueAt.getTime() - b.dueAt.getTime())
        .slice(0, limit)
        .map(t => ({ id: t.id, reason: t.deadlineAt <= now ? ('deadline' as const) : ('heartbeat_missed' as const) }))
    },
  }
}
