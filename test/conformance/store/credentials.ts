/** The suite of CredentialStore: how credentials come to be, are found, fall due and die. */
import { describe, expect, it } from 'vitest'
import type { Credential, Probe } from '../../../src/domain/credential.js'
import { newId } from '../../../src/domain/ids.js'
import type { Selector } from '../../../src/domain/revocation.js'
import { Secret } from '../../../src/domain/secret.js'
import type { Store } from '../../../src/ports.js'
import {
  active,
  attestation,
  childOf,
  context,
  grantFor,
  intendOne,
  later,
  type MakeStore,
  mark,
  minted,
  newTask,
  openTask,
  operator,
  pending,
  permit,
  quarantine,
  sealed,
  settleOne,
} from './fixtures.js'

export const dead: Probe = { outcome: 'dead', looked: ['lease', 'role'], detail: null }
export const alive: Probe = { outcome: 'alive', looked: ['lease'], detail: 'still there' }
const kinds = async (store: Store, subject: string) => (await store.audit.list({ subject, limit: 50 })).map(r => r.kind).reverse()
const revoke = (store: Store, id: Credential['id']) => store.revocations.commit({ kind: 'credential', key: id }, 'requested', { actor: operator })

export function testCredentials(name: string, makeStore: MakeStore): void {
  describe(`credentials in ${name}`, () => {
    describe('the road of kinds that live at a target', () => {
      it('goes pending, handle, active, each step with its audit row', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const decision = permit(task, 'db/orders-ro', store.clock.now())
        const grant = grantFor(store, task, { decision, ttl: 120 })
        const proof = mark(store, { namespace: 'dpop:k' })
        const intended = await intendOne(store, grant, { marks: [proof], context })
        expect(intended).toMatchObject({
          id: grant.id,
          task: task.id,
          identity: task.attestation.identity,
          issuerId: task.attestation.issuerId,
          capability: 'db/orders-ro',
          decision: decision.id,
          jkt: task.jkt,
          state: 'pending',
          version: 1,
          handle: null,
          reason: null,
          attempts: 0,
        })
        expect(intended.expiresAt.getTime() - intended.issuedAt.getTime()).toBe(120_000)
        expect(intended.issuedAt.getMilliseconds()).toBe(0)
        expect(await store.credentials.live(grant.id)).toBeNull()

        const handled = (await store.credentials.recordHandle(intended, { accessor: 'acc' })) as Credential
        expect(handled).toMatchObject({ handle: { accessor: 'acc' }, version: 2, state: 'pending' })
        const made = minted({ handle: { lease: 'l/1' }, kid: null })
        const settled = (await settleOne(store, handled, made)) as Credential
        expect(settled).toMatchObject({ state: 'active', version: 3, handle: { accessor: 'acc', lease: 'l/1' } })
        expect(await store.credentials.live(grant.id)).toEqual(settled)
        expect(await kinds(store, grant.id)).toEqual(['credential.intended', 'credential.handle_recorded', 'credential.issued'])
        expect(await kinds(store, decision.id)).toEqual(['decision.permitted'])
        expect(await store.decisions.get(decision.id)).toEqual(decision)
        expect(await store.replay.seen(proof)).toBe(true)
      })

      it('takes the target’s own earlier end, and never a later one', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const one = await pending(store, task, { ttl: 300 })
        const sooner = later(one.issuedAt, 100)
        expect((await settleOne(store, one, minted({ expiresAt: sooner })))?.expiresAt).toEqual(sooner)
        const two = await pending(store, task, { ttl: 300 })
        expect((await settleOne(store, two, minted({ expiresAt: later(two.expiresAt, 1) })))?.expiresAt).toEqual(two.expiresAt)
      })

      it('is clamped to the end of its task by the database', async () => {
        const { store } = await makeStore()
        const task = await openTask(store, { lifeSeconds: 60 })
        const c = await intendOne(store, grantFor(store, { ...task, deadlineAt: later(task.deadlineAt, 1_000) }, { ttl: 900 }), { marks: [], context })
        expect(c.expiresAt).toEqual(task.deadlineAt)
      })

      it('does not settle twice, with an old version, or past its mint window (R13)', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const c = await pending(store, task)
        const handled = (await store.credentials.recordHandle(c, { accessor: 'a' })) as Credential
        expect(await settleOne(store, c, minted())).toBeNull()
        expect(await store.credentials.recordHandle(c, { accessor: 'b' })).toBeNull()
        expect(await settleOne(store, handled, minted())).not.toBeNull()
        expect(await settleOne(store, handled, minted())).toBeNull()
        const zombie = await pending(store, task)
        await advance(21)
        expect(await settleOne(store, zombie, minted())).toBeNull()
        expect((await store.credentials.get(zombie.id))?.state).toBe('pending')
      })

      it('notes a late handle in any state, and moves nothing by it (F44)', async () => {
        const { store } = await makeStore()
        const c = await pending(store, await openTask(store))
        await store.credentials.recordHandle(c, { accessor: 'a' })
        await revoke(store, c.id)
        const before = (await store.credentials.get(c.id)) as Credential
        await store.credentials.noteHandle(c.id, { lease: 'late' })
        expect(await store.credentials.get(c.id)).toEqual({ ...before, handle: { accessor: 'a', lease: 'late' } })
      })
    })

    describe('the road of local kinds', () => {
      it('is one transaction: active at once, with its digest sealed', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const secret = Secret.token('the-token')
        const grant = grantFor(store, task, { engine: 'jwt' })
        const c = await store.credentials.record(grant, minted({ secret, handle: {}, kid: 'kid-1' }), { marks: [], context })
        expect(c).toMatchObject({ state: 'active', version: 1, kid: 'kid-1', handle: null })
        expect(await store.credentials.live(c.id)).toEqual(c)
        expect((await store.credentials.list({ digest: sealed(secret.digest()), limit: 5 })).map(x => x.id)).toEqual([c.id])
        expect(await store.credentials.list({ digest: secret.digest(), limit: 5 })).toEqual([])
        expect(await kinds(store, c.id)).toEqual(['credential.issued'])
        expect((await store.audit.list({ subject: c.id, limit: 1 }))[0]?.data).toMatchObject({
          decision: c.decision,
          policies: ['orders-read'],
          policy: grant.decision.digest,
        })
      })

      it('opens its task in the same transaction, with all permits', async () => {
        const { store } = await makeStore()
        const task = newTask(store)
        const permits = [permit(task, 'api/read', store.clock.now())]
        const grant = grantFor(store, task)
        const c = await store.credentials.record(grant, minted(), { marks: [mark(store)], context, open: { task, decisions: permits } })
        expect((await store.tasks.get(task.id))?.state).toBe('open')
        expect(c.task).toBe(task.id)
        for (const d of [...permits, grant.decision]) expect(await kinds(store, d.id)).toEqual(['decision.permitted'])
        expect(await kinds(store, task.id)).toEqual(['task.opened'])
      })

      it('leaves nothing at all of a refused one: no task, no row, no decision, no mark', async () => {
        const { store } = await makeStore()
        const task = newTask(store)
        const grant = grantFor(store, task)
        const used = mark(store)
        const fresh = mark(store, { namespace: 'dpop:k' })
        await store.replay.claim([used])
        const before = await store.audit.list({ limit: 50 })
        await expect(store.credentials.record(grant, minted(), { marks: [fresh, used], context, open: { task, decisions: [] } })).rejects.toMatchObject({
          code: 'attestation_refused',
          facts: { reason: 'replayed' },
        })
        expect(await store.tasks.get(task.id)).toBeNull()
        expect(await store.credentials.get(grant.id)).toBeNull()
        expect(await store.decisions.get(grant.decision.id)).toBeNull()
        expect(await store.replay.seen(fresh)).toBe(false)
        expect(await store.audit.list({ limit: 50 })).toEqual(before)
      })

      it('refuses an `iat` that the database has not reached: it would escape the next cut-off', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const ahead = grantFor(store, task, { issuedAt: later(store.clock.now(), 3) })
        await expect(store.credentials.record(ahead, minted(), { marks: [], context })).rejects.toMatchObject({
          code: 'unavailable',
          facts: { reason: 'clock_skew' },
        })
        await active(store, task)
      })

      it('refuses what has expired on the way', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const slow = grantFor(store, { ...task, deadlineAt: later(store.clock.now(), 60) }, { issuedAt: later(store.clock.now(), -60), ttl: 30 })
        await expect(store.credentials.record(slow, minted(), { marks: [], context })).rejects.toMatchObject({ code: 'unavailable' })
      })
    })

    for (const road of ['intend', 'record'] as const) {
      const make = (store: Store, ...[task, over]: [Parameters<typeof grantFor>[1], Parameters<typeof grantFor>[2]?]) => {
        const grant = grantFor(store, task, over)
        return road === 'intend'
          ? intendOne(store, grant, { marks: [], context })
          : store.credentials.record(grant, minted({ kid: 'kid-1' }), { marks: [], context })
      }
      describe(`${road} refuses`, () => {
        it('an unknown, ended or lapsed task, and one below an ended task (R05)', async () => {
          const { store, advance } = await makeStore()
          await expect(make(store, newTask(store))).rejects.toMatchObject({ code: 'not_found' })
          const top = await openTask(store)
          const child = await store.tasks.open(childOf(store, top), [], [], context)
          await make(store, child)
          await store.revocations.commit({ kind: 'task', key: top.id }, 'completed', { actor: operator })
          await expect(make(store, top)).rejects.toMatchObject({ code: 'task_ended', facts: { reason: 'completed' } })
          await expect(make(store, child)).rejects.toMatchObject({ code: 'task_ended', facts: { reason: 'completed' } })
          const short = await openTask(store, { lifeSeconds: 20 })
          await advance(21)
          await expect(make(store, { ...short, deadlineAt: later(store.clock.now(), 60) })).rejects.toMatchObject({
            code: 'task_ended',
            facts: { reason: 'deadline' },
          })
        })

        it('what a deny marker names: identity, issuer, capability, task or a credential’s task', async () => {
          const { store, advance } = await makeStore()
          const task = await openTask(store)
          const c = await active(store, task)
          const a = task.attestation
          for (const [kind, key] of [
            ['identity', a.identity],
            ['issuer', a.issuer],
            ['capability', 'db/orders-ro'],
            ['task', task.id],
            ['credential', c.id],
            ['all', '*'],
          ] as const) {
            await quarantine(store, { kind, key } as Selector, 5)
            await expect(make(store, task), kind).rejects.toMatchObject({ code: 'policy_denied', facts: { reason: 'quarantined' } })
            await advance(6)
            await make(store, task)
          }
          await quarantine(store, { kind: 'identity', key: 'another' } as Selector, 60)
          await make(store, task)
        })

        it('a marker is never shortened by a later one (P14)', async () => {
          const { store, advance } = await makeStore()
          const task = await openTask(store)
          await quarantine(store, { kind: 'identity', key: task.attestation.identity } as Selector, 600)
          await quarantine(store, { kind: 'identity', key: task.attestation.identity } as Selector, 1)
          await advance(10)
          await expect(make(store, task)).rejects.toMatchObject({ facts: { reason: 'quarantined' } })
        })

        it('an `iat` at or before a cut-off of its capability, and takes a later one', async () => {
          const { store, advance } = await makeStore()
          const task = await openTask(store)
          const old = store.clock.now()
          await store.revocations.commit({ kind: 'capability', key: 'db/orders-ro' }, 'requested', { actor: operator })
          await advance(2)
          await expect(make(store, task, { issuedAt: old })).rejects.toMatchObject({ code: 'policy_denied', facts: { reason: 'cut_off' } })
          await make(store, task)
        })

        it('a task whose identity was cut off, however new the `iat`', async () => {
          const { store, advance } = await makeStore()
          const task = await openTask(store)
          await store.revocations.commit({ kind: 'identity', key: task.attestation.identity }, 'requested', { actor: operator })
          await advance(5)
          await expect(make(store, task)).rejects.toMatchObject({ code: 'task_ended' })
        })

        it('a task of a tombstoned run', async () => {
          const { store } = await makeStore()
          const a = attestation(store, { run: 'run=5' })
          const [one, two] = [await openTask(store, { attestation: a }), await openTask(store, { attestation: a })]
          await store.revocations.commit({ kind: 'task', key: one.id }, 'risk_signal', { actor: operator })
          await expect(make(store, two)).rejects.toMatchObject({ code: 'policy_denied', facts: { reason: 'tombstoned' } })
        })

        it('beyond the capability’s cap, exactly, and again below it', async () => {
          const { store } = await makeStore()
          const task = await openTask(store)
          const results = await Promise.allSettled(Array.from({ length: 12 }, () => make(store, task, { maxLive: 5 })))
          expect(results.filter(r => r.status === 'fulfilled')).toHaveLength(5)
          for (const r of results) if (r.status === 'rejected') expect(r.reason).toMatchObject({ code: 'rate_limited', facts: { reason: 'capability_full' } })
          await make(store, task, { name: 'api/read', maxLive: 5 })
          const [first] = await store.credentials.list({ capability: 'db/orders-ro', limit: 1 })
          await revoke(store, first?.id as Credential['id'])
          await make(store, task, { maxLive: 5 })
        })

        it('a used one-time mark, in parallel as in sequence: 200 uses, one credential (R01, T40, P50)', async () => {
          const { store } = await makeStore()
          const task = await openTask(store)
          const used = mark(store)
          const results = await Promise.allSettled(
            Array.from({ length: 200 }, () => {
              const options = { marks: [used, mark(store, { namespace: 'dpop:k' })], context }
              const grant = grantFor(store, task)
              return road === 'intend' ? intendOne(store, grant, options) : store.credentials.record(grant, minted(), options)
            }),
          )
          expect(results.filter(r => r.status === 'fulfilled')).toHaveLength(1)
          for (const r of results) if (r.status === 'rejected') expect(r.reason).toMatchObject({ code: 'attestation_refused', facts: { reason: 'replayed' } })
          expect(await store.credentials.list({ task: task.id, limit: 300 })).toHaveLength(1)
        })
      })
    }

    describe('an idempotency key', () => {
      const keyed = (store: Store, task: Parameters<typeof grantFor>[1], key: string, hash: string) =>
        store.credentials.record(grantFor(store, task), minted(), { marks: [], context, idempotency: { key, hash } })

      it('closes the earlier credential and makes a new one: at most one is active', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const first = await keyed(store, task, 'k', 'h')
        const second = await keyed(store, task, 'k', 'h')
        expect((await store.credentials.get(first.id))?.state).toBe('revoking')
        expect((await store.credentials.get(first.id))?.reason).toBe('cancelled')
        expect((await store.credentials.live(second.id))?.id).toBe(second.id)
        // No act names it yet; the one that does puts it into the feed, once.
        expect(await store.credentials.untold(9)).toEqual([first.id])
        const told = await store.revocations.commit({ kind: 'credential', key: first.id }, 'cancelled', { actor: operator })
        expect(await store.credentials.untold(9)).toEqual([])
        expect((await store.credentials.get(first.id))?.revocation).toBe(told.id)
        expect((await store.revocations.since(0, 9)).map(e => e.key)).toEqual([first.id])
        const third = await keyed(store, task, 'k', 'h')
        expect((await store.credentials.list({ task: task.id, state: 'active', limit: 9 })).map(c => c.id)).toEqual([third.id])
      })

      it('is a conflict for another request, and free in another task', async () => {
        const { store } = await makeStore()
        const [one, two] = [await openTask(store), await openTask(store)]
        const first = await keyed(store, one, 'k', 'h')
        await expect(keyed(store, one, 'k', 'other')).rejects.toMatchObject({ code: 'conflict', facts: { reason: 'idempotency_key_reused' } })
        expect((await store.credentials.get(first.id))?.state).toBe('active')
        await keyed(store, two, 'k', 'other')
      })

      it('is a conflict while its first call is still being minted, until that one’s deadline', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const again = () => intendOne(store, grantFor(store, task), { marks: [], context, idempotency: { key: 'k', hash: 'h' } })
        const first = await again()
        await expect(again()).rejects.toMatchObject({ code: 'conflict', facts: { reason: 'in_flight' } })
        expect((await store.credentials.get(first.id))?.state).toBe('pending')
        await advance(21)
        await again()
        expect((await store.credentials.get(first.id))?.state).toBe('revoking')
      })

      it('raced by 20 equal calls leaves one active credential', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const results = await Promise.allSettled(Array.from({ length: 20 }, () => keyed(store, task, 'k', 'h')))
        // Each waited for the one before and replaced it: none used the key for another request.
        expect(results.flatMap(r => (r.status === 'rejected' ? [r.reason] : []))).toEqual([])
        expect(await store.credentials.list({ task: task.id, state: 'active', limit: 30 })).toHaveLength(1)
      })
    })

    describe('a verifier’s question', () => {
      it('is answered only while all holds: state, own end, task, ancestors', async () => {
        const { store, advance } = await makeStore()
        const top = await openTask(store)
        const child = await store.tasks.open(childOf(store, top), [], [], context)
        const c = await active(store, child, { ttl: 60 })
        expect(await store.credentials.live(c.id)).toEqual(c)
        expect(await store.credentials.live(newId('credential'))).toBeNull()
        await advance(61)
        expect((await store.credentials.get(c.id))?.state).toBe('active')
        expect(await store.credentials.live(c.id)).toBeNull()
        const d = await active(store, child)
        await store.revocations.commit({ kind: 'task', key: top.id }, 'completed', { actor: operator })
        expect(await store.credentials.live(d.id)).toBeNull()
      })
    })

    describe('finding', () => {
      it('by task and all below it, identity, capability, state and page, newest first', async () => {
        const { store } = await makeStore()
        const top = await openTask(store)
        const child = await store.tasks.open(childOf(store, top), [], [], context)
        const mine = [await active(store, top), await active(store, child), await pending(store, top)]
        await active(store, await openTask(store), { name: 'api/read' })
        const ids = mine
          .map(c => c.id)
          .sort()
          .reverse()
        expect((await store.credentials.list({ task: top.id, limit: 9 })).map(c => c.id)).toEqual(ids)
        expect((await store.credentials.list({ identity: top.attestation.identity, limit: 9 })).map(c => c.id)).toEqual(ids)
        expect(await store.credentials.list({ capability: 'api/read', limit: 9 })).toHaveLength(1)
        expect((await store.credentials.list({ task: top.id, state: 'pending', limit: 9 })).map(c => c.id)).toEqual([mine[2]?.id])
        const [first] = await store.credentials.list({ task: top.id, limit: 1 })
        expect(first?.id).toBe(ids[0])
        expect((await store.credentials.list({ task: top.id, limit: 9, after: ids[0] as Credential['id'] })).map(c => c.id)).toEqual(ids.slice(1))
        const revocation = await revoke(store, mine[0]?.id as Credential['id'])
        expect((await store.credentials.list({ revocation: revocation.id, limit: 9 })).map(c => c.id)).toEqual([mine[0]?.id])
        expect(await store.credentials.list({ state: 'live', limit: 9 })).toHaveLength(4)
      })

      it('for reconcile: what has a row, in any state, and the active ones of an engine by pages', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const made = [await active(store, task), await active(store, task), await active(store, task)]
        const gone = await active(store, task)
        await die(store, gone)
        const known = await store.credentials.known([...made.map(c => c.id), gone.id, newId('credential')])
        expect(new Map([...known].map(([id, row]) => [id, row.state]))).toEqual(
          new Map([...made.map(c => [c.id, 'active'] as const), [gone.id, 'revoked'] as const]),
        )
        const ids = made.map(c => c.id).sort()
        expect((await store.credentials.activeOf('fake', 2)).map(c => c.id)).toEqual(ids.slice(0, 2))
        expect((await store.credentials.activeOf('fake', 2, ids[1])).map(c => c.id)).toEqual(ids.slice(2))
        expect(await store.credentials.activeOf('other', 2)).toEqual([])
        const leased = await active(store, task, { minted: { handle: { leaseId: 'db/creds/x/1' } } })
        expect(await store.credentials.leaseOwners(['db/creds/x/1', 'db/creds/x/2'])).toEqual(new Map([['db/creds/x/1', leased.id]]))
        await die(store, leased)
        expect((await store.credentials.leaseOwners(['db/creds/x/1'])).get('db/creds/x/1')).toBe(leased.id)
        expect(await store.credentials.leaseOwners([])).toEqual(new Map())
      })

      it('counts by state, and how long the oldest duty has waited', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        await pending(store, task)
        await active(store, task, { ttl: 60 })
        await die(store, await active(store, task))
        expect(await store.credentials.counts()).toEqual({ pending: 1, active: 1, revoking: 0, stuck: 0, revoked: 1, overdueSeconds: 0 })
        await advance(120)
        const { overdueSeconds } = await store.credentials.counts()
        expect(overdueSeconds).toBeGreaterThan(95)
        expect(overdueSeconds).toBeLessThan(125)
      })
    })

    describe('expiry', () => {
      it('closes by database time, oldest first, at most what was asked, each with its audit row', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const soon = [await active(store, task, { ttl: 20 }), await active(store, task, { ttl: 10 }), await active(store, task, { ttl: 15 })]
        const later_ = await active(store, task, { ttl: 300 })
        expect(await store.credentials.expire(10)).toEqual([])
        await advance(25)
        const first = await store.credentials.expire(2)
        expect(new Set(first.map(c => c.id))).toEqual(new Set([soon[1]?.id, soon[2]?.id]))
        const rest = await store.credentials.expire(10)
        expect(rest.map(c => [c.id, c.state, c.reason, c.revocation])).toEqual([[soon[0]?.id, 'revoking', 'expired', null]])
        expect(await kinds(store, soon[0]?.id as string)).toEqual(['credential.issued', 'credential.revoking'])
        expect((await store.credentials.get(later_.id))?.state).toBe('active')
        expect(await store.revocations.list(10)).toEqual([])
      })
    })

    describe('closing what is overdue', () => {
      it('ends a lapsed mint window as a failed issue (F44)', async () => {
        const { store, advance } = await makeStore()
        const c = await pending(store, await openTask(store))
        expect(await store.credentials.closeOverdue(10)).toEqual([])
        await advance(21)
        expect((await store.credentials.closeOverdue(10)).map(x => [x.id, x.reason])).toEqual([[c.id, 'issuance_failed']])
        expect(await store.credentials.closeOverdue(10)).toEqual([])
      })
    })

    describe('destroying', () => {
      it('is claimed by one of two, fenced by version, and open to others when the claim lapses (R12)', async () => {
        const { store, advance } = await makeStore()
        const c = await active(store, await openTask(store))
        expect(await store.credentials.claim(c.id, null)).toBeNull()
        await revoke(store, c.id)
        const [due] = await store.credentials.due(10)
        expect(due?.id).toBe(c.id)
        expect(await store.credentials.due(10, 'fake')).toHaveLength(1)
        expect(await store.credentials.due(10, 'other')).toEqual([])
        const claims = await Promise.all(Array.from({ length: 10 }, () => store.credentials.claim(c.id, null)))
        const won = claims.filter(x => x !== null)
        expect(won).toHaveLength(1)
        expect(await store.credentials.due(10)).toEqual([])
        await advance(31)
        expect(await store.credentials.due(10)).toHaveLength(1)
        expect(await store.credentials.claim(c.id, due?.version ?? 0)).toBeNull()
        const second = await store.credentials.claim(c.id, won[0]?.version ?? 0)
        expect(second).not.toBeNull()
        // The first worker wakes up: its fence is gone, and so is its right to confirm or postpone.
        expect(await store.credentials.confirm(won[0] as never, dead)).toBe(false)
        expect(await store.credentials.postpone(won[0] as never, { probe: alive, failure: 'x', waiting: false, permanent: false })).toBeNull()
        expect(await store.credentials.confirm(second as never, dead)).toBe(true)
        expect(await store.credentials.confirm(second as never, dead)).toBe(false)
        expect(await store.credentials.get(c.id)).toMatchObject({ state: 'revoked', probe: dead, nextAttemptAt: null, failure: null })
        expect(await kinds(store, c.id)).toEqual(['credential.issued', 'credential.revoking', 'credential.revoked'])
      })

      it('is never confirmed by a probe that did not find it dead (F32)', async () => {
        const { store } = await makeStore()
        const c = await active(store, await openTask(store))
        await revoke(store, c.id)
        const claim = await store.credentials.claim(c.id, null)
        await expect((async () => store.credentials.confirm(claim as never, alive))()).rejects.toThrow(TypeError)
        expect((await store.credentials.get(c.id))?.state).toBe('revoking')
      })

      it('backs off, is stuck after three failures, goes on all the same, and leads out only dead (F24)', async () => {
        const { store, advance } = await makeStore()
        const c = await active(store, await openTask(store))
        await revoke(store, c.id)
        const waits: number[] = []
        const states: string[] = []
        for (let i = 1; i <= 6; i++) {
          const claim = await store.credentials.claim(c.id, null)
          if (!claim) throw new Error('it was due')
          const before = store.clock.now()
          const row = (await store.credentials.postpone(claim, { probe: alive, failure: `failure ${i}`, waiting: false, permanent: false })) as Credential
          waits.push(Math.round(((row.nextAttemptAt as Date).getTime() - before.getTime()) / 1000))
          states.push(row.state)
          expect(row).toMatchObject({ attempts: i, failure: `failure ${i}`, probe: alive })
          expect(await store.credentials.claim(c.id, null)).toBeNull()
          await advance(waits.at(-1) as number)
          await advance(1)
        }
        expect(waits).toEqual([2, 4, 8, 16, 30, 30])
        expect(states).toEqual(['revoking', 'revoking', 'stuck', 'stuck', 'stuck', 'stuck'])
        await die(store, c)
        expect(await kinds(store, c.id)).toEqual([
          'credential.issued',
          'credential.revoking',
          'credential.destroy_failed',
          'credential.destroy_failed',
          'credential.stuck',
          'credential.destroy_failed',
          'credential.destroy_failed',
          'credential.destroy_failed',
          'credential.revoked',
        ])
      })

      it('is stuck at once when permanent, and counts no failure while waiting', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const [a, b] = [await active(store, task), await active(store, task)]
        await revoke(store, a.id)
        await revoke(store, b.id)
        const claimA = await store.credentials.claim(a.id, null)
        expect(await store.credentials.postpone(claimA as never, { probe: null, failure: 'no such role', waiting: false, permanent: true })).toMatchObject({
          state: 'stuck',
          attempts: 1,
        })
        for (let i = 0; i < 5; i++) {
          const claim = await store.credentials.claim(b.id, null)
          expect(
            await store.credentials.postpone(claim as never, {
              probe: { ...alive, outcome: 'waiting' },
              failure: 'a read may be in flight',
              waiting: true,
              permanent: false,
            }),
          ).toMatchObject({
            state: 'revoking',
            attempts: 0,
          })
          await advance(10)
        }
        expect(await kinds(store, b.id)).toEqual(['credential.issued', 'credential.revoking'])
      })

      it('what was never handed over is looked at at once, whatever its class: nobody is exposed to it', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        const [never, given] = [
          await pending(store, task, { revocation: 'expiry-only', ttl: 200 }),
          await active(store, task, { revocation: 'expiry-only', ttl: 200 }),
        ]
        await store.revocations.commit({ kind: 'task', key: task.id }, 'requested', { actor: operator })
        expect(await store.credentials.claim(never.id, null)).toMatchObject({ credential: { id: never.id } })
        expect(await store.credentials.claim(given.id, null)).toBeNull()
        expect((await store.credentials.get(given.id))?.nextAttemptAt).toEqual(given.expiresAt)
      })

      it('lists for targets what was closed and may be met: until it is dead, and of what only its end ends for ten minutes more', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const of = (revocation: 'expiry-only' | 'backend', engine = 'keys') => active(store, task, { revocation, engine, ttl: 60 })
        const [live, closed, backend, other] = [await of('expiry-only'), await of('expiry-only'), await of('backend'), await of('expiry-only', 'other')]
        expect(await store.credentials.closedOf('keys')).toEqual([])
        for (const c of [closed, backend, other]) await store.revocations.commit({ kind: 'credential', key: c.id }, 'requested', { actor: operator })
        const listed = async () => [...(await store.credentials.closedOf('keys'))].sort()
        expect(await listed()).toEqual([closed.id, backend.id].sort())
        await advance(61)
        for (const c of [closed, backend]) {
          const claim = await store.credentials.claim(c.id, null)
          if (!claim) throw new Error('it is due')
          await store.credentials.confirm(claim, { outcome: 'dead', looked: ['expiry'], detail: null })
        }
        expect(await listed()).toEqual([closed.id])
        await advance(601)
        expect(await listed()).toEqual([])
        expect(live.state).toBe('active')
      })

      it('what only its own end can end waits for it, and is never stuck', async () => {
        const { store, advance } = await makeStore()
        const c = await active(store, await openTask(store), { revocation: 'expiry-only', ttl: 200 })
        await revoke(store, c.id)
        expect((await store.credentials.get(c.id))?.nextAttemptAt).toEqual(c.expiresAt)
        expect(await store.credentials.due(10)).toEqual([])
        expect(await store.credentials.claim(c.id, null)).toBeNull()
        await advance(201)
        for (let i = 0; i < 5; i++) {
          const claim = await store.credentials.claim(c.id, null)
          const row = await store.credentials.postpone(claim as never, { probe: alive, failure: 'accepted still', waiting: false, permanent: true })
          expect(row?.state).toBe('revoking')
          await advance(40)
        }
        await die(store, c)
      })
    })
  })
}

/** Revoked, claimed and confirmed. */
export async function die(store: Store, c: Credential): Promise<void> {
  await revoke(store, c.id)
  const claim = await store.credentials.claim(c.id, null)
  if (!claim || !(await store.credentials.confirm(claim, dead))) throw new Error('it should have died')
}
