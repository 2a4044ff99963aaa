/** Owns the rules of how often and how broad: nobody gets more than the rate and its burst, and whoever keeps to it is never refused. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { breadth } from '../../src/domain/breadth.js'
import { limiter, tally } from '../../src/domain/rate.js'
import { sourceOf } from '../../src/domain/source.js'

const rates = fc.record({ perSecond: fc.integer({ min: 1, max: 5_000 }), burst: fc.integer({ min: 1, max: 200 }) })

describe('a rate with a burst', () => {
  it('gives the burst at once, then one a step, and says how long the next one takes', () => {
    const { take } = limiter({ perSecond: 2, burst: 3 })
    expect([take('a', 0), take('a', 0), take('a', 0), take('a', 0)]).toEqual([0, 0, 0, 500])
    expect([take('a', 499), take('a', 500), take('a', 500)]).toEqual([1, 0, 500])
  })
  it('fills up again to the burst and no further', () => {
    const { take } = limiter({ perSecond: 1, burst: 2 })
    take('a', 0)
    take('a', 0)
    expect([take('a', 1e9), take('a', 1e9), take('a', 1e9)]).toEqual([0, 0, 1000])
  })
  it('is of each key by itself, and keys are compared letter by letter (T61)', () => {
    const { take } = limiter({ perSecond: 1, burst: 1 })
    for (const key of ['spiffe://td/a', 'spiffe://td/A', ' spiffe://td/a', 'spiffe://td/a ', 'ﬁ', 'fi', '__proto__', 'constructor']) {
      expect([key, take(key, 0), take(key, 0)]).toEqual([key, 0, 1000])
    }
  })
  it('a clock that stands gives nothing twice, and one that goes back, which none should, refuses nobody until it is there again', () => {
    const { take } = limiter({ perSecond: 1, burst: 1 })
    expect([take('a', 1_000), take('a', 1_000), take('a', 2_000)]).toEqual([0, 1000, 0])
    expect([take('a', 500), take('a', 500)]).toEqual([0, 1000])
  })
  it('never lets more than the burst and the rate through in any window, however it is asked', () => {
    fc.assert(
      fc.property(rates, fc.array(fc.integer({ min: 0, max: 400 }), { minLength: 1, maxLength: 600 }), (rate, gaps) => {
        const { take } = limiter(rate)
        const passed: number[] = []
        let now = 0
        for (const gap of gaps) {
          now += gap < 200 ? 0 : gap - 200
          if (take('a', now) === 0) passed.push(now)
        }
        for (let from = 0; from < passed.length; from++) {
          for (let to = from; to < passed.length; to++) {
            const seconds = ((passed[to] as number) - (passed[from] as number)) / 1000
            if (to - from + 1 > rate.burst + rate.perSecond * seconds + 1e-6) return false
          }
        }
        return true
      }),
      { numRuns: 200 },
    )
  })
  it('never refuses whoever keeps to the rate, wherever it begins and whatever others do meanwhile', () => {
    fc.assert(
      fc.property(
        rates,
        fc.double({ min: 0, max: 1e9, noNaN: true }),
        fc.array(fc.double({ min: 0, max: 50, noNaN: true }), { maxLength: 300 }),
        (rate, start, late) => {
          const { take } = limiter(rate)
          const stepMs = 1000 / rate.perSecond
          let now = start
          return late.every(ms => {
            for (let i = 0; i < 3; i++) take('somebody else', now)
            const isServed = take('a', now) === 0
            now += stepMs + ms
            return isServed
          })
        },
      ),
    )
  })
  it('whoever waits as long as it was told is served', () => {
    fc.assert(
      fc.property(rates, fc.integer({ min: 1, max: 400 }), (rate, asks) => {
        const { take } = limiter(rate)
        let now = 12_345.678
        for (let i = 0; i < asks; i++) {
          const waitMs = take('a', now)
          if (waitMs === 0) continue
          now += waitMs
          if (take('a', now) !== 0) return false
        }
        return true
      }),
    )
  })
  it('forgets the key that was seen longest ago, which then has its whole burst: nobody is refused for it', () => {
    const { take } = limiter({ perSecond: 1, burst: 1 }, 3)
    for (const key of ['a', 'b', 'c']) take(key, 0)
    expect(take('a', 0)).toBe(1000)
    take('d', 0)
    expect([take('a', 0), take('c', 0)], 'the one that hammers is kept').toEqual([1000, 1000])
    expect(take('b', 0)).toBe(0)
  })
  it('holds no more keys than it may', () => {
    const { take } = limiter({ perSecond: 1, burst: 1 }, 100)
    for (let i = 0; i < 10_000; i++) expect(take(`key ${i}`, 0)).toBe(0)
    expect(Array.from({ length: 100 }, (_, i) => take(`key ${9_900 + i}`, 0)).every(ms => ms > 0)).toBe(true)
    expect(take('key 0', 0)).toBe(0)
  })
})

describe('what is told once in a while', () => {
  it('is told at first, kept back within the window, and then told with the number of those', () => {
    const { tell } = tally(60_000)
    expect([tell('a', 0), tell('a', 1), tell('a', 59_999), tell('b', 59_999), tell('a', 60_000), tell('a', 60_001)]).toEqual([0, null, null, 0, 2, null])
  })
})

describe('how broad', () => {
  const many = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => `cap/${from + i}`)
  it('too many different ones within the time are told, once; the same one ever again is not', () => {
    const rule = breadth({ capabilities: 5, withinSeconds: 60 })
    for (let i = 0; i < 100; i++) expect(rule.note('a', ['cap/0'], i)).toBe(false)
    expect(rule.note('a', many(1, 4), 200)).toBe(false)
    expect(rule.note('b', many(4, 5), 200)).toBe(false)
    expect(rule.note('a', many(4, 5), 200)).toBe(true)
    expect(rule.note('a', many(5, 50), 300)).toBe(false)
    expect(rule.note('a', many(0, 5), 60_200), 'a new window').toBe(true)
  })
  it('all at once are too many as well', () => expect(breadth({ capabilities: 5, withinSeconds: 60 }).note('a', many(0, 50), 0)).toBe(true))
  it('many over a long time are none', () => {
    const rule = breadth({ capabilities: 5, withinSeconds: 60 })
    for (let i = 0; i < 100; i++) expect(rule.note('a', [`cap/${i}`], i * 15_000)).toBe(false)
  })
  it('what is asked for again stays new', () => {
    const rule = breadth({ capabilities: 3, withinSeconds: 60 })
    rule.note('a', ['x'], 0)
    rule.note('a', ['y'], 30_000)
    rule.note('a', ['x'], 50_000)
    expect(rule.note('a', ['z'], 80_000), 'x and y are within the time').toBe(true)
  })
})

describe('a source', () => {
  it.each([
    ['192.0.2.7', '192.0.2.7'],
    ['::ffff:192.0.2.7', '192.0.2.7'],
    ['::ffff:c000:207', '192.0.2.7'],
    ['0:0:0:0:0:ffff:192.0.2.7', '192.0.2.7'],
    ['2001:db8:1:2::1', '2001:db8:1:2::/64'],
    ['2001:0db8:0001:0002:aaaa:bbbb:cccc:dddd', '2001:db8:1:2::/64'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['::1', '0:0:0:0::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['64:ff9b::192.0.2.7', '64:ff9b:0:0::/64'],
  ])('%s is %s', (address, source) => expect(sourceOf(address)).toBe(source))
  it('is one and the same for all of a /64, and another for the next', () => {
    expect(sourceOf('2001:db8::ffff:1')).toBe(sourceOf('2001:db8::2'))
    expect(sourceOf('2001:db8:0:1::1')).not.toBe(sourceOf('2001:db8::1'))
  })
  it('of a socket that is gone is no address', () => expect(sourceOf(undefined)).toBe('unknown'))
})
