/** Owns this process's knowledge of the database's time: an offset, measured again and again, never trusted for long. */
import { CurfewError } from '../domain/errors.js'
import type { Clock } from '../ports.js'
import type { Log } from './log.js'
import type { Sql } from './sql.js'

const MEASURE_MS = 5_000
/** Without a measurement for this long nothing may be decided by it. */
const STALE_MS = 60_000
/** Apart by more than this, somebody should look at the hosts. */
const SKEW_MS = 2_000

export interface DatabaseClock extends Clock {
  measure(): Promise<void>
  stop(): void
}

/** The middle of the round trip is taken for the moment that the database spoke of; time runs on by the monotonic clock in between. */
export async function databaseClock(sql: Sql, log: Log): Promise<DatabaseClock> {
  let database = 0
  let monotonic = Number.NEGATIVE_INFINITY
  const clock: DatabaseClock = {
    now() {
      const passed = performance.now() - monotonic
      if (!(passed < STALE_MS)) throw new CurfewError('unavailable', 'the time of the store is not known', { reason: 'clock_unknown', retryAfterSeconds: 1 })
      return new Date(database + passed)
    },
    async measure() {
      const sent = performance.now()
      const [row] = await sql.query<{ at: Date }>('select curfew.now() as at')
      const answered = performance.now()
      const at = (row?.at as Date).getTime()
      database = at
      monotonic = (sent + answered) / 2
      const skew = at - (performance.timeOrigin + monotonic)
      if (Math.abs(skew) > SKEW_MS) log.warn({ skewMs: Math.round(skew) }, 'the clock of this host and of the store are apart; the store decides')
    },
    stop: () => clearInterval(timer),
  }
  const timer = setInterval(() => void clock.measure().catch(error => log.warn({ err: error }, 'the time of the store could not be read')), MEASURE_MS)
  timer.unref()
  await clock.measure()
  return clock
}
