/** The suite of what CredentialStore does with the parts of a bundle: intended together or not at all, settled together or not at all. */
import { describe, expect, it } from 'vitest'
import type { Credential } from '../../../src/domain/credential.js'
import type { Task } from '../../../src/domain/task.js'
import type { IntendOptions, Store } from '../../../src/ports.js'
import {
  attestation,
  type CapabilityLike,
  childOf,
  context,
  grantFor,
  later,
  type MakeStore,
  mark,
  minted,
  openTask,
  operator,
  pending,
  permit,
  quarantine,
  settleOne,
} from './fixtures.js'

const DB = { name: 'db/orders-ro' }
const CERT = { name: 'pki/orders', engine: 'pki' }
const TOKEN = { name: 'api/orders', engine: 'jwt', revocation: 'instant' as const }
const PARTS: readonly (CapabilityLike & { ttl?: number })[] = [DB, CERT, TOKEN]

const grantsFor = (store: Store, task: Task, parts = PARTS) => parts.map(part => grantFor(store, task, part))
const intend = (store: Store, task: Task, { parts = PARTS, ...options }: Partial<IntendOptions> & { parts?: typeof PARTS } = {}) =>
  store.credentials.intend(grantsFor(store, task, parts), { marks: [], context, ...options })
const settle = (store: Store, rows: readonly Credential[], over: Parameters<typeof minted>[0][] = []) =>
  store.credentials.settle(
    rows.map((credential, i) => ({ credential, minted: minted(over[i]) })),
    context,
  )
const states = async (store: Store, rows: readonly { id: Credential['id'] }[]) => Promise.all(rows.map(async r => (await store.credentials.get(r.id))?.state))
const audited = (store: Store) => store.audit.list({ limit: 500 })

/** Refused, with nothing left of it; and its twin, with the one thing put right, is taken. */
async function refuses(store: Store, refused: () => Promise<unknown>, told: object, twin: () => Promise<readonly Credential[]>): Promise<void> {
  const before = [await audited(store), await store.credentials.list({ limit: 500 })]
  await expect(refused()).rejects.toMatchObject({ name: 'CurfewError', ...told })
  expect([await audited(store), await store.credentials.list({ limit: 500 })]).toEqual(before)
  expect(await twin()).toHaveLength(PARTS.length)
}

