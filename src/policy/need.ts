/** Owns which facts a set of policies reads at all: Cedar is shown those and no others, since every fact costs, read or not. */
import type { Fact, Facts } from './context.js'
import { hasPathsIn, type PolicyEst, pathsIn } from './est.js'

/** A record is shown by its needed parts; what is compared as a value is shown whole. */
export interface Need {
  whole: boolean
  readonly parts: Map<string, Need>
}

const nothing = (): Need => ({ whole: false, parts: new Map() })

/**
 * What none of them reads can change none of their answers. A `has` needs the fact to be there; of a record, that it is there, be it
 * empty: `context has github`.
 */
export function needOf(policies: readonly PolicyEst[]): Need {
  const root = nothing()
  const at = (path: readonly string[]): Need => {
    let need = root
    for (const segment of path.slice(1)) {
      const below = need.parts.get(segment) ?? nothing()
      need.parts.set(segment, below)
      need = below
    }
    return need
  }
  for (const { body } of policies.flatMap(p => p.conditions)) {
    for (const path of pathsIn(body)) if (path[0] === 'context') at(path).whole = true
    for (const path of hasPathsIn(body)) if (path[0] === 'context') at(path)
  }
  return root
}

export function shown(facts: Facts, need: Need): Facts {
  if (need.whole) return facts
  const kept: Record<string, Fact> = {}
  for (const [name, below] of need.parts) {
    const fact = Object.hasOwn(facts, name) ? facts[name] : undefined
    if (fact === undefined) continue
    kept[name] = typeof fact === 'object' && !Array.isArray(fact) ? shown(fact as Facts, below) : fact
  }
  return kept
}
