/** Owns the Mann-Whitney U test: whether of two samples one tends to be larger, whatever their distributions. */

export interface RankSum {
  /** Pairs in which the first sample is larger; a tie is half of one. */
  readonly u: number
  /** Two-sided, by the normal approximation with corrections for ties and for continuity: for samples of twenty and more. */
  readonly p: number
}

export function mannWhitney(a: readonly number[], b: readonly number[]): RankSum {
  const all = [...a.map(value => ({ value, isFirst: true })), ...b.map(value => ({ value, isFirst: false }))].sort((x, y) => x.value - y.value)
  let ranksOfFirst = 0
  let ties = 0
  for (let from = 0; from < all.length; ) {
    let to = from
    while (to < all.length && all[to]?.value === all[from]?.value) to++
    const same = to - from
    // Equals share the middle of their ranks.
    ranksOfFirst += all.slice(from, to).filter(x => x.isFirst).length * ((from + 1 + to) / 2)
    ties += same ** 3 - same
    from = to
  }
  const u = ranksOfFirst - (a.length * (a.length + 1)) / 2
  const n = all.length
  const deviation = Math.sqrt(((a.length * b.length) / 12) * (n + 1 - ties / (n * (n - 1))))
  const off = Math.max(0, Math.abs(u - (a.length * b.length) / 2) - 0.5)
  return { u, p: deviation === 0 ? 1 : erfc(off / deviation / Math.SQRT2) }
}

/** The complementary error function for x ≥ 0, by a rational Chebyshev fit: 1.2e-7 of its value at most (Press et al., Numerical Recipes, section 6.2). */
function erfc(x: number): number {
  const t = 1 / (1 + x / 2)
  const fit = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277]
  return Math.min(1, t * Math.exp(-x * x + fit.reduceRight((sum, c) => c + t * sum, 0)))
}
