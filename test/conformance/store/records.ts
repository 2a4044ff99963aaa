/** The suites of AuditLog, DecisionLog, SignalStore, OperatorStore, KeyStore, ReplayGuard, and of the store as a whole. */
import { describe, expect, it } from 'vitest'
import { newId } from '../../../src/domain/ids.js'
import type { NewSignal } from '../../../src/domain/signal.js'
import type { SealedKey } from '../../../src/domain/signing-key.js'
import type { Task } from '../../../src/domain/task.js'
import type { Context, Store } from '../../../src/ports.js'
import { context, grantFor, later, type MakeStore, mark, minted, newTask, openTask, operator, permit, quarantine, unique } from './fixtures.js'

export function testRecords(name: string, makeStore: MakeStore): void {
  describe(`audit in ${name}`, () => {
    it('appends in order, and answers the newest first by kind and subject', async () => {
      const { store } = await makeStore()
      const event = (kind: 'request.refused' | 'proof.refused', subject: string | null, n: number) => ({
        kind,
        actor: { kind: 'stranger' as const, id: '192.0.2.1' },
        subject,
        reason: 'because',
        requestId: 'req-1',
        data: { n, nested: { list: [1, 'two', null] } },
      })
      for (const [i, e] of [event('request.refused', 'a', 0), event('proof.refused', 'a', 1), event('request.refused', null, 2)].entries()) {
        await store.audit.append({ ...e, data: { ...e.data, i } })
      }
      const all = await store.audit.list({ limit: 10 })
      expect(all.map(r => r.data.n)).toEqual([2, 1, 0])
      expect(all[2]).toEqual({
        ...event('request.refused', 'a', 0),
        data: { n: 0, i: 0, nested: { list: [1, 'two', null] } },
        id: all[2]?.id,
        at: expect.any(Date),
      })
      expect(new Set(all.map(r => r.id)).size).toBe(3)
      expect((await store.audit.list({ kind: 'request.refused', limit: 10 })).map(r => r.data.n)).toEqual([2, 0])
      expect((await store.audit.list({ subject: 'a', limit: 1 })).map(r => r.data.n)).toEqual([1])
    })

    it('can be written whatever a stranger sent: NUL, lone surrogates, bidi, megabytes (H05, H21)', async () => {
      const { store } = await makeStore()
      const nasty = `a\0b\ud800c\u202e${'x'.repeat(100_000)}`
      await store.audit.append({
        kind: 'request.refused',
        actor: { kind: 'stranger', id: nasty.slice(0, 9) },
        subject: null,
        reason: nasty.slice(0, 9),
        requestId: null,
        data: { nasty },
      })
      const [row] = await store.audit.list({ limit: 1 })
      expect(row?.data.nasty).toBe(`a\uFFFDb\uFFFDc\u202e${'x'.repeat(100_000)}`)
    })
  })

  describe(`decisions in ${name}`, () => {
    it('records a denial with exactly one audit row, and finds it (I6)', async () => {
      const { store } = await makeStore()
      const task = newTask(store)
      const denial = {
        ...permit(task, 'db/orders-ro', store.clock.now()),
        allowed: false,
        task: null,
        policies: [],
        reason: 'no_permit',
        explanation: { nearestRule: { id: 'orders', held: 2, of: 3 }, failed: [{ claim: 'ref', actual: 'refs/heads/x' }], forbiddenBy: [] },
      }
      await store.decisions.deny(denial, context)
      expect(await store.decisions.get(denial.id)).toEqual(denial)
      expect(await store.audit.list({ subject: denial.id, limit: 9 })).toMatchObject([
        { kind: 'decision.denied', reason: 'no_permit', data: { capability: 'db/orders-ro' } },
      ])
      const other = { ...denial, id: newId('decision'), capability: 'api/read', explanation: null }
      await store.decisions.deny(other, context)
      expect((await store.decisions.get(other.id))?.explanation).toBeNull()
      const ids = async (filter: object) => (await store.decisions.list({ limit: 9, ...filter })).map(d => d.id)
      expect(new Set(await ids({}))).toEqual(new Set([denial.id, other.id]))
      expect(await ids({ capability: 'api/read' })).toEqual([other.id])
      expect(await ids({ identity: 'somebody else' })).toEqual([])
      expect(await ids({ allowed: true })).toEqual([])
      expect(await ids({ allowed: false, identity: denial.identity })).toHaveLength(2)
      expect(await store.decisions.get(newId('decision'))).toBeNull()
    })

    it('notes the answer to a question, permit or denial, once and with one audit row (I6)', async () => {
      const { store } = await makeStore()
      const task = newTask(store)
      const server: Context = { requestId: 'r', actor: { kind: 'server', id: 'orders' } }
      for (const allowed of [true, false]) {
        const answer = { ...permit(task, 'db/orders-ro', store.clock.now()), allowed, task: null, explanation: null }
        await store.decisions.note(answer, server)
        await store.decisions.note(answer, server)
        expect(await store.decisions.get(answer.id)).toEqual(answer)
        const [row, ...more] = await store.audit.list({ subject: answer.id, limit: 9 })
        expect(row).toMatchObject({ kind: allowed ? 'decision.permitted' : 'decision.denied', actor: server.actor })
        expect(more).toEqual([])
      }
    })

    it('does not take a permit for a denial', async () => {
      const { store } = await makeStore()
      await expect((async () => store.decisions.deny(permit(newTask(store), 'db/orders-ro', store.clock.now()), context))()).rejects.toThrow(TypeError)
    })
  })

  describe(`signals in ${name}`, () => {
    const signal = (store: Store, over: Partial<NewSignal> = {}): NewSignal => ({
      id: newId('signal'),
      source: 'edr',
      eventId: unique('event'),
      type: 'malware',
      severity: 'high',
      subject: { kind: 'identity', key: 'github:repository_id=1' },
      occurredAt: later(store.clock.now(), -5),
      detail: 'found something',
      ...over,
    })

    it('accepts each event of a source once, and answers the first to a repeat (H30)', async () => {
      const { store } = await makeStore()
      const s = signal(store)
      const act = { kind: 'quarantine', seconds: 60 } as const
      const { signal: first, fresh } = await store.signals.accept(s, { rule: 'r', act }, context)
      expect(fresh).toBe(true)
      const untouched = { held: null, verdict: null, revocation: null, quarantine: null, handledAt: null }
      expect(first).toEqual({ ...s, occurredAt: first.occurredAt, receivedAt: expect.any(Date), rule: 'r', act, ...untouched })
      expect(Math.abs(first.occurredAt.getTime() - s.occurredAt.getTime())).toBeLessThan(1)
      const repeats = await Promise.all(
        Array.from({ length: 5 }, () => store.signals.accept({ ...signal(store), eventId: s.eventId }, { rule: 'other', act: null }, context)),
      )
      for (const r of repeats) expect(r).toEqual({ signal: first, fresh: false })
      expect((await store.signals.accept({ ...signal(store), eventId: s.eventId, source: 'other' }, { rule: null, act: null }, context)).fresh).toBe(true)
      expect(await store.audit.list({ subject: s.id, limit: 9 })).toMatchObject([{ kind: 'signal.received' }])
      expect(await store.signals.get(s.id)).toEqual(first)
    })

    it('is due while a rule matched and nothing was done, and handled once', async () => {
      const { store } = await makeStore()
      const [a, b] = [signal(store), signal(store)]
      await store.signals.accept(a, { rule: 'r', act: { kind: 'revoke', cap: 100 } }, context)
      await store.signals.accept(b, { rule: null, act: null }, context)
      expect((await store.signals.due(9)).map(s => s.id)).toEqual([a.id])
      const revocation = newId('revocation')
      await store.signals.handled(a.id, { revocation, quarantine: null })
      await store.signals.handled(a.id, { revocation: newId('revocation'), quarantine: null })
      expect(await store.signals.due(9)).toEqual([])
      expect(await store.signals.get(a.id)).toMatchObject({ revocation, handledAt: expect.any(Date) })
      expect(await store.audit.list({ kind: 'signal.handled', limit: 9 })).toHaveLength(1)
      expect((await store.signals.list(1)).map(s => s.id)).toHaveLength(1)
    })

    it('is held with what it would end, and is due again only when a person says so', async () => {
      const { store } = await makeStore()
      const reach = await store.revocations.reach({ kind: 'all', key: '*' })
      const by = { kind: 'operator', id: 'opr_test' } as const
      for (const kind of ['approved', 'dismissed'] as const) {
        const s = signal(store)
        await store.signals.accept(s, { rule: 'r', act: { kind: 'revoke', cap: 1 } }, context)
        await expect(store.signals.judge(s.id, { kind, by, reason: 'x' }, context)).rejects.toMatchObject({ code: 'conflict' })
        await store.signals.hold(s.id, reach)
        expect(await store.signals.due(9)).toEqual([])
        expect(await store.signals.list(9, true)).toMatchObject([{ id: s.id, held: reach, verdict: null }])
        const verdict = { kind, by, reason: 'looked at it' }
        expect(await store.signals.judge(s.id, verdict, context)).toMatchObject({ verdict, handledAt: kind === 'dismissed' ? expect.any(Date) : null })
        await expect(store.signals.judge(s.id, verdict, context)).rejects.toMatchObject({ code: 'conflict' })
        expect((await store.signals.due(9)).map(d => d.id)).toEqual(kind === 'approved' ? [s.id] : [])
        await store.signals.handled(s.id, { revocation: null, quarantine: null })
        expect(await store.signals.list(9, true)).toEqual([])
        expect((await store.audit.list({ subject: s.id, limit: 9 })).map(e => e.kind)).toEqual([
          ...(kind === 'approved' ? ['signal.handled'] : []),
          'signal.judged',
          'signal.held',
          'signal.received',
        ])
      }
      await expect(store.signals.judge(newId('signal'), { kind: 'approved', by, reason: 'x' }, context)).rejects.toMatchObject({ code: 'not_found' })
    })
  })

  describe(`operators in ${name}`, () => {
    it('are known by the digest of their token, once by name, and say when they were disabled', async () => {
      const { store } = await makeStore()
      const id = newId('operator')
      const added = await store.operators.add({ id, name: 'anna', role: 'responder' }, 'digest-a', context)
      expect(added).toEqual({ id, name: 'anna', role: 'responder', createdAt: expect.any(Date), disabledAt: null })
      expect(await store.operators.byToken('digest-a')).toEqual(added)
      expect(await store.operators.byToken('digest-b')).toBeNull()
      await expect(store.operators.add({ id: newId('operator'), name: 'anna', role: 'admin' }, 'digest-b', context)).rejects.toMatchObject({ code: 'conflict' })
      await expect(store.operators.add({ id: newId('operator'), name: 'bert', role: 'admin' }, 'digest-a', context)).rejects.toMatchObject({ code: 'conflict' })
      await store.operators.add({ id: newId('operator'), name: 'bert', role: 'admin' }, 'digest-b', context)
      expect((await store.operators.list()).map(o => o.name).sort()).toEqual(['anna', 'bert'])
      const disabled = await store.operators.disable(id, context)
      expect(disabled.disabledAt).toBeInstanceOf(Date)
      expect(await store.operators.disable(id, context)).toEqual(disabled)
      expect(await store.operators.byToken('digest-a')).toEqual(disabled)
      await expect(store.operators.disable(newId('operator'), context)).rejects.toMatchObject({ code: 'not_found' })
      expect((await store.audit.list({ subject: id, limit: 9 })).map(r => r.kind)).toEqual(['operator.disabled', 'operator.added'])
    })
  })

  describe(`signing keys in ${name}`, () => {
    type NewKey = Parameters<Store['keys']['add']>[0]
    const key = (over: Partial<NewKey> = {}): NewKey => ({
      kid: unique('kid'),
      keyClass: 'access',
      alg: 'ES256',
      publicJwk: { kty: 'EC', crv: 'P-256', x: 'x', y: 'y' },
      sealed: 'opaque',
      state: 'current',
      activatesInSeconds: 0,
      ...over,
    })
    const byKid = async (store: Store) => new Map((await store.keys.list()).map(k => [k.kid, k.state] as [string, SealedKey['state']]))

    it('of two that create the first key at once, one wins and both read it', async () => {
      const { store } = await makeStore()
      const candidates = [key(), key(), key()]
      const got = await Promise.all(candidates.map(k => store.keys.add(k, context)))
      expect(new Set(got.map(k => k.kid)).size).toBe(1)
      const [only] = await store.keys.list()
      expect(await store.keys.list()).toHaveLength(1)
      expect(only).toEqual(got[0])
      expect(only).toMatchObject({ keyClass: 'access', alg: 'ES256', sealed: 'opaque', state: 'current', retiresAt: null })
      expect(await store.audit.list({ kind: 'key.created', limit: 9 })).toHaveLength(1)
      // Another class and another algorithm have a first key of their own.
      await store.keys.add(key({ keyClass: 'task' }), context)
      await store.keys.add(key({ alg: 'RS256' }), context)
      expect(await store.keys.list()).toHaveLength(3)
    })

    it('is promoted when its time has come, once, and the former one stays until its last token is gone (R08)', async () => {
      const { store, advance } = await makeStore()
      const first = await store.keys.add(key(), context)
      const next = await store.keys.add(key({ state: 'next', activatesInSeconds: 60 }), context)
      await store.keys.promote(next.kid, 3_600, context)
      expect(await byKid(store)).toEqual(
        new Map([
          [first.kid, 'current'],
          [next.kid, 'next'],
        ]),
      )
      await advance(61)
      await Promise.all([store.keys.promote(next.kid, 3_600, context), store.keys.promote(next.kid, 3_600, context)])
      expect(await byKid(store)).toEqual(
        new Map([
          [first.kid, 'retired'],
          [next.kid, 'current'],
        ]),
      )
      const retired = (await store.keys.list()).find(k => k.kid === first.kid)
      const wait = ((retired?.retiresAt?.getTime() ?? 0) - store.clock.now().getTime()) / 1000
      expect(wait).toBeGreaterThan(3_590)
      expect(wait).toBeLessThan(3_601)
      expect((await store.audit.list({ limit: 3 })).map(r => r.kind).sort()).toEqual(['key.activated', 'key.created', 'key.retired'])
      expect(await store.audit.list({ kind: 'key.activated', limit: 9 })).toHaveLength(1)
    })
  })

  describe(`what would come of an issue in ${name}`, () => {
    const foreseen = (store: Store, task: Task) =>
      store.credentials.foresee(grantFor(store, task), { context }).then(
        () => 'passes',
        e => e.facts.reason,
      )

    it('is told as issuing would tell it, and leaves nothing', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      expect(await foreseen(store, task)).toBe('passes')
      const bar = await quarantine(store, { kind: 'identity', key: task.attestation.identity }, 600)
      expect(await foreseen(store, task)).toBe('quarantined')
      await store.quarantines.lift(bar.id, 'over', { requestId: null, actor: operator })
      expect(await foreseen(store, task)).toBe('passes')
      await store.revocations.commit({ kind: 'task', key: task.id }, 'completed', { actor: operator })
      expect(await foreseen(store, task)).toBe('completed')
      expect(await store.credentials.list({ limit: 9 })).toEqual([])
      expect(await store.decisions.list({ limit: 9 })).toEqual([])
    })

    it('of a task that is not open yet, the opening is judged as well; no task is opened', async () => {
      const { store } = await makeStore()
      const task = newTask(store)
      const grant = grantFor(store, { ...task, deadlineAt: later(store.clock.now(), 3_600) })
      const ask = () =>
        store.credentials.foresee(grant, { context, open: { task, decisions: [] } }).then(
          () => 'passes',
          e => e.facts.reason,
        )
      expect(await ask()).toBe('passes')
      await store.revocations.commit({ kind: 'issuer', key: 'github' }, 'requested', { actor: operator })
      expect(await ask()).toBe('cut_off')
      expect(await store.tasks.get(task.id)).toBeNull()
    })
  })

  describe(`the end of a signing key in ${name}`, () => {
    const key = (over: object) => ({
      kid: unique('kid'),
      keyClass: 'access' as const,
      alg: 'ES256' as const,
      publicJwk: { kty: 'EC' },
      sealed: 'opaque',
      state: 'current' as const,
      activatesInSeconds: 0,
      ...over,
    })
    const record = (store: Store, task: Task, kid: string) =>
      store.credentials.record(grantFor(store, task, { revocation: 'instant', ttl: 3_000 }), minted({ kid, handle: {} }), { marks: [], context })
    const withdraw = (store: Store, kid: string) =>
      store.revocations.commit({ kind: 'key', key: kid }, 'requested', { actor: { kind: 'operator', id: 'opr_test' }, message: 'INC-204', withdraw: true })

    it('the next takes over before its time when it must, and not otherwise', async () => {
      const { store } = await makeStore()
      const first = await store.keys.add(key({}), context)
      const next = await store.keys.add(key({ state: 'next', activatesInSeconds: 600 }), context)
      await store.keys.promote(next.kid, 60, context)
      expect((await store.keys.list()).find(k => k.kid === first.kid)?.state).toBe('current')
      await store.keys.promote(next.kid, 60, context, { early: true })
      const now = (await store.keys.list()).find(k => k.kid === next.kid)
      expect(now?.state).toBe('current')
      expect((now?.activatesAt.getTime() ?? 0) <= store.clock.now().getTime() + 1_000).toBe(true)
    })

    it('K2 withdrawn with the act that refuses what bears it: nothing that it signed is live or can be recorded, whatever its time', async () => {
      const { store, advance } = await makeStore()
      const [stolen, other] = [await store.keys.add(key({}), context), await store.keys.add(key({ state: 'next' }), context)]
      const task = await openTask(store, { lifeSeconds: 200_000 })
      const [before, twin] = [await record(store, task, stolen.kid), await record(store, task, other.kid)]
      await expect(withdraw(store, stolen.kid)).rejects.toMatchObject({ code: 'conflict', facts: { reason: 'no_successor' } })
      await expect(withdraw(store, 'unknown')).rejects.toMatchObject({ code: 'not_found' })
      expect(await store.revocations.list(9)).toEqual([])
      expect(await store.credentials.live(before.id)).not.toBeNull()

      await store.keys.promote(other.kid, 3_600, context)
      const act = await withdraw(store, stolen.kid)
      expect(act.credentials).toBe(1)
      const row = (await store.keys.list()).find(k => k.kid === stolen.kid)
      expect(row?.state).toBe('retired')
      expect((row?.retiresAt?.getTime() ?? Number.POSITIVE_INFINITY) <= act.at.getTime() + 1_000).toBe(true)
      expect(await store.credentials.live(before.id)).toBeNull()
      expect((await store.credentials.live(twin.id))?.id).toBe(twin.id)
      await advance(3_600)
      const later = await openTask(store, { lifeSeconds: 200_000 })
      await expect(record(store, later, stolen.kid)).rejects.toMatchObject({ code: 'unavailable', facts: { reason: 'key_revoked' } })
      await record(store, later, other.kid)
      expect((await store.audit.list({ subject: stolen.kid, limit: 9 })).map(r => r.kind)).toEqual(['key.withdrawn', 'key.retired', 'key.created'])
      // Told for longer than anybody who is cut off from our key set believes it.
      await advance(82_000)
      expect(await store.revocations.since(0, 9)).toMatchObject([{ kind: 'key', key: stolen.kid }])
      expect((await withdraw(store, stolen.kid)).credentials).toBe(0)
    })
  })

  describe(`replay in ${name}`, () => {
    it('a mark is claimed by exactly one of 200, and seen by all afterwards (R01, P50)', async () => {
      const { store } = await makeStore()
      const used = mark(store, { namespace: 'dpop:key' })
      expect(await store.replay.seen(used)).toBe(false)
      const results = await Promise.allSettled(Array.from({ length: 200 }, () => store.replay.claim([used])))
      expect(results.filter(r => r.status === 'fulfilled')).toHaveLength(1)
      for (const r of results) if (r.status === 'rejected') expect(r.reason).toMatchObject({ code: 'proof_refused', facts: { reason: 'replayed' } })
      expect(await store.replay.seen(used)).toBe(true)
      expect(await store.replay.seen({ ...used, namespace: 'dpop:other' })).toBe(false)
    })

    it('a repeat refuses the whole, and burns none of the others', async () => {
      const { store } = await makeStore()
      const [a, b, c] = [mark(store, { id: 'a' }), mark(store, { id: 'b' }), mark(store, { id: 'c' })]
      await store.replay.claim([b])
      await expect(store.replay.claim([c, b, a])).rejects.toMatchObject({ code: 'attestation_refused' })
      expect(await store.replay.seen(a)).toBe(false)
      await store.replay.claim([a, c])
    })

    it('bounded evidence is presented again by its first holder and by nobody else (standards.md 2.2.4)', async () => {
      const { store } = await makeStore()
      const mine = mark(store, { holder: 'jkt-1' })
      await store.replay.claim([mine])
      await store.replay.claim([mine])
      expect(await store.replay.seen(mine)).toBe(false)
      const { holder: _, ...unheld } = mine
      for (const other of [{ ...mine, holder: 'jkt-2' }, unheld]) {
        expect(await store.replay.seen(other)).toBe(true)
        await expect(store.replay.claim([other])).rejects.toMatchObject({ code: 'attestation_refused' })
      }
      const once = mark(store)
      await store.replay.claim([once])
      await expect(store.replay.claim([{ ...once, holder: 'jkt-1' }])).rejects.toMatchObject({ code: 'attestation_refused' })
    })

    it('is refused past its `until` as before it, and forgotten only after it (T40)', async () => {
      const { store, advance } = await makeStore()
      const short = mark(store, { until: later(store.clock.now(), 30) })
      const long = mark(store, { until: later(store.clock.now(), 300) })
      await store.replay.claim([short, long])
      await advance(40)
      expect(await store.forget(10)).toBe(0)
      await expect(store.replay.claim([short])).rejects.toMatchObject({ facts: { reason: 'replayed' } })
      await advance(60)
      expect(await store.forget(10)).toBe(1)
      expect(await store.replay.seen(short)).toBe(false)
      await expect(store.replay.claim([long])).rejects.toMatchObject({ facts: { reason: 'replayed' } })
    })

    it('forgets at most a batch', async () => {
      const { store, advance } = await makeStore()
      await store.replay.claim(Array.from({ length: 5 }, () => mark(store, { until: later(store.clock.now(), 1) })))
      await advance(100)
      expect(await store.forget(3)).toBe(3)
      expect(await store.forget(3)).toBe(2)
    })
  })

  describe(`the whole of ${name}`, () => {
    it('runs a named act once at a time, and different ones side by side', async () => {
      const { store } = await makeStore()
      let running = 0
      let most = 0
      const act = async () => {
        running++
        most = Math.max(most, running)
        await new Promise(resolve => setTimeout(resolve, 20))
        running--
      }
      const answers = await Promise.all([store.withLock('sweep', act), store.withLock('sweep', act), store.withLock('sweep', act)])
      expect(answers.filter(Boolean)).toHaveLength(1)
      expect(most).toBe(1)
      expect(await store.withLock('sweep', act)).toBe(true)
      expect(await Promise.all([store.withLock('a', act), store.withLock('b', act)])).toEqual([true, true])
      await expect(store.withLock('sweep', () => Promise.reject(new Error('inside')))).rejects.toThrow('inside')
      expect(await store.withLock('sweep', act)).toBe(true)
    })

    it('answers a ping, and its clock runs with it', async () => {
      const { store, advance } = await makeStore()
      await store.ping()
      const before = store.clock.now().getTime()
      await advance(100)
      const passed = (store.clock.now().getTime() - before) / 1000
      expect(passed).toBeGreaterThanOrEqual(99.9)
      expect(passed).toBeLessThan(110)
    })
  })
}
