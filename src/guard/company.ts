/** Owns knowing that other processes serve as the same guard, and what that means where each remembers used proofs for itself. */
import type { GuardLog } from './settings.js'

/** `shared`: where all of them look. `alone`: in this process, and there is no other. `split`: in this process, and there are others: a proof passes once at each. */
export type ReplayReach = 'shared' | 'alone' | 'split'

export interface Company {
  /** The broker's word: processes with the key of this guard, this one included. */
  told(instances: number): void
  /** Null: not told yet. */
  readonly instances: number | null
  readonly replay: ReplayReach
}

/** The broker counts one that is gone for 30 s more: after a restart nobody is warned of oneself. */
const LINGER_MS = 45_000

export interface CompanyOptions {
  /** Proofs are looked at here, and what was used is remembered in this process. */
  readonly remembersAlone: boolean
  readonly log: GuardLog
  readonly monotonic?: () => number
}

export function company({ remembersAlone, log, monotonic = () => performance.now() }: CompanyOptions): Company {
  let instances: number | null = null
  let since: number | null = null
  let isSplit = false
  let isWarned = false

  return {
    told(count) {
      instances = count
      since = count > 1 ? (since ?? monotonic()) : null
      isSplit = remembersAlone && since !== null && monotonic() - since >= LINGER_MS
      if (!isSplit || isWarned) return
      isWarned = true
      log.warn(
        { instances },
        'other processes serve as this guard, and each remembers used proofs for itself: a proof passes once at each; give all of them redisReplay',
      )
    },
    get instances() {
      return instances
    },
    get replay() {
      return !remembersAlone ? 'shared' : isSplit ? 'split' : 'alone'
    },
  }
}
