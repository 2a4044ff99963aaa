/** Owns what still runs under a token: registered by every name that a revocation can use, and ended when one does, or when its time is up. */
import type { FeedEntry } from '../domain/revocation.js'
import type { Verified } from './token.js'

export type Ending = 'revoked' | 'token_expired'

export interface Live {
  /** Registers. Null when there are more than may be: the caller must treat it as ended. Answers how to let go. */
  add(verified: Verified, end: (why: Ending) => void): (() => void) | null
  /** Ends all that these entries hit. */
  apply(entries: readonly FeedEntry[]): void
  /** Ends what is expired by the guard's clock, which may have moved unlike the timers. */
  expire(now: number): void
  readonly size: number
  close(): void
}

interface Running {
  readonly verified: Verified
  readonly keys: readonly string[]
  readonly end: (why: Ending) => void
  timer: NodeJS.Timeout | null
}

/** A timer cannot be set further ahead. Milliseconds. */
const LONGEST = 2_147_483_647

export function liveTokens({ max, now }: { readonly max: number; readonly now: () => number }): Live {
  const running = new Set<Running>()
  const named = new Map<string, Set<Running>>()

  function remove(item: Running): boolean {
    if (!running.delete(item)) return false
    if (item.timer) clearTimeout(item.timer)
    for (const key of item.keys) {
      const same = named.get(key)
      same?.delete(item)
      if (same?.size === 0) named.delete(key)
    }
    return true
  }

  function finish(item: Running, why: Ending): void {
    if (remove(item)) item.end(why)
  }

  return {
    add(verified, end) {
      if (running.size >= max) return null
      const item: Running = { verified, keys: keysOf(verified), end, timer: null }
      running.add(item)
      for (const key of item.keys) {
        const same = named.get(key)
        if (same) same.add(item)
        else named.set(key, new Set([item]))
      }
      const left = verified.expiresAt * 1000 - now()
      item.timer = setTimeout(() => finish(item, 'token_expired'), Math.min(Math.max(left, 0), LONGEST))
      item.timer.unref()
      return () => void remove(item)
    },
    apply(entries) {
      for (const { kind, key, issuedBefore } of entries) {
        const hit = kind === 'all' ? running : named.get(`${kind}:${key}`)
        // At the cut-off is before it, as in the index.
        for (const item of [...(hit ?? [])]) {
          if (issuedBefore === null || item.verified.names.issuedAt * 1000 <= issuedBefore.getTime()) finish(item, 'revoked')
        }
      }
    },
    expire(at) {
      for (const item of [...running]) if (item.verified.expiresAt * 1000 <= at) finish(item, 'token_expired')
    },
    get size() {
      return running.size
    },
    close() {
      for (const item of [...running]) remove(item)
    },
  }
}

function keysOf({ names }: Verified): string[] {
  return [
    `credential:${names.credential}`,
    ...[names.task, ...names.ancestors].map(t => `task:${t}`),
    ...names.identities.map(i => `identity:${i}`),
    ...names.issuers.map(i => `issuer:${i}`),
    `key:${names.kid}`,
    ...names.capabilities.map(c => `capability:${c}`),
  ]
}
