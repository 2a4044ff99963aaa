import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { createGuard, type Guard, type GuardOptions } from '../../../src/guard/guard.js'
import { type Minted, type TestIssuer, testIssuer } from '../../../src/guard/testing.js'
import { type FakeBroker, fakeBroker, KEY, LATER, until } from './fake-broker.js'

let broker: FakeBroker
let iss: TestIssuer
let guards: Guard[] = []
const logged: string[] = []
const log = {
  warn: (f: { err?: Error }, m: string) => void logged.push(`${m} ${f.err?.message ?? ''}`),
  error: (f: { err?: Error }, m: string) => void logged.push(`${m} ${f.err?.message ?? ''}`),
}

beforeEach(async () => {
  broker = await fakeBroker()
  // Signs as if it were that broker.
  iss = await testIssuer({ issuer: broker.url })
  const { keys } = (await (await iss.fetch(`${broker.url}/.well-known/jwks.json`, {})).json()) as { keys: unknown[] }
  broker.keys = keys
  logged.length = 0
})
afterEach(async () => {
  for (const g of guards) g.close()
  guards = []
  iss.close()
  await broker.close()
})

function guard(options: Partial<GuardOptions> = {}): Guard {
  const g = createGuard({ issuer: broker.url, audience: iss.audience, guardKey: KEY, proof: 'if-bound', log, ...options })
  guards.push(g)
  return g
}
const mint = () => iss.mint({ bound: false })
const verify = async (g: Guard, t: Minted) => g.verify(await t.request('https://orders.test/x'))
const codeOf = (g: Guard, t: Minted) =>
  verify(g, t).then(
    () => 'passes',
    e => e.code as string,
  )
const credential = (t: Minted) => ({ kind: 'credential', key: t.credential, until: LATER })

describe('following', () => {
  test('what stood before comes first, what comes after follows, and both are acknowledged', async () => {
    const [before, after, good] = [await mint(), await mint(), await mint()]
    broker.revoke(credential(before))
    const g = guard({ instance: 'web-1' })
    await g.ready()
    expect(await codeOf(g, before)).toBe('revoked')
    expect(await codeOf(g, after)).toBe('passes')
    const seq = broker.revoke(credential(after))
    await until(() => g.health().seq === seq)
    expect(await codeOf(g, after)).toBe('revoked')
    expect(await codeOf(g, good)).toBe('passes')
    await until(() => broker.seen.acks.at(-1) === seq)
    expect([...broker.seen.instances]).toEqual(['web-1'])
    expect(g.health()).toMatchObject({ ok: true, mode: 'bounded', seq, entries: 2, connected: true })
  })
  test('a burst is acknowledged together: one word in 50 ms at most', async () => {
    const g = guard()
    await g.ready()
    await until(() => broker.seen.acks.length > 0)
    const already = broker.seen.acks.length
    const began = performance.now()
    for (let i = 0; i < 100; i++) {
      broker.revoke({ kind: 'task', key: `tsk_${i}`, until: LATER })
      await new Promise(resolve => setTimeout(resolve, 3))
    }
    await until(() => broker.seen.acks.at(-1) === 100)
    expect(broker.seen.acks.length - already).toBeLessThanOrEqual(Math.ceil((performance.now() - began) / 50))
  })
  test('R11 a line that broke goes on where it was: what came in the gap is refused', async () => {
    const g = guard()
    await g.ready()
    broker.revoke({ kind: 'task', key: 'tsk_1', until: LATER })
    await until(() => g.health().seq === 1)
    const t = await mint()
    expect(await codeOf(g, t)).toBe('passes')
    broker.breakStreams()
    broker.revoke(credential(t))
    broker.revoke({ kind: 'task', key: 'tsk_2', until: LATER })
    await until(() => g.health().seq === 3 && g.health().connected)
    expect(await codeOf(g, t)).toBe('revoked')
    expect(broker.seen.lastEventIds).toEqual([null, '1'])
  })
  test('an act without entries moves the count by the next beat', async () => {
    const g = guard()
    await g.ready()
    broker.seq = 41
    await until(() => g.health().seq === 41)
    expect(await codeOf(g, await mint())).toBe('passes')
  })
  test('a part of what stands is not everything: without `ready` nothing passes', async () => {
    broker.feedStatus = 503
    const g = guard()
    await expect(g.ready({ timeoutMs: 300 })).rejects.toMatchObject({ code: 'stale_feed', status: 503 })
    expect(await codeOf(g, await mint())).toBe('stale_feed')
    broker.feedStatus = 200
    await g.ready()
    expect(await codeOf(g, await mint())).toBe('passes')
  })
  test('a beat before `ready` is no word about what is still to come', async () => {
    broker.opening = 'event: beat\ndata: {"seq":0,"stale_ms":0}\n\n'
    const g = guard()
    await expect(g.ready({ timeoutMs: 500 })).rejects.toMatchObject({ code: 'stale_feed' })
    expect(g.health().connected).toBe(true)
    expect(await codeOf(g, await mint())).toBe('stale_feed')
  })
  test('a stream that begins with nothing is abandoned after 3 s', async () => {
    broker.opening = ': hello\n'
    const g = guard()
    await until(() => g.health().connected)
    broker.opening = null
    const since = performance.now()
    await g.ready()
    expect(performance.now() - since).toBeGreaterThan(2_500)
    expect(broker.seen.feeds).toBe(2)
  })
  test('a key that is refused opens nothing, and is told', async () => {
    const g = guard({ guardKey: 'curfew_guard_of_nobody' })
    await expect(g.ready({ timeoutMs: 300 })).rejects.toMatchObject({ code: 'stale_feed' })
    expect(logged.join()).toContain('the guard key is refused')
    expect(logged.join()).not.toContain('curfew_guard_of_nobody')
  })
  test('an entry of a kind it does not know ends the stream: nothing passes unread', async () => {
    const g = guard({ revocation: { maxStaleMs: 1_000 } })
    await g.ready()
    broker.revoke({ kind: 'tenant', key: 'acme', until: LATER })
    await until(() => !g.health().ok)
    expect(await codeOf(g, await mint())).toBe('stale_feed')
    expect(logged.join()).toContain('does not understand')
  })
  test('several replicas: one that is down is passed by', async () => {
    const g = guard({ feedUrls: ['http://127.0.0.1:9', broker.url] })
    await g.ready()
    expect(await codeOf(g, await mint())).toBe('passes')
  })
})

