/** Owns revocations in memory. */
import { newId } from '../domain/ids.js'
import { isForCause, type Revocation, type Selector } from '../domain/revocation.js'
import type { RevocationLog } from '../ports.js'
import { noSuchTask, scopeOf } from './admission.js'
import type { Act } from './closing.js'
import { markerSet, revocationCommitted } from './events.js'
import { after, bury, closeBehind, closeCredentialsOf, closeRows, consume, endTasks, type State, write } from './memory-state.js'
import { ENTRY_MARGIN, INLINE_ROWS, noSuchCredential, SCOPE_SECONDS } from './revocations.js'

interface Effect {
  readonly credentials: number
  readonly tasks: number
  readonly until: Date
  readonly issuedBefore: Date | null
}

export function memoryRevocations(state: State): RevocationLog {
  return {
    async commit(selector, reason, options) {
      const at = state.now()
      const act: Act = { id: newId('revocation'), reason, actor: options.actor, requestId: options.requestId ?? null, outcome: options.outcome ?? null }
      if (selector.kind === 'credential' && !state.credentials.has(selector.key)) throw noSuchCredential()
      if (selector.kind === 'task' && !state.tasks.has(selector.key)) throw noSuchTask()
      consume(state, options.marks ?? [])
      const { credentials, tasks, until, issuedBefore } = take(state, selector, act, at)
      const revocation: Revocation = {
        id: act.id as Revocation['id'],
        seq: state.revocations.length + 1,
        selector: (issuedBefore ? { kind: selector.kind, key: selector.key, issuedBefore } : { kind: selector.kind, key: selector.key }) as Selector,
        reason,
        actor: options.actor,
        message: options.message ?? null,
        at,
        credentials,
        tasks,
      }
      state.revocations.push({ revocation, issuedBefore, until, closed: issuedBefore === null })
      write(state, [revocationCommitted(revocation, options)])
      return revocation
    },
    async deny(marker, context) {
      const behind = marker.kind === 'credential' ? state.credentials.get(marker.key)?.task : undefined
      const scope = behind ? scopeOf('task', behind) : scopeOf(marker.kind, marker.key)
      const until = after(state.now(), marker.seconds)
      const known = state.markers.get(scope)
      state.markers.set(scope, known && known > until ? known : until)
      write(state, [markerSet(marker, context)])
    },
    async get(id) {
      return state.revocations.find(r => r.revocation.id === id)?.revocation ?? null
    },
    async list(limit) {
      return state.revocations
        .map(r => r.revocation)
        .reverse()
        .slice(0, limit)
    },
    async since(seq, limit) {
      const now = state.now()
      const entries = state.revocations.filter(r => r.revocation.seq > seq && r.until > now).slice(0, limit)
      return entries.map(({ revocation: { seq, selector }, issuedBefore, until }) => ({ seq, kind: selector.kind, key: selector.key, issuedBefore, until }))
    },
  }
}

function take(state: State, selector: Selector, act: Act, at: Date): Effect {
  const id = act.id as Revocation['id']
  if (selector.kind === 'credential') {
    const row = state.credentials.get(selector.key)
    if (!row) throw noSuchCredential()
    const moved = closeRows(
      state,
      [row],
      () => act.reason,
      () => id,
      act.actor,
      act.requestId,
    )
    const task = state.tasks.get(row.task)
    if (task && isForCause(act.reason)) bury(state, task)
    return { credentials: moved.length, tasks: 0, until: after(row.expiresAt, ENTRY_MARGIN), issuedBefore: null }
  }
  if (selector.kind === 'task') {
    const task = state.tasks.get(selector.key)
    if (!task) throw noSuchTask()
    const { all, ended } = endTasks(state, [task.id], act)
    const moved = closeCredentialsOf(state, all, Number.POSITIVE_INFINITY, act.actor, act.requestId)
    return { credentials: moved.length, tasks: ended.length, until: after(task.deadlineAt, ENTRY_MARGIN), issuedBefore: null }
  }
  const issuedBefore = selector.issuedBefore && selector.issuedBefore < at ? selector.issuedBefore : at
  const { credentials, tasks } = closeBehind(state, { id: act.id, kind: selector.kind, key: selector.key, issuedBefore, act }, INLINE_ROWS)
  const drained = closeCredentialsOf(state, null, INLINE_ROWS - credentials.length, act.actor, act.requestId)
  return { credentials: credentials.length + drained.length, tasks: tasks.length, until: after(at, SCOPE_SECONDS), issuedBefore }
}
