import { describe, expect, test } from 'vitest'
import { memoryReplay, redisReplay } from '../../../src/guard/replay.js'
import { testIssuer } from '../../../src/guard/testing.js'

const at = (ms: number) => new Date(1_700_000_000_000 + ms)

describe('in memory', () => {
  test('once until its end, whatever was used meanwhile', () => {
    const replay = memoryReplay()
    expect(replay.claim('a', at(360_000), at(0))).toBe(true)
    for (let i = 0; i < 1_000; i++) expect(replay.claim(`b${i}`, at(1_000), at(i))).toBe(true)
    expect(replay.claim('a', at(999_000), at(359_999))).toBe(false)
    expect(replay.claim('a', at(999_000), at(362_000))).toBe(true)
  })
  test('full, it refuses what is new and forgets nothing; what ended makes room', () => {
    const replay = memoryReplay({ max: 3 })
    for (const name of ['a', 'b', 'c']) expect(replay.claim(name, at(10_000), at(0))).toBe(true)
    expect(() => replay.claim('d', at(10_000), at(1))).toThrow('full')
    expect(replay.claim('a', at(10_000), at(2))).toBe(false)
    expect(replay.claim('d', at(20_000), at(12_000))).toBe(true)
  })
})

class FakeRedis {
  readonly kept = new Map<string, number>()
  readonly calls: unknown[][] = []
  put(key: string, px: number): 'OK' | null {
    if ((this.kept.get(key) ?? 0) > Date.now()) return null
    this.kept.set(key, Date.now() + px)
    return 'OK'
  }
}
class Words extends FakeRedis {
  async set(...args: unknown[]): Promise<unknown> {
    this.calls.push(args)
    const [key, , px, ms, nx] = args
    if (px !== 'PX' || nx !== 'NX') throw new Error('ERR syntax error')
    return this.put(key as string, ms as number)
  }
}
class Objects extends FakeRedis {
  readonly isOpen = true
  async set(...args: unknown[]): Promise<unknown> {
    this.calls.push(args)
    const [key, , options] = args as [string, string, { NX?: boolean; PX?: number } | undefined]
    return options?.NX ? this.put(key, options.PX ?? 0) : 'OK'
  }
}

describe('in Redis', () => {
  test.each([
    ['a client that takes words', () => new Words()],
    ['a client that takes an object', () => new Objects()],
  ])('%s: once, in two processes', async (_, make) => {
    const redis = make()
    const [one, two] = [redisReplay(redis), redisReplay(redis)]
    const both = await Promise.all([one.claim('dpop:k:1', at(60_000), at(0)), two.claim('dpop:k:1', at(60_000), at(0))])
    expect(both.sort()).toEqual([false, true])
    expect(await one.claim('dpop:k:2', at(60_000), at(0))).toBe(true)
    expect(redis.kept.get('dpop:k:2')).toBeGreaterThan(Date.now() + 50_000)
  })
  test('a client that does not honour NX is found out, and nothing passes', async () => {
    const deaf = { set: async () => 'OK' }
    const replay = redisReplay(deaf)
    await expect(replay.claim('a', at(1_000), at(0))).rejects.toThrow('NX')
    await expect(replay.claim('b', at(1_000), at(0))).rejects.toThrow('NX')
  })
  test.each([
    ['that is down', () => Promise.reject(new Error('ECONNREFUSED'))],
    ['that hangs', () => new Promise<boolean>(() => {})],
    ['that answers nonsense', async () => 'yes' as unknown as boolean],
  ])('a store %s gives no verdict, or no', async (name, claim) => {
    const iss = await testIssuer()
    const guard = await iss.guard({ replay: { claim } })
    const refused = await guard.verify(await (await iss.mint()).request('https://orders.test/')).catch(e => e)
    expect([refused.code, refused.status]).toEqual(['proof_replayed', name.includes('nonsense') ? 401 : 503])
    iss.close()
  })
})
