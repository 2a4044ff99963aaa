/** The suite of RevocationLog: what one committed act ends, how its entries are read, and what is closed behind it. */
import { describe, expect, it } from 'vitest'
import { newId } from '../../../src/domain/ids.js'
import type { Reason, Selector, SelectorKind } from '../../../src/domain/revocation.js'
import type { Task } from '../../../src/domain/task.js'
import { active, attestation, childOf, context, grantFor, later, type MakeStore, mark, minted, openTask, operator, pending, settleOne } from './fixtures.js'

export function testRevocations(name: string, makeStore: MakeStore): void {
  describe(`revocations in ${name}`, () => {
    it('of a credential: moves it, and tells who, why and until when', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const [c, other] = [await active(store, task), await active(store, task)]
      const now = store.clock.now()
      const r = await store.revocations.commit({ kind: 'credential', key: c.id }, 'requested', { actor: operator, message: 'INC-1', requestId: 'req-9' })
      expect(r).toMatchObject({
        seq: 1,
        selector: { kind: 'credential', key: c.id },
        reason: 'requested',
        actor: operator,
        message: 'INC-1',
        credentials: 1,
        tasks: 0,
      })
      expect(Math.abs(r.at.getTime() - now.getTime())).toBeLessThan(2_000)
      expect(await store.revocations.get(r.id)).toEqual(r)
      expect(await store.credentials.get(c.id)).toMatchObject({ state: 'revoking', reason: 'requested', revocation: r.id, version: 2 })
      expect(await store.credentials.live(c.id)).toBeNull()
      expect((await store.credentials.live(other.id))?.id).toBe(other.id)
      expect((await store.tasks.get(task.id))?.state).toBe('open')
      expect(await store.revocations.since(0, 10)).toEqual([{ seq: 1, kind: 'credential', key: c.id, issuedBefore: null, until: later(c.expiresAt, 60) }])
      expect((await store.audit.list({ subject: c.id, limit: 9 })).map(a => a.kind)).toEqual(['credential.revoking', 'credential.issued'])
      expect(await store.audit.list({ subject: r.id, limit: 9 })).toMatchObject([
        { kind: 'revocation.committed', reason: 'requested', requestId: 'req-9', actor: operator },
      ])
    })

    it('of what does not exist: not_found, and nothing is written', async () => {
      const { store } = await makeStore()
      const used = mark(store)
      for (const selector of [
        { kind: 'credential', key: newId('credential') },
        { kind: 'task', key: newId('task') },
      ] as const) {
        await expect(store.revocations.commit(selector, 'requested', { actor: operator, marks: [used] })).rejects.toMatchObject({ code: 'not_found' })
      }
      expect(await store.replay.seen(used)).toBe(false)
      expect(await store.revocations.list(9)).toEqual([])
      expect(await store.audit.list({ limit: 9 })).toEqual([])
      const c = await active(store, await openTask(store))
      expect((await store.revocations.commit({ kind: 'credential', key: c.id }, 'requested', { actor: operator })).seq).toBe(1)
    })

    it('consumes its marks in the same transaction: a replayed act did nothing', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const proof = mark(store, { namespace: 'dpop:k' })
      await store.replay.claim([proof])
      await expect(store.revocations.commit({ kind: 'task', key: task.id }, 'completed', { actor: operator, marks: [proof] })).rejects.toMatchObject({
        code: 'proof_refused',
        facts: { reason: 'replayed' },
      })
      expect((await store.tasks.get(task.id))?.state).toBe('open')
      expect(await store.revocations.list(9)).toEqual([])
    })

    it('of a task: ends the whole subtree in one act, itself for the reason and the rest because their parent ended', async () => {
      const { store } = await makeStore()
      const top = await openTask(store)
      const child = await store.tasks.open(childOf(store, top), [], [], context)
      const grandchild = await store.tasks.open(childOf(store, child), [], [], context)
      const sibling = await openTask(store)
      const rows = [await active(store, top), await pending(store, child), await active(store, grandchild)]
      const untouched = await active(store, sibling)
      const r = await store.revocations.commit({ kind: 'task', key: top.id }, 'completed', { actor: { kind: 'holder', id: top.id }, outcome: 'all green' })
      expect(r).toMatchObject({ credentials: 3, tasks: 3 })
      expect(await store.tasks.get(top.id)).toMatchObject({ state: 'completed', endReason: 'completed', endedAt: expect.any(Date) })
      for (const t of [child, grandchild]) expect(await store.tasks.get(t.id)).toMatchObject({ state: 'completed', endReason: 'parent_ended' })
      expect(await store.credentials.get(rows[0]?.id as never)).toMatchObject({ state: 'revoking', reason: 'completed', revocation: r.id })
      for (const c of rows.slice(1)) expect(await store.credentials.get(c.id)).toMatchObject({ state: 'revoking', reason: 'parent_ended', revocation: r.id })
      expect((await store.credentials.live(untouched.id))?.id).toBe(untouched.id)
      expect(await store.credentials.list({ revocation: r.id, limit: 9 })).toHaveLength(3)
      expect(await store.audit.list({ subject: top.id, kind: 'task.ended', limit: 9 })).toMatchObject([
        { reason: 'completed', data: { revocation: r.id, outcome: 'all green' } },
      ])
      // One entry: every token below carries the named task among its ancestors.
      expect(await store.revocations.since(0, 9)).toMatchObject([{ kind: 'task', key: top.id, issuedBefore: null, until: later(top.deadlineAt, 60) }])
    })

    const states: [Reason, Task['state']][] = [
      ['completed', 'completed'],
      ['cancelled', 'cancelled'],
      ['deadline', 'expired'],
      ['heartbeat_missed', 'expired'],
      ['risk_signal', 'revoked'],
      ['requested', 'revoked'],
    ]
    for (const [reason, state] of states) {
      it(`of a task for ${reason} leaves it ${state}`, async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        await store.revocations.commit({ kind: 'task', key: task.id }, reason, { actor: operator })
        expect(await store.tasks.get(task.id)).toMatchObject({ state, endReason: reason })
      })
    }

    it('repeated: a new act with its own seq that moved nothing, and the first reason stands (R04)', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const c = await active(store, task)
      const first = await store.revocations.commit({ kind: 'task', key: task.id }, 'completed', { actor: operator })
      const second = await store.revocations.commit({ kind: 'task', key: task.id }, 'risk_signal', { actor: operator })
      expect(second).toMatchObject({ seq: first.seq + 1, credentials: 0, tasks: 0 })
      expect(await store.tasks.get(task.id)).toMatchObject({ state: 'completed', endReason: 'completed' })
      expect(await store.credentials.get(c.id)).toMatchObject({ reason: 'completed', revocation: first.id })
      expect(await store.audit.list({ subject: c.id, kind: 'credential.revoking', limit: 9 })).toHaveLength(1)
    })

    it('raced: 20 completions of one task end it once (R04)', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      await active(store, task)
      const acts = await Promise.all(
        Array.from({ length: 20 }, () => store.revocations.commit({ kind: 'task', key: task.id }, 'completed', { actor: operator })),
      )
      expect(acts.map(r => r.tasks).reduce((a, b) => a + b)).toBe(1)
      expect(acts.map(r => r.credentials).reduce((a, b) => a + b)).toBe(1)
      expect(acts.map(r => r.seq).sort((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1))
      expect(await store.audit.list({ subject: task.id, kind: 'task.ended', limit: 9 })).toHaveLength(1)
      expect(await store.audit.list({ kind: 'revocation.committed', limit: 30 })).toHaveLength(20)
    })

    it('raced with settling: the credential is active and then ended, or never was; it is never live afterwards (R02)', async () => {
      const { store } = await makeStore()
      for (let i = 0; i < 10; i++) {
        const task = await openTask(store)
        const c = await pending(store, task)
        const [settled] = await Promise.all([
          settleOne(store, c, minted()),
          store.revocations.commit({ kind: 'task', key: task.id }, 'requested', { actor: operator }),
        ])
        const row = await store.credentials.get(c.id)
        expect(row?.state).toBe('revoking')
        expect(row?.version).toBe(settled ? 3 : 2)
        expect(await store.credentials.live(c.id)).toBeNull()
      }
    })

    it('for cause, of a single credential, tombstones the run it was issued for', async () => {
      const { store } = await makeStore()
      const a = attestation(store, { run: 'run=77' })
      const c = await active(store, await openTask(store, { attestation: a }))
      await store.revocations.commit({ kind: 'credential', key: c.id }, 'holder_revoked', { actor: operator })
      await openTask(store, { attestation: a })
      await store.revocations.commit({ kind: 'credential', key: c.id }, 'risk_signal', { actor: operator })
      await expect(openTask(store, { attestation: a })).rejects.toMatchObject({ code: 'policy_denied', facts: { reason: 'tombstoned' } })
    })

    describe('of a scope', () => {
      it.each(['identity', 'issuer', 'key', 'capability', 'all'] as const)(
        '%s: refuses at once what was issued up to now, and spares what the scope does not name',
        async kind => {
          const { store, advance } = await makeStore()
          const hit = await openTask(store, { attestation: attestation(store, { issuer: 'gitlab' }) })
          const spared = await openTask(store)
          const [c, d] = [await active(store, hit, { minted: { kid: 'kid-a' } }), await active(store, spared, { name: 'api/read', minted: { kid: 'kid-b' } })]
          const key = { identity: hit.attestation.identity, issuer: hit.attestation.issuerId, key: 'kid-a', capability: 'db/orders-ro', all: '*' }[kind]
          const r = await store.revocations.commit({ kind, key } as Selector, 'requested', { actor: operator })
          expect(await store.credentials.live(c.id)).toBeNull()
          expect((await store.credentials.live(d.id)) === null).toBe(kind === 'all')
          const [entry] = await store.revocations.since(0, 9)
          expect(entry).toEqual({ seq: r.seq, kind, key, issuedBefore: r.at, until: later(r.at, 43_500) })
          expect(r.selector).toMatchObject({ kind, key, issuedBefore: r.at })
          await store.credentials.closeOverdue(100)
          expect(await store.credentials.get(c.id)).toMatchObject({ state: 'revoking', reason: 'requested', revocation: r.id })
          expect((await store.tasks.get(hit.id))?.state).toBe(kind === 'key' || kind === 'capability' ? 'open' : 'revoked')
          expect((await store.tasks.get(spared.id))?.state).toBe(kind === 'all' ? 'revoked' : 'open')
          // Life goes on behind the cut-off, for whoever is new.
          await advance(2)
          const fresh = await openTask(store, { attestation: { ...attestation(store, { issuer: 'gitlab' }), evidenceAt: store.clock.now() } })
          expect(await active(store, fresh, { minted: { kid: 'kid-a' } })).toMatchObject({ state: 'active' })
        },
      )

      it('identity and issuer: ends what hangs below its tasks, whoever holds it', async () => {
        const { store } = await makeStore()
        const top = await openTask(store)
        const child = await store.tasks.open(childOf(store, top, { attestation: attestation(store) }), [], [], context)
        const c = await active(store, child)
        await store.revocations.commit({ kind: 'identity', key: top.attestation.identity }, 'risk_signal', { actor: operator })
        expect(await store.credentials.live(c.id)).toBeNull()
        await store.credentials.closeOverdue(100)
        expect(await store.tasks.get(child.id)).toMatchObject({ state: 'revoked', endReason: 'parent_ended' })
        expect(await store.credentials.get(c.id)).toMatchObject({ state: 'revoking', reason: 'parent_ended' })
      })

      it('with an earlier cut-off: ends the older and spares the newer; a later one is not believed', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const old = await active(store, task)
        await advance(10)
        const between = store.clock.now()
        await advance(10)
        const young = await active(store, task)
        const r = await store.revocations.commit({ kind: 'capability', key: 'db/orders-ro', issuedBefore: between }, 'requested', { actor: operator })
        expect(r.selector).toMatchObject({ issuedBefore: between })
        expect(await store.credentials.live(old.id)).toBeNull()
        expect(await store.credentials.live(young.id)).not.toBeNull()
        const future = await store.revocations.commit({ kind: 'key', key: 'k', issuedBefore: later(store.clock.now(), 3_600) }, 'requested', {
          actor: operator,
        })
        expect(future.selector).toMatchObject({ issuedBefore: future.at })
      })

      it('larger than a commit closes: all refused at once, closed behind it in batches, and the rest is told when it is done', async () => {
        const { store } = await makeStore()
        const a = attestation(store)
        const tasks = []
        for (let i = 0; i < 30; i++) tasks.push(await openTask(store, { attestation: a }))
        const rows = []
        for (const task of tasks) for (let i = 0; i < 8; i++) rows.push(await active(store, task))
        const other = await active(store, await openTask(store))
        const r = await store.revocations.commit({ kind: 'identity', key: a.identity }, 'requested', { actor: operator })
        expect(r.credentials).toBeLessThanOrEqual(200)
        for (const c of rows.slice(-10)) expect(await store.credentials.live(c.id)).toBeNull()
        const closed: string[] = []
        for (let batch = await store.credentials.closeOverdue(15); ; batch = await store.credentials.closeOverdue(15)) {
          expect(batch.length).toBeLessThanOrEqual(15)
          closed.push(...batch.map(c => c.id))
          if (batch.length < 15) break
        }
        expect(r.credentials + closed.length).toBe(240)
        expect(await store.credentials.list({ identity: a.identity, state: 'active', limit: 300 })).toEqual([])
        expect(await store.tasks.list({ identity: a.identity, state: 'open', limit: 300 })).toEqual([])
        expect(await store.credentials.closeOverdue(15)).toEqual([])
        expect((await store.credentials.live(other.id))?.id).toBe(other.id)
        expect(await store.audit.list({ kind: 'credential.revoking', limit: 500 })).toHaveLength(240)
        expect(await store.audit.list({ kind: 'task.ended', limit: 500 })).toHaveLength(30)
      })

      it('stops what was intended before it from settling', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        const [one, two] = [await pending(store, task), await pending(store, task)]
        await store.revocations.commit({ kind: 'key', key: 'kid-x' }, 'requested', { actor: operator })
        await expect(settleOne(store, one, minted({ kid: 'kid-x' }))).rejects.toMatchObject({ code: 'unavailable', facts: { reason: 'key_revoked' } })
        expect((await store.credentials.get(one.id))?.state).toBe('pending')
        await advance(1)
        expect(await settleOne(store, two, minted({ kid: 'kid-y' }))).not.toBeNull()
      })

      it('overlapping others, with and without earlier cut-offs: refused if any applies, all 2^7 combinations (T70)', { timeout: 60_000 }, async () => {
        const kinds: SelectorKind[] = ['credential', 'task', 'identity', 'issuer', 'key', 'capability', 'all']
        const { store, advance } = await makeStore()
        for (let mask = 0; mask < 2 ** kinds.length; mask++) {
          const a = attestation(store, { issuer: `issuer-${mask}` })
          const task = await openTask(store, { attestation: a })
          const kid = `kid-${mask}`
          const c = await active(store, task, { name: `cap/n${mask}`, minted: { kid } })
          const keys = { credential: c.id, task: task.id, identity: a.identity, issuer: a.issuerId, key: kid, capability: `cap/n${mask}`, all: '*' }
          const applied = kinds.filter((_, bit) => mask & (2 ** bit))
          // Beside those that apply, one that comes too early to.
          const early = (['identity', 'issuer', 'key', 'capability', 'all'] as const)[mask % 5] as 'key'
          await store.revocations.commit({ kind: early, key: keys[early], issuedBefore: later(c.issuedAt, -60) }, 'requested', { actor: operator })
          expect((await store.credentials.live(c.id))?.id, `before ${applied}`).toBe(c.id)
          for (const kind of applied) await store.revocations.commit({ kind, key: keys[kind] } as Selector, 'requested', { actor: operator })
          expect((await store.credentials.live(c.id)) === null, `${applied}`).toBe(applied.length > 0)
          if (mask >= 64) await advance(2)
        }
      })
    })

    it('are read in order by seq, after the last one seen, and forgotten once they can hit nothing', async () => {
      const { store, advance } = await makeStore()
      const task = await openTask(store)
      const short = await active(store, task, { ttl: 30 })
      await store.revocations.commit({ kind: 'credential', key: short.id }, 'requested', { actor: operator })
      for (const key of ['a', 'b', 'c']) await store.revocations.commit({ kind: 'identity', key }, 'requested', { actor: operator })
      expect((await store.revocations.since(0, 2)).map(e => e.seq)).toEqual([1, 2])
      expect((await store.revocations.since(2, 9)).map(e => e.key)).toEqual(['b', 'c'])
      expect(await store.revocations.since(4, 9)).toEqual([])
      await advance(91)
      expect((await store.revocations.since(0, 9)).map(e => e.seq)).toEqual([2, 3, 4])
      expect((await store.revocations.list(2)).map(r => r.seq)).toEqual([4, 3])
      await advance(43_500)
      expect(await store.revocations.since(0, 9)).toEqual([])
    })

    it('a reader that polls while others commit skips none and meets no gap (R11)', async () => {
      const { store } = await makeStore()
      const seen: number[] = []
      let done = false
      const reader = (async () => {
        while (!done || seen.length < 60) {
          const entries = await store.revocations.since(seen.at(-1) ?? 0, 7)
          seen.push(...entries.map(e => e.seq))
        }
      })()
      await Promise.all(
        Array.from({ length: 6 }, async (_, w) => {
          for (let i = 0; i < 10; i++) await store.revocations.commit({ kind: 'identity', key: `w${w}-${i}` }, 'requested', { actor: operator })
        }),
      )
      done = true
      await reader
      expect(seen).toEqual(Array.from({ length: 60 }, (_, i) => i + 1))
    })

    it('against issuing, in every order they happen to take: nothing issued up to the cut-off lives on', async () => {
      const { store } = await makeStore()
      const tasks = [await openTask(store), await openTask(store), await openTask(store)]
      const made = [(await active(store, tasks[0] as Task, { name: 'cut/me' })).id as string]
      const issuing = tasks.map(async task => {
        for (let i = 0; i < 15; i++) {
          const c = await store.credentials.record(grantFor(store, task, { name: 'cut/me' }), minted(), { marks: [], context }).catch(() => null)
          if (c) made.push(c.id)
        }
      })
      const cut = store.revocations.commit({ kind: 'all', key: '*' }, 'requested', { actor: operator })
      await Promise.all([...issuing, cut])
      for (const id of made) expect(await store.credentials.live(id as never)).toBeNull()
    })
  })
}
