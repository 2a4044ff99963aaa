/** The races between issuing and ending (security.md section 5): every interleaving of their steps, on two brokers over one store. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Revocation, Selector } from '../../src/domain/revocation.js'
import type { Task } from '../../src/domain/task.js'
import { operator } from '../conformance/store/fixtures.js'
import { FAILPOINTS, type Place, Walk } from './failpoint.js'
import { everyInterleaving } from './interleave.js'
import { onBothStores, onStage, openChild, openTask, STORES, type Stage } from './stage.js'
import { plainStores } from './stores.js'
import { AT_VAULT, type Delivered, LOCAL, type Process, signal } from './world.js'

const RUNS = Number(process.env.CURFEW_MODEL_RUNS ?? 150)
const REVOKE_PLACES: readonly Place[] = FAILPOINTS.filter(f => f.startsWith('revoke.'))
/** Steps of an issue until it is settled: up to five failpoints at Vault; of a token, all. */
const SETTLED = { [AT_VAULT.name]: 5, [LOCAL.name]: 2 }

onBothStores()

/** What was handed over was active once; nothing of the task is accepted now, and an issue that lost was refused with a reason. */
async function refusedOrDead({ world, told }: Stage, task: Task, issue: Walk<Delivered>): Promise<void> {
  for (const row of await world.store.credentials.list({ task: task.id, limit: 9 })) expect(await world.store.credentials.live(row.id)).toBeNull()
  if (issue.outcome?.status === 'fulfilled') expect(await told('credential.issued', issue.outcome.value.credential.id)).toBe(1)
  else expect(issue.outcome?.reason).toMatchObject({ name: 'CurfewError' })
}

/** Issued in a later second than the cut-off: on a crowded machine the clock goes on between two steps, and it is rightly let through. Then its task is ended. */
async function isBehind({ b }: Stage, task: Task, issue: Walk<Delivered>, ending: Walk<unknown>): Promise<boolean> {
  if (issue.outcome?.status !== 'fulfilled' || ending.outcome?.status !== 'fulfilled') return false
  const { selector, at } = ending.outcome.value as Revocation
  const isOfCredentials = selector.kind === 'capability' || selector.kind === 'key'
  if (!isOfCredentials || issue.outcome.value.credential.issuedAt <= at) return false
  await b.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: operator })
  return true
}

describe('revoke against issue (R02)', () => {
  // Half a minute over PostgreSQL: a night's.
  it.each(RUNS > 1_000 ? STORES : STORES.slice(0, 1))('every interleaving of both walks at Vault, down to the confirmation, over %s', async (_name, stores) => {
    await onStage(stores(), async stage => {
      const { world, a, b } = stage
      let task: Task
      const delivered = { yes: 0, no: 0 }
      const runs = await everyInterleaving(
        async () => {
          task = await openTask(world.store)
          const revoking = new Walk(async () => {
            const act = await b.broker.revoke({ kind: 'task', key: task.id }, 'requested', { actor: operator })
            for (const c of await world.store.credentials.list({ revocation: act.id, limit: 9 })) await b.broker.destroy(c.id, null, signal())
          }, REVOKE_PLACES)
          return [a.issue(task), revoking] as const
        },
        async ([issue, revoking], order) => {
          expect(revoking.outcome).toMatchObject({ status: 'fulfilled' })
          delivered[issue.outcome?.status === 'fulfilled' ? 'yes' : 'no'] += 1
          // Its own last step before the first of the other's: nothing stood in its way, and it must have succeeded.
          if (order.lastIndexOf('0') < order.indexOf('1')) expect(issue.outcome).toMatchObject({ status: 'fulfilled' })
          await refusedOrDead(stage, task, issue)
        },
      )
      expect(runs).toBeGreaterThan(60)
      expect(delivered.yes).toBeGreaterThan(0)
      expect(delivered.no).toBeGreaterThan(0)
      await stage.over()
    })
  })

  it.each(STORES)('whatever is named, at every step of an issue at Vault, over %s', async (_name, stores) => {
    await onStage(stores(), async stage => {
      const { world, a, b } = stage
      for (const kind of ['task', 'identity', 'capability'] as const) {
        let task: Task
        await everyInterleaving(
          async () => {
            await world.advance(1.1)
            task = await openTask(world.store)
            const key = { task: task.id, identity: task.attestation.identity, capability: AT_VAULT.name }[kind]
            return [a.issue(task), stage.ending(b, { kind, key } as Selector, 'requested')] as const
          },
          async ([issue, ending], order) => {
            expect(ending.outcome).toMatchObject({ status: 'fulfilled' })
            if (await isBehind(stage, task, issue, ending)) return
            if (order.indexOf('1') < (SETTLED[AT_VAULT.name] as number))
              expect(issue.outcome, 'ended before it was settled').toMatchObject({ status: 'rejected' })
            await refusedOrDead(stage, task, issue)
          },
        )
      }
      await stage.over()
    })
  })

  it.each(STORES)('whatever is named, before, between and after signing and recording a token, over %s', async (_name, stores) => {
    await onStage(stores(), async stage => {
      const { world, a, b } = stage
      for (const kind of ['task', 'identity', 'issuer', 'key', 'capability', 'all'] as const) {
        let task: Task
        const runs = await everyInterleaving(
          async () => {
            await world.advance(1.1)
            task = await openTask(world.store)
            const key = { task: task.id, identity: task.attestation.identity, issuer: 'github', key: 'k1', capability: LOCAL.name, all: '*' }[kind]
            return [a.issue(task, { capability: LOCAL.name }), stage.ending(b, { kind, key } as Selector, 'requested')] as const
          },
          async ([issue, ending], order) => {
            if (await isBehind(stage, task, issue, ending)) return
            expect(issue.outcome?.status, order).toBe(order === '001' ? 'fulfilled' : 'rejected')
            await refusedOrDead(stage, task, issue)
          },
        )
        expect(runs).toBe(3)
      }
      await stage.over()
    })
  })
})

