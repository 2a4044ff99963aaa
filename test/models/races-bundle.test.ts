/** The races of bundles: every interleaving of making one and of ending what it hangs on, and many for one place, on two brokers over one store. */
import { describe, expect, it } from 'vitest'
import type { Selector } from '../../src/domain/revocation.js'
import type { Task } from '../../src/domain/task.js'
import { context, mark } from '../conformance/store/fixtures.js'
import { everyInterleaving } from './interleave.js'
import { expectWhole } from './monitor.js'
import { onBothStores, onStage, openTask, STORES } from './stage.js'
import { AT_VAULT, LOCAL, signal } from './world.js'

/** 3, 4a, 4b, 4c, signed; the sixth step is settled. */
const SETTLED = 6
const KINDS = ['task', 'identity', 'capability at Vault', 'capability of the token', 'key'] as const

onBothStores()

describe('a bundle against what ends one of its parts, or all (R02)', () => {
  it.each(STORES)('is handed over whole or not at all, at every step, over %s', async (_name, stores) => {
    await onStage(stores(), async stage => {
      const { world, a, b } = stage
      for (const what of KINDS) {
        let task: Task
        const runs = await everyInterleaving(
          async () => {
            await world.advance(1.1)
            task = await openTask(world.store)
            const selector: Selector = {
              task: { kind: 'task', key: task.id } as const,
              identity: { kind: 'identity', key: task.attestation.identity } as const,
              'capability at Vault': { kind: 'capability', key: AT_VAULT.name } as const,
              'capability of the token': { kind: 'capability', key: LOCAL.name } as const,
              key: { kind: 'key', key: 'k1' } as const,
            }[what]
            return [a.bundle(task), stage.ending(b, selector, 'requested')] as const
          },
          async ([bundle, ending], order) => {
            expect(ending.outcome).toMatchObject({ status: 'fulfilled' })
            const rows = await world.store.credentials.list({ task: task.id, limit: 9 })
            const live = (await Promise.all(rows.map(r => world.store.credentials.live(r.id)))).flatMap(c => c?.capability ?? [])
            const ended = { 'capability at Vault': [AT_VAULT.name], 'capability of the token': [LOCAL.name], key: [LOCAL.name] }[what as string]
            for (const name of ended ?? [AT_VAULT.name, LOCAL.name]) expect(live, `${what}: it was ended`).not.toContain(name)
            if (order.indexOf('1') < SETTLED) expect(bundle.outcome, `${what}: ended before it was settled`).toMatchObject({ status: 'rejected' })
            if (bundle.outcome?.status === 'fulfilled') expect(bundle.outcome.value).toHaveLength(2)
            else {
              expect(bundle.outcome?.reason).toMatchObject({ name: 'CurfewError' })
              expect(live, `${what}: a part of what was refused`).toEqual([])
            }
            await b.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: { kind: 'holder', id: task.id } })
          },
        )
        expect(runs).toBe(10)
      }
      expect(await expectWhole(world.store)).toBeGreaterThan(30)
      await stage.over()
    })
  })
})

describe.each(STORES)('many for one over %s', (_name, stores) => {
  it('a proof is good for one of 12 bundles (R01)', async () => {
    await onStage(stores(), async ({ world, a, b, all, over }) => {
      const task = await openTask(world.store)
      const proof = mark(world.store)
      const walks = await Promise.all(Array.from({ length: 12 }, (_, i) => (i % 2 ? a : b).bundle(task, { proof }).to(null)))
      const reasons = walks.flatMap(w => (w.outcome?.status === 'rejected' ? [w.outcome.reason.facts?.reason ?? String(w.outcome.reason)] : []))
      expect(reasons).toEqual(Array.from({ length: 11 }, () => 'replayed'))
      expect(await all()).toHaveLength(2)
      await a.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: { kind: 'holder', id: task.id } })
      await over()
    })
  })

  it('one Idempotency-Key leaves one whole bundle of 12, whoever came last', async () => {
    await onStage(stores(), async ({ world, a, b, all, over }) => {
      const task = await openTask(world.store)
      const parts = [AT_VAULT, LOCAL].map(c => ({ capability: c.name, ttlSeconds: 600, params: {} }))
      const ask = async (i: number) => {
        const holder = { task, jkt: task.jkt, marks: [mark(world.store, { namespace: 'dpop:k' })] }
        return (i % 2 ? a : b).broker.issueBundle(holder, { parts, evidence: null, idempotency: { key: 'once', hash: 'h' } }, context.requestId, signal())
      }
      const answers = await Promise.allSettled(Array.from({ length: 12 }, (_, i) => ask(i)))
      const active = (await all()).filter(c => c.state === 'active').map(c => c.id)
      expect(active).toHaveLength(2)
      const whole = answers.flatMap(r => (r.status === 'fulfilled' ? [r.value.map(i => i.credential.id).sort()] : []))
      expect(whole).toContainEqual(active.sort())
      for (const r of answers)
        if (r.status === 'rejected')
          expect(r.reason).toMatchObject({ name: 'CurfewError', facts: { reason: expect.stringMatching(/^(in_flight|overtaken)$/) } })
      await a.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: { kind: 'holder', id: task.id } })
      await over()
    })
  })
})
