/** The races for what may happen once, or not at all (security.md section 5), on two brokers over one store. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { writePolicies } from '../../src/dev/policies.js'
import { newId } from '../../src/domain/ids.js'
import type { Selector } from '../../src/domain/revocation.js'
import { cedarPolicy } from '../../src/policy/cedar.js'
import type { Store } from '../../src/ports.js'
import { attestation, childOf, context, mark, newTask, operator } from '../conformance/store/fixtures.js'
import { type Place, reached, Walk } from './failpoint.js'
import { everyInterleaving } from './interleave.js'
import { upstream } from './monitor.js'
import { onBothStores, onStage, openTask, STORES } from './stage.js'
import { plainStores } from './stores.js'
import { AT_VAULT, LOCAL, type Mistake, signal } from './world.js'

onBothStores()

describe.each(STORES)('200 parallel uses of one single-use thing (R01, I5) over %s', (_name, stores) => {
  it.each([AT_VAULT.name, LOCAL.name])('a proof, for %s: one success, one row, 199 refusals', async capability => {
    await onStage(stores(), async ({ world, a, b, all, told, over }) => {
      const task = await openTask(world.store)
      const proof = mark(world.store, { namespace: 'dpop:one' })
      const issues = Array.from({ length: 200 }, (_, i) => (i % 2 ? a : b).issue(task, { capability, proof }))
      // Whoever has passed the marks makes it alone: two hundred transactions in this process would starve its calls to Vault.
      await Promise.all(issues.map(i => i.to('issue.3')))
      await Promise.all(issues.filter(i => !i.outcome).map(i => i.to(null)))
      expect(issues.filter(i => i.outcome?.status === 'fulfilled')).toHaveLength(1)
      const refused = issues.flatMap(i => (i.outcome?.status === 'rejected' ? [i.outcome.reason] : []))
      expect(refused).toHaveLength(199)
      for (const reason of refused) expect(reason).toMatchObject({ name: 'CurfewError', facts: { reason: 'replayed' } })
      expect(await all()).toHaveLength(1)
      expect(await told('credential.issued')).toBe(1)
      await a.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: operator })
      await over()
    })
  })

  it('a grant, for children: one child', async () => {
    await onStage(stores(), async ({ world: { store }, told }) => {
      const parent = await openTask(store)
      const grant = mark(store, { namespace: 'grant', id: newId('grant') })
      const opened = await Promise.allSettled(Array.from({ length: 200 }, () => store.tasks.open(childOf(store, parent), [], [mark(store), grant], context)))
      expect(opened.filter(o => o.status === 'fulfilled')).toHaveLength(1)
      for (const o of opened) if (o.status === 'rejected') expect(o.reason).toMatchObject({ name: 'CurfewError', facts: { reason: 'replayed' } })
      // The parent's own opening, and one child's.
      expect(await told('task.opened')).toBe(2)
    })
  })

  it('a piece of evidence, for tasks: one task', async () => {
    await onStage(stores(), async ({ world: { store }, told }) => {
      const evidence = mark(store)
      const opened = await Promise.allSettled(Array.from({ length: 200 }, () => store.tasks.open(newTask(store), [], [evidence], context)))
      expect(opened.filter(o => o.status === 'fulfilled')).toHaveLength(1)
      for (const o of opened) if (o.status === 'rejected') expect(o.reason).toMatchObject({ name: 'CurfewError', facts: { reason: 'replayed' } })
      expect(await told('task.opened')).toBe(1)
      // Its twin: the same, each with evidence of its own.
      await Promise.all(Array.from({ length: 20 }, () => store.tasks.open(newTask(store), [], [mark(store)], context)))
    })
  })
})

/** Stops an issue between the permit and the transaction that acts on it. */
const stopBeforeIntend =
  (policy: Awaited<ReturnType<typeof cedarPolicy>>): Mistake =>
  ({ store, ...parts }) => {
    const judged: Pick<Store['credentials'], 'intend'> = {
      async intend(...args) {
        await reached('judged')
        return store.credentials.intend(...args)
      },
    }
    return { ...parts, policy, store: { ...store, credentials: { ...store.credentials, ...judged } } }
  }

