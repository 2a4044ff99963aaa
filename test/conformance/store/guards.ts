/** The suite of GuardStore: keys by their digest, what instances have applied, and who is counted. */
import { describe, expect, it } from 'vitest'
import { newId } from '../../../src/domain/ids.js'
import { context, type MakeStore, unique } from './fixtures.js'

export function testGuards(name: string, makeStore: MakeStore): void {
  describe(`guards in ${name}`, () => {
    it('are known by the digest of their key, once by name, and say when they were disabled', async () => {
      const { store } = await makeStore()
      const id = newId('guard')
      const added = await store.guards.add({ id, name: 'orders' }, 'digest-a', context)
      expect(added).toEqual({ id, name: 'orders', createdAt: expect.any(Date), disabledAt: null })
      expect(await store.guards.byKey('digest-a')).toEqual(added)
      expect(await store.guards.byKey('digest-b')).toBeNull()
      await expect(store.guards.add({ id: newId('guard'), name: 'orders' }, unique('d'), context)).rejects.toMatchObject({ code: 'conflict' })
      const disabled = await store.guards.disable(id, context)
      expect(disabled.disabledAt).toEqual(expect.any(Date))
      expect(await store.guards.disable(id, context)).toEqual(disabled)
      expect(await store.guards.list()).toEqual([disabled])
      await expect(store.guards.disable(newId('guard'), context)).rejects.toMatchObject({ code: 'not_found' })
      expect((await store.audit.list({ subject: id, limit: 9 })).map(e => e.kind)).toEqual(['guard.disabled', 'guard.added'])
    })

    it('count those that are there, by what they have applied, which never goes backwards', async () => {
      const { store, advance } = await makeStore()
      const [a, b] = [newId('guard'), newId('guard')]
      await store.guards.add({ id: a, name: 'a' }, unique('d'), context)
      await store.guards.add({ id: b, name: 'b' }, unique('d'), context)
      expect(await store.guards.attendance(0)).toEqual({ applied: 0, of: 0, slowestMs: null })
      await store.guards.seen([
        { guard: a, instance: '1', seq: 10, lagMs: 5 },
        { guard: a, instance: '2', seq: 12, lagMs: 30 },
        { guard: b, instance: '1', seq: 9, lagMs: null },
      ])
      expect(await store.guards.attendance(10)).toEqual({ applied: 2, of: 3, slowestMs: 30 })
      expect(await store.guards.seen([{ guard: a, instance: '1', seq: 3, lagMs: null }])).toEqual([{ guard: a, isDisabled: false, instances: 2 }])
      expect(await store.guards.attendance(10)).toEqual({ applied: 2, of: 3, slowestMs: 30 })
      expect((await store.guards.instances()).map(i => [i.instance, i.seq, i.lagMs])).toEqual(
        a < b
          ? [
              ['1', 10, 5],
              ['2', 12, 30],
              ['1', 9, null],
            ]
          : [
              ['1', 9, null],
              ['1', 10, 5],
              ['2', 12, 30],
            ],
      )
      await advance(20)
      await store.guards.seen([{ guard: b, instance: '1', seq: 10, lagMs: null }])
      await advance(11)
      expect(await store.guards.attendance(10)).toEqual({ applied: 1, of: 1, slowestMs: null })
      // Of the two of this one, the other is gone.
      expect(await store.guards.seen([{ guard: a, instance: '1', seq: 3, lagMs: null }])).toEqual([{ guard: a, isDisabled: false, instances: 1 }])
      await store.guards.disable(b, context)
      expect(await store.guards.attendance(10)).toEqual({ applied: 1, of: 1, slowestMs: 5 })
      expect(await store.guards.seen([{ guard: b, instance: '1', seq: 11, lagMs: null }])).toEqual([{ guard: b, isDisabled: true, instances: 1 }])
    })

    it('forget processes that are gone for a day: each start may have brought a new name', async () => {
      const { store, advance } = await makeStore()
      const id = newId('guard')
      await store.guards.add({ id, name: 'restarting' }, unique('d'), context)
      await store.guards.seen([{ guard: id, instance: 'old', seq: 1, lagMs: null }])
      await advance(86_000)
      await store.guards.seen([{ guard: id, instance: 'new', seq: 1, lagMs: null }])
      await store.forget(10)
      expect((await store.guards.instances()).map(i => i.instance)).toEqual(['new', 'old'])
      await advance(500)
      await store.forget(10)
      expect((await store.guards.instances()).map(i => i.instance)).toEqual(['new'])
    })

    it('the seq of the last act', async () => {
      const { store } = await makeStore()
      expect(await store.revocations.seq()).toBe(0)
      const r = await store.revocations.commit({ kind: 'identity', key: 'x' }, 'requested', { actor: { kind: 'operator', id: 'o' } })
      expect(await store.revocations.seq()).toBe(r.seq)
    })
  })
}
