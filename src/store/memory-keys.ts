/** Owns signing keys in memory. */
import type { SealedKey } from '../domain/signing-key.js'
import type { Context, KeyStore } from '../ports.js'
import { keyEvent } from './events.js'
import { noSuchKey, stillSigns } from './keys.js'
import { after, earliest, type State, write } from './memory-state.js'

export function memoryKeys(state: State): KeyStore {
  const find = (k: Pick<SealedKey, 'keyClass' | 'alg' | 'state'>) =>
    [...state.keys.values()].find(o => o.keyClass === k.keyClass && o.alg === k.alg && o.state === k.state)
  return {
    list: async () => [...state.keys.values()],
    async add({ activatesInSeconds, ...key }, context) {
      const met = state.keys.get(key.kid) ?? (key.state === 'retired' ? undefined : find(key))
      if (met) return met
      const at = state.now()
      const added: SealedKey = { ...key, createdAt: at, activatesAt: after(at, activatesInSeconds), retiresAt: null }
      state.keys.set(key.kid, added)
      write(state, [keyEvent('key.created', key.kid, { class: key.keyClass, alg: key.alg, state: key.state }, context)])
      return added
    },
    async promote(kid, retainSeconds, context, { early = false } = {}) {
      const next = state.keys.get(kid)
      const at = state.now()
      if (next?.state !== 'next' || (next.activatesAt > at && !early)) return
      const former = find({ ...next, state: 'current' })
      if (former) {
        state.keys.set(former.kid, { ...former, state: 'retired', retiresAt: after(at, retainSeconds) })
        write(state, [keyEvent('key.retired', former.kid, { by: kid }, context)])
      }
      state.keys.set(kid, { ...next, state: 'current', activatesAt: earliest(next.activatesAt, at) })
      write(state, [keyEvent('key.activated', kid, {}, context)])
    },
  }
}

export function withdrawInMemory(state: State, kid: string, revocation: string, context: Context): void {
  const key = state.keys.get(kid)
  if (!key) throw noSuchKey()
  if (key.state === 'current') throw stillSigns()
  state.keys.set(kid, { ...key, state: 'retired', retiresAt: earliest(key.retiresAt, state.now()) })
  write(state, [keyEvent('key.withdrawn', kid, { revocation }, context)])
}