describe('policy is changed while a credential is issued (R06)', () => {
  const WHO = 'github:repository_id=1'
  const rule = (effect: 'permit' | 'forbid') =>
    `@id("orders-${effect}")\n${effect}(principal == Workload::"${WHO}", action == Action::"issue", resource == Capability::"${AT_VAULT.name}") when { context.issuer == "github" };`
  async function changing(stop: Place, judge: (issue: { status: string } | null, digests: { told: unknown; before: string; after: string }) => void) {
    const dir = mkdtempSync(join(tmpdir(), 'curfew-models-'))
    writePolicies(dir, rule('permit'), 'orders')
    const log = { error() {}, info() {} }
    const policy = await cedarPolicy({ dir: join(dir, 'policies'), capabilities: [AT_VAULT, LOCAL], issuers: ['github'], log })
    try {
      await onStage(
        plainStores(),
        async ({ world: { store }, a, b, over }) => {
          const task = await store.tasks.open(
            newTask(store, { attestation: attestation(store, { identity: WHO, profile: 'generic', attributes: {} }) }),
            [],
            [],
            context,
          )
          const issue = await a.issue(task).to(stop)
          expect(issue.at).toBe(stop)
          const before = policy.digest
          writePolicies(dir, rule('forbid'), 'orders')
          await policy.reload()
          // Whoever asks from now on is refused, on every broker that has read it.
          for (const process of [a, b]) {
            const { outcome } = await process.issue(task).to(null)
            expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'policy_denied', facts: { reason: 'forbidden' } } })
          }
          await issue.to(null)
          const [row] = await store.credentials.list({ limit: 1 })
          const told = row && (await store.decisions.get(row.decision))?.digest
          judge(issue.outcome, { told, before, after: policy.digest })
          await a.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: operator })
          await over()
        },
        stopBeforeIntend(policy),
      )
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  }

  it.each(['issue.3', 'issue.4b', 'issue.4c', 'issue.5a'] as const)('at %s: what was intended under the old policy names it, and stands', async stop => {
    await changing(stop, (outcome, { told, before, after }) => {
      expect(outcome?.status).toBe('fulfilled')
      expect(told).toBe(before)
      expect(told).not.toBe(after)
    })
  })

  it('between the permit and its transaction: the permit of a policy that is not in force any more is not acted on', async () => {
    await changing('judged', outcome => expect(outcome?.status).toBe('rejected'))
  })
})

describe.each(STORES)('the feed is read while revocations are committed (R11) over %s', (_name, stores) => {
  it('whoever polls after the last that it saw never meets a gap, and misses none', async () => {
    await onStage(stores(), async ({ world, a, b }) => {
      const tasks = await Promise.all(Array.from({ length: 20 }, () => openTask(world.store)))
      let committing = true
      const reader = async (limit: number) => {
        const seen: number[] = []
        for (let done = false; !done; ) {
          // Asked before the poll: one more is made after the last commit.
          done = !committing
          const entries = await world.store.revocations.since(seen.at(-1) ?? 0, limit)
          for (const e of entries) {
            expect(e.seq, 'no gap').toBe((seen.at(-1) ?? 0) + 1)
            seen.push(e.seq)
          }
          done &&= entries.length < limit
          await new Promise(setImmediate)
        }
        return seen
      }
      const readers = [reader(1), reader(3), reader(100)]
      const acts = await Promise.all(
        Array.from({ length: 80 }, async (_, i) => {
          const task = tasks[i % tasks.length]
          const selectors: readonly Selector[] = [
            { kind: 'task', key: task?.id as never },
            { kind: 'identity', key: task?.attestation.identity as string },
            { kind: 'capability', key: LOCAL.name },
          ]
          return (i % 2 ? a : b).broker.revoke(selectors[i % 3] as Selector, 'requested', { actor: operator })
        }),
      )
      committing = false
      const wanted = acts.map(act => act.seq).sort((x, y) => x - y)
      for (const seen of await Promise.all(readers)) expect(seen).toEqual(wanted)
      const times = [...acts].sort((x, y) => x.seq - y.seq).map(act => act.at.getTime())
      expect(times).toEqual([...times].sort((x, y) => x - y))
    })
  })
})