describe.each(STORES)('complete against renewing (R03) over %s', (_name, stores) => {
  const renewals: Readonly<Record<string, (by: Process, task: Task, stage: Stage) => Walk<unknown>>> = {
    'a sign of life': (by, task) => by.heartbeat(task),
    'fresh evidence, for a token': (by, task, { world }) => by.issue(task, { capability: LOCAL.name, evidence: world.evidence.of(task) }),
    'fresh evidence, at Vault': (by, task, { world }) => by.issue(task, { evidence: world.evidence.of(task) }),
    'what was asked for before, under its key': (by, task) => by.issue(task, { key: 'again' }),
  }
  it.each(Object.keys(renewals))('%s: after the end it is refused, before it nothing of it stays', async kind => {
    await onStage(stores(), async stage => {
      const { world, a, b, told } = stage
      let task: Task
      const kept = { yes: 0, no: 0 }
      await everyInterleaving(
        async () => {
          task = await openTask(world.store)
          if (kind.endsWith('key')) expect((await a.issue(task, { key: 'again' }).to(null)).outcome).toMatchObject({ status: 'fulfilled' })
          return [(renewals[kind] as (typeof renewals)[string])(a, task, stage), stage.ending(b, { kind: 'task', key: task.id }, 'completed')] as const
        },
        async ([renewing, ending], order) => {
          expect(ending.outcome).toMatchObject({ status: 'fulfilled' })
          kept[renewing.outcome?.status === 'fulfilled' ? 'yes' : 'no'] += 1
          if (order.startsWith('1')) expect(renewing.outcome, 'it had ended').toMatchObject({ status: 'rejected', reason: { code: 'task_ended' } })
          if (order.endsWith('1')) expect(renewing.outcome, 'it had not ended').toMatchObject({ status: 'fulfilled' })
          expect(await world.store.tasks.get(task.id)).toMatchObject({ state: 'completed', endReason: 'completed' })
          expect(await told('task.ended', task.id)).toBe(1)
          for (const row of await world.store.credentials.list({ task: task.id, limit: 9 })) expect(await world.store.credentials.live(row.id)).toBeNull()
        },
      )
      expect(Math.min(kept.yes, kept.no)).toBeGreaterThan(0)
      await stage.over()
    })
  })

  it('a hundred signs of life and an end at once, on two brokers: whichever came after it was refused', async () => {
    await onStage(stores(), async ({ world, a, b, told }) => {
      const task = await openTask(world.store)
      const renewing = Array.from({ length: 100 }, (_, i) => (i % 2 ? a : b).heartbeat(task))
      const ended = new Walk(() => a.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: operator }), [])
      await Promise.all([...renewing.slice(0, 50).map(r => r.to(null)), ended.to(null), ...renewing.slice(50).map(r => r.to(null))])
      expect(ended.outcome).toMatchObject({ status: 'fulfilled' })
      const after = await world.store.tasks.get(task.id)
      expect(after?.state).toBe('completed')
      expect((after?.heartbeatAt.getTime() ?? 0) <= (after?.endedAt?.getTime() ?? 0), 'no sign of life is later than the end').toBe(true)
      for (const r of renewing) if (r.outcome?.status === 'rejected') expect(r.outcome.reason).toMatchObject({ code: 'task_ended' })
      expect(await told('task.ended', task.id)).toBe(1)
      // Its twin: nobody ends it.
      const twin = await openTask(world.store)
      const all = await Promise.all(Array.from({ length: 20 }, (_, i) => (i % 2 ? a : b).heartbeat(twin).to(null)))
      for (const r of all) expect(r.outcome).toMatchObject({ status: 'fulfilled', value: { state: 'open' } })
    })
  })
})

