/** Four probers that show every token every 20 ms (two guards, introspection at two brokers) while everything that a revocation can name is revoked: nothing is accepted after it was refused or answered, beyond what each of them promises (I1, I9). */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isAbsent } from '../../src/dev/find.js'
import { type Api, type Guarded, type Issued, MAX_STALE_MS, type Sample, startGuarded, unsaid, until } from './guarded.js'

const EVERY_MS = 20
/** I1: a guard with the feed. */
const BOUND_MS = 10_000
/** Both guards have one key, and each remembers proofs for itself: said after 45 s. */
const SPLIT_MS = 45_000 + 20_000

const started = await startGuarded()
const absent = isAbsent(started) ? started.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

interface Round {
  readonly kind: string
  readonly one: Issued
  /** Hit by none of it; null where everything is hit. */
  readonly other: Issued | null
  readonly calledAt: number
  readonly answeredAt: number
}

describe.skipIf(absent !== null)(`four probers${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const g = started as Guarded
  let guards: readonly [Api, Api]
  beforeAll(async () => {
    guards = [await g.api('by-a', { CURFEW_FEED_URLS: g.brokers.a.url }), await g.api('by-b', { CURFEW_FEED_URLS: g.brokers.b.url })]
    for (const api of guards) await until(async () => (await api.health()).status === 200, 10_000)
  })
  afterAll(() => g.close())

  test('I1 I9 whatever is named, each prober keeps what it promises', { timeout: 180_000 }, async () => {
    const { a, b } = g.brokers
    const asked = async (issued: Issued, at: typeof a): Promise<Omit<Sample, 'askedAt'>> => ({
      said: (await g.introspect(issued, at)) ? '200 active' : '401 revoked',
      staleMs: 0,
    })
    const probers: Readonly<Record<string, (issued: Issued) => Promise<Omit<Sample, 'askedAt'>>>> = {
      'guard at a': of => guards[0].use(of),
      'guard at b': of => guards[1].use(of),
      'introspection at a': of => asked(of, a),
      'introspection at b': of => asked(of, b),
    }
    const shown = new Set<Issued>()
    const samples = new Map<string, (Sample & { readonly answeredAt: number })[]>()
    const of = (prober: string, { id }: Issued) => samples.get(`${prober} ${id}`) ?? []
    let isOver = false
    const probing = Object.entries(probers).map(async ([name, show]) => {
      while (!isOver) {
        const next = sleep(EVERY_MS)
        await Promise.all(
          [...shown].map(async issued => {
            const askedAt = performance.now()
            const told = await show(issued)
            const own = samples.get(`${name} ${issued.id}`) ?? []
            samples.set(`${name} ${issued.id}`, own)
            own.push({ askedAt, answeredAt: performance.now(), ...told })
          }),
        )
        await next
      }
    })

    const kinds: readonly [string, (of: Issued) => object, object?][] = [
      ['credential', of => ({ credential: of.id })],
      ['task', of => ({ task: of.task })],
      ['attributes', () => ({ run_id: '4711', repository_id: '456789' }), { run_id: '4711' }],
      ['capability', () => ({ capability: 'api/orders' })],
      ['identity', () => ({ identity: 'github:repository_id=456789' })],
      ['issuer', () => ({ issuer: 'github' })],
      ['all', () => ({ all: true })],
      ['key', of => ({ key: of.kid })],
    ]
    const rounds: Round[] = []
    for (const [i, [kind, selector, claims]] of kinds.entries()) {
      const other = i < 3 ? await g.issued({ run_id: '4712' }) : null
      const one = await g.issued(claims)
      shown.clear()
      for (const issued of [one, other]) if (issued) shown.add(issued)
      await sleep(700)
      const calledAt = performance.now()
      // Now here, now there.
      const { at } = await g.revoke(selector(one), i % 2 === 0 ? a : b)
      rounds.push({ kind, one, other, calledAt, answeredAt: at })
      await until(() => Object.keys(probers).every(p => of(p, one).filter(s => s.said === '401 revoked').length >= 20), BOUND_MS + 2_000)
    }
    isOver = true
    await Promise.all(probing)

    const late: Record<string, number[]> = {}
    for (const prober of Object.keys(probers)) {
      late[prober] = []
      for (const { kind, one, other, calledAt, answeredAt } of rounds) {
        const told = `${prober}, by ${kind}`
        const own = of(prober, one)
        const isYes = (s: Sample) => s.said.startsWith('200')
        // It was good, and it was shown often enough for that to mean something.
        const before = own.filter(s => s.answeredAt < calledAt)
        expect(before.length, told).toBeGreaterThan(5)
        expect(
          before.filter(s => !isYes(s)),
          told,
        ).toEqual([])
        // From the answer on. Introspection reads what is committed; a guard says how far it is behind that, and is believed no further.
        const after = own.filter(s => s.askedAt > answeredAt && isYes(s))
        const isGuard = prober.startsWith('guard')
        expect(isGuard ? unsaid(own, answeredAt) : after, told).toEqual([])
        expect(
          after.filter(s => s.askedAt - answeredAt > BOUND_MS),
          told,
        ).toEqual([])
        late[prober].push(...after.map(s => s.askedAt - answeredAt))
        // What was refused once stays refused, and nobody whose word is worth more says otherwise from then on.
        const refused = own.find(s => s.said === '401 revoked')?.answeredAt ?? Number.NaN
        expect(
          own.filter(s => s.askedAt > refused && isYes(s)),
          told,
        ).toEqual([])
        for (const at of ['introspection at a', 'introspection at b'])
          expect(
            of(at, one).filter(s => s.askedAt > refused && isYes(s)),
            `${told}, then ${at}`,
          ).toEqual([])
        expect(new Set(own.map(s => s.said)), told).toEqual(new Set([isGuard ? '200 bounded' : '200 active', '401 revoked']))
        expect(Math.max(...own.map(s => s.staleMs ?? 0)), told).toBeLessThanOrEqual(MAX_STALE_MS)
        if (other) expect(new Set(of(prober, other).map(s => s.said)), `${told}, the twin`).toEqual(new Set([isGuard ? '200 bounded' : '200 active']))
      }
    }
    const total = [...samples.values()].reduce((n, list) => n + list.length, 0)
    const worst = Object.entries(late).map(([prober, ms]) => `${prober} ${Math.round(Math.max(0, ...ms))} ms`)
    console.info(`${rounds.length} revocations, ${total} answers; the last yes that was asked for after the answer: ${worst.join(', ')}`)
  })

  test('two processes of one guard that remember proofs for themselves say so, in health and once in the log', { timeout: SPLIT_MS + 10_000 }, async () => {
    const all = async (is: (health: Record<string, unknown>) => boolean) => (await Promise.all(guards.map(api => api.health()))).every(h => is(h.body))
    await until(() => all(h => h.instances === 2 && h.replay === 'split'), SPLIT_MS, 500)
    for (const { child, health } of guards) {
      // It goes on.
      expect((await health()).status).toBe(200)
      expect(readFileSync(child.log, 'utf8').split('give all of them redisReplay')).toHaveLength(2)
    }
  })
})
