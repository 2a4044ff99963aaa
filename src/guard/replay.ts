/** Owns that a proof is used once: two ways to remember it, and what they have in common is that no answer is no pass. */
import { createHash, randomBytes } from 'node:crypto'

export interface Replay {
  /** True exactly once for a name until then. MUST reject or throw when it cannot tell. */
  claim(name: string, until: Date, now: Date): boolean | Promise<boolean>
  /** It remembers in this process alone, and knows nothing of what others saw. */
  readonly isOwn?: boolean
}

/** For one process. Forgets a name when its proof could not be shown again; full, it refuses rather than forget (a flood must not open a hole). */
export function memoryReplay({ max = 500_000 }: { readonly max?: number } = {}): Replay {
  const until = new Map<string, number>()
  /** Names by the second in which they end, so that forgetting costs what it frees. */
  const ending = new Map<number, string[]>()
  let swept = 0

  function sweep(now: number): void {
    const second = Math.floor(now / 1000)
    if (second === swept) return
    swept = second
    for (const [end, names] of ending) {
      if (end >= second) continue
      for (const name of names) until.delete(name)
      ending.delete(end)
    }
  }

  return {
    isOwn: true,
    claim(name, end, now) {
      sweep(now.getTime())
      // 16 bytes stand for a name of any length: memory is bounded by the count alone.
      const mark = createHash('sha256').update(name).digest('binary').slice(0, 16)
      if (until.has(mark)) return false
      if (until.size >= max) throw new Error('the memory of used proofs is full')
      until.set(mark, end.getTime())
      const second = Math.floor(end.getTime() / 1000)
      const same = ending.get(second)
      if (same) same.push(mark)
      else ending.set(second, [mark])
      return true
    },
  }
}

/** Any client with a `set`: ioredis takes words, node-redis takes an object. */
export interface RedisLike {
  set(key: string, value: string, ...rest: never[]): Promise<unknown>
}

/** For several processes: `SET … NX PX`. It shows once that the client understands NX: one that ignores it would let every replay pass. */
export function redisReplay(redis: RedisLike, { prefix = '' }: { readonly prefix?: string } = {}): Replay {
  const set = redis.set.bind(redis) as (key: string, value: string, ...rest: unknown[]) => Promise<unknown>
  const once = (key: string, ms: number) => ('isOpen' in redis ? set(key, '1', { NX: true, PX: ms }) : set(key, '1', 'PX', ms, 'NX'))
  let shown: Promise<void> | null = null

  async function show(): Promise<void> {
    const key = `${prefix}dpop:probe:${randomBytes(9).toString('base64url')}`
    if ((await once(key, 1_000)) !== 'OK' || (await once(key, 1_000)) === 'OK') throw new Error('this Redis client does not honour SET NX')
  }

  return {
    async claim(name, until, now) {
      shown ??= show()
      try {
        await shown
      } catch (fault) {
        shown = null
        throw fault
      }
      return (await once(prefix + name, Math.max(1, until.getTime() - now.getTime()))) === 'OK'
    },
  }
}