export function testBundles(name: string, makeStore: MakeStore): void {
  describe(`the parts of a bundle in ${name}`, () => {
    it('are intended together and settled together, each with its own permit, life and audit rows', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const proof = mark(store, { namespace: 'dpop:k' })
      const decisions = PARTS.map(p => permit(task, p.name as string, store.clock.now()))
      const grants = PARTS.map((part, i) => grantFor(store, task, { ...part, ttl: 60 * (i + 1), decision: decisions[i] as never }))
      const rows = await store.credentials.intend(grants, { marks: [proof], context })
      expect(rows.map(r => r.id)).toEqual(grants.map(g => g.id))
      expect(rows.map(r => r.capability)).toEqual(PARTS.map(p => p.name))
      expect(rows.map(r => r.state)).toEqual(['pending', 'pending', 'pending'])
      expect(new Set(rows.map(r => r.deadlineAt.getTime())).size).toBe(1)
      expect(rows.map(r => r.expiresAt.getTime() - r.issuedAt.getTime())).toEqual([60_000, 120_000, 180_000])
      expect(await store.replay.seen(proof)).toBe(true)

      const handled = (await store.credentials.recordHandle(rows[0] as Credential, { accessor: 'a' })) as Credential
      const sooner = later(rows[1]?.issuedAt as Date, 90)
      const made = [{ handle: { lease: 'l' } }, { expiresAt: sooner, handle: { serial: 's' } }, { handle: {}, kid: 'kid-1' }]
      const settled = (await settle(store, [handled, ...rows.slice(1)], made)) as readonly Credential[]
      expect(settled.map(c => [c.id, c.state, c.version])).toEqual(grants.map((g, i) => [g.id, 'active', i === 0 ? 3 : 2]))
      expect(settled.map(c => c.handle)).toEqual([{ accessor: 'a', lease: 'l' }, { serial: 's' }, null])
      expect(settled[1]?.expiresAt).toEqual(sooner)
      expect(settled[2]?.kid).toBe('kid-1')
      for (const c of settled) expect(await store.credentials.live(c.id)).toEqual(c)
      for (const d of decisions) expect((await store.decisions.get(d.id))?.task).toBe(task.id)
      for (const c of settled)
        expect((await store.audit.list({ subject: c.id, limit: 9 })).map(a => a.kind).filter(k => k !== 'credential.handle_recorded')).toEqual([
          'credential.issued',
          'credential.intended',
        ])
    })

    describe('are refused all', () => {
      it('when their task, or one above it, has ended: about no part', async () => {
        const { store } = await makeStore()
        const [top, other] = [await openTask(store), await openTask(store)]
        const child = await store.tasks.open(childOf(store, top), [], [], context)
        await store.revocations.commit({ kind: 'task', key: top.id }, 'completed', { actor: operator })
        await refuses(
          store,
          () => intend(store, child),
          { code: 'task_ended' },
          () => intend(store, other),
        )
        const error = await intend(store, child).catch(e => e)
        expect(error.facts).not.toHaveProperty('capability')
        expect(error.facts).not.toHaveProperty('field')
      })

      it('when one capability is quarantined: about that part', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const { id } = await quarantine(store, { kind: 'capability', key: CERT.name }, 600)
        await refuses(
          store,
          () => intend(store, task),
          { code: 'policy_denied', facts: { reason: 'quarantined', field: 'capabilities.1', capability: CERT.name } },
          async () => {
            await store.quarantines.lift(id, 'over', { requestId: null, actor: operator })
            return intend(store, task)
          },
        )
      })

      it('when their workload is quarantined: about no part', async () => {
        const { store } = await makeStore()
        const [task, other] = [await openTask(store), await openTask(store)]
        await quarantine(store, { kind: 'identity', key: task.attestation.identity }, 600)
        const error = await intend(store, task).catch(e => e)
        expect(error).toMatchObject({ code: 'policy_denied', facts: { reason: 'quarantined' } })
        expect(error.facts).not.toHaveProperty('field')
        expect(await intend(store, other)).toHaveLength(3)
      })

      it('when their run is buried', async () => {
        const { store } = await makeStore()
        const a = attestation(store, { run: 'run=5' })
        const [one, two] = [await openTask(store, { attestation: a }), await openTask(store, { attestation: a })]
        await store.revocations.commit({ kind: 'task', key: one.id }, 'risk_signal', { actor: operator })
        await refuses(
          store,
          () => intend(store, two),
          { code: 'policy_denied', facts: { reason: 'tombstoned' } },
          async () => intend(store, await openTask(store)),
        )
      })

      it('when a cut-off of one capability is not before its `iat`', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const grants = grantsFor(store, task)
        await store.revocations.commit({ kind: 'capability', key: TOKEN.name }, 'requested', { actor: operator })
        await refuses(
          store,
          () => store.credentials.intend(grants, { marks: [], context }),
          { code: 'policy_denied', facts: { reason: 'cut_off', field: 'capabilities.2', capability: TOKEN.name } },
          async () => {
            await advance(1)
            return intend(store, task)
          },
        )
      })

      it('when the policies that permitted one of them are not in force any more', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const old = { ...permit(task, CERT.name, store.clock.now()), digest: 'pol_old' as never }
        const grants = PARTS.map(p => grantFor(store, task, p === CERT ? { ...p, decision: old } : p))
        const isInForce = (digest: string) => digest !== old.digest
        await refuses(
          store,
          () => store.credentials.intend(grants, { marks: [], context, isInForce }),
          { code: 'unavailable', facts: { reason: 'policy_changed', field: 'capabilities.1' } },
          () => intend(store, task, { isInForce }),
        )
      })

      it('when one of them has expired on the way', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const slow = grantFor(store, { ...task, deadlineAt: later(store.clock.now(), 60) }, { ...TOKEN, issuedAt: later(store.clock.now(), -60), ttl: 30 })
        await refuses(
          store,
          () => store.credentials.intend([...grantsFor(store, task, [DB, CERT]), slow], { marks: [], context }),
          { code: 'unavailable', facts: { reason: 'issued_late', field: 'capabilities.2', capability: TOKEN.name } },
          () => intend(store, task),
        )
      })

      it('when one capability is full, and the parts of one capability count together', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const last = { ...TOKEN, maxLive: 1 }
        const [held] = await intend(store, task, { parts: [last] })
        await refuses(
          store,
          () => intend(store, task, { parts: [DB, CERT, last] }),
          { code: 'rate_limited', facts: { reason: 'capability_full', field: 'capabilities.2', capability: TOKEN.name } },
          async () => {
            await store.revocations.commit({ kind: 'credential', key: (held as Credential).id }, 'requested', { actor: operator })
            return intend(store, task, { parts: [DB, CERT, last] })
          },
        )
        const two = { name: 'db/two', maxLive: 2 }
        await expect(intend(store, task, { parts: [two, two, two] })).rejects.toMatchObject({ facts: { reason: 'capability_full', field: 'capabilities.2' } })
        expect(await intend(store, task, { parts: [two, two] })).toHaveLength(2)
      })

      it('when a mark of theirs was used, which is about no part; and of a refused bundle no mark is used', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const [used, fresh] = [mark(store), mark(store, { namespace: 'dpop:k' })]
        await store.replay.claim([used])
        const error = await intend(store, task, { marks: [fresh, used] }).catch(e => e)
        expect(error).toMatchObject({ code: 'attestation_refused', facts: { reason: 'replayed', field: 'subject_token' } })
        expect(error.facts).not.toHaveProperty('capability')
        expect(await store.replay.seen(fresh)).toBe(false)
        expect(await intend(store, task, { marks: [fresh] })).toHaveLength(3)
        await expect(intend(store, task, { marks: [fresh] })).rejects.toMatchObject({ facts: { reason: 'replayed' } })
      })

      it('when they are of two tasks: a bug, and nothing is written', async () => {
        const { store } = await makeStore()
        const [one, two] = [await openTask(store), await openTask(store)]
        const grants = [grantFor(store, one, DB), grantFor(store, two, CERT)]
        await expect((async () => store.credentials.intend(grants, { marks: [], context }))()).rejects.toThrow(TypeError)
        expect(await store.credentials.list({ limit: 9 })).toEqual([])
      })
    })

    it('raced by 40 for 10 places fill it whole bundle by whole bundle, and one proof is good for one (R01)', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const parts = [DB, CERT, { name: 'db/tight', maxLive: 10 }]
      const results = await Promise.allSettled(Array.from({ length: 40 }, () => intend(store, task, { parts })))
      expect(results.filter(r => r.status === 'fulfilled')).toHaveLength(10)
      expect(await store.credentials.list({ limit: 500 })).toHaveLength(30)
      const proof = mark(store)
      const raced = await Promise.allSettled(Array.from({ length: 20 }, () => intend(store, task, { marks: [proof] })))
      expect(raced.filter(r => r.status === 'fulfilled')).toHaveLength(1)
      expect(await store.credentials.list({ limit: 500 })).toHaveLength(33)
    })

    describe('are settled none', () => {
      /** Null for all, no audit row, every row as it was; `but` is what one of them went through. */
      async function standsStill(store: Store, rows: readonly Credential[], but: (string | undefined)[]) {
        const before = await audited(store)
        expect(await settle(store, rows)).toBeNull()
        expect(await states(store, rows)).toEqual(but)
        expect(await audited(store)).toEqual(before)
        for (const r of rows) expect(await store.credentials.live(r.id)).toBeNull()
      }

      it.each([0, 1, 2])('when the credential of part %i was revoked meanwhile', async i => {
        const { store } = await makeStore()
        const rows = await intend(store, await openTask(store))
        await store.revocations.commit({ kind: 'credential', key: (rows[i] as Credential).id }, 'holder_revoked', { actor: operator })
        await standsStill(
          store,
          rows,
          rows.map((_, n) => (n === i ? 'revoking' : 'pending')),
        )
        // What nobody ended can still be settled by itself: the others were not touched.
        expect(await settleOne(store, rows[(i + 1) % 3] as Credential, minted())).toMatchObject({ state: 'active', version: 2 })
      })

      it.each([0, 2])('when part %i is at another version', async i => {
        const { store } = await makeStore()
        const rows = await intend(store, await openTask(store))
        const moved = await store.credentials.recordHandle(rows[i] as Credential, { accessor: 'a' })
        await standsStill(store, rows, ['pending', 'pending', 'pending'])
        const right = rows.map((r, n) => (n === i ? (moved as Credential) : r))
        expect(await settle(store, right)).toHaveLength(3)
        await expect(settle(store, right)).resolves.toBeNull()
      })

      it('when their task has ended, or their mint window is over', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const [rows, late] = [await intend(store, task), await intend(store, await openTask(store))]
        await store.revocations.commit({ kind: 'task', key: task.id }, 'completed', { actor: operator })
        await standsStill(store, rows, ['revoking', 'revoking', 'revoking'])
        await advance(21)
        await standsStill(store, late, ['pending', 'pending', 'pending'])
        expect(new Set((await store.credentials.closeOverdue(9)).map(c => c.id))).toEqual(new Set(late.map(c => c.id)))
      })

      it('when a cut-off of one capability was committed meanwhile, or the key that one is signed with was revoked, which a new signature mends', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const rows = await intend(store, task)
        await store.revocations.commit({ kind: 'key', key: 'kid-x' }, 'requested', { actor: operator })
        await expect(settle(store, rows, [{}, {}, { kid: 'kid-x' }])).rejects.toMatchObject({ code: 'unavailable', facts: { reason: 'key_revoked' } })
        expect(await states(store, rows)).toEqual(['pending', 'pending', 'pending'])
        expect(await settle(store, rows, [{}, {}, { kid: 'kid-y' }])).toHaveLength(3)
        await advance(1)
        const again = await intend(store, task)
        await store.revocations.commit({ kind: 'capability', key: CERT.name }, 'requested', { actor: operator })
        expect(await settle(store, again)).toBeNull()
        expect(await states(store, again)).not.toContain('active')
      })

      it('when one of them is unknown', async () => {
        const { store } = await makeStore()
        const [row, ...others] = await intend(store, await openTask(store))
        const stranger = { ...(row as Credential), id: 'crd_00000000000000000000000000' as Credential['id'] }
        expect(await settle(store, [stranger, ...others])).toBeNull()
        expect(await states(store, others)).toEqual(['pending', 'pending'])
      })
    })

    it('raced with an act that ends one of them: all were active and one is ended, or none ever was (R02)', async () => {
      const { store } = await makeStore()
      for (let i = 0; i < 10; i++) {
        const rows = await intend(store, await openTask(store))
        const [settled] = await Promise.all([
          settle(store, rows),
          store.revocations.commit({ kind: 'credential', key: (rows[i % 3] as Credential).id }, 'requested', { actor: operator }),
        ])
        const other = settled ? 'active' : 'pending'
        expect(await states(store, rows)).toEqual(rows.map((_, n) => (n === i % 3 ? 'revoking' : other)))
      }
    })

    describe('under an idempotency key', () => {
      const keyed = (store: Store, task: Task, hash = 'h', parts = PARTS) => intend(store, task, { parts, idempotency: { key: 'key', hash } })

      it('are all closed by the same request once more, and told of; no part of two calls is active with one of the other', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const first = await keyed(store, task)
        await settle(store, first)
        const second = await keyed(store, task)
        await settle(store, second)
        expect(await states(store, first)).toEqual(['revoking', 'revoking', 'revoking'])
        expect(await states(store, second)).toEqual(['active', 'active', 'active'])
        expect(new Set(await store.credentials.untold(9))).toEqual(new Set(first.map(c => c.id)))
        const third = await keyed(store, task)
        expect(await states(store, [...second, ...third])).toEqual([...second.map(() => 'revoking'), ...third.map(() => 'pending')])
      })

      it('make room for themselves: a full capability is not full for what replaces its credential', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const parts = [DB, { name: 'db/tight', maxLive: 1 }]
        await settle(store, await keyed(store, task, 'h', parts))
        expect(await keyed(store, task, 'h', parts)).toHaveLength(2)
      })

      it('are a conflict for another request: fewer parts, more, or one credential; and free in another task', async () => {
        const { store } = await makeStore()
        const [task, other] = [await openTask(store), await openTask(store)]
        const first = await keyed(store, task)
        await settle(store, first)
        for (const parts of [PARTS.slice(0, 2), [...PARTS, { name: 'db/more' }], PARTS.slice(0, 1)])
          await expect(keyed(store, task, 'another', parts)).rejects.toMatchObject({ code: 'conflict', facts: { reason: 'idempotency_key_reused' } })
        expect(await states(store, first)).toEqual(['active', 'active', 'active'])
        expect(await keyed(store, other, 'another')).toHaveLength(3)
        // The refused ones left nothing behind: the key still stands for its three.
        const second = await keyed(store, task)
        expect(await states(store, [...first, ...second])).toEqual([...first.map(() => 'revoking'), ...second.map(() => 'pending')])
      })

      it('are a conflict while one of them is still being made', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const first = await keyed(store, task)
        await store.revocations.commit({ kind: 'credential', key: (first[0] as Credential).id }, 'issuance_failed', { actor: operator })
        await expect(keyed(store, task)).rejects.toMatchObject({ code: 'conflict', facts: { reason: 'in_flight' } })
        expect(await states(store, first)).toEqual(['revoking', 'pending', 'pending'])
        await advance(21)
        await keyed(store, task)
        expect(await states(store, first)).toEqual(['revoking', 'revoking', 'revoking'])
      })

      it('raced by 20 equal calls leave one whole bundle', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const results = await Promise.allSettled(
          Array.from({ length: 20 }, async () => {
            const rows = await keyed(store, task)
            return (await settle(store, rows)) ? rows : null
          }),
        )
        const active = await store.credentials.list({ state: 'active', limit: 99 })
        const whole = results.flatMap(r => (r.status === 'fulfilled' && r.value ? [r.value.map(c => c.id).sort()] : []))
        expect(whole).toContainEqual(active.map(c => c.id).sort())
        expect(active).toHaveLength(3)
      })
    })

    it('leave the places and the other credentials of their task alone when they are refused', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const mine = await pending(store, task)
      const full = { name: 'db/tight', maxLive: 0 }
      for (let i = 0; i < 3; i++) await expect(intend(store, task, { parts: [{ ...DB, maxLive: 2 }, full] })).rejects.toMatchObject({ code: 'rate_limited' })
      expect(await intend(store, task, { parts: [{ ...DB, maxLive: 2 }] })).toHaveLength(1)
      expect(await settleOne(store, mine, minted())).toMatchObject({ state: 'active' })
    })
  })
}
