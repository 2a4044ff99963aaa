/** Owns reading Cedar's JSON form of a policy (its EST): paths, conjuncts, literals, and which way a part of a condition pulls. */

/** One node: an object whose only key is the operator. */
export type Expr = Readonly<Record<string, unknown>>

export interface Scope {
  readonly op: 'All' | '==' | 'in' | 'is'
  readonly entity?: EntityRef
}

export type EntityRef = { readonly type: string; readonly id: string } | { readonly __entity: { readonly type: string; readonly id: string } }

export interface PolicyEst {
  readonly effect: 'permit' | 'forbid'
  readonly principal: Scope
  readonly action: Scope
  readonly resource: Scope
  readonly conditions: readonly { readonly kind: 'when' | 'unless'; readonly body: Expr }[]
  readonly annotations?: Readonly<Record<string, string | null>>
}

/**
 * What making this part true does to the set of requests that are granted. A comparison below `==`, or the test of an `if`, pulls
 * both ways: nothing is known.
 */
export type Pull = 'widens' | 'narrows' | 'both'

const flipped: Readonly<Record<Pull, Pull>> = { widens: 'narrows', narrows: 'widens', both: 'both' }

export function operatorOf(expr: Expr): string {
  return Object.keys(expr)[0] ?? ''
}

/** The operands, as a record: `{ left, right }`, `{ arg }`, `{ if, then, else }`. */
export function operandsOf(expr: Expr): Readonly<Record<string, unknown>> {
  const body = expr[operatorOf(expr)]
  return typeof body === 'object' && body !== null ? (body as Record<string, unknown>) : {}
}

const isExpr = (value: unknown): value is Expr => typeof value === 'object' && value !== null && !Array.isArray(value)

export function childrenOf(expr: Expr): readonly Expr[] {
  const op = operatorOf(expr)
  if (op === 'Value' || op === 'Var' || op === 'Slot') return []
  const body = expr[op]
  const parts: readonly unknown[] = Array.isArray(body) ? body : Object.entries(operandsOf(expr)).flatMap(([key, part]) => (key === 'pattern' ? [] : [part]))
  return parts.filter(isExpr)
}

export function visit(expr: Expr, pull: Pull, see: (expr: Expr, pull: Pull) => void): void {
  see(expr, pull)
  const op = operatorOf(expr)
  for (const [i, child] of childrenOf(expr).entries()) {
    const below: Pull = op === '&&' || op === '||' || (op === 'if-then-else' && i > 0) ? pull : op === '!' ? flipped[pull] : 'both'
    visit(child, below, see)
  }
}

/** Every part of every condition. */
export function visitPolicy(est: PolicyEst, see: (expr: Expr, pull: Pull) => void): void {
  for (const { kind, body } of est.conditions) visit(body, (est.effect === 'permit') === (kind === 'when') ? 'widens' : 'narrows', see)
}

export function depthOf(expr: Expr): number {
  return 1 + Math.max(0, ...childrenOf(expr).map(depthOf))
}

/** `context.github.ref` as `['context', 'github', 'ref']`; null for anything that is not a plain path. */
export function pathOf(expr: unknown): readonly string[] | null {
  if (!isExpr(expr)) return null
  if (typeof expr.Var === 'string') return [expr.Var]
  const access = expr['.'] as { left: unknown; attr: string } | undefined
  if (!access) return null
  const left = pathOf(access.left)
  return left && [...left, access.attr]
}

/** The path that a `has` asks for; the extended form (`context has github.environment`) asks for the longest. */
export function hasPathOf(expr: Expr): readonly string[] | null {
  const has = expr.has as { left: unknown; attr: string | readonly string[] } | undefined
  const left = has && pathOf(has.left)
  return left ? [...left, ...(typeof has.attr === 'string' ? [has.attr] : has.attr)] : null
}

/** Every plain path in it, longest only, in reading order. `has` tests are left to `hasPathOf`. */
export function pathsIn(expr: Expr): readonly (readonly string[])[] {
  const own = pathOf(expr)
  if (own) return [own]
  if (hasPathOf(expr)) return []
  return childrenOf(expr).flatMap(pathsIn)
}

/** Every path that a `has` in it asks for. */
export function hasPathsIn(expr: Expr): readonly (readonly string[])[] {
  const own = hasPathOf(expr)
  return own ? [own] : childrenOf(expr).flatMap(hasPathsIn)
}

export function literalOf(expr: unknown): string | number | boolean | null {
  const value = isExpr(expr) ? expr.Value : undefined
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? value : null
}

/** The members of a set of literals; null when a member is computed. */
export function literalsOf(expr: unknown): readonly (string | number | boolean)[] | null {
  const members = isExpr(expr) ? expr.Set : undefined
  if (!Array.isArray(members)) return null
  const values = members.map(literalOf)
  return values.every(v => v !== null) ? values : null
}

export function entityOf(ref: unknown): { readonly type: string; readonly id: string } | null {
  if (!isExpr(ref)) return null
  const inner = isExpr(ref.__entity) ? ref.__entity : ref
  return typeof inner.type === 'string' && typeof inner.id === 'string' ? { type: inner.type, id: inner.id } : null
}

/** The entity that a node spells out, as in `resource == Capability::"db/orders-ro"`. */
export function entityLiteralOf(expr: unknown): { readonly type: string; readonly id: string } | null {
  return isExpr(expr) && isExpr(expr.Value) && isExpr(expr.Value.__entity) ? entityOf(expr.Value) : null
}

/** The one entity that a scope admits (there is no hierarchy, so that `in` says no more than `==`); null when it admits many. */
export function scopeEntity(scope: Scope): { readonly type: string; readonly id: string } | null {
  return scope.op === '==' || scope.op === 'in' ? entityOf(scope.entity) : null
}

const negation = (arg: Expr): Expr => ({ '!': { arg } })

function split(expr: Expr, op: '&&' | '||'): readonly Expr[] {
  const body = expr[op] as { left: Expr; right: Expr } | undefined
  return body ? [...split(body.left, op), ...split(body.right, op)] : [expr]
}

/** What must hold, one by one: the conjuncts of every `when`, and the negated disjuncts of every `unless`. */
export function conjunctsOf(est: PolicyEst): readonly Expr[] {
  return est.conditions.flatMap(({ kind, body }) => (kind === 'when' ? split(body, '&&') : split(body, '||').map(negation)))
}

/** True when the path begins with the other, segment by segment. */
export function startsWith(path: readonly string[], prefix: readonly string[]): boolean {
  return prefix.length <= path.length && prefix.every((segment, i) => path[i] === segment)
}
