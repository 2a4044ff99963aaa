/** The suite of what stands below: actors at rest, and that whatever bars or ends a task above bars or ends all below, from the commit on. */
import { describe, expect, it } from 'vitest'
import type { Acting } from '../../../src/domain/actors.js'
import { namedId, newId } from '../../../src/domain/ids.js'
import { byAttributes } from '../../../src/domain/revocation.js'
import type { Task } from '../../../src/domain/task.js'
import type { Mark } from '../../../src/domain/workload.js'
import type { Store } from '../../../src/ports.js'
import { active, attestation, childOf, context, grantFor, intendOne, type MakeStore, mark, minted, openTask, operator, quarantine } from './fixtures.js'

const actingOf = (t: Task): Acting => ({ identity: t.attestation.identity, issuer: t.attestation.issuerId })

/** Three tasks, each of a workload of its own below the other. */
async function family(store: Store, issuer?: string): Promise<[Task, Task, Task]> {
  const below = (t: Task) => childOf(store, t, { attestation: attestation(store), actors: [actingOf(t), ...t.actors] })
  const top = await openTask(store, issuer === undefined ? {} : { attestation: attestation(store, { issuer, run: 'run=1' }) })
  const middle = await store.tasks.open(below(top), [], [], context)
  return [top, middle, await store.tasks.open(below(middle), [], [], context)]
}

