/** Owns guards in memory. */
import { GONE_AFTER, type Guard, type GuardInstance } from '../domain/guard.js'
import type { GuardStore } from '../ports.js'
import { guardEvent } from './events.js'
import { guardNameTaken, noSuchGuard } from './guards.js'
import { after, type State, write } from './memory-state.js'

export function memoryGuards(state: State): GuardStore {
  const guards = new Map<string, Guard & { readonly keyDigest: string }>()
  const instances = state.guardInstances
  const bare = ({ keyDigest: _digest, ...guard }: Guard & { keyDigest: string }): Guard => guard
  const nameOf = (i: Pick<GuardInstance, 'guard' | 'instance'>) => `${i.guard} ${i.instance}`
  return {
    async add({ id, name }, keyDigest, context) {
      if ([...guards.values()].some(g => g.name === name || g.keyDigest === keyDigest)) throw guardNameTaken()
      const guard = { id, name, keyDigest, createdAt: state.now(), disabledAt: null }
      guards.set(id, guard)
      write(state, [guardEvent('guard.added', id, { name }, context)])
      return bare(guard)
    },
    byKey: async digest => [...guards.values()].filter(g => g.keyDigest === digest).map(bare)[0] ?? null,
    list: async () => [...guards.values()].map(bare).sort((a, b) => (a.id < b.id ? -1 : 1)),
    async disable(id, context) {
      const guard = guards.get(id)
      if (!guard) throw noSuchGuard()
      if (guard.disabledAt) return bare(guard)
      const disabled = { ...guard, disabledAt: state.now() }
      guards.set(id, disabled)
      write(state, [guardEvent('guard.disabled', id, {}, context)])
      return bare(disabled)
    },
    async seen(seen) {
      for (const i of seen) {
        const known = instances.get(nameOf(i))
        instances.set(nameOf(i), { ...i, seq: Math.max(i.seq, known?.seq ?? 0), lagMs: i.lagMs ?? known?.lagMs ?? null, seenAt: state.now() })
      }
      const isThere = (i: GuardInstance) => after(i.seenAt, GONE_AFTER) > state.now()
      return [...new Set(seen.map(i => i.guard))].sort().flatMap(id => {
        const guard = guards.get(id)
        return guard
          ? [{ guard: id, isDisabled: guard.disabledAt !== null, instances: [...instances.values()].filter(i => i.guard === id && isThere(i)).length }]
          : []
      })
    },
    instances: async () => [...instances.values()].sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1)),
    async attendance(seq) {
      const there = [...instances.values()].filter(i => !guards.get(i.guard)?.disabledAt && after(i.seenAt, GONE_AFTER) > state.now())
      const applied = there.filter(i => i.seq >= seq)
      const lags = applied.flatMap(i => i.lagMs ?? [])
      return { applied: applied.length, of: there.length, slowestMs: lags.length > 0 ? Math.max(...lags) : null }
    },
  }
}
