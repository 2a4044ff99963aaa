/** The line between a guard and its brokers, held up in either direction, in both, or slower and slower: what is not heard is not taken for "nothing was revoked" (F46, F47). */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { isAbsent } from '../../src/dev/find.js'
import { type Api, type Guarded, MAX_STALE_MS, startGuarded, unsaid, until } from './guarded.js'
import { type Partition, partition } from './partition.js'

const started = await startGuarded()
const absent = isAbsent(started) ? started.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

describe.skipIf(absent !== null)(`lines between a guard and its brokers${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const g = started as Guarded
  let lines: readonly [Partition, Partition]
  let api: Api
  /** Introspects when it is stale; what it asks goes another way. */
  let asking: Api
  beforeAll(async () => {
    lines = [await partition(g.brokers.a.port), await partition(g.brokers.b.port)]
    const feeds = { CURFEW_FEED_URLS: lines.map(l => l.url).join(' ') }
    api = await g.api('api', feeds)
    asking = await g.api('asking', { ...feeds, CURFEW_CLIENT: 'orders', CURFEW_CLIENT_SECRET: g.secret })
    await until(async () => (await api.health()).status === 200 && (await asking.health()).body.mode === 'bounded', 10_000)
  })
  const healed = async () => {
    for (const line of lines) {
      for (const way of ['to', 'from'] as const) {
        line.hold(way, false)
        line.slow(way, 0)
      }
    }
    await until(async () => (await api.health()).status === 200 && (await asking.health()).body.mode === 'bounded', 30_000)
  }
  afterEach(healed)
  afterAll(async () => {
    await g.close()
    await Promise.all(lines.map(l => l.close()))
  })

  test('F46 I9 cut off from every replica: a yes for maxStaleMs, then 503, then everything that came meanwhile', async () => {
    const [one, good] = [await g.issued(), await g.issued()]
    const running = await Promise.all([one, good].map(of => g.ci.download(`${api.origin}/orders/export`, of.token)))
    const ofOne = g.watch(api, one)
    await until(() => ofOne.seen.some(s => s.said === '200 bounded'), 10_000)
    for (const line of lines) {
      line.hold('to')
      line.hold('from')
    }
    const since = performance.now()
    const { at } = await g.revoke({ credential: one.id })
    // It knows nothing of that, and says yes: each time with how old what it knows may be.
    await until(() => ofOne.seen.at(-1)?.said === '503 stale_feed', MAX_STALE_MS + 10_000)
    expect(performance.now() - since).toBeGreaterThan(MAX_STALE_MS - 2_500)
    await sleep(3_000)
    await ofOne.stop()
    const yes = ofOne.seen.filter(s => s.said.startsWith('200'))
    expect(yes.filter(s => s.askedAt > at).length).toBeGreaterThan(10)
    expect(unsaid(ofOne.seen, at)).toEqual([])
    expect(Math.max(...yes.map(s => s.staleMs ?? Number.POSITIVE_INFINITY))).toBeLessThanOrEqual(MAX_STALE_MS)
    // Once it said that it cannot tell, it said nothing else.
    const from = ofOne.seen.findIndex(s => s.said === '503 stale_feed')
    expect(new Set(ofOne.seen.slice(from).map(s => s.said))).toEqual(new Set(['503 stale_feed']))
    expect((await api.use(good)).said).toBe('503 stale_feed')
    expect(await api.health()).toMatchObject({ status: 503, body: { ok: false, mode: 'bounded' } })
    // The one that may ask does: for each request, and it is told the truth.
    expect(await asking.health()).toMatchObject({ status: 200, body: { ok: true, mode: 'strict' } })
    expect([(await asking.use(good)).said, (await asking.use(one)).said]).toEqual(['200 strict', '401 revoked'])
    expect(await Promise.race([running[0]?.ended, sleep(200, 'runs on')])).toBe('runs on')

    await healed()
    expect([(await api.use(good)).said, (await api.use(one)).said]).toEqual(['200 bounded', '401 revoked'])
    expect(await Promise.race([running[0]?.ended, sleep(MAX_STALE_MS, 'runs on')])).toBe('cut')
    expect(await Promise.race([running[1]?.ended, sleep(100, 'runs on')])).toBe('runs on')
  })

  test.each([0, 1] as const)('F46 what replica %i says does not arrive: another is followed before anybody is refused for it', async at => {
    const [one, good] = [await g.issued(), await g.issued()]
    const [ofOne, ofGood] = [g.watch(api, one), g.watch(api, good)]
    await until(() => ofOne.seen.length > 2, 10_000)
    lines[at].hold('from')
    const revoked = await g.revoke({ credential: one.id })
    // Silence is noticed after 3 s, and then another line has to be opened.
    await until(() => ofOne.seen.at(-1)?.said === '401 revoked', MAX_STALE_MS + 10_000)
    await sleep(MAX_STALE_MS + 1_000)
    await Promise.all([ofOne.stop(), ofGood.stop()])
    expect(unsaid(ofOne.seen, revoked.at)).toEqual([])
    expect(new Set(ofGood.seen.map(s => s.said))).toEqual(new Set(['200 bounded']))
  })

  test('F46 nothing arrives at the brokers: it hears and refuses as ever, and is not counted until they hear of it', async () => {
    const { key } = await g.asOperator('POST', '/v1/guards', { name: 'unheard' })
    const unheard = await g.api('unheard', { CURFEW_FEED_URLS: lines.map(l => l.url).join(' '), CURFEW_GUARD_KEY: key })
    await until(async () => (await unheard.health()).status === 200, 10_000)
    const applied = async () =>
      (await g.asOperator('GET', '/v1/guards')).guards.find((x: { name: string }) => x.name === 'unheard').instances[0]?.seq as number | undefined
    const [one, good] = [await g.issued(), await g.issued()]
    const ofGood = g.watch(unheard, good)
    await until(async () => (await applied()) !== undefined, 5_000)
    for (const line of lines) line.hold('to')
    const revoked = await g.revoke({ credential: one.id })
    await until(async () => (await unheard.use(one)).said === '401 revoked', MAX_STALE_MS)
    await sleep(MAX_STALE_MS + 1_000)
    await ofGood.stop()
    expect(new Set(ofGood.seen.map(s => s.said))).toEqual(new Set(['200 bounded']))
    expect(await applied()).toBeLessThan(revoked.seq)
    const receipt = async () => (await g.asOperator('GET', `/v1/receipts/${revoked.receipt}`)).claims
    expect(await receipt()).toMatchObject({ final: false })
    await healed()
    await until(async () => ((await applied()) ?? 0) >= revoked.seq, 10_000)
    await unheard.child.stop()
  })

  test('F47 a line that grows slower and slower is never silent, and is not believed beyond maxStaleMs', async () => {
    const slowed = await partition(g.brokers.b.port)
    try {
      const one = await g.issued()
      const slow = await g.api('slow', { CURFEW_FEED_URLS: slowed.url })
      await until(async () => (await slow.health()).status === 200, 10_000)
      const ofOne = g.watch(slow, one)
      await until(() => ofOne.seen.length > 2, 10_000)
      // Beats of a second come 1.5 s apart: after 3 s without one it would be taken for dead.
      for (let ms = 500; ms <= 8_000; ms += 500) {
        slowed.slow('from', ms)
        await sleep(1_000)
      }
      const { at } = await g.revoke({ credential: one.id })
      await until(async () => (await slow.health()).status === 503, 10_000)
      await sleep(3_000)
      await ofOne.stop()
      expect(unsaid(ofOne.seen, at)).toEqual([])
      const yes = ofOne.seen.filter(s => s.said.startsWith('200'))
      expect(Math.max(...yes.map(s => s.staleMs ?? Number.POSITIVE_INFINITY))).toBeGreaterThan(2_000)
      slowed.slow('from', 0)
      await until(async () => (await slow.use(one)).said === '401 revoked', 15_000)
      await slow.child.stop()
    } finally {
      await slowed.close()
    }
  })
})
