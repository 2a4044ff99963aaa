/** Owns how long what the broker says was under way: a line that grows slower by and by is never silent, and would pass off what is old for what is new. */

export interface Line {
  /** The broker named its time in an answer to what was asked at that moment of our monotonic clock. Milliseconds. */
  answered(brokerTime: number, askedAt: number): void
  /** At most so long ago it said what arrives now, by the time that it wrote on it. Zero where it wrote none. */
  lateBy(brokerTime: number | null): number
}

/** So long an answer counts: the clocks of two hosts drift apart by less than a millisecond meanwhile. */
const COUNTS_MS = 20_000

/**
 * Cristian's bound: the broker's time was written after we asked, so its clock is ahead of ours by `brokerTime - askedAt` at most. Of several
 * answers the quickest says it best, and a slow one makes nothing later than it is.
 */
export function line(monotonic = () => performance.now()): Line {
  let answers: readonly { readonly ahead: number; readonly at: number }[] = []

  return {
    answered(brokerTime, askedAt) {
      const at = monotonic()
      answers = [...answers.filter(a => at - a.at < COUNTS_MS), { ahead: brokerTime - askedAt, at }]
    },
    lateBy(brokerTime) {
      if (brokerTime === null || answers.length === 0) return 0
      const ahead = Math.min(...answers.map(a => a.ahead))
      return Math.max(0, monotonic() + ahead - brokerTime)
    },
  }
}
