/** The suite of what responders work with: attributes, plans, quarantines, repeated acts, and what became of an act. */
import { describe, expect, it } from 'vitest'
import { newId, type PlanId } from '../../../src/domain/ids.js'
import { byAttributes, type Selector } from '../../../src/domain/revocation.js'
import type { Where } from '../../../src/domain/where.js'
import type { Attributes } from '../../../src/domain/workload.js'
import type { Store } from '../../../src/ports.js'
import { active, attestation, childOf, context, later, type MakeStore, mark, newTask, openTask, operator, pending, quarantine } from './fixtures.js'

const responder = { requestId: 'req-7', actor: operator }
const plan = (store: Store, selector: Selector, reason: string | null = null) => store.plans.make({ id: newId('plan'), selector, reason }, responder)
const revoke = (store: Store, selector: Selector, more: Partial<Parameters<Store['revocations']['commit']>[2]> = {}) =>
  store.revocations.commit(selector, 'requested', { actor: operator, ...more })

const JOB: Attributes = {
  repository_id: '456789',
  workflow_ref: 'acme/orders/ci.yml@refs/heads/main',
  job_workflow_ref: 'acme/shared/deploy.yml@refs/tags/v1',
  workflow_sha: 'a'.repeat(40),
  run_id: '9912',
  actor: 'dana',
  actor_id: '7',
}
const jobTask = (store: Store, attributes: Attributes = {}, over: Parameters<typeof openTask>[1] = {}) =>
  openTask(store, { attestation: attestation(store, { attributes: { ...JOB, ...attributes } }), ...over })

