/** The suite of RunStore: a run that is over begins nothing, what it has open is found once and to its top, and nobody else is hit. */
import { describe, expect, it } from 'vitest'
import { newId } from '../../../src/domain/ids.js'
import { attemptOf, type EndedRun, EVERY_JOB, LONGEST_RUN_SECONDS, nameRun } from '../../../src/domain/run.js'
import type { TaskAttestation } from '../../../src/domain/task.js'
import type { Context, Store } from '../../../src/ports.js'
import { active, attestation, childOf, grantFor, later, type MakeStore, mark, minted, newTask, openTask, operator } from './fixtures.js'

const hook: Context = { requestId: 'req-hook', actor: { kind: 'signal', id: 'github-org' } }
const named = (job: string, attempt = '1', { owner = '123456', run = '9912' }: { owner?: string; run?: string } = {}) =>
  nameRun('github', { owner, within: ['456789', run, attempt], job })
const of = (store: Store, run: string, over: Partial<TaskAttestation> = {}) => attestation(store, { run, ...over })
const ended = (store: Store, run: string): EndedRun => ({
  issuerId: attestation(store).issuerId,
  run,
  source: 'github-org',
  conclusion: 'success',
})
const tombstoned = { code: 'policy_denied', facts: { reason: 'tombstoned' } }

