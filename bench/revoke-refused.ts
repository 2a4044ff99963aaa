/** Owns the figure that matters most: from the call that revokes to the first refusal in another process. */
import { hurried } from './job-each.js'
import { type Report, type Spread, spread } from './report.js'
import { emptied, seed } from './seed.js'
import type { World } from './world.js'

const ROUNDS = 3
const SAMPLES = 100

/** Milliseconds until the other process refuses, asked without a pause from the moment of the call. */
export async function untilRefused(world: World, token: string, selector: object): Promise<number> {
  const began = performance.now()
  const act = world.revoke(selector)
  while (await world.isActive(token));
  const took = performance.now() - began
  await act
  return took
}

async function sampled(world: World, n: number, until = () => true): Promise<number[]> {
  const made = await Promise.all(Array.from({ length: n }, () => world.issue('456790')))
  const took: number[] = []
  for (const { id, token } of made) {
    if (!until()) break
    took.push(await untilRefused(world, token, { credential: id }))
  }
  return took
}

const told = (s: Spread) => `p50 ${s.p50.toFixed(1)}, p99 ${s.p99.toFixed(1)}, max ${s.max.toFixed(1)} ms of ${s.n}`

export async function benchRefused(world: World, report: Report, rows: readonly number[]): Promise<void> {
  report.title(`a. revoke call → refused by introspection in another process  (${ROUNDS} rounds of ${SAMPLES}, one after the other)`)
  let quiet: Spread = { p50: Number.NaN, p99: Number.NaN, max: Number.NaN, n: 0 }
  let there = 0
  const like = (await world.issue()).id
  await sampled(world, 30)
  for (const n of rows) {
    await seed(world.db, { like, credentials: n - there, perTask: 10 })
    there = n
    const rounds: number[][] = []
    for (let round = 0; round < ROUNDS; round++) rounds.push(await sampled(world, SAMPLES))
    quiet = spread(rounds.flat())
    const name = `${n.toLocaleString('en')} active rows`
    report.say(rounds.map((r, i) => `round ${i + 1}: ${told(spread(r))}`).join('; '))
    report.figure({ what: `${name}: p50`, value: quiet.p50, unit: 'ms' })
    report.figure({ what: `${name}: p99`, value: quiet.p99, unit: 'ms', goal: { most: 20 } })
    report.figure({ what: `${name}: max`, value: quiet.max, unit: 'ms', goal: { most: 1_000 } })
  }
  await withBacklog(world, report, like, quiet)
  await world.redis.stop()
  const stopped = spread((await Promise.all([sampled(world, SAMPLES)])).flat())
  report.figure({ what: 'Redis stopped: p50', value: stopped.p50, unit: 'ms' })
  report.figure({ what: 'Redis stopped: max', value: stopped.max, unit: 'ms', goal: { most: 1_500 }, note: `p99 ${stopped.p99.toFixed(1)} ms of ${stopped.n}` })
  await world.restartRedis()
  await emptied(world.db)
}

/** Ten thousand rows due at once: what is measured lies between that moment and the last of them being revoked. */
async function withBacklog(world: World, report: Report, like: string, quiet: Spread): Promise<void> {
  const took: number[] = []
  for (let round = 0; round < 5; round++) {
    const second = Math.floor(Date.now() / 1000) + 6
    await seed(world.db, { like, credentials: 10_000, perTask: 100, expiresAt: second })
    await hurried(world.redis.url, second)
    const left = async () =>
      (
        await world.db.query(
          `select exists (select 1 from curfew.credentials where state in ('revoking', 'stuck')) or exists (select 1 from curfew.credentials where state = 'active' and expires_at <= now()) as left`,
        )
      ).rows[0].left as boolean
    let isBusy = true
    const made = await Promise.all(Array.from({ length: 80 }, () => world.issue('456790')))
    while (Date.now() < second * 1000 + 20) await new Promise(resolve => setTimeout(resolve, 5))
    const watch = (async () => {
      while (await left()) await new Promise(resolve => setTimeout(resolve, 20))
      isBusy = false
    })()
    for (const { id, token } of made) {
      if (!isBusy) break
      took.push(await untilRefused(world, token, { credential: id }))
    }
    isBusy = false
    await watch
  }
  const busy = spread(took)
  report.say(`while 10,000 expiries are worked off, 5 rounds: ${told(busy)}`)
  report.figure({ what: '10,000 expiries queued: p50 against the same without', value: busy.p50 / quiet.p50, unit: 'x', goal: { most: 2 } })
  report.figure({ what: '10,000 expiries queued: p99 against the same without', value: busy.p99 / quiet.p99, unit: 'x', goal: { most: 2 } })
}