describe('two claimers, two reconcilers (R12)', () => {
  it.each(STORES)('every interleaving of two destructions and the lapse of a claim confirms once, over %s', async (_name, stores) => {
    await onStage(stores(), async ({ world, a, b, told, over }) => {
      const ids: string[] = []
      const runs = await everyInterleaving(
        async () => {
          const issue = await a.issue(await openTask(world.store), { ttlSeconds: 3_600 }).to(null)
          if (issue.outcome?.status !== 'fulfilled') throw new Error('not issued', { cause: issue.outcome?.reason })
          const { id } = issue.outcome.value.credential
          ids.push(id)
          await a.broker.revoke({ kind: 'credential', key: id }, 'requested', { actor: operator })
          const places: readonly Place[] = ['revoke.3a', 'revoke.3b']
          const claimer = (by: typeof a) => new Walk(() => by.broker.destroy(id, null, signal()), places)
          return [claimer(a), claimer(b), new Walk(() => world.advance(31), [])] as const
        },
        async walks => {
          for (const w of walks) expect(w.outcome).toMatchObject({ status: 'fulfilled' })
          const id = ids.at(-1) as string
          const row = await world.store.credentials.get(id as never)
          expect(await told('credential.revoked', id)).toBe(row?.state === 'revoked' ? 1 : 0)
          expect(upstream(world).leases.has(id as never)).toBe(false)
        },
      )
      expect(runs).toBeGreaterThan(20)
      await over()
      for (const id of ids) expect(await told('credential.revoked', id)).toBe(1)
    })
  })

  const unlocked: Mistake = ({ store, ...parts }) => ({
    ...parts,
    store: {
      ...store,
      async withLock(_name, fn) {
        await fn()
        return true
      },
    },
  })
  it.each([
    ['under their lock', undefined],
    ['that both think they hold it', unlocked],
  ] as const)('two reconcilers %s end each orphan and close each loss once', async (_name, mistake) => {
    await onStage(
      plainStores(),
      async ({ world, a, b, told, over }) => {
        const task = await openTask(world.store)
        const issue = await a.issue(task).to(null)
        if (issue.outcome?.status !== 'fulfilled') throw new Error('not issued', { cause: issue.outcome?.reason })
        const lost = issue.outcome.value.credential
        await world.clients.revoker.revokeLease(String(lost.handle?.leaseId), signal())
        await world.clients.revoker.revokeAccessor(String(lost.handle?.accessor), signal())
        const healthy = await a.issue(task).to(null)
        const orphan = newId('credential')
        const ask = { credential: orphan, displayName: orphan.replace('_', '-'), policy: 'curfew-cap-orders-ro', ttlSeconds: 3_600, maxTtlSeconds: 3_600 }
        const { token } = await world.clients.issuer.createIssuanceToken(ask, signal())
        await world.clients.issuer.readDynamic('database', 'orders-ro', token, signal())
        await world.advance(61)
        await Promise.all([a, b, a, b].map(p => p.broker.reconcile(signal())))
        await new Promise(resolve => setTimeout(resolve, 60))
        expect([...upstream(world).tokens], 'the healthy one is left alone').toEqual(
          healthy.outcome?.status === 'fulfilled' ? [healthy.outcome.value.credential.id] : [],
        )
        expect(upstream(world).leases.size).toBe(1)
        expect(await told('reconcile.finding', orphan)).toBeGreaterThan(0)
        expect(await told('credential.revoking', lost.id)).toBe(1)
        expect((await world.store.credentials.get(lost.id))?.reason).toBe('lost_upstream')
        await a.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: operator })
        await over()
      },
      mistake,
    )
  })
})