export function testResponders(name: string, makeStore: MakeStore): void {
  describe(`attributes in ${name}`, () => {
    const cases: [string, Where, boolean][] = [
      ['the repository', { repositoryId: '456789' }, true],
      ['another repository', { repositoryId: '45678' }, false],
      ['the workflow', { workflowRef: 'acme/orders/ci.yml@refs/heads/main' }, true],
      ['the reusable workflow', { workflowRef: 'acme/shared/deploy.yml@refs/tags/v1' }, true],
      ['a workflow that begins alike', { workflowRef: 'acme/orders/ci.yml' }, false],
      ['the SHA', { workflowSha: 'a'.repeat(40) }, true],
      ['the run', { runId: '9912' }, true],
      ['the actor by name', { actor: 'dana' }, true],
      ['the actor by number', { actor: '7' }, true],
      ['another actor', { actor: 'Dana' }, false],
      ['the owner', { owner: 'team-a' }, true],
      ['another owner', { owner: 'team-b' }, false],
      ['a label', { labels: { ticket: 'OPS-1' } }, true],
      ['a label with another value', { labels: { ticket: 'OPS-2' } }, false],
      ['two labels of which one is missing', { labels: { ticket: 'OPS-1', area: 'x' } }, false],
      ['a declared capability', { capability: 'db/orders-ro', repositoryId: '456789' }, true],
      ['a capability it did not declare', { capability: 'db/orders', repositoryId: '456789' }, false],
      ['the issuer', { issuer: 'github', runId: '9912' }, true],
      ['another issuer', { issuer: 'gitlab', runId: '9912' }, false],
      ['the engine of a live credential', { engine: 'fake' }, true],
      ['an engine it has nothing of', { engine: 'jwt' }, false],
      ['an audience it has nothing for', { audience: 'https://orders.example/' }, false],
      ['two that hold', { repositoryId: '456789', actor: 'dana' }, true],
      ['two of which one does not', { repositoryId: '456789', actor: 'kim' }, false],
    ]
    it.each(cases)('%s', async (_what, where, hit) => {
      const { store } = await makeStore()
      const task = await jobTask(store)
      const c = await active(store, task)
      expect(await store.revocations.reach(byAttributes(where))).toMatchObject({ credentials: hit ? 1 : 0, tasks: hit ? 1 : 0 })
      const r = await revoke(store, byAttributes(where))
      expect(r).toMatchObject({ tasks: hit ? 1 : 0, credentials: hit ? 1 : 0, selector: { kind: 'where', where } })
      expect((await store.tasks.get(task.id))?.state).toBe(hit ? 'revoked' : 'open')
      expect((await store.credentials.get(c.id))?.state).toBe(hit ? 'revoking' : 'active')
      expect(await store.revocations.since(0, 9)).toEqual(
        hit ? [{ seq: 1, kind: 'task', key: task.id, issuedBefore: null, until: later(task.deadlineAt, 60) }] : [],
      )
      expect(await store.revocations.get(r.id)).toEqual(r)
    })

    it('a time: what was issued in it, and tasks that were opened in it; the edges count', async () => {
      const { store, advance } = await makeStore()
      const old = await jobTask(store)
      await advance(100)
      const from = store.clock.now()
      const opened = await jobTask(store)
      const issued = await active(store, old)
      const to = store.clock.now()
      await advance(100)
      const young = await jobTask(store)
      await active(store, young)
      const r = await revoke(store, byAttributes({ issuedAfter: from, issuedBefore: to, repositoryId: '456789' }))
      expect(r.tasks).toBe(2)
      expect((await store.tasks.get(opened.id))?.state).toBe('revoked')
      expect((await store.credentials.get(issued.id))?.state).toBe('revoking')
      expect((await store.tasks.get(young.id))?.state).toBe('open')
    })

    it('take the whole subtree along, tombstone the runs, and refuse at once', async () => {
      const { store } = await makeStore()
      const parent = await jobTask(store, {}, { attestation: attestation(store, { attributes: JOB, run: 'run-9' }) })
      const child = await store.tasks.open(childOf(store, parent), [], [], context)
      // Many of one run: its tombstone is one all the same.
      for (let i = 0; i < 20; i++) await store.tasks.open(childOf(store, parent), [], [], context)
      const c = await active(store, child)
      await revoke(store, byAttributes({ runId: '9912' }))
      expect(await store.credentials.live(c.id)).toBeNull()
      expect((await store.tasks.get(child.id))?.state).toBe('revoked')
      const again = newTask(store, { attestation: { ...parent.attestation, evidenceAt: later(store.clock.now(), 1) } })
      await expect(store.tasks.open(again, [], [mark(store)], context)).rejects.toMatchObject({ facts: { reason: 'tombstoned' } })
    })

    it('more tasks than one commit takes: every one ends, each chunk with a seq of its own, and one act is told', async () => {
      const { store } = await makeStore()
      const a = attestation(store, { attributes: JOB })
      for (let i = 0; i < 1_002; i += 6) await Promise.all(Array.from({ length: 6 }, () => openTask(store, { attestation: a })))
      const c = await active(store, await openTask(store, { attestation: a }))
      const r = await revoke(store, byAttributes({ repositoryId: '456789' }))
      expect(r.tasks).toBe(1_003)
      expect(await store.credentials.live(c.id)).toBeNull()
      const entries = [...(await store.revocations.since(0, 1)), ...(await store.revocations.since(1, 50))]
      expect(new Set(entries.map(e => e.key)).size).toBe(1_003)
      expect(await store.revocations.list(9)).toEqual([r])
      while ((await store.credentials.closeOverdue(200)).length > 0);
      expect(await store.revocations.outcome(r.id)).toMatchObject({ revoking: 1, closed: true })
      expect((await store.credentials.list({ revocation: r.id, limit: 9 })).map(x => x.id)).toEqual([c.id])
    }, 60_000)
  })

  describe(`plans in ${name}`, () => {
    it('count what would be hit, and end nothing', async () => {
      const { store } = await makeStore()
      const a = attestation(store, { identity: 'github:repository_id=456789' })
      const one = await openTask(store, { attestation: a, owner: 'team-a' })
      const two = await openTask(store, { attestation: a, owner: 'team-b' })
      const below = await store.tasks.open(childOf(store, one, { owner: 'team-a' }), [], [], context)
      await active(store, one, { revocation: 'instant', engine: 'jwt' })
      await active(store, below)
      const exposed = await active(store, two, { revocation: 'expiry-only', name: 'npm/publish', engine: 'npm' })
      await active(store, await openTask(store))
      const made = await plan(store, { kind: 'identity', key: a.identity }, 'INC-204')
      expect(made.reach).toEqual({
        credentials: 3,
        classes: { instant: 1, backend: 1, 'expiry-only': 1 },
        engines: { jwt: 1, fake: 1, npm: 1 },
        capabilities: 2,
        tasks: 3,
        owners: [
          { owner: 'team-a', tasks: 2 },
          { owner: 'team-b', tasks: 1 },
        ],
        exposed: [{ credential: exposed.id, capability: 'npm/publish', until: exposed.expiresAt }],
        exposedUntil: exposed.expiresAt,
      })
      expect(made).toMatchObject({ reason: 'INC-204', madeBy: operator, revocation: null })
      expect(made.validUntil.getTime() - made.madeAt.getTime()).toBe(300_000)
      expect(await store.plans.get(made.id)).toEqual(made)
      expect((await store.credentials.counts()).active).toBe(4)
      expect((await store.audit.list({ subject: made.id, limit: 9 })).map(e => e.kind)).toEqual(['plan.made'])
    })

    it.each([
      ['a credential', 1, 0],
      ['a task', 2, 2],
      ['a capability', 1, 0],
      ['all', 3, 3],
      ['an issuer', 3, 3],
      ['a key', 1, 0],
    ])('of %s', async (what, credentials, tasks) => {
      const { store } = await makeStore()
      const top = await openTask(store)
      const below = await store.tasks.open(childOf(store, top), [], [], context)
      const c = await active(store, top, { name: 'a/one', minted: { kid: 'kid-1' } })
      await active(store, below)
      await active(store, await openTask(store))
      const selector = (
        {
          'a credential': { kind: 'credential', key: c.id },
          'a task': { kind: 'task', key: top.id },
          'a capability': { kind: 'capability', key: 'a/one' },
          all: { kind: 'all', key: '*' },
          'an issuer': { kind: 'issuer', key: 'github' },
          'a key': { kind: 'key', key: 'kid-1' },
        } as Record<string, Selector>
      )[what] as Selector
      expect(await store.revocations.reach(selector)).toMatchObject({ credentials, tasks })
      const before = await store.credentials.counts()
      const r = await revoke(store, selector)
      while ((await store.credentials.closeOverdue(200)).length > 0);
      // What was counted is what is hit.
      expect(before.active - (await store.credentials.counts()).active).toBe(credentials)
      expect(r.tasks).toBe(tasks)
    })

    it('is executed once, tells newcomers, and answers the same act again', async () => {
      const { store, advance } = await makeStore()
      const task = await openTask(store)
      await active(store, task)
      const selector: Selector = { kind: 'identity', key: task.attestation.identity }
      const made = await plan(store, selector)
      await advance(1)
      const fresh = await active(store, task)
      const r = await revoke(store, selector, { plan: made.id })
      expect(await store.plans.newcomers(made.id, 100)).toEqual([fresh.id])
      expect((await store.plans.get(made.id))?.revocation).toBe(r.id)
      expect(await revoke(store, selector, { plan: made.id })).toEqual(r)
      expect(await store.revocations.list(9)).toHaveLength(1)
    })

    it('lapses, and what does not exist is not found; nothing is ended', async () => {
      const { store, advance } = await makeStore()
      const task = await openTask(store)
      const c = await active(store, task)
      const selector: Selector = { kind: 'task', key: task.id }
      const made = await plan(store, selector)
      await expect(revoke(store, selector, { plan: newId('plan') as PlanId })).rejects.toMatchObject({ code: 'not_found', facts: { field: 'plan' } })
      await advance(301)
      await expect(revoke(store, selector, { plan: made.id })).rejects.toMatchObject({ code: 'conflict', facts: { reason: 'plan_lapsed' } })
      expect((await store.credentials.get(c.id))?.state).toBe('active')
    })
  })

  describe(`repeated acts in ${name}`, () => {
    it('the same key and request answer the first act; another request under it is refused; another actor has keys of his own', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const selector: Selector = { kind: 'identity', key: task.attestation.identity }
      const key = { key: 'incident-204', hash: 'h1' }
      const r = await revoke(store, selector, { idempotency: key })
      expect(await revoke(store, selector, { idempotency: key })).toEqual(r)
      await expect(revoke(store, selector, { idempotency: { ...key, hash: 'h2' } })).rejects.toMatchObject({ code: 'conflict' })
      const other = await revoke(store, selector, { idempotency: key, actor: { kind: 'operator', id: 'opr_other' } })
      expect(other.id).not.toBe(r.id)
    })

    it('on a restored store the act that ends everything has a seq that nobody can have heard, and what follows goes on from there', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const before = await revoke(store, { kind: 'credential', key: (await active(store, task)).id })
      const live = await active(store, task)
      const restored = await revoke(store, { kind: 'all', key: '*' }, { restored: true })
      expect(restored.seq).toBe(before.seq + 1_000_000_000)
      expect((await store.credentials.get(live.id))?.state).toBe('revoking')
      expect((await store.revocations.since(before.seq + 999_999_999, 9)).map(e => [e.seq, e.kind])).toEqual([[restored.seq, 'all']])
      const next = await revoke(store, { kind: 'task', key: task.id })
      expect([next.seq, await store.revocations.seq()]).toEqual([restored.seq + 1, restored.seq + 1])
    })
    it('tells by which act a credential and a task ended, and finds it by its receipt', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const c = await active(store, task)
      expect(await store.revocations.endedBy({ kind: 'task', key: task.id })).toBeNull()
      const r = await revoke(store, { kind: 'task', key: task.id })
      expect(await store.revocations.endedBy({ kind: 'credential', key: c.id })).toEqual(r)
      expect(await store.revocations.endedBy({ kind: 'task', key: task.id })).toEqual(r)
      expect(await store.revocations.byReceipt(r.receipt)).toEqual(r)
      expect(await store.revocations.byReceipt(newId('receipt'))).toBeNull()
    })
  })

  describe(`outcomes in ${name}`, () => {
    it('count states and what was looked at, and what stays exposed', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const [role, lease, listed, left, exposed] = [
        await active(store, task),
        await active(store, task),
        await active(store, task),
        await active(store, task),
        await active(store, task, { revocation: 'expiry-only', name: 'npm/publish' }),
      ]
      const r = await revoke(store, { kind: 'task', key: task.id })
      for (const [c, looked] of [
        [role, ['lease', 'role']],
        [lease, ['lease']],
        [listed, ['lease', 'accessor', 'crl']],
      ] as const) {
        const claim = await store.credentials.claim(c.id, null)
        if (!claim) throw new Error('a row that was just closed is due')
        await store.credentials.confirm(claim, { outcome: 'dead', looked: [...looked], detail: null })
      }
      expect(await store.revocations.outcome(r.id)).toEqual({
        revoking: 2,
        stuck: 0,
        revoked: 3,
        looked: { lease: 3, role: 1, accessor: 1, crl: 1 },
        notProbed: 1,
        exposed: [{ credential: exposed.id, capability: 'npm/publish', until: exposed.expiresAt }],
        exposedTotal: 1,
        exposedUntil: exposed.expiresAt,
        closed: true,
      })
      expect(left.state).toBe('active')
      await expect(store.revocations.outcome(newId('revocation'))).rejects.toMatchObject({ code: 'not_found' })
    })
  })

  describe(`shortening in ${name}`, () => {
    it.each(['task', 'identity', 'credential'] as const)('by %s: the tasks and all below them end sooner, never later', async kind => {
      const { store, advance } = await makeStore()
      const top = await openTask(store, { lifeSeconds: 3_600 })
      const below = await store.tasks.open(childOf(store, top, { lifeSeconds: 3_000 }), [], [], context)
      const brief = await store.tasks.open(childOf(store, top, { lifeSeconds: 20 }), [], [], context)
      const other = await openTask(store)
      const c = await active(store, top)
      const key = { task: top.id, identity: top.attestation.identity, credential: c.id }[kind]
      expect(await store.tasks.shorten({ kind, key }, 60, context)).toBe(2)
      expect(await store.tasks.shorten({ kind, key }, 600, context)).toBe(0)
      expect((await store.tasks.get(brief.id))?.deadlineAt).toEqual(brief.deadlineAt)
      expect((await store.tasks.get(other.id))?.deadlineAt).toEqual(other.deadlineAt)
      await advance(61)
      expect(await store.credentials.live(c.id)).toBeNull()
      expect((await store.tasks.due(9)).map(d => d.id).sort()).toEqual([top.id, below.id, brief.id].sort())
      expect((await store.audit.list({ subject: key, kind: 'task.shortened', limit: 9 })).map(e => e.data.tasks)).toEqual([0, 2])
    })
  })

  describe(`quarantines in ${name}`, () => {
    it('stop what is new and leave what is there, until they lapse; the workload hears the message', async () => {
      const { store, advance } = await makeStore()
      const task = await openTask(store)
      const c = await active(store, task)
      const q = await quarantine(store, { kind: 'identity', key: task.attestation.identity }, 60, 'INC-204: ask #security')
      expect(q).toMatchObject({ message: 'INC-204: ask #security', setBy: operator, liftedAt: null, revocation: null })
      expect((await store.credentials.live(c.id))?.id).toBe(c.id)
      await expect(active(store, task)).rejects.toMatchObject({
        code: 'policy_denied',
        facts: { reason: 'quarantined' },
        message: expect.stringContaining('INC-204: ask #security'),
      })
      expect(await store.quarantines.list({ all: false, limit: 9 })).toEqual([q])
      await advance(61)
      await active(store, task)
      expect(await store.quarantines.list({ all: false, limit: 9 })).toEqual([])
      expect(await store.quarantines.list({ all: true, limit: 9 })).toEqual([q])
    })

    it('are lifted with a reason, once', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const q = await quarantine(store, { kind: 'capability', key: 'db/orders-ro' }, 600)
      await expect(pending(store, task)).rejects.toMatchObject({ facts: { reason: 'quarantined' } })
      const lifted = await store.quarantines.lift(q.id, 'fixed', responder)
      expect(lifted).toMatchObject({ liftedBy: operator, liftReason: 'fixed' })
      await pending(store, task)
      expect(await store.quarantines.lift(q.id, 'again', responder)).toEqual(lifted)
      expect((await store.audit.list({ subject: q.id, limit: 9 })).map(e => e.kind)).toEqual(['quarantine.lifted', 'quarantine.set'])
      await expect(store.quarantines.lift(newId('quarantine'), 'x', responder)).rejects.toMatchObject({ code: 'not_found' })
    })

    it('of attributes: whoever shows them opens, attests and gets nothing', async () => {
      const { store } = await makeStore()
      const task = await jobTask(store)
      const other = await jobTask(store, { repository_id: '1', actor: 'kim', actor_id: '8' })
      await quarantine(store, byAttributes({ repositoryId: '456789', actor: 'dana' }), 600, 'paused')
      await expect(active(store, task)).rejects.toMatchObject({ facts: { reason: 'quarantined' } })
      await expect(pending(store, task)).rejects.toMatchObject({ facts: { reason: 'quarantined' } })
      const fresh = { ...task.attestation, evidenceAt: store.clock.now() }
      await expect(store.tasks.attest(task.id, fresh, [], context)).rejects.toMatchObject({ facts: { reason: 'quarantined' } })
      await expect(store.tasks.open(newTask(store, { attestation: fresh }), [], [], context)).rejects.toMatchObject({ facts: { reason: 'quarantined' } })
      await active(store, other)
    })

    it('are set with an act, in its commit', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const selector: Selector = { kind: 'identity', key: task.attestation.identity }
      const r = await revoke(store, selector, { quarantine: { id: newId('quarantine'), selector, seconds: 600, message: null } })
      const set = await store.quarantines.list({ all: false, limit: 9 })
      expect(set).toMatchObject([{ selector, revocation: r.id }])
      expect(await store.quarantines.ofAct(r.id)).toEqual(set[0])
      expect(await store.quarantines.ofAct(newId('revocation'))).toBeNull()
    })
  })
}
