/** Owns the figures of revoking: refused, closed, proven dead, each beside its goal, all in one run on one machine. */
import { isAbsent } from '../src/dev/find.js'
import { startRun } from './report.js'
import { benchAct } from './revoke-act.js'
import { benchDue } from './revoke-due.js'
import { benchRefused } from './revoke-refused.js'
import { benchStore } from './revoke-store.js'
import { benchVault } from './revoke-vault.js'
import { startWorld, type World } from './world.js'

export interface RevokeOptions {
  readonly json: string | null
  /** Credentials of b and c, and a two-hundredth of it the users of d: 100,000. */
  readonly size: number | null
  /** Rows of e: 200,000. */
  readonly rows: number | null
  /** Letters of the parts, default all. */
  readonly only: string | null
}

export async function benchRevoke(options: RevokeOptions): Promise<number> {
  const size = options.size ?? 100_000
  const rows = options.rows ?? 200_000
  const only = options.only ?? 'abcde'
  const bench = startRun()
  const { report } = bench
  const over = async (letters: string, act: (world: World) => Promise<void>): Promise<boolean> => {
    if (![...letters].some(letter => only.includes(letter))) return true
    const world = await startWorld()
    if (isAbsent(world)) {
      report.say(`cannot run: ${world.absent}`)
      return false
    }
    try {
      if (report.figures.length === 0)
        report.say(
          `${bench.machine}, PostgreSQL ${world.store.version}, Redis ${world.redis.version}; two serve processes, a worker, databases and this program on the same cores; load average before ${bench.loadBefore}`,
        )
      await act(world)
      return true
    } finally {
      await world.close()
    }
  }
  const ran = await over('abce', async world => {
    if (only.includes('a')) await benchRefused(world, report, [1_000, size])
    if (only.includes('b')) await benchDue(world, report, size)
    if (only.includes('c')) await benchAct(world, report, size)
    if (only.includes('e')) await benchStore(world, report, rows)
  })
  if (ran && only.includes('d')) await benchVault(report, Math.max(1, Math.round(size / 200)))
  bench.end(options.json, { size, rows })
  return ran ? 0 : 1
}
