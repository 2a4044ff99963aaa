/** Owns the figures of guards in another process: from the call that revokes to the first refusal, what the index weighs there, and how long a guard says yes to nobody's word. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Opening, Order, Told } from './guard-child.js'
import { type Hand, handOf } from './guard-hand.js'
import { monotonic } from './measure.js'
import { middle, type Report, type Spread, spread } from './report.js'
import { ORDERS, type World } from './world.js'

const ROUNDS = 3
const SAMPLES = 100
const SAMPLES_WITHOUT_REDIS = 20
const MAX_STALE = 5_000

type Process = Hand<Order, Told>

/** It follows the replica that commits nothing: what it hears came over the doorbell. */
async function opened(world: World): Promise<{ guard: Process; readyMs: number; entries: number }> {
  const guard = handOf<Order, Told>('./guard-child.js')
  const settings: Opening = { issuer: world.server, audience: ORDERS, guardKey: world.guardKey, feedUrls: [world.other], maxStaleMs: MAX_STALE }
  const { readyMs, entries } = await guard.ask({ kind: 'open', with: settings }, 'opened')
  return { guard, readyMs, entries }
}

/** @param apartMs up to so long between two, so that none is in step with what is read by the clock. */
async function sampled(world: World, guard: Process, n: number, apartMs = 0): Promise<number[]> {
  const made = await Promise.all(Array.from({ length: n }, () => world.issue('456790')))
  const took: number[] = []
  for (const { id, token } of made) {
    await guard.ask({ kind: 'watch', tokens: [token] }, 'watching')
    if (apartMs > 0) await sleep(Math.random() * apartMs)
    const refusal = guard.hear('refused')
    const began = monotonic()
    const act = world.revoke({ credential: id })
    const { at, code } = await refusal
    if (code !== 'revoked') throw new Error(`refused as ${code}`)
    took.push(at - began)
    await act
  }
  return took
}

const told = (s: Spread) => `p50 ${s.p50.toFixed(1)}, p99 ${s.p99.toFixed(1)}, max ${s.max.toFixed(1)} ms of ${s.n}`

/** Acts by the thousand, each of one credential, as if they had been made one by one. */
async function seedIndex(world: World, upTo: number): Promise<void> {
  const { rows } = await world.db.query('select id, (select count(*)::int from curfew.revocations) as there from curfew.revocations order by seq desc limit 1')
  if (rows.length === 0) {
    await world.revoke({ credential: (await world.issue('456790')).id })
    return seedIndex(world, upTo)
  }
  const more = upTo - rows[0].there
  if (more <= 0) return
  const tag = Math.random().toString(16).slice(2, 8).padEnd(6, '0')
  await world.db.query(
    `with c as (update curfew.counters set value = value + $2 where name = 'seq' returning value - $2 as last)
     insert into curfew.revocations (id, seq, kind, key, issued_before, reason, actor, at, until, credentials, tasks, closed_at)
     select 'rev_' || substr(md5(n::text || $3), 1, 20), c.last + n, 'credential', 'crd_' || substr(md5($3 || n::text), 1, 20), null, r.reason, r.actor, now(), now() + interval '2 hours', 1, 0, now()
     from c, generate_series(1, $2::int) n, curfew.revocations r where r.id = $1`,
    [rows[0].id, more, tag],
  )
}

export async function benchHeard(world: World, report: Report, sizes: readonly number[], more: { readonly alsoWithoutRedis?: boolean } = {}): Promise<void> {
  report.title(
    `c. revoke call → refused by a guard in another process, behind the other replica  (${ROUNDS} rounds of ${SAMPLES}; it asks itself every millisecond)`,
  )
  const empty = handOf<Order, Told>('./guard-child.js')
  const before = await empty.ask({ kind: 'memory' }, 'memory')
  await empty.end()
  for (const size of sizes) {
    if (size > 0) await seedIndex(world, size)
    // Both replicas have read it.
    await sleep(2_500 + size / 20)
    const { guard, readyMs, entries } = await opened(world)
    try {
      if (size > 0) await guard.ask({ kind: 'entries', atLeast: size }, 'entries')
      const name = `${size.toLocaleString('en')} entries`
      if (size >= 100_000) {
        const after = await guard.ask({ kind: 'memory' }, 'memory')
        report.figure({
          what: `b. ${name}: heap above a process without a guard`,
          value: (after.heap - before.heap) / 1e6,
          unit: 'MB',
          note: `${((after.heap - before.heap) / after.entries).toFixed(0)} bytes an entry; RSS ${(before.rss / 1e6).toFixed(0)} → ${(after.rss / 1e6).toFixed(0)} MB`,
        })
      }
      report.figure({ what: `${name}: from start to ready`, value: readyMs, unit: 'ms', note: `${entries.toLocaleString('en')} taken` })
      await sampled(world, guard, 20)
      const rounds: number[][] = []
      for (let round = 0; round < ROUNDS; round++) rounds.push(await sampled(world, guard, SAMPLES))
      report.say(rounds.map((r, i) => `round ${i + 1}: ${told(spread(r))}`).join('; '))
      figures(report, name, rounds, { p99: 100, max: 1_000 })
      if (more.alsoWithoutRedis) await withoutRedis(world, report, guard)
    } finally {
      await guard.end()
    }
  }
}