describe('no verdict is no pass', () => {
  const bounds = { maxStaleMs: 1_000 } as const
  test('I9 a silent stream: refused past the bound, abandoned after 3 s, and good again', async () => {
    const g = guard({ revocation: bounds })
    await g.ready()
    const t = await mint()
    expect((await verify(g, t)).staleMs).toBeLessThan(1_000)
    broker.beatEvery = 0
    const since = performance.now()
    await until(() => !g.health().ok)
    expect(performance.now() - since).toBeLessThan(1_500)
    expect(await codeOf(g, t)).toBe('stale_feed')
    const feeds = broker.seen.feeds
    await until(() => broker.seen.feeds > feeds, 6_000)
    expect(performance.now() - since).toBeGreaterThan(2_800)
    broker.beatEvery = 50
    await until(() => g.health().ok)
    expect(await codeOf(g, t)).toBe('passes')
  })
  test('a replica that has not read the truth for long is as stale as it says', async () => {
    const g = guard({ revocation: bounds })
    await g.ready()
    broker.staleMs = 1_500
    await until(() => !g.health().ok)
    expect(await codeOf(g, await mint())).toBe('stale_feed')
    broker.staleMs = 10
    await until(() => g.health().ok)
  })
  test('F47 a line that grows slower by and by is never silent: what it brings is as old as it is, and another line is taken', async () => {
    // Its clock is days away from ours: only what it says of the same clock counts.
    broker.time = () => Math.round(performance.now()) + 1_000_000_000
    const g = guard({ revocation: bounds })
    await g.ready()
    const t = await mint()
    expect((await verify(g, t)).staleMs).toBeLessThan(500)
    for (const lag of [400, 800, 1_200, 1_600]) {
      broker.lagMs = lag
      await new Promise(resolve => setTimeout(resolve, 600))
    }
    // Beats come every 50 ms all the time.
    expect(g.health().ok).toBe(false)
    expect(g.health().staleMs).toBeGreaterThan(1_000)
    expect(await codeOf(g, t)).toBe('stale_feed')
    await until(() => logged.join().includes('what comes over this line is old'))
    broker.lagMs = 0
    await until(() => g.health().ok)
    expect(await codeOf(g, t)).toBe('passes')
  })
  test('its twin: a line that is slow and within the bound', async () => {
    broker.time = () => Math.round(performance.now())
    broker.lagMs = 500
    const g = guard({ revocation: bounds })
    await g.ready()
    await new Promise(resolve => setTimeout(resolve, 1_500))
    expect(g.health()).toMatchObject({ ok: true, connected: true })
    expect(g.health().staleMs).toBeGreaterThanOrEqual(450)
  })
  test('whenStale introspect: each is asked, and what the index holds is refused all the same', async () => {
    const g = guard({ revocation: { ...bounds, whenStale: 'introspect' }, introspection: { client: 'orders', secret: 's3cret' } })
    await g.ready()
    const [dead, t] = [await mint(), await mint()]
    broker.revoke(credential(dead))
    await until(() => g.health().seq === 1)
    expect((await verify(g, t)).mode).toBe('bounded')
    expect(broker.seen.introspections).toBe(0)
    broker.beatEvery = 0
    await until(() => g.health().mode === 'strict')
    expect(g.health().ok).toBe(true)
    expect((await verify(g, t)).mode).toBe('strict')
    await verify(g, t)
    expect(broker.seen.introspections).toBe(2)
    expect(await codeOf(g, dead)).toBe('revoked')
    broker.active = false
    expect(await codeOf(g, t)).toBe('revoked')
    broker.introspectStatus = 500
    expect(await codeOf(g, t)).toBe('introspection_failed')
  })
  test('R07 revoked while introspection is waited for: what was good before is asked again after it', async () => {
    const other = await iss.mint()
    const asking: Guard = guard({
      introspection: { client: 'orders', secret: 's3cret' },
      async fetch(url, init) {
        const answer = await globalThis.fetch(url, init)
        if (!url.endsWith('/introspect')) return answer
        // It said that it is active; then it was revoked, and the feed was quicker.
        const seq = broker.revoke(credential(other))
        await until(() => asking.health().seq === seq)
        return answer
      },
    })
    await asking.ready()
    await expect(asking.verify(await other.request('https://orders.test/x'), { strict: true })).rejects.toMatchObject({ code: 'revoked' })
    expect(broker.seen.introspections).toBe(1)
    expect(broker.active).toBe(true)
  })
  test('strict beside a fresh feed: both have to say yes', async () => {
    const g = guard({ introspection: { client: 'orders', secret: 's3cret' } })
    await g.ready()
    const t = await mint()
    expect((await g.verify(await t.request('https://orders.test/'), { strict: true })).mode).toBe('strict')
    broker.active = false
    await expect(g.verify(await t.request('https://orders.test/'), { strict: true })).rejects.toMatchObject({ code: 'revoked' })
    expect(await codeOf(g, t)).toBe('passes')
  })
  test('a restored store: everything is taken anew, nothing is forgotten, and what is new is heard', async () => {
    const g = guard({ revocation: bounds })
    await g.ready()
    const [old, fresh, good] = [await mint(), await mint(), await mint()]
    for (let i = 0; i < 9; i++) broker.revoke({ kind: 'task', key: `tsk_${i}`, until: LATER })
    broker.revoke(credential(old))
    await until(() => g.health().seq === 10)
    broker.acts = broker.acts.slice(0, 3)
    broker.seq = 3
    broker.resumesBehind = true
    broker.breakStreams()
    // While it only says less than was applied, what it leaves out could be a revocation: no verdict.
    await until(() => !g.health().ok)
    expect(await codeOf(g, good)).toBe('stale_feed')
    await until(() => broker.seen.lastEventIds.filter(i => i === null).length === 2)
    await until(() => g.health().ok)
    expect(g.health().seq).toBe(3)
    expect(await codeOf(g, old)).toBe('revoked')
    expect(await codeOf(g, good)).toBe('passes')
    broker.revoke(credential(fresh))
    await until(() => g.health().seq === 4)
    expect(await codeOf(g, fresh)).toBe('revoked')
  })
  test('a replica behind us that sends everything by itself is believed at once', async () => {
    const g = guard()
    await g.ready()
    for (let i = 0; i < 5; i++) broker.revoke({ kind: 'task', key: `tsk_${i}`, until: LATER })
    await until(() => g.health().seq === 5)
    broker.acts = broker.acts.slice(0, 2)
    broker.seq = 2
    broker.breakStreams()
    await until(() => g.health().seq === 2)
    expect(g.health()).toMatchObject({ ok: true, entries: 5 })
    const t = await mint()
    broker.revoke(credential(t))
    await until(() => g.health().seq === 3)
    expect(await codeOf(g, t)).toBe('revoked')
  })
})

