/** The suite of TaskStore. */
import { describe, expect, it } from 'vitest'
import { newId } from '../../../src/domain/ids.js'
import type { Selector } from '../../../src/domain/revocation.js'
import { attestation, childOf, context, later, type MakeStore, mark, newTask, openTask, operator, permit, quarantine } from './fixtures.js'

export function testTasks(name: string, makeStore: MakeStore): void {
  describe(`tasks in ${name}`, () => {
    it('opens a task with its permits, its marks and exactly one audit row an act (I6)', async () => {
      const { store } = await makeStore()
      const task = newTask(store, { capabilities: ['db/orders-ro', 'api/read'], heartbeatSeconds: 15 })
      const now = store.clock.now()
      const permits = task.capabilities.map(c => permit(task, c, now))
      const proof = mark(store, { namespace: 'dpop:k' })
      const opened = await store.tasks.open(task, permits, [proof], context)

      const { lifeSeconds, ...kept } = task
      expect(opened).toMatchObject({ ...kept, state: 'open', version: 1, endedAt: null, endReason: null })
      expect(opened.deadlineAt.getTime() - opened.openedAt.getTime()).toBe(lifeSeconds * 1000)
      expect(Math.abs(opened.openedAt.getTime() - now.getTime())).toBeLessThan(2_000)
      expect(await store.tasks.get(task.id)).toEqual(opened)
      expect((await store.audit.list({ subject: task.id, limit: 10 })).map(r => r.kind)).toEqual(['task.opened'])
      for (const p of permits) {
        expect((await store.audit.list({ subject: p.id, limit: 10 })).map(r => r.kind)).toEqual(['decision.permitted'])
        expect(await store.decisions.get(p.id)).toEqual({ ...p, task: task.id })
      }
      expect(await store.replay.seen(proof)).toBe(true)
    })

    it('keeps what it is told byte by byte: labels, purposes and attributes of any script', async () => {
      const { store } = await makeStore()
      const text = `"quote' \\ back; drop table é 漢字 \u202e 😀 \t\n`
      const opened = await openTask(store, { purpose: text, labels: { note: text }, attestation: attestation(store, { attributes: { text, list: [text] } }) })
      const read = await store.tasks.get(opened.id)
      expect(read?.purpose).toBe(text)
      expect(read?.labels).toEqual({ note: text })
      expect(read?.attestation.attributes).toEqual({ text, list: [text] })
    })

    it('refuses text that cannot be stored instead of failing (T60)', async () => {
      const { store } = await makeStore()
      await expect(openTask(store, { purpose: 'a\0b' })).rejects.toMatchObject({ code: 'malformed' })
      await openTask(store, { purpose: 'ab' })
    })

    it('finds nothing for an unknown id', async () => {
      const { store } = await makeStore()
      expect(await store.tasks.get(newId('task'))).toBeNull()
      await expect(store.tasks.heartbeat(newId('task'), [], context)).rejects.toMatchObject({ code: 'not_found' })
    })

    it('lists the newest first, by identity and by state', async () => {
      const { store } = await makeStore()
      const a = attestation(store)
      const first = await openTask(store, { attestation: a })
      const second = await openTask(store, { attestation: a })
      await openTask(store)
      await store.revocations.commit({ kind: 'task', key: first.id }, 'completed', { actor: operator })
      expect(new Set((await store.tasks.list({ identity: a.identity, limit: 10 })).map(t => t.id))).toEqual(new Set([first.id, second.id]))
      expect((await store.tasks.list({ identity: a.identity, state: 'open', limit: 10 })).map(t => t.id)).toEqual([second.id])
      expect(await store.tasks.list({ limit: 2 })).toHaveLength(2)
    })

    describe('a child (P57)', () => {
      it('ends no later than its parent, and carries its ancestors nearest first', async () => {
        const { store } = await makeStore()
        const top = await openTask(store, { lifeSeconds: 600 })
        const child = await store.tasks.open(childOf(store, top, { lifeSeconds: 3_600 }), [], [], context)
        const grandchild = await store.tasks.open(childOf(store, child, { lifeSeconds: 60 }), [], [], context)
        expect(child.deadlineAt).toEqual(top.deadlineAt)
        expect(grandchild.ancestors).toEqual([child.id, top.id])
        expect(grandchild.deadlineAt.getTime()).toBeLessThan(top.deadlineAt.getTime())
      })

      it('is refused below what has ended, what does not exist, and with ancestors that are not its parent’s (T48)', async () => {
        const { store } = await makeStore()
        const top = await openTask(store)
        const other = await openTask(store)
        await expect(
          store.tasks.open(newTask(store, { parent: top.id, ancestors: [top.id, other.id], attestation: top.attestation }), [], [], context),
        ).rejects.toMatchObject({ code: 'malformed' })
        await expect(
          store.tasks.open(newTask(store, { parent: null, ancestors: [top.id], attestation: top.attestation }), [], [], context),
        ).rejects.toMatchObject({ code: 'malformed' })
        const unknown = newId('task')
        await expect(store.tasks.open(newTask(store, { parent: unknown, ancestors: [unknown] }), [], [], context)).rejects.toMatchObject({ code: 'not_found' })
        await store.tasks.open(childOf(store, top), [], [], context)
        await store.revocations.commit({ kind: 'task', key: top.id }, 'completed', { actor: operator })
        await expect(store.tasks.open(childOf(store, top), [], [], context)).rejects.toMatchObject({ code: 'task_ended', facts: { reason: 'completed' } })
      })

      it('is refused beyond five ancestors (T48)', async () => {
        const { store } = await makeStore()
        let task = await openTask(store)
        for (let depth = 1; depth <= 5; depth++) task = await store.tasks.open(childOf(store, task), [], [], context)
        expect(task.ancestors).toHaveLength(5)
        await expect(store.tasks.open(childOf(store, task), [], [], context)).rejects.toMatchObject({
          code: 'malformed',
          facts: { reason: 'ancestors_invalid' },
        })
      })
    })

    describe('is refused, and burns no mark,', () => {
      const cases = ['identity', 'issuer name', 'issuer id', 'all', 'capability'] as const
      for (const what of cases) {
        it(`by a deny marker on its ${what}, until the marker's time is up`, async () => {
          const { store, advance } = await makeStore()
          const task = newTask(store)
          const a = task.attestation
          const marker = {
            identity: { kind: 'identity' as const, key: a.identity },
            'issuer name': { kind: 'issuer' as const, key: a.issuer },
            'issuer id': { kind: 'issuer' as const, key: a.issuerId as string },
            all: { kind: 'all' as const, key: '*' },
            capability: { kind: 'capability' as const, key: 'db/orders-ro' },
          }[what]
          await quarantine(store, marker as Selector, 60, 'looks wrong')
          const evidence = mark(store)
          await expect(store.tasks.open(task, [], [evidence], context)).rejects.toMatchObject({ code: 'policy_denied', facts: { reason: 'quarantined' } })
          expect(await store.replay.seen(evidence)).toBe(false)
          expect(await store.tasks.get(task.id)).toBeNull()
          await advance(61)
          await store.tasks.open(task, [], [evidence], context)
        })
      }

      for (const kind of ['identity', 'issuer', 'all'] as const) {
        it(`by a cut-off of its ${kind} at or after its evidence, and not with fresh evidence`, async () => {
          const { store, advance } = await makeStore()
          const a = attestation(store)
          const key = kind === 'identity' ? a.identity : kind === 'issuer' ? a.issuerId : '*'
          await store.revocations.commit({ kind, key } as never, 'requested', { actor: operator })
          await expect(openTask(store, { attestation: a })).rejects.toMatchObject({ code: 'policy_denied', facts: { reason: 'cut_off' } })
          await advance(2)
          await openTask(store, { attestation: { ...a, evidenceAt: store.clock.now() } })
        })
      }

      it('by a tombstone on its job run, not on the same number of another issuer', async () => {
        const { store, advance } = await makeStore()
        const a = attestation(store, { run: 'run=1/attempt=1' })
        const first = await openTask(store, { attestation: a })
        await store.revocations.commit({ kind: 'task', key: first.id }, 'risk_signal', { actor: { kind: 'signal', id: 's' } })
        await advance(5)
        const fresh = { ...a, evidenceAt: store.clock.now() }
        await expect(openTask(store, { attestation: fresh })).rejects.toMatchObject({ code: 'policy_denied', facts: { reason: 'tombstoned' } })
        await openTask(store, { attestation: { ...fresh, run: 'run=1/attempt=2' } })
        await openTask(store, { attestation: attestation(store, { issuer: 'gitlab', run: 'run=1/attempt=1' }) })
      })

      it('but a holder’s own completion tombstones nothing', async () => {
        const { store } = await makeStore()
        const a = attestation(store, { run: 'run=2' })
        const first = await openTask(store, { attestation: a })
        await store.revocations.commit({ kind: 'task', key: first.id }, 'completed', { actor: { kind: 'holder', id: first.id } })
        await openTask(store, { attestation: a })
      })
    })

    describe('a heartbeat', () => {
      it('keeps a task from falling due, consumes its proof, and ends with the task', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store, { heartbeatSeconds: 10 })
        await advance(25)
        const proof = mark(store, { namespace: 'dpop:k' })
        const beaten = await store.tasks.heartbeat(task.id, [proof], context)
        expect(beaten.heartbeatAt.getTime()).toBeGreaterThan(task.heartbeatAt.getTime())
        expect(beaten.version).toBe(task.version + 1)
        await expect(store.tasks.heartbeat(task.id, [proof], context)).rejects.toMatchObject({ code: 'proof_refused', facts: { reason: 'replayed' } })
        await advance(25)
        expect(await store.tasks.due(10)).toEqual([])
        await advance(6)
        expect(await store.tasks.due(10)).toEqual([{ id: task.id, reason: 'heartbeat_missed' }])
        await store.revocations.commit({ kind: 'task', key: task.id }, 'heartbeat_missed', { actor: operator })
        expect(await store.tasks.due(10)).toEqual([])
        await expect(store.tasks.heartbeat(task.id, [mark(store)], context)).rejects.toMatchObject({ code: 'task_ended', facts: { reason: 'expired' } })
      })

      it('is refused past the deadline, before any sweep has seen it', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store, { lifeSeconds: 30 })
        await advance(31)
        expect((await store.tasks.get(task.id))?.state).toBe('open')
        await expect(store.tasks.heartbeat(task.id, [], context)).rejects.toMatchObject({ code: 'task_ended', facts: { reason: 'deadline' } })
        expect(await store.tasks.due(10)).toEqual([{ id: task.id, reason: 'deadline' }])
      })
    })

    describe('attesting again', () => {
      it('replaces the evidence and its run under the same identity', async () => {
        const { store, advance } = await makeStore()
        const task = await openTask(store)
        await advance(100)
        const fresh = { ...task.attestation, evidenceAt: later(store.clock.now(), -1), digest: 'fresh', run: 'run=9' }
        const attested = await store.tasks.attest(task.id, fresh, [mark(store)], context)
        expect(attested.attestation).toEqual(fresh)
        expect(attested.deadlineAt).toEqual(task.deadlineAt)
        expect((await store.audit.list({ subject: task.id, limit: 10 })).map(r => r.kind)).toEqual(['task.attested', 'task.opened'])
      })

      it('is refused for another identity, for used evidence, and after a cut-off (T44, T53)', async () => {
        const { store } = await makeStore()
        const task = await openTask(store)
        await expect(store.tasks.attest(task.id, attestation(store), [], context)).rejects.toMatchObject({
          code: 'attestation_refused',
          facts: { reason: 'identity_mismatch' },
        })
        const used = mark(store)
        await store.tasks.attest(task.id, task.attestation, [used], context)
        await expect(store.tasks.attest(task.id, task.attestation, [used], context)).rejects.toMatchObject({
          code: 'attestation_refused',
          facts: { reason: 'replayed' },
        })
        await store.revocations.commit({ kind: 'identity', key: task.attestation.identity }, 'requested', { actor: operator })
        await expect(store.tasks.attest(task.id, task.attestation, [], context)).rejects.toMatchObject({ code: 'task_ended' })
      })
    })
  })
}
