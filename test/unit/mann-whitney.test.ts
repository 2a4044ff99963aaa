import { describe, expect, it } from 'vitest'
import { mannWhitney } from '../../bench/mann-whitney.js'

/** Two sets of the same numbers, one of them moved. */
const spread = (n: number, by: number) => Array.from({ length: n }, (_, i) => ((i * 7_919) % n) / n + by)

describe('the Mann-Whitney U test', () => {
  it('gives the published values of a small example', () => {
    // SciPy's documentation of mannwhitneyu(method="asymptotic").
    const { u, p } = mannWhitney([19, 22, 16, 29, 24], [20, 11, 17, 12])
    expect(u).toBe(17)
    expect(p).toBeCloseTo(0.11134688653314041, 6)
  })
  it('counts a tie as half, and takes ties out of the variance', () => {
    // By hand: of the six pairs none is won, and two are tied.
    expect(mannWhitney([1, 2, 2], [2, 3]).u).toBe(1)
    expect(mannWhitney([5, 5, 5], [5, 5, 5])).toEqual({ u: 4.5, p: 1 })
  })
  it('does not mind which is first', () => {
    const [a, b] = [spread(50, 0), spread(60, 0.1)]
    expect(mannWhitney(a, b).p).toBeCloseTo(mannWhitney(b, a).p, 12)
    expect(mannWhitney(a, b).u + mannWhitney(b, a).u).toBe(3_000)
  })
  it('finds a small difference in many samples, and none where there is none', () => {
    expect(mannWhitney(spread(2_000, 0), spread(2_000, 0.05)).p).toBeLessThan(0.001)
    expect(mannWhitney(spread(2_000, 0), spread(2_000, 0)).p).toBeGreaterThan(0.9)
  })
})