describe.each(STORES)('an issuer that slept for five minutes (R13, F44) over %s', (_name, stores) => {
  const PLACES = ['issue.3', 'issue.4a', 'issue.4b', 'in flight', 'issue.4c', 'issue.5a', 'issue.5b'] as const
  it.each(PLACES)('at %s, its row closed meanwhile: delivers nothing and leaves nothing', async place => {
    await onStage(stores(), async ({ world, a, b, over }) => {
      const task = await openTask(world.store)
      const issue = await a.issue(task).to(place)
      expect(issue.at).toBe(place)
      await world.advance(300)
      await b.broker.sweep(signal())
      // Vault ends the lease of a token that lapsed in its own time; the loss is seen when both are gone.
      await new Promise(resolve => setTimeout(resolve, 90))
      await b.broker.reconcile(signal())
      // After the last renewal only an act closes it: it lives by right.
      if (place === 'issue.5b') await b.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: operator })
      const [row] = await world.store.credentials.list({ limit: 1 })
      expect(row?.state).not.toMatch(/pending|active/)
      await issue.to(null)
      expect(issue.outcome).toMatchObject({ status: 'rejected', reason: { name: 'CurfewError' } })
      await over()
    })
  })

  it('at the last step, with no look at the clock left: what it delivers has been refused since', async () => {
    await onStage(stores(), async ({ world, a, b, over }) => {
      const task = await openTask(world.store)
      const issue = await a.issue(task).to('issue.6')
      await world.advance(300)
      await b.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: operator })
      await issue.to(null)
      if (issue.outcome?.status === 'fulfilled') expect(await world.store.credentials.live(issue.outcome.value.credential.id)).toBeNull()
      await over()
    })
  })

  it('its twin slept for five seconds: it delivers', async () => {
    await onStage(stores(), async ({ world, a, b, over }) => {
      const task = await openTask(world.store)
      for (const place of [...PLACES, 'issue.6' as const]) {
        const issue = await a.issue(task).to(place)
        await world.advance(5)
        await b.broker.sweep(signal())
        await b.broker.reconcile(signal())
        await issue.to(null)
        expect(issue.outcome, place).toMatchObject({ status: 'fulfilled' })
      }
      await b.broker.revoke({ kind: 'task', key: task.id }, 'completed', { actor: operator })
      await over()
    })
  })
})

describe('a read of the secret that begins late, of an issuer that dies in it (R13, F33)', () => {
  const outcome = async (secondsStalled: number) => {
    let lies = true
    await onStage(plainStores(), async ({ world, a, b }) => {
      const issue = await a.issue(await openTask(world.store)).to('issue.4b')
      await world.advance(secondsStalled)
      await issue.to('in flight')
      expect(issue.at).toBe('in flight')
      await a.die()
      await world.advance(30)
      for (let round = 0; round < 2; round++) {
        await b.broker.sweep(signal())
        await b.broker.reconcile(signal())
        await world.advance(6)
      }
      await b.broker.sweep(signal())
      await world.letReadsGo()
      const [row] = await world.store.credentials.list({ limit: 1 })
      lies = row?.state === 'revoked' && upstream(world).leases.has(row.id)
    })
    return lies
  }

  it('its twin began in time: its row waits for the listing', async () => expect(await outcome(5)).toBe(false))

  it('with the last breath of its token: its row waits all the same', async () => expect(await outcome(85)).toBe(false))

  it('cannot begin when the mint window was slept through before a handle was recorded', async () => {
    await onStage(plainStores(), async ({ world, a, over }) => {
      const issue = await a.issue(await openTask(world.store)).to('issue.3')
      await world.advance(30)
      await issue.to('in flight')
      expect(issue.outcome).toMatchObject({ status: 'rejected', reason: { facts: { reason: 'overtaken' } } })
      await over()
    })
  })
})
