/** Owns the reason of a denial as its caller may hear it: the nearest rule, the caller's own differing fact, never the policy's value. */
import { createHash } from 'node:crypto'
import type { Explanation } from '../domain/decision.js'
import type { Fact, Facts } from './context.js'
import { conjunctsOf, type Expr, hasPathOf, hasPathsIn, type PolicyEst, pathsIn, scopeEntity, startsWith } from './est.js'

/** One thing that a rule demands; a `has` guard belongs to the condition that it guards, so that "3 of 4" reads as one would count. */
export interface Condition {
  readonly expr: Expr
  /** The same for the same condition of another rule, so that each is asked once. */
  readonly id: string
  /** The fact it is about, as a path; null when it is about none of the caller's. */
  readonly about: readonly string[] | null
}

export interface Rule {
  readonly id: string
  readonly effect: 'permit' | 'forbid'
  readonly conditions: readonly Condition[]
}

export function ruleOf(id: string, est: PolicyEst): Rule {
  return { id, effect: est.effect, conditions: [...scopeConditions(est), ...conditionsOf(conjunctsOf(est))] }
}

/** A rule for one workload demands an identity. A rule for one capability demands nothing of its caller. */
function scopeConditions(est: PolicyEst): readonly Condition[] {
  const entity = scopeEntity(est.principal)
  if (!entity) return []
  return [condition({ '==': { left: { Var: 'principal' }, right: { Value: { __entity: entity } } } }, ['principal'])]
}

function condition(expr: Expr, about: readonly string[] | null): Condition {
  return { expr, about, id: createHash('sha256').update(JSON.stringify(expr)).digest('base64url') }
}

interface Guard {
  readonly at: number
  readonly path: readonly string[]
  readonly expr: Expr
  used: boolean
}

function conditionsOf(conjuncts: readonly Expr[]): readonly Condition[] {
  const guards: Guard[] = []
  const found: (Condition & { readonly at: number })[] = []
  for (const [at, expr] of conjuncts.entries()) {
    const asked = hasPathOf(expr)
    if (asked) {
      guards.push({ at, path: asked, expr, used: false })
      continue
    }
    const paths = pathsIn(expr)
    if (paths.length > 0 && paths.every(p => p[0] === 'resource' || p[0] === 'action')) continue
    const needed = guards.filter(g => paths.some(p => startsWith(p, g.path)))
    for (const guard of needed) guard.used = true
    found.push({ at, ...condition(all([...needed.map(g => g.expr), expr]), aboutOf(expr)) })
  }
  // A guard that guards nothing is a demand of its own: `context has owner`. Of nested ones the innermost says it all.
  for (const guard of guards) {
    if (guard.used || guards.some(other => other !== guard && other.path.length > guard.path.length && startsWith(other.path, guard.path))) continue
    const outer = guards.filter(g => startsWith(guard.path, g.path))
    found.push({ at: guard.at, ...condition(all(outer.map(g => g.expr)), guard.path) })
  }
  return found.sort((a, b) => a.at - b.at)
}

const all = (parts: readonly Expr[]): Expr => parts.reduce((left, right) => ({ '&&': { left, right } }))

/** The first of the caller's own facts in it; the capability's own only when there is no other. */
function aboutOf(expr: Expr): readonly string[] | null {
  const paths = [...pathsIn(expr), ...hasPathsIn(expr)].filter(p => (p[0] === 'context' && p.length > 1) || p[0] === 'principal')
  return paths.find(p => p[1] !== 'capability') ?? paths[0] ?? null
}

/** Every condition of the permits as a permit of its own: Cedar itself says which hold, by naming the permits that determined its answer. */
export function conditionPolicies(rules: readonly Rule[]): Record<string, object> {
  const everywhere = { effect: 'permit', principal: { op: 'All' }, action: { op: 'All' }, resource: { op: 'All' } }
  const conditions = rules.filter(rule => rule.effect === 'permit').flatMap(rule => rule.conditions)
  return Object.fromEntries(conditions.map(({ id, expr }) => [id, { ...everywhere, conditions: [{ kind: 'when', body: expr }] }]))
}

/**
 * Nearest is the permit with most conditions true, among those that believe the caller's issuer; then among those that at least know
 * its evidence. A rule for others, of which only the time or the proof holds, is near to nobody: it would send the caller astray.
 * @param rules the permits and forbids that apply to the capability
 * @param holding ids of `conditionPolicies` that hold
 * @param forbiddenBy ids of the forbids that matched, which no permit can outweigh: the fact that they read is told first
 */
export function explanationOf(
  rules: readonly Rule[],
  holding: ReadonlySet<string>,
  forbiddenBy: readonly string[],
  identity: string,
  facts: Facts,
): Explanation {
  const ranked = rules
    .filter(rule => rule.effect === 'permit')
    .map(rule => {
      const held = rule.conditions.map(c => holding.has(c.id))
      const about = (ofInterest: (path: readonly string[]) => boolean) => rule.conditions.some((c, i) => held[i] && c.about && ofInterest(c.about))
      const near = about(path => path[1] === 'issuer') ? 2 : about(isEvidence) ? 1 : 0
      return { rule, near, held: held.filter(Boolean).length, differs: rule.conditions[held.indexOf(false)] ?? null }
    })
    .filter(r => r.near > 0)
    .sort((a, b) => b.near - a.near || b.held - a.held || a.rule.conditions.length - b.rule.conditions.length || (a.rule.id < b.rule.id ? -1 : 1))
  const [nearest] = ranked
  const against = rules.filter(r => forbiddenBy.includes(r.id)).flatMap(r => r.conditions.filter(c => c.about && c.about[1] !== 'capability').slice(0, 1))
  const paths = [...against, nearest?.differs].flatMap(condition => (condition?.about ? [condition.about] : []))
  const failed = paths.map(path => ({ claim: claimName(path), actual: actual(path, identity, facts) }))
  return {
    nearestRule: nearest ? { id: nearest.rule.id, held: nearest.held, of: nearest.rule.conditions.length } : null,
    failed: failed.filter((f, i) => failed.findIndex(other => other.claim === f.claim) === i),
    forbiddenBy,
  }
}

/** The record of a profile is our shelf, not the caller's word: `ref`, not `context.github.ref`. */
const SHELVES = new Set(['github', 'gitlab', 'buildkite', 'circleci', 'kubernetes', 'spiffe', 'registered', 'oidc', 'claims'])

const isEvidence = (path: readonly string[]) => path[0] === 'principal' || SHELVES.has(path[1] ?? '')

function claimName(path: readonly string[]): string {
  if (path[0] === 'principal') return 'identity'
  const rest = path.slice(1)
  while (rest.length > 1 && SHELVES.has(rest[0] as string)) rest.shift()
  return rest.join('.').replace(/_prefixes$/, '')
}

function actual(path: readonly string[], identity: string, facts: Facts): string | null {
  if (path[0] === 'principal') return identity
  let at: Fact | undefined = facts
  const last = path.at(-1)?.replace(/_prefixes$/, '') as string
  for (const segment of [...path.slice(1, -1), last]) {
    at = typeof at === 'object' && !Array.isArray(at) && Object.hasOwn(at, segment) ? (at as Facts)[segment] : undefined
  }
  if (at === undefined) return null
  if (Array.isArray(at)) return at.join(', ')
  return typeof at === 'object' ? null : String(at)
}