async function withoutRedis(world: World, report: Report, guard: Process): Promise<void> {
  await world.redis.stop()
  try {
    const rounds: number[][] = []
    for (let round = 0; round < ROUNDS; round++) rounds.push(await sampled(world, guard, SAMPLES_WITHOUT_REDIS, 1_000))
    figures(report, 'Redis stopped', rounds, { max: 1_500 })
  } finally {
    await world.restartRedis()
  }
}

/** The p50 and p99 are the middle ones of the rounds; the worst is the worst of all. */
function figures(report: Report, name: string, rounds: readonly (readonly number[])[], goals: { p99?: number; max: number }): void {
  const each = rounds.map(spread)
  const range = (of: (s: Spread) => number) => `${Math.min(...each.map(of)).toFixed(1)}–${Math.max(...each.map(of)).toFixed(1)}`
  report.figure({ what: `${name}: p50`, value: middle(each.map(s => s.p50)), unit: 'ms', note: range(s => s.p50) })
  report.figure({
    what: `${name}: p99`,
    value: middle(each.map(s => s.p99)),
    unit: 'ms',
    ...(goals.p99 === undefined ? {} : { goal: { most: goals.p99 } }),
    note: range(s => s.p99),
  })
  report.figure({ what: `${name}: max`, value: Math.max(...each.map(s => s.max)), unit: 'ms', goal: { most: goals.max } })
}

/** Stopped like a machine that hangs (its connections stay open), and killed. */
export async function benchSilence(world: World, report: Report): Promise<void> {
  report.title(`e. every broker stopped: how long a guard goes on  (maxStaleMs ${MAX_STALE})`)
  const { guard } = await opened(world)
  try {
    const tokens = (await Promise.all(Array.from({ length: 20 }, () => world.issue('456790')))).map(made => made.token)
    const rounds: number[] = []
    for (const signal of ['SIGSTOP', 'SIGSTOP', 'SIGKILL'] as const) {
      await guard.ask({ kind: 'watch', tokens }, 'watching')
      const refusal = guard.hear('refused')
      const began = monotonic()
      world.signalBrokers(signal)
      const { at, code, alsoRefused } = await refusal
      rounds.push(at - began)
      report.say(`${signal}: first refusal (${code}) after ${((at - began) / 1000).toFixed(2)} s, then ${alsoRefused} of ${tokens.length} refused`)
      if (alsoRefused < tokens.length || code !== 'stale_feed') throw new Error('a guard that knows nothing let a request pass')
      if (signal === 'SIGKILL') break
      world.signalBrokers('SIGCONT')
      await passesAgain(guard, tokens)
      // What was read before the stop is not counted as fresh for the next round.
      await sleep(3_000)
    }
    report.figure({
      what: 'brokers stopped → everything is refused, worst',
      value: Math.max(...rounds) / 1000,
      unit: 's',
      goal: { most: MAX_STALE / 1000 + 0.1 },
    })
  } finally {
    world.signalBrokers('SIGCONT')
    await guard.end()
  }
}

/** It has its feed back. */
async function passesAgain(guard: Process, tokens: readonly string[]): Promise<void> {
  const first = tokens[0] as string
  for (let tries = 0; tries < 100; tries++) {
    if ((await guard.ask({ kind: 'passes', token: first }, 'passes')).code === null) return
    await sleep(200)
  }
  throw new Error('the guard does not come back')
}
