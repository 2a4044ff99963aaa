/** Owns this process's knowledge of the database's time: an offset, measured again and again, never trusted for long. */
import { CurfewError } from '../domain/errors.js'
import type { Clock } from '../ports.js'
import type { Log } from './log.js'
import type { Sql } from './sql.js'

const MEASURE_MS = 10_000
/** Without a measurement for this long nothing may be decided by it. */
const STALE_MS = 30_000
/** Apart by more than this, somebody should look at the hosts. */
const SKEW_MS = 2_000

export interface DatabaseClock extends Clock {
  measure(): Promise<void>
  stop(): void
}

/**
 * The answer's arrival is taken for the moment that the database spoke of, so that this clock is late by at most one journey and
 * never early: an `iat` from the database's future would slip through a cut-off committed before it is reached. In between,
 * time runs on by the monotonic clock.
 */
export async function databaseClock(sql: Pick<Sql, 'query'>, log: Log): Promise<DatabaseClock> {
  let database = 0
  let arrived = Number.NEGATIVE_INFINITY
  const clock: DatabaseClock = {
    now() {
      const passed = performance.now() - arrived
      if (!(passed < STALE_MS)) throw new CurfewError('unavailable', 'the time of the store is not known', { reason: 'clock_unknown', retryAfterSeconds: 1 })
      return new Date(database + passed)
    },
    async measure() {
      const [row] = await sql.query<{ at: Date }>('select curfew.now() as at')
      arrived = performance.now()
      if (!row) throw new TypeError('the database tells its time in one row')
      database = row.at.getTime()
      // The one look at the host's own clock, as it was when this process began: to tell people that it is wrong, and for nothing else.
      const skew = database - (performance.timeOrigin + arrived)
      if (Math.abs(skew) > SKEW_MS) log.warn({ skewMs: Math.round(skew) }, 'the clock of this host and of the store are apart; the store decides')
    },
    stop: () => clearInterval(timer),
  }
  const timer = setInterval(() => void clock.measure().catch(error => log.warn({ err: error }, 'the time of the store could not be read')), MEASURE_MS)
  timer.unref()
  try {
    await clock.measure()
  } catch (error) {
    clock.stop()
    throw error
  }
  return clock
}