export function testDelegation(name: string, makeStore: MakeStore): void {
  describe(`delegation in ${name}`, () => {
    it('keeps for whom a task acts, nearest first, and tells it in evidence', async () => {
      const { store } = await makeStore()
      const [top, middle, leaf] = await family(store)
      expect(top.actors).toEqual([])
      expect(leaf.actors).toEqual([actingOf(middle), actingOf(top)])
      expect(await store.tasks.get(leaf.id)).toEqual(leaf)
      expect((await store.tasks.list({ limit: 10 })).map(t => t.actors.length).sort()).toEqual([0, 1, 2])
      const opened = (id: string) => store.audit.list({ subject: id, kind: 'task.opened', limit: 1 })
      expect((await opened(leaf.id))[0]?.data).toMatchObject({ parent: middle.id, actors: leaf.actors })
      const same = await store.tasks.open(childOf(store, top), [], [], context)
      expect((await opened(same.id))[0]?.data).toMatchObject({ parent: top.id, actors: [] })
    })

    it('keeps them of a task that opens with its first credential', async () => {
      const { store } = await makeStore()
      const [top] = await family(store)
      const task = childOf(store, top, { attestation: attestation(store), actors: [actingOf(top)] })
      const grant = grantFor(store, task)
      await store.credentials.record(grant, minted(), { marks: [], context, open: { task, decisions: [] } })
      expect((await store.tasks.get(task.id))?.actors).toEqual([actingOf(top)])
    })

    it('uses a grant up once, and says that it was the grant (I5)', async () => {
      const { store } = await makeStore()
      const [top] = await family(store)
      const grant = mark(store, { namespace: 'grant', id: newId('grant') })
      const results = await Promise.allSettled(Array.from({ length: 20 }, () => store.tasks.open(childOf(store, top), [], [grant], context)))
      expect(results.filter(r => r.status === 'fulfilled')).toHaveLength(1)
      for (const r of results)
        if (r.status === 'rejected') expect(r.reason).toMatchObject({ code: 'attestation_refused', facts: { reason: 'replayed', field: 'parent_grant' } })
    })

    it('tells in evidence which grant opened a task, alone or with its first credential, and of the others that none did', async () => {
      const { store } = await makeStore()
      const top = await openTask(store)
      const [one, other] = [1, 2].map(() => mark(store, { namespace: 'grant', id: newId('grant') })) as [Mark, Mark]
      const child = await store.tasks.open(childOf(store, top), [], [mark(store), one], context)
      const task = childOf(store, top)
      await store.credentials.record(grantFor(store, task), minted(), { marks: [other], context, open: { task, decisions: [] } })
      const told = async (id: string) => (await store.audit.list({ subject: id, kind: 'task.opened', limit: 1 }))[0]?.data.grant
      expect([await told(child.id), await told(task.id), await told(top.id)]).toEqual([one.id, other.id, null])
    })

    for (const kind of ['identity of the top', 'identity in the middle', 'issuer of the top', 'all', 'task', 'attributes'] as const) {
      it(`a revocation by ${kind} refuses what is below from the commit on, however much it closes (P64)`, async () => {
        const { store } = await makeStore()
        const [top, middle, leaf] = await family(store, 'gitlab')
        const c = await active(store, leaf)
        const beside = await active(store, await openTask(store))
        // More than a commit closes by itself: the rest is refused by what stands, not by its own row.
        for (let i = 0; i < 210; i++) await active(store, kind === 'identity in the middle' ? middle : top)
        const selector = {
          'identity of the top': { kind: 'identity', key: top.attestation.identity },
          'identity in the middle': { kind: 'identity', key: middle.attestation.identity },
          'issuer of the top': { kind: 'issuer', key: 'gitlab' },
          all: { kind: 'all', key: '*' },
          task: { kind: 'task', key: top.id },
          attributes: byAttributes({ identity: top.attestation.identity, issuer: 'gitlab' }),
        }[kind]
        await store.revocations.commit(selector as never, 'requested', { actor: operator })
        expect(await store.credentials.live(c.id)).toBeNull()
        await expect(store.credentials.record(grantFor(store, leaf), minted(), { marks: [], context })).rejects.toMatchObject({ code: 'task_ended' })
        await expect(store.tasks.open(childOf(store, leaf, { attestation: attestation(store) }), [], [], context)).rejects.toMatchObject({ code: 'task_ended' })
        for (let n = 0; n < 5; n++) await store.credentials.closeOverdue(200)
        expect((await store.credentials.get(c.id))?.state).toBe('revoking')
        expect((await store.tasks.get(leaf.id))?.state).toBe('revoked')
        expect((await store.credentials.live(beside.id)) !== null).toBe(kind !== 'all')
      })
    }

    it('a quarantine of what is above stops what is new below, by name and by attributes, and leaves what is there', async () => {
      const { store, advance } = await makeStore()
      const [top, middle, leaf] = await family(store, 'gitlab')
      const c = await active(store, leaf)
      for (const selector of [
        { kind: 'identity', key: top.attestation.identity },
        { kind: 'identity', key: middle.attestation.identity },
        { kind: 'issuer', key: namedId('issuer', 'gitlab') },
        byAttributes({ identity: top.attestation.identity, issuer: 'gitlab' }),
        byAttributes({ owner: 'team-a', capability: 'db/orders-ro', issuer: 'gitlab' }),
      ]) {
        await quarantine(store, selector as never, 5)
        const refused = { code: 'policy_denied', facts: { reason: 'quarantined' } }
        await expect(intendOne(store, grantFor(store, leaf), { marks: [], context })).rejects.toMatchObject(refused)
        const below = childOf(store, leaf, { attestation: attestation(store) })
        await expect(store.tasks.open(below, [], [], context)).rejects.toMatchObject(refused)
        expect(await store.credentials.live(c.id)).not.toBeNull()
        await advance(6)
        await active(store, leaf)
      }
      await quarantine(store, byAttributes({ identity: 'another', issuer: 'gitlab' }), 60)
      await active(store, leaf)
    })

    it('a tombstone on a run above refuses below another task of that run', async () => {
      const { store } = await makeStore()
      const [top, , leaf] = await family(store, 'gitlab')
      const twin = await openTask(store, { attestation: top.attestation })
      await store.revocations.commit({ kind: 'task', key: twin.id }, 'risk_signal', { actor: operator })
      await expect(intendOne(store, grantFor(store, leaf), { marks: [], context })).rejects.toMatchObject({ facts: { reason: 'tombstoned' } })
      await active(store, (await family(store))[2])
    })
  })
}
