/** Owns the guess behind "did you mean": the known name nearest to a misspelt one. */

/** `; did you mean "…"?`, or nothing when none is near. */
export function didYouMean(name: string, known: readonly string[]): string {
  const wanted = name.toLowerCase()
  const [nearest] = known.map(candidate => ({ candidate, far: distance(wanted, candidate.toLowerCase()) })).sort((a, b) => a.far - b.far)
  return nearest && nearest.far <= Math.max(2, Math.floor(name.length / 3)) ? `; did you mean "${nearest.candidate}"?` : ''
}

/** Levenshtein's: how many letters to insert, drop or change. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)))
    }
    row = next
  }
  return row[b.length] ?? 0
}
