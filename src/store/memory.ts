/** Owns the store in memory: the same rules over plain maps, for tests and as a second opinion on the statements; forgets all at exit. */
import { CurfewError } from '../domain/errors.js'
import { LISTED_FOR } from '../domain/guard.js'
import { isWaiting } from '../domain/signal.js'
import type { AuditLog, DecisionLog, OperatorStore, SignalStore, Store } from '../ports.js'
import { operatorEvent, signalHandled, signalHeld, signalJudged, signalReceived } from './events.js'
import { MARK_MARGIN, markKey, mayMeet } from './marks.js'
import { memoryCredentials } from './memory-credentials.js'
import { memoryGuards } from './memory-guards.js'
import { memoryKeys } from './memory-keys.js'
import { memoryPlans, memoryQuarantines } from './memory-plans.js'
import { memoryRevocations } from './memory-revocations.js'
import { memoryRuns } from './memory-runs.js'
import { after, consume, emptyState, newestFirst, type State, write, writeDecisions } from './memory-state.js'
import { memoryTasks } from './memory-tasks.js'
import { noSuchSignal, notWaiting } from './signals.js'

export interface MemoryStoreOptions {
  /** The time that decides. */
  readonly now: () => Date
  readonly sealDigest: (digest: string) => string
}

export function memoryStore({ now, sealDigest }: MemoryStoreOptions): Store {
  const state = emptyState(now)
  const held = new Set<string>()
  return {
    kind: 'memory',
    tasks: memoryTasks(state),
    credentials: memoryCredentials(state, sealDigest),
    revocations: memoryRevocations(state),
    runs: memoryRuns(state),
    plans: memoryPlans(state),
    quarantines: memoryQuarantines(state),
    audit: memoryAudit(state),
    decisions: memoryDecisions(state),
    signals: memorySignals(state),
    operators: memoryOperators(state),
    guards: memoryGuards(state),
    keys: memoryKeys(state),
    replay: {
      async seen(mark) {
        const met = state.marks.get(markKey(mark))
        return met !== undefined && !mayMeet(mark, met.holder ?? null)
      },
      claim: async marks => consume(state, marks),
    },
    clock: { now },
    async withLock(name, fn) {
      if (held.has(name)) return false
      held.add(name)
      try {
        await fn()
        return true
      } finally {
        held.delete(name)
      }
    },
    ping: async () => {},
    async forget(limit) {
      const at = now()
      const past = [...state.marks].filter(([, mark]) => after(mark.until, MARK_MARGIN) < at).slice(0, limit)
      for (const [key] of past) state.marks.delete(key)
      for (const [key, until] of state.tombstones) if (until < at) state.tombstones.delete(key)
      for (const [name, { seenAt }] of state.guardInstances) if (after(seenAt, LISTED_FOR) < at) state.guardInstances.delete(name)
      return past.length
    },
    close: async () => {},
  }
}

function memoryAudit(state: State): AuditLog {
  return {
    append: async event => write(state, [event]),
    async list({ kind, subject, limit }) {
      return state.audit
        .filter(r => (kind === undefined || r.kind === kind) && (subject === undefined || r.subject === subject))
        .reverse()
        .slice(0, limit)
    },
  }
}

function memoryDecisions(state: State): DecisionLog {
  return {
    async deny(decision, context) {
      if (decision.allowed) throw new TypeError('a permit is recorded by the transaction that acts on it')
      writeDecisions(state, [decision], context)
    },
    note: async (decision, context) => writeDecisions(state, [decision], context),
    get: async id => state.decisions.get(id) ?? null,
    async list({ identity, capability, allowed, limit }) {
      return [...state.decisions.values()]
        .filter(d => (identity ?? d.identity) === d.identity && (capability ?? d.capability) === d.capability && (allowed ?? d.allowed) === d.allowed)
        .sort(newestFirst)
        .slice(0, limit)
    },
  }
}

function memorySignals(state: State): SignalStore {
  return {
    async accept(signal, decided, context) {
      const first = [...state.signals.values()].find(s => s.source === signal.source && s.eventId === signal.eventId)
      if (first) return { signal: first, fresh: false }
      const accepted = {
        ...structuredClone(signal),
        ...decided,
        receivedAt: state.now(),
        held: null,
        verdict: null,
        revocation: null,
        quarantine: null,
        handledAt: null,
      }
      state.signals.set(signal.id, accepted)
      write(state, [signalReceived(signal, decided, context)])
      return { signal: accepted, fresh: true }
    },
    get: async id => state.signals.get(id) ?? null,
    list: async (limit, waiting = false) =>
      [...state.signals.values()]
        .filter(s => !waiting || isWaiting(s))
        .sort(newestFirst)
        .slice(0, limit),
    due: async limit => [...state.signals.values()].filter(s => s.act !== null && s.handledAt === null && !isWaiting(s)).slice(0, limit),
    async handled(id, did) {
      const s = state.signals.get(id)
      if (!s || s.handledAt) return
      state.signals.set(id, { ...s, ...did, handledAt: state.now() })
      write(state, [signalHandled(id, s.source, did)])
    },
    async hold(id, reach) {
      const s = state.signals.get(id)
      if (!s || s.handledAt || s.held) return
      state.signals.set(id, { ...s, held: reach })
      write(state, [signalHeld(id, s.source, reach)])
    },
    async judge(id, verdict, context) {
      const s = state.signals.get(id)
      if (!s) throw noSuchSignal()
      if (!isWaiting(s)) throw notWaiting()
      const judged = { ...s, verdict, handledAt: verdict.kind === 'dismissed' ? state.now() : null }
      state.signals.set(id, judged)
      write(state, [signalJudged(id, verdict, context)])
      return judged
    },
  }
}

function memoryOperators(state: State): OperatorStore {
  return {
    async add(operator, tokenDigest, context) {
      if ([...state.operators.values()].some(o => o.name === operator.name || o.tokenDigest === tokenDigest || o.id === operator.id)) {
        throw new CurfewError('conflict', 'an operator of that name exists', { reason: 'name_taken', field: 'name' })
      }
      const added = { ...operator, createdAt: state.now(), disabledAt: null }
      state.operators.set(operator.id, { ...added, tokenDigest })
      write(state, [operatorEvent('operator.added', operator.id, { name: operator.name, role: operator.role }, context)])
      return added
    },
    byToken: async digest => [...state.operators.values()].filter(o => o.tokenDigest === digest).map(bareOperator)[0] ?? null,
    list: async () => [...state.operators.values()].sort((a, b) => newestFirst(b, a)).map(bareOperator),
    async disable(id, context) {
      const o = state.operators.get(id)
      if (!o) throw new CurfewError('not_found', 'no such operator', { reason: 'not_found', field: 'id' })
      if (o.disabledAt) return bareOperator(o)
      const disabled = { ...o, disabledAt: state.now() }
      state.operators.set(id, disabled)
      write(state, [operatorEvent('operator.disabled', id, {}, context)])
      return bareOperator(disabled)
    },
  }
}

function bareOperator<T extends { tokenDigest: string }>({ tokenDigest: _digest, ...operator }: T): Omit<T, 'tokenDigest'> {
  return operator
}