export function testRuns(name: string, makeStore: MakeStore): void {
  describe(`runs that are over in ${name}`, () => {
    it('a job: its open tasks are found, it is due until it is settled, and it begins nothing more (T71)', async () => {
      const { store } = await makeStore()
      const a = of(store, named('501'))
      const [one, two] = [await openTask(store, { attestation: a }), await openTask(store, { attestation: a })]
      const run = ended(store, named('501'))
      await store.runs.end(run, [mark(store)], hook)
      expect(await store.runs.open(run)).toEqual([one.id, two.id].sort())
      expect(await store.runs.due(9)).toEqual([run])
      await expect(openTask(store, { attestation: { ...a, evidenceAt: later(store.clock.now(), 5) } })).rejects.toMatchObject(tombstoned)
      await expect(store.tasks.attest(one.id, a, [], hook)).rejects.toMatchObject(tombstoned)
      await expect(store.credentials.record(grantFor(store, two), minted(), { marks: [], context: hook })).rejects.toMatchObject(tombstoned)
      for (const id of [one.id, two.id]) await store.revocations.commit({ kind: 'task', key: id }, 'completed', { actor: { kind: 'signal', id: 'github-org' } })
      expect(await store.runs.open(run)).toEqual([])
      await store.runs.settled(run)
      expect(await store.runs.due(9)).toEqual([])
      await expect(openTask(store, { attestation: a })).rejects.toMatchObject(tombstoned)
      expect(await store.audit.list({ kind: 'run.ended', limit: 9 })).toMatchObject([
        { subject: run.run, reason: 'success', actor: hook.actor, requestId: 'req-hook', data: { open_tasks: true } },
      ])
    })

    const others: [string, string, Partial<TaskAttestation>?][] = [
      ['a sibling job of the same attempt (T72)', named('502')],
      ['a job whose number begins alike', named('5011')],
      ['the same job number of another attempt', named('501', '2')],
      ['a run of another owner (T73)', named('501', '1', { owner: '99' })],
      ['a run whose issuer names no job', named('')],
      ['the same run of another issuer', named('501'), { issuer: 'ghes', issuerId: newId('issuer') }],
    ]
    it.each(others)('the end of a job does not hit %s', async (_who, run, over = {}) => {
      const { store } = await makeStore()
      const a = of(store, run, over)
      const task = await openTask(store, { attestation: a })
      await store.runs.end(ended(store, named('501')), [], hook)
      expect(await store.runs.open(ended(store, named('501')))).toEqual([])
      expect(await store.runs.due(9)).toEqual([])
      await openTask(store, { attestation: a })
      await active(store, task)
    })

    it('an attempt: all its jobs, also those that were never seen', async () => {
      const { store } = await makeStore()
      const tasks = []
      for (const job of ['501', '502', '']) tasks.push(await openTask(store, { attestation: of(store, named(job)) }))
      const run = ended(store, attemptOf(named('501')))
      expect(run.run).toBe(named(EVERY_JOB))
      await store.runs.end(run, [], hook)
      expect(await store.runs.open(run)).toEqual(tasks.map(t => t.id).sort())
      for (const job of ['501', '999', '']) await expect(openTask(store, { attestation: of(store, named(job)) })).rejects.toMatchObject(tombstoned)
      await expect(active(store, tasks[1] as (typeof tasks)[0])).rejects.toMatchObject(tombstoned)
    })

    it.each([
      ['the next attempt', named('501', '2')],
      ['an attempt that begins alike', named('501', '11')],
      ['a run that begins alike', named('501', '1', { run: '99121' })],
      ['another owner (T73)', named('501', '1', { owner: '1234567' })],
    ])('the end of an attempt does not hit %s', async (_who, run) => {
      const { store } = await makeStore()
      const task = await openTask(store, { attestation: of(store, run) })
      const attempt = ended(store, named(EVERY_JOB))
      await store.runs.end(attempt, [], hook)
      expect(await store.runs.open(attempt)).toEqual([])
      await active(store, task)
      await openTask(store, { attestation: of(store, run) })
    })

    it('finds the topmost tasks only: what is below them goes along', async () => {
      const { store } = await makeStore()
      const stranger = await openTask(store, { attestation: of(store, named('700')) })
      const guest = await store.tasks.open(childOf(store, stranger, { attestation: of(store, named('501')) }), [], [], hook)
      const top = await openTask(store, { attestation: of(store, named('501')) })
      const child = await store.tasks.open(childOf(store, top), [], [], hook)
      const grandchild = await store.tasks.open(childOf(store, child), [], [], hook)
      const run = ended(store, named('501'))
      await store.runs.end(run, [], hook)
      expect(await store.runs.open(run)).toEqual([guest.id, top.id].sort())
      await store.revocations.commit({ kind: 'task', key: top.id }, 'completed', { actor: operator })
      expect(await store.runs.open(run)).toEqual([guest.id])
      expect(await store.tasks.get(grandchild.id)).toMatchObject({ state: 'completed', endReason: 'parent_ended' })
    })

    it('a run that was never seen is refused all the same, for as long as a runner may live, and forgotten after', async () => {
      const { store, advance } = await makeStore()
      const a = of(store, named('501'))
      await store.runs.end(ended(store, a.run as string), [], hook)
      expect(await store.runs.due(9)).toEqual([])
      await advance(LONGEST_RUN_SECONDS - 60)
      const fresh = () => ({ ...a, evidenceAt: store.clock.now() })
      await expect(openTask(store, { attestation: fresh() })).rejects.toMatchObject(tombstoned)
      await advance(120)
      await store.forget(10)
      await openTask(store, { attestation: fresh() })
    })

    it('a repeated mark refuses the whole (H30)', async () => {
      const { store } = await makeStore()
      const [seen, fresh] = [mark(store, { namespace: 'hook:github-org' }), mark(store, { namespace: 'hook:github-org' })]
      await store.runs.end(ended(store, named('501')), [seen], hook)
      for (const marks of [[seen], [fresh, seen]])
        await expect(store.runs.end(ended(store, named('502')), marks, hook)).rejects.toMatchObject({ facts: { reason: 'replayed' } })
      await openTask(store, { attestation: of(store, named('502')) })
      expect(await store.audit.list({ kind: 'run.ended', limit: 9 })).toHaveLength(1)
      await store.runs.end(ended(store, named('502')), [fresh], hook)
      await expect(openTask(store, { attestation: of(store, named('502')) })).rejects.toMatchObject(tombstoned)
    })

    it('said twice it stays over, and what a revocation for cause buried stays buried', async () => {
      const { store } = await makeStore()
      const task = await openTask(store, { attestation: of(store, named('501')) })
      await store.revocations.commit({ kind: 'task', key: task.id }, 'risk_signal', { actor: operator })
      for (let i = 0; i < 2; i++) await store.runs.end(ended(store, named('501')), [mark(store)], hook)
      expect(await store.runs.due(9)).toEqual([])
      await expect(openTask(store, { attestation: of(store, named('501')) })).rejects.toMatchObject(tombstoned)
      expect(await store.tasks.get(task.id)).toMatchObject({ endReason: 'risk_signal' })
    })

    it('raced by openings: each is refused, or found', async () => {
      const { store } = await makeStore()
      const run = ended(store, named('501'))
      const a = of(store, run.run)
      const openings = Array.from({ length: 30 }, () => newTask(store, { attestation: a }))
      const opened = openings.map(task => store.tasks.open(task, [], [], hook))
      const all = await Promise.allSettled([...opened.slice(0, 15), store.runs.end(run, [mark(store)], hook), ...opened.slice(15)])
      const refused = all.filter(r => r.status === 'rejected')
      expect(refused.every(r => r.reason?.facts?.reason === 'tombstoned')).toBe(true)
      expect(await store.runs.open(run)).toHaveLength(openings.length - refused.length)
    })
  })

  describe(`who ended a task in ${name}`, () => {
    it.each([
      ['its holder', { kind: 'holder', id: 'tsk_x' }, 'completed', false],
      ['an operator', { kind: 'operator', id: 'opr_x' }, 'completed', false],
      ['a signal of risk', { kind: 'signal', id: 'edr' }, 'risk_signal', false],
      ['the provider, before its holder', { kind: 'signal', id: 'github-org' }, 'completed', true],
    ] as const)('%s', async (_who, actor, reason, abandoned) => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const child = await store.tasks.open(childOf(store, task), [], [], hook)
      await store.revocations.commit({ kind: 'task', key: task.id }, reason, { actor, outcome: 'failure' })
      expect(await store.tasks.get(task.id)).toMatchObject({ endReason: reason, endedBy: actor })
      expect(await store.tasks.get(child.id)).toMatchObject({ endReason: 'parent_ended', endedBy: actor })
      const marked = await store.audit.list({ kind: 'task.abandoned', limit: 9 })
      expect(marked.map(r => [r.subject, r.actor, r.reason, r.data.outcome])).toEqual(abandoned ? [[task.id, actor, reason, 'failure']] : [])
    })

    it('nobody, while it is open', async () => {
      const { store } = await makeStore()
      expect((await openTask(store)).endedBy).toBeNull()
    })
  })
}