describe('the clock', () => {
  const shifted = (ms: number) => () => new Date(Date.now() + ms)
  test.each([
    ['an hour behind', -3_600_000],
    ['an hour ahead', 3_600_000],
  ])('%s, with the feed: no verdict, whatever the token says', async (_, ms) => {
    const g = guard({ clock: shifted(ms) })
    await expect(g.ready({ timeoutMs: 400 })).rejects.toMatchObject({ code: 'stale_feed' })
    // A token that was good an hour ago would be good by the wrong clock; it has to be refused.
    iss.clock.advance(ms)
    expect(await codeOf(g, await mint())).toBe('stale_feed')
    expect(logged.join()).toContain('the clock of this host is off')
  })
  test('without a feed: behind, everything is not yet valid; ahead, everything is expired', async () => {
    const t = await mint()
    expect(await codeOf(guard({ guardKey: undefined, revocation: null, clock: shifted(-3_600_000) } as never), t)).toBe('token_not_yet')
    expect(await codeOf(guard({ guardKey: undefined, revocation: null, clock: shifted(3_600_000) } as never), t)).toBe('token_expired')
  })
  test('a few seconds are tolerated', async () => {
    const g = guard({ clock: shifted(-4_000) })
    await g.ready()
    expect(await codeOf(g, await mint())).toBe('passes')
  })
  test('a jump while the line stands (a host that slept): refused at once, measured anew, good again', async () => {
    const g = guard()
    await g.ready()
    const t = await mint()
    expect(await codeOf(g, t)).toBe('passes')
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 60_000 })
    expect(g.health()).toMatchObject({ ok: false, staleMs: null })
    expect(await codeOf(g, t)).toBe('stale_feed')
    vi.useRealTimers()
    await until(() => g.health().ok)
    expect(await codeOf(g, t)).toBe('passes')
  })
})
