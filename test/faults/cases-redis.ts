/** Owns what Redis does to us under load: F01, F02, F07, F10, F11. Every one has the same seed and the same twin. */

import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isAbsent } from '../../src/dev/find.js'
import type { Child } from '../../src/dev/process.js'
import { startRedis } from '../../src/dev/redis.js'
import { LOAD_SWEEP_MS, LOAD_SWITCH_SECONDS, tally, underLoad } from './load.js'
import { type Case, type Report, say } from './report.js'
import { type Broker, kill, NEVER_MS, type World } from './world.js'

/** A revocation that no job hurries is found by the next sweep; then it is destroyed at Vault and the target like any other. */
const DESTROY_MS = 2_500
const REQUEST_MS = 1_500

export const LOAD_TIMERS = { timers: { sweepMs: LOAD_SWEEP_MS, issuanceTokenSeconds: LOAD_SWITCH_SECONDS } }

/** How late the slowest signal was acted upon, in the rows of this run. */
async function slowestSignal(world: World, c: Case): Promise<number> {
  const ids = c.ledger.entries.flatMap(e => (e.op === 'signal' && e.subject ? [e.subject] : []))
  const [row] = await world.rows<{ ms: number | null }>(
    'store',
    'select max(extract(epoch from handled_at - received_at))::float8 * 1000 as ms from curfew.signals where id = any($1::text[])',
    [ids],
  )
  return Math.round(row?.ms ?? 0)
}

export async function redisCases(world: World, report: Report, seed: number): Promise<void> {
  say(`  under load: 4 clients, sweep ${LOAD_SWEEP_MS} ms (5 s), dead man's switch ${LOAD_SWITCH_SECONDS} s (90 s), tokens shown every 50 ms`)
  const pair = { broker: null as Broker | null, worker: null as Child | null }
  const start = async () => {
    const at = pair.broker
    const [broker, worker] = await Promise.all([world.broker({ ...LOAD_TIMERS, ...(at ? { at } : {}) }), world.worker(LOAD_TIMERS)])
    Object.assign(pair, { broker, worker })
    return broker
  }
  const stop = () => Promise.all([pair.broker, pair.worker].map(one => one && kill('child' in one ? one.child : one)))

  async function load(name: string, during: () => Promise<void>, heal?: () => Promise<void>, strict = true): Promise<void> {
    await report.case(name, async c => {
      const seen = await underLoad(world, c, pair.broker as Broker, { seed, during, ...(heal ? { heal } : {}) })
      const signal = await slowestSignal(world, c)
      // Redis carries nothing that decides: not one act may fail for it (security.md 6.1).
      if (strict) for (const e of seen.failed.slice(0, 3)) c.wrong(`${e.op} was answered ${e.status} ${e.problem ?? ''}`)
      const slowest = Math.max(...c.ledger.entries.filter(e => e.op !== 'issue').map(e => e.ackAt - e.sentAt))
      c.expect(seen.slowestMs <= LOAD_SWEEP_MS + DESTROY_MS, `a revocation was confirmed after ${seen.slowestMs} ms`)
      c.expect(signal <= LOAD_SWEEP_MS + DESTROY_MS, `a signal was acted upon after ${signal} ms`)
      c.expect(slowest <= REQUEST_MS, `an act took ${slowest} ms`)
      return `${tally(seen)}; ${c.ledger.probes} probes; slowest act ${slowest} ms, signal ${signal} ms, confirmation ${seen.slowestMs} ms`
    })
  }

  try {
    await start()
    await load('F01–F11, F34, F41 twin: the same load without a fault', () => sleep(3_000))
    await load(
      'F01 Redis stopped under load, and back',
      async () => {
        await sleep(600)
        await world.stopRedis()
        await sleep(2_500)
      },
      () => world.startRedis(),
    )
    await load(
      'F02 Redis SIGSTOPped under load',
      async () => {
        await sleep(600)
        process.kill(world.redis.pid, 'SIGSTOP')
        await sleep(2_500)
      },
      async () => void process.kill(world.redis.pid, 'SIGCONT'),
    )
    await load('F07 FLUSHALL three times under load', async () => {
      for (let i = 0; i < 3; i++) {
        await sleep(800)
        await world.redisCommand('flushall')
      }
      await sleep(500)
    })
    await load(
      'F10 maxmemory reached under load',
      async () => {
        await sleep(500)
        await world.redisCommand('config', 'set', 'maxmemory', '1')
        await sleep(2_500)
      },
      async () => void (await world.redisCommand('config', 'set', 'maxmemory', '0')),
    )
    await stop()
    await report.case('F11 wrong eviction policy at start: broker and worker refuse', async c => {
      await world.redisCommand('config', 'set', 'maxmemory-policy', 'allkeys-lru')
      const refused = await Promise.allSettled([world.broker(LOAD_TIMERS), world.worker(LOAD_TIMERS)])
      await world.redisCommand('config', 'set', 'maxmemory-policy', 'noeviction')
      for (const one of refused) {
        if (one.status === 'fulfilled') {
          c.wrong('it started')
          await kill('child' in one.value ? one.value.child : one.value)
        } else c.expect(/ended with 2.*noeviction/s.test(String(one.reason?.message)), `it did not start, for another reason: ${one.reason?.message}`)
      }
      return 'both ended with 2 and name the setting'
    })
    await world.stopRedis()
    const since = performance.now()
    await start()
    const startedMs = Math.round(performance.now() - since)
    await load(
      `F01 Redis down at start (up in ${startedMs} ms all the same), and later there`,
      () => sleep(2_000),
      () => world.startRedis(),
    )
  } finally {
    await stop()
  }
}

interface Ready {
  readonly lines: readonly { readonly name: string; readonly status: string; readonly detail: string }[]
}

/** A Redis of its own, because the look that finds it comes once a minute: changed now, judged when the others are done. */
export async function changedLater(world: World): Promise<(report: Report) => Promise<void>> {
  const redis = await startRedis({ dir: join(world.dir, 'other-redis'), own: true })
  if (isAbsent(redis)) throw new Error(redis.absent)
  const broker = await world.broker({ redisUrl: redis.url, timers: { sweepMs: NEVER_MS, reconcileMs: NEVER_MS } })
  const queue = async () => {
    const { lines } = (await (await fetch(`http://127.0.0.1:${broker.internal}/readyz?verbose`)).json()) as Ready
    return lines.find(l => l.name === 'queue')
  }
  const before = await queue()
  await world.redisCommand({ url: redis.url }, 'config', 'set', 'maxmemory-policy', 'allkeys-lru')
  const changed = performance.now()
  return report =>
    report.case('F11 eviction policy changed under a running broker', async c => {
      try {
        c.expect(before?.status === 'ok', `readiness said ${JSON.stringify(before)} before the change`)
        let line = await queue()
        for (; line?.status === 'ok' && performance.now() - changed < 70_000; line = await queue()) await sleep(500)
        c.expect(line?.status === 'degraded' && /noeviction/.test(line.detail), `readiness says ${JSON.stringify(line)}`)
        return `ok before; seen degraded within ${((performance.now() - changed) / 1000).toFixed(0)} s (one look a minute): ${line?.detail.slice(0, 60)}`
      } finally {
        await kill(broker.child)
        await redis.stop()
      }
    })
}
