/** Brokers that come and go, guards that join while it is written, ten thousand reconnects, and a clock that is an hour off: in every case what is revoked is refused, and what is not is not (F34, F41, F42, R11). */
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isAbsent, repository } from '../../src/dev/find.js'
import { createGuard, type Guard, type GuardOptions } from '../../src/guard/guard.js'
import { type Api, type Broker, type Guarded, type Issued, MAX_STALE_MS, ORDERS, startGuarded, unsaid, until } from './guarded.js'

const FLAT_MB = 30
const MOST_ROUNDS = 6

const started = await startGuarded()
const absent = isAbsent(started) ? started.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

describe.skipIf(absent !== null)(`guards and brokers that come and go${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const g = started as Guarded
  let api: Api
  const guards: Guard[] = []
  beforeAll(async () => {
    api = await g.api('api', { CURFEW_FEED_URLS: `${g.brokers.a.url} ${g.brokers.b.url}` })
    await until(async () => (await api.health()).status === 200, 10_000)
  })
  afterAll(async () => {
    for (const guard of guards) guard.close()
    await g.close()
  })

  /** In this process, so that one sees into it. Proofs are somebody else's here. */
  function guardAt(broker: Broker, more: Partial<GuardOptions> = {}): Guard {
    const guard = createGuard({ issuer: g.brokers.a.url, audience: ORDERS, guardKey: g.guardKey, proof: 'off', feedUrls: [broker.url], ...more })
    guards.push(guard)
    return guard
  }
  const shown = ({ token }: Issued) => ({ method: 'GET', url: '/orders', headers: { authorization: `DPoP ${token}` } })
  const codeOf = (guard: Guard, issued: Issued): Promise<string> =>
    guard.verify(shown(issued)).then(
      () => 'passes',
      error => error.code,
    )

  test.each<[string, 'a' | 'b', NodeJS.Signals]>([
    ['F41 restarted in order', 'a', 'SIGTERM'],
    ['killed and started again', 'b', 'SIGKILL'],
  ])('a broker is %s: the guard goes on by the other, and nobody notices', async (_name, which, signal) => {
    const [one, good] = [await g.issued(), await g.issued()]
    const [broker, other] = [g.brokers[which], g.brokers[which === 'a' ? 'b' : 'a']]
    const [ofOne, ofGood] = [g.watch(api, one), g.watch(api, good)]
    await until(() => ofGood.seen.length > 2, 10_000)
    process.kill(broker.child.mark.pid, signal)
    const revoked = await g.revoke({ credential: one.id }, other)
    await until(() => ofOne.seen.at(-1)?.said === '401 revoked', MAX_STALE_MS + 10_000)
    await broker.start()
    await sleep(MAX_STALE_MS)
    await Promise.all([ofOne.stop(), ofGood.stop()])
    expect(unsaid(ofOne.seen, revoked.at)).toEqual([])
    expect(new Set(ofGood.seen.map(s => s.said))).toEqual(new Set(['200 bounded']))
    expect(await api.health()).toMatchObject({ status: 200, body: { connected: true } })
  })

  test('R11 guards that join while it is written know all of it, by what stood or by what followed, and nothing else', async () => {
    const tokens: Issued[] = []
    for (let i = 0; i < 12; i++) tokens.push(await g.issued())
    const doomed = tokens.filter((_, i) => i % 2 === 0)
    const joined: { readonly guard: Guard; readonly ready: Promise<void> }[] = []
    let isWriting = true
    let written = 0
    const writers = Array.from({ length: 3 }, async (_, w) => {
      while (isWriting) {
        await g.revoke({ identity: `writer-${w}:${written++}` }, w % 2 === 0 ? g.brokers.a : g.brokers.b)
      }
    })
    const revoked = new Map<Issued, number>()
    for (const [i, one] of doomed.entries()) {
      const guard = guardAt(i % 2 === 0 ? g.brokers.b : g.brokers.a)
      joined.push({ guard, ready: guard.ready() })
      revoked.set(one, (await g.revoke({ credential: one.id })).at)
      await sleep(250)
    }
    await until(() => written > 50, 30_000)
    isWriting = false
    await Promise.all(writers)
    await Promise.all(joined.map(j => j.ready))
    // From `ready` on a yes is covered by how old what it knows may be.
    const { seq } = await g.asOperator('GET', '/v1/guards')
    const fresh = guardAt(g.brokers.b)
    await fresh.ready()
    const all = [...joined.map(j => j.guard), fresh]
    await until(() => all.every(guard => guard.health().seq >= seq), MAX_STALE_MS)
    const { entries } = fresh.health()
    expect(entries).toBeGreaterThan(written)
    for (const guard of all) {
      expect(guard.health()).toMatchObject({ ok: true, entries })
      for (const one of tokens) expect(await codeOf(guard, one)).toBe(revoked.has(one) ? 'revoked' : 'passes')
    }
  })

  test('R07 revoked between verification and use: it has ended when it is first looked at, whoever verified it', async () => {
    const [one, good] = [await g.issued(), await g.issued()]
    const guard = guardAt(g.brokers.b)
    await guard.ready()
    const [seen, still] = [await guard.verify(shown(one)), await guard.verify(shown(good))]
    const { seq } = await g.revoke({ issuer: 'github', issued_before: new Date().toISOString() })
    await until(() => guard.health().seq >= seq, MAX_STALE_MS)
    expect([seen.signal.aborted, seen.signal.reason?.code]).toEqual([true, 'revoked'])
    const ended: string[] = []
    guard.onRevoked(seen, why => void ended.push(why))
    guard.onRevoked(still.credential, why => void ended.push(why))
    expect(ended).toEqual(['revoked', 'revoked'])
    // Its twin is younger than the cut-off.
    const young = await guard.verify(shown(await g.issued()))
    guard.onRevoked(young, why => void ended.push(why))
    expect([young.signal.aborted, ended.length]).toEqual([false, 2])
  })

  test.each([
    ['behind', -3_600_000],
    ['ahead', 3_600_000],
  ])('F42 a guard whose clock is an hour %s says yes to nobody, and says why', async (name, ms) => {
    const clock = ['--import', pathToFileURL(`${repository()}/dist/test/faults/clock.js`).href]
    const [off, near] = await Promise.all([
      g.api(`clock-${name}`, { CURFEW_FEED_URLS: g.brokers.b.url, CURFEW_AHEAD_MS: String(ms) }, clock),
      g.api(`clock-near-${name}`, { CURFEW_FEED_URLS: g.brokers.b.url, CURFEW_AHEAD_MS: String(Math.sign(ms) * 2_500) }, clock),
    ])
    const one = await g.issued()
    // A few seconds are nothing.
    await until(async () => (await near.use(one)).said === '200 bounded', 10_000)
    for (const since = performance.now(); performance.now() - since < 3_000; await sleep(100)) {
      expect((await off.use(one)).said).toMatch(/^(503 stale_feed|401 token_not_yet|401 token_expired)$/)
    }
    expect(await off.health()).toMatchObject({ status: 503, body: { ok: false, connected: true, staleMs: null } })
    expect(readFileSync(off.child.log, 'utf8')).toContain('the clock of this host is off')
    await Promise.all([off.child.stop(), near.child.stop()])
  })

  test('ten thousand reconnects, by every way to go: no follower is left, the broker’s memory stays flat, and guards go on', { timeout: 300_000 }, async () => {
    const broker = g.brokers.b
    const guard = guardAt(broker)
    await guard.ready()
    const good = await g.issued()
    const followers = await broker.followers()
    const { seq } = await g.asOperator('GET', '/v1/guards')
    /** Everything that stands is sent to every fourth; the others go on where they were. */
    const reconnect = (n: number) =>
      new Promise<void>((resolve, reject) => {
        const asked = request({
          port: broker.port,
          path: '/v1/feed',
          agent: false,
          headers: {
            Authorization: `Bearer ${g.guardKey}`,
            Accept: 'text/event-stream',
            'Curfew-Guard-Instance': 'reconnecting',
            ...(n % 4 === 0 ? {} : { 'Last-Event-ID': String(seq) }),
          },
        })
        asked.once('error', reject)
        asked.once('response', stream => {
          if (stream.statusCode !== 200) return reject(new Error(`the feed answered ${stream.statusCode}`))
          stream.on('error', () => {})
          asked.removeAllListeners('error').on('error', () => {})
          stream.once('data', () => {
            // Reset, in order, or in the middle of what stands.
            if (n % 3 === 0) stream.socket.resetAndDestroy()
            else stream.destroy()
            resolve()
          })
        })
        asked.end()
      })
    const run = async (times: number) => {
      let n = 0
      await Promise.all(
        Array.from({ length: 32 }, async () => {
          while (n < times) await reconnect(n++)
        }),
      )
      await until(async () => (await broker.followers()) === followers, 5_000)
    }
    const memory = () => (Number(readFileSync(`/proc/${broker.child.mark.pid}/statm`, 'latin1').split(' ')[1]) * 4_096) / 1e6
    // A heap grows to what it is used to, later on a busy machine, and stays there. One that were not let go of would hold its socket and its
    // answer, and every round would add 10,000 of them: far more than this.
    const grown: number[] = []
    await run(10_000)
    const before = memory()
    while (grown.length < MOST_ROUNDS && !grown.some(mb => mb < FLAT_MB)) {
      const earlier = memory()
      await run(10_000)
      grown.push(memory() - earlier)
    }
    console.info(
      `rounds of 10,000 reconnects; the broker had ${before.toFixed(0)} MB after the first, and ${grown.map(mb => mb.toFixed(0)).join(', ')} MB more after each that followed`,
    )
    expect(Math.min(...grown)).toBeLessThan(FLAT_MB)
    const { seq: last } = await g.revoke({ credential: good.id })
    await until(() => guard.health().seq >= last, MAX_STALE_MS)
    expect(await codeOf(guard, good)).toBe('revoked')
    const listed = await g.asOperator('GET', '/v1/guards')
    expect(listed.guards[0].instances.filter((i: { instance: string }) => i.instance === 'reconnecting')).toHaveLength(1)
  })
})
