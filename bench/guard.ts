/** Owns the figures of guards: what a verification costs, how soon a revocation is refused in another process, and that silence is no pass; each beside its goal, in one run. */
import { isAbsent } from '../src/dev/find.js'
import { benchFanout } from './guard-fanout.js'
import { benchHeard, benchSilence } from './guard-refused.js'
import { benchVerify } from './guard-verify.js'
import { startRun } from './report.js'
import { startWorld } from './world.js'

export interface GuardBenchOptions {
  readonly json: string | null
  /** Entries of b and c at the most: 100,000. */
  readonly size: number | null
  /** Letters of the parts, default all; b is measured with c. */
  readonly only: string | null
}

export async function benchGuard(options: GuardBenchOptions): Promise<number> {
  const size = options.size ?? 100_000
  const only = options.only ?? 'abcde'
  const wants = (letters: string) => [...letters].some(letter => only.includes(letter))
  const bench = startRun()
  const { report } = bench
  report.say(`${bench.machine}; load average before ${bench.loadBefore}`)
  if (wants('a')) await benchVerify(report)
  let ran = true
  if (wants('bcde')) {
    const world = await startWorld()
    if (isAbsent(world)) {
      report.say(`b to e cannot run: ${world.absent}`)
      ran = false
    } else {
      try {
        report.say(`PostgreSQL ${world.store.version}, Redis ${world.redis.version}; two serve processes, a worker, databases and the guards on the same cores`)
        if (wants('bc')) await benchHeard(world, report, [0, 1_000])
        // Before the index is large: each of a thousand followers is sent all of it first.
        if (wants('d')) await benchFanout(world, report)
        if (wants('bc')) await benchHeard(world, report, [size], { alsoWithoutRedis: true })
        if (wants('e')) await benchSilence(world, report)
      } finally {
        await world.close()
      }
    }
  }
  bench.end(options.json, { size })
  return ran ? 0 : 1
}
