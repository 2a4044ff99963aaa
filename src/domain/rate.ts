/** Owns the rule of how often: a rate with a burst for each key, in memory that has an end, by a monotonic clock that is handed in. */

/** So many at once after a rest, and then so many a second. */
export interface Rate {
  readonly perSecond: number
  readonly burst: number
}

export interface Limiter {
  /** Takes one of the key's share and answers 0; or takes nothing and answers in how many milliseconds there is one. */
  take(key: string, nowMs: number): number
}

/** Of a limiter or a tally. */
const MAX_KEYS = 65_536
/** Sums of steps are not whole: nobody is refused for a rounding. Milliseconds. */
const ROUNDING_MS = 1e-6

/** GCRA: of each key nothing is kept but when its next one would be due if it had come evenly. */
export function limiter({ perSecond, burst }: Rate, maxKeys = MAX_KEYS): Limiter {
  const stepMs = 1000 / perSecond
  const due = recent<number>(maxKeys)
  return {
    take(key, nowMs) {
      const known = due.get(key) ?? nowMs
      // Nobody's next one is due later than after a whole burst: where the clock went back all the same, the key begins anew.
      const at = known < nowMs || known > nowMs + stepMs * (burst + 1) ? nowMs : known
      const waitMs = at - nowMs - stepMs * (burst - 1)
      const isTaken = waitMs <= ROUNDING_MS
      // Kept fresh when refused as well: whoever hammers is not forgotten for it.
      due.set(key, isTaken ? at + stepMs : at)
      return isTaken ? 0 : waitMs
    },
  }
}

/** For what must be told and comes too often to be told each time. */
export interface Tally {
  /** How many were kept back since the key was told last; null: told within the window, and now kept back as well. */
  tell(key: string, nowMs: number): number | null
}

export function tally(windowMs: number, maxKeys = MAX_KEYS): Tally {
  const told = recent<{ readonly atMs: number; readonly kept: number }>(maxKeys)
  return {
    tell(key, nowMs) {
      const last = told.get(key)
      const isDue = !last || nowMs < last.atMs || nowMs - last.atMs >= windowMs
      told.set(key, isDue ? { atMs: nowMs, kept: 0 } : { ...last, kept: last.kept + 1 })
      return isDue ? (last?.kept ?? 0) : null
    },
  }
}

/** A map that forgets what was set longest ago. A key that fell out begins anew: forgetting may serve somebody, and refuses nobody. */
export function recent<V>(maxKeys: number): { get(key: string): V | undefined; set(key: string, value: V): void } {
  const kept = new Map<string, V>()
  return {
    get: key => kept.get(key),
    set(key, value) {
      kept.delete(key)
      kept.set(key, value)
      if (kept.size > maxKeys) kept.delete(kept.keys().next().value as string)
    },
  }
}
