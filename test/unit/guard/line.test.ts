import { describe, expect, test } from 'vitest'
import { line } from '../../../src/guard/line.js'

describe('how long a word was under way', () => {
  const at = (ms = 1_000) => {
    const clock = { ms }
    return { clock, way: line(() => clock.ms) }
  }
  test('is not known before anything was answered, nor of a word without a time', () => {
    const { way } = at()
    expect(way.lateBy(123)).toBe(0)
    way.answered(50_000, 990)
    expect(way.lateBy(null)).toBe(0)
  })
  test('is what has passed at most, however far apart the clocks are', () => {
    const { clock, way } = at()
    // Asked at 990; it wrote 50,000 at some time until 1,000.
    way.answered(50_000, 990)
    expect(way.lateBy(50_000)).toBe(10)
    clock.ms = 4_000
    expect(way.lateBy(53_000)).toBe(10)
    expect(way.lateBy(51_000)).toBe(2_010)
    // From its future: its clock was set.
    expect(way.lateBy(99_000)).toBe(0)
  })
  test('by the quickest of the last answers: a slow one makes nothing later', () => {
    const { clock, way } = at()
    way.answered(50_000, 998)
    clock.ms = 3_000
    way.answered(50_500, 1_000)
    expect(way.lateBy(52_000)).toBe(2)
  })
  test('and by the last alone once they are old: a clock that was set is followed', () => {
    const { clock, way } = at()
    way.answered(50_000, 998)
    clock.ms = 22_000
    expect(way.lateBy(71_000)).toBe(2)
    // An hour ahead from here on.
    way.answered(71_000 + 3_600_000, 21_999)
    expect(way.lateBy(71_000 + 3_600_000)).toBe(1)
    expect(way.lateBy(70_000 + 3_600_000)).toBe(1_001)
  })
})