describe.each(STORES)('complete against complete and against issue (R04) over %s', (_name, stores) => {
  it('both are answered, one ends the task, nothing outlives it', async () => {
    await onStage(stores(), async stage => {
      const { world, a, b } = stage
      let task: Task
      await everyInterleaving(
        async () => {
          task = await openTask(world.store)
          const selector = { kind: 'task', key: task.id } as const
          return [a.issue(task), stage.ending(a, selector, 'completed'), stage.ending(b, selector, 'completed')] as const
        },
        async ([issue, ...endings]) => {
          const moved = endings.map(e => (e.outcome?.status === 'fulfilled' ? (e.outcome.value as { tasks: number; credentials: number }) : null))
          expect(moved.map(m => m?.tasks).sort()).toEqual([0, 1])
          expect((moved[0]?.credentials ?? 9) + (moved[1]?.credentials ?? 9)).toBeLessThanOrEqual(1)
          expect(await stage.told('task.ended', task.id)).toBe(1)
          await refusedOrDead(stage, task, issue)
        },
      )
      await stage.over()
    })
  })

  it('a hundred at once on two brokers end it once', async () => {
    await onStage(stores(), async ({ world, a, b, told, over }) => {
      const task = await openTask(world.store)
      expect((await a.issue(task).to(null)).outcome).toMatchObject({ status: 'fulfilled' })
      const selector = { kind: 'task', key: task.id } as const
      const acts = await Promise.all(Array.from({ length: 100 }, (_, i) => (i % 2 ? a : b).broker.revoke(selector, 'completed', { actor: operator })))
      expect(acts.reduce((sum, act) => sum + act.credentials, 0)).toBe(1)
      expect(acts.reduce((sum, act) => sum + act.tasks, 0)).toBe(1)
      expect(await told('task.ended', task.id)).toBe(1)
      await over()
    })
  })
})

describe.each(STORES)('a parent is revoked while its child is issued to (R05) over %s', (_name, stores) => {
  it.each([AT_VAULT.name, LOCAL.name])('at every step of issuing %s: nothing of the child is accepted afterwards', async capability => {
    await onStage(stores(), async stage => {
      const { world, a, b } = stage
      let child: Task
      await everyInterleaving(
        async () => {
          const parent = await openTask(world.store)
          child = await openChild(world.store, parent)
          return [a.issue(child, { capability }), stage.ending(b, { kind: 'task', key: parent.id }, 'risk_signal')] as const
        },
        async ([issue], order) => {
          expect((await world.store.tasks.get(child.id))?.endReason).toBe('parent_ended')
          if (order.indexOf('1') < (SETTLED[capability] as number)) expect(issue.outcome).toMatchObject({ status: 'rejected' })
          if (order.endsWith('1')) expect(issue.outcome).toMatchObject({ status: 'fulfilled' })
          await refusedOrDead(stage, child, issue)
        },
      )
      await stage.over()
    })
  })

  it('a child is opened before, and ends with it, or after, and is refused', async () => {
    await onStage(stores(), async stage => {
      const { world, b } = stage
      let parent: Task
      await everyInterleaving(
        async () => {
          parent = await openTask(world.store)
          const opening = new Walk(() => openChild(world.store, parent), [])
          return [opening, stage.ending(b, { kind: 'task', key: parent.id }, 'risk_signal')] as const
        },
        async ([opening], order) => {
          if (order === '10') expect(opening.outcome).toMatchObject({ status: 'rejected', reason: { code: 'task_ended' } })
          else expect((await world.store.tasks.list({ state: 'open', limit: 9 })).map(t => t.id)).toEqual([])
        },
      )
    })
  })
})

describe('any order in which the store and Vault answer (R02 to R05, R12)', () => {
  it('issue, renew, complete, revoke the parent, sweep and reconcile at once', { timeout: 60_000 + RUNS * 200 }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), s =>
        onStage(plainStores(), async ({ world, all, over }) => {
          // What a scheduler runs must not fail: it keeps promises of its own that nobody waits for.
          const order = async <T>(call: () => Promise<T>): Promise<T> => {
            const [outcome] = await s.scheduleFunction(() => Promise.allSettled([call()]))()
            if (outcome.status === 'rejected') throw outcome.reason
            return outcome.value
          }
          const [a, b] = [world.start({ order }), world.start({ order })]
          const parent = await openTask(world.store)
          const child = await openChild(world.store, parent)
          const issues = [
            ...[a.issue(child), b.issue(child, { capability: LOCAL.name }), a.issue(parent)],
            ...[b.issue(child, { key: 'again' }), a.issue(parent, { evidence: world.evidence.of(parent), capability: LOCAL.name }), a.heartbeat(child)],
          ]
          const acts: Promise<unknown>[] = [
            ...issues.map(i => i.to(null)),
            b.broker.revoke({ kind: 'task', key: child.id }, 'completed', { actor: operator }),
            a.broker.revoke({ kind: 'task', key: parent.id }, 'risk_signal', { actor: operator }),
            b.broker.sweep(signal()),
            a.broker.sweep(signal()),
            b.broker.reconcile(signal()),
          ]
          const settled = await s.waitFor(Promise.allSettled(acts))
          expect(settled.filter(o => o.status === 'rejected')).toEqual([])
          for (const i of issues) if (i.outcome?.status === 'rejected') expect(i.outcome.reason).toMatchObject({ name: 'CurfewError' })
          for (const { id } of await all()) expect(await world.store.credentials.live(id)).toBeNull()
          for (const { id } of [parent, child]) expect((await world.store.tasks.get(id))?.state).not.toBe('open')
          await over()
        }),
      ),
      { numRuns: RUNS },
    )
  })
})
