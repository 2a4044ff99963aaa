/** Owns the guess behind "did you mean": the known name nearest to a misspelt one. */
import { edits } from '../domain/spelling.js'

/** `; did you mean "…"?`, or nothing when none is near. */
export function didYouMean(name: string, known: readonly string[]): string {
  const wanted = name.toLowerCase()
  const [nearest] = known.map(candidate => ({ candidate, far: edits(wanted, candidate.toLowerCase()) })).sort((a, b) => a.far - b.far)
  return nearest && nearest.far <= Math.max(2, Math.floor(name.length / 3)) ? `; did you mean "${nearest.candidate}"?` : ''
}
