/** Owns revocations in memory. */
import { RECORDS_ABOUT } from '../domain/credential.js'
import { CurfewError } from '../domain/errors.js'
import { newId, type TaskId } from '../domain/ids.js'
import { type Actor, type FeedEntry, isForCause, type Revocation, type Selector } from '../domain/revocation.js'
import type { CommitOptions, RevocationLog } from '../ports.js'
import { noSuchTask } from './admission.js'
import type { Act } from './closing.js'
import { revocationCommitted } from './events.js'
import { keyReused } from './issue.js'
import { withdrawInMemory } from './memory-keys.js'
import { exposedOf, reachInMemory, setQuarantine, tally, tasksWhereInMemory } from './memory-plans.js'
import { after, bury, type CredentialRow, closeBehind, closeCredentialsOf, closeRows, consume, endTasks, type State, write } from './memory-state.js'
import { cutOffOf, ENTRY_MARGIN, INLINE_ROWS, noSuchCredential, planLapsed, RESTORED_ACTS, SCOPE_SECONDS, WITHDRAWN_SECONDS } from './revocations.js'

interface Effect {
  readonly credentials: number
  readonly tasks: number
  readonly until: Date
  readonly issuedBefore: Date | null
  readonly named?: readonly TaskId[]
}

export function memoryRevocations(state: State): RevocationLog {
  const find = (is: (r: Revocation) => boolean) => state.revocations.find(r => is(r.revocation))?.revocation ?? null
  const lastSeq = () => state.revocations.at(-1)?.revocation.seq ?? 0
  return {
    async commit(selector, reason, options) {
      const met = committedBefore(state, options)
      if (met) return met
      const at = state.now()
      const act: Act = { id: newId('revocation'), reason, actor: options.actor, requestId: options.requestId ?? null, outcome: options.outcome ?? null }
      if (selector.kind === 'credential' && !state.credentials.has(selector.key)) throw noSuchCredential()
      if (selector.kind === 'task' && !state.tasks.has(selector.key)) throw noSuchTask()
      if (options.withdraw) withdrawInMemory(state, selector.key, act.id, { requestId: act.requestId, actor: act.actor })
      consume(state, options.marks ?? [])
      const { credentials, tasks, until, issuedBefore, named } = take(state, selector, act, at, options.withdraw === true)
      const revocation: Revocation = {
        id: act.id as Revocation['id'],
        seq: lastSeq() + (options.restored ? RESTORED_ACTS : 1),
        selector: (issuedBefore ? { ...selector, issuedBefore } : selector) as Selector,
        reason,
        actor: options.actor,
        message: options.message ?? null,
        at,
        credentials,
        tasks,
        receipt: newId('receipt'),
      }
      const idempotency = options.idempotency ? { ...options.idempotency, key: ownKey(options.actor, options.idempotency.key) } : null
      state.revocations.push({ revocation, issuedBefore, until, named: named ?? [], idempotency, closed: issuedBefore === null })
      write(state, [revocationCommitted(revocation, options)])
      const plan = options.plan && state.plans.get(options.plan)
      if (plan) state.plans.set(plan.id, { ...plan, revocation: revocation.id })
      if (options.quarantine) setQuarantine(state, options.quarantine, options.actor, revocation.id, act.requestId)
      return revocation
    },
    get: async id => find(r => r.id === id),
    seq: async () => lastSeq(),
    byReceipt: async id => find(r => r.receipt === id),
    async endedBy({ kind, key }) {
      const by = kind === 'credential' ? state.credentials.get(key)?.revocation : kind === 'task' ? state.tasks.get(key)?.revocation : null
      return by ? find(r => r.id === by) : null
    },
    async list(limit) {
      return state.revocations
        .map(r => r.revocation)
        .reverse()
        .slice(0, limit)
    },
    async since(seq, limit) {
      const now = state.now()
      const acts = state.revocations.filter(r => r.revocation.seq > seq && r.until > now).slice(0, limit)
      return acts.flatMap(({ revocation: { seq, selector }, issuedBefore, until, named }): FeedEntry[] =>
        selector.kind === 'where'
          ? named.map(key => ({ seq, kind: 'task', key, issuedBefore, until }))
          : [{ seq, kind: selector.kind, key: selector.key, issuedBefore, until }],
      )
    },
    reach: async selector => reachInMemory(state, selector),
    async outcome(id) {
      const row = state.revocations.find(r => r.revocation.id === id)
      if (!row) throw new CurfewError('not_found', 'no such revocation', { reason: 'not_found' })
      const moved = [...state.credentials.values()].filter(c => c.revocation === id)
      const revoked = moved.filter(c => c.state === 'revoked')
      const count = (of: string) => moved.filter(c => c.state === of).length
      return {
        revoking: count('revoking'),
        stuck: count('stuck'),
        revoked: revoked.length,
        looked: tally(revoked.flatMap(c => c.probe?.looked ?? [])),
        notProbed: revoked.filter(c => !isProbed(c)).length,
        ...exposedOf(moved.filter(c => c.state !== 'revoked')),
        exposedTotal: moved.filter(c => c.state !== 'revoked' && c.revocationClass === 'expiry-only').length,
        closed: row.closed,
      }
    },
  }
}

const isProbed = (c: CredentialRow) => {
  const looked = c.probe?.looked ?? []
  return c.revocationClass === 'backend' ? looked.some(what => !RECORDS_ABOUT.includes(what)) : looked.length > 0
}

const ownKey = (actor: Actor, key: string) => `${actor.kind}:${actor.id}:${key}`

function committedBefore(state: State, { idempotency, plan, actor }: CommitOptions): Revocation | null {
  const met = idempotency && state.revocations.find(r => r.idempotency?.key === ownKey(actor, idempotency.key))
  if (met && met.idempotency?.hash !== idempotency.hash) throw keyReused()
  if (met) return met.revocation
  if (!plan) return null
  const made = state.plans.get(plan)
  if (!made) throw new CurfewError('not_found', 'no such plan', { reason: 'not_found', field: 'plan' })
  if (made.revocation !== null) return state.revocations.find(r => r.revocation.id === made.revocation)?.revocation ?? null
  if (made.validUntil <= state.now()) throw planLapsed()
  return null
}

function take(state: State, selector: Selector, act: Act, at: Date, forGood: boolean): Effect {
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
    const closed = state.credentials.get(row.id) as CredentialRow
    if (closed.revocation === null) state.credentials.set(row.id, { ...closed, revocation: id })
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
  if (selector.kind === 'where') {
    const named = tasksWhereInMemory(state, selector.where)
    const { ended } = endTasks(
      state,
      named.map(t => t.id),
      act,
    )
    const drained = closeCredentialsOf(state, null, INLINE_ROWS, act.actor, act.requestId).filter(c => c.revocation === id)
    const last = new Date(Math.max(at.getTime(), ...named.map(t => t.deadlineAt.getTime())))
    return {
      credentials: drained.length,
      tasks: ended.length,
      until: after(named.length > 0 ? last : at, ENTRY_MARGIN),
      issuedBefore: null,
      named: named.map(t => t.id),
    }
  }
  const issuedBefore = cutOffOf(selector, at, forGood)
  const { credentials, tasks } = closeBehind(state, { id: act.id, kind: selector.kind, key: selector.key, issuedBefore, act }, INLINE_ROWS)
  const drained = closeCredentialsOf(state, null, INLINE_ROWS - credentials.length, act.actor, act.requestId)
  return { credentials: credentials.length + drained.length, tasks: tasks.length, until: after(at, forGood ? WITHDRAWN_SECONDS : SCOPE_SECONDS), issuedBefore }
}
