/** Owns a second opinion: a subset of the policy language as plain data, written out as Cedar and judged here without Cedar. */
import fc from 'fast-check'
import type { Obligations } from '../../../src/domain/decision.js'
import { type Asked, CALLERS, CAPABILITIES, ISSUERS } from './house.js'

/** Facts of a request, flat, as the reference sees them: no entry is absent. */
export type World = Readonly<Record<string, string | number | boolean | readonly string[]>>

export type Test =
  | { readonly kind: 'eq'; readonly fact: string; readonly value: string }
  | { readonly kind: 'in'; readonly fact: string; readonly values: readonly string[] }
  | { readonly kind: 'has'; readonly fact: string }
  | { readonly kind: 'label'; readonly value: string }
  | { readonly kind: 'under'; readonly value: string }
  | { readonly kind: 'least'; readonly fact: 'strength' | 'depth' | 'evidence_age'; readonly n: number }
  | { readonly kind: 'ttl'; readonly n: number }
  | { readonly kind: 'proof' }
  | { readonly kind: 'and' | 'or'; readonly parts: readonly Test[] }
  | { readonly kind: 'not'; readonly part: Test }

export interface Rule {
  readonly effect: 'permit' | 'forbid'
  readonly id: string
  readonly capability: string | null
  readonly identity: string | null
  readonly issuer: string
  readonly repositories: readonly string[]
  readonly when: Test
  readonly unless: Test | null
  readonly maxTtl: number | null
  readonly proof: boolean
}

const OPTIONAL = new Set(['owner', 'capability.audience', 'github.environment', 'github.runner_environment', 'github.workflow_ref'])
const text = (value: string) => JSON.stringify(value)

/** Cedar demands a guard before an optional fact: each test brings its own, so that it may stand anywhere. */
function guarded(fact: string, test: string): string {
  const guards = [
    ...(fact.startsWith('github.') ? ['context has github'] : []),
    ...(OPTIONAL.has(fact) ? [fact.includes('.') ? `context.${fact.split('.')[0]} has ${fact.split('.')[1]}` : `context has ${fact}`] : []),
  ]
  return `(${[...guards, test].join(' && ')})`
}

export function written(test: Test): string {
  switch (test.kind) {
    case 'eq':
      return guarded(test.fact, `context.${test.fact} == ${text(test.value)}`)
    case 'in':
      return guarded(test.fact, `[${test.values.map(text).join(', ')}].contains(context.${test.fact})`)
    case 'has':
      return guarded(test.fact, 'true').replace(' && true)', ')')
    case 'label':
      return `context.labels.contains(${text(test.value)})`
    case 'under':
      return guarded('github.ref_prefixes', `context.github.ref_prefixes.contains(${text(test.value)})`)
    case 'least':
      return `context.${test.fact} >= ${test.n}`
    case 'ttl':
      return `context.ttl <= ${test.n}`
    case 'proof':
      return 'context.proof'
    case 'and':
    case 'or':
      return `(${test.parts.map(written).join(test.kind === 'and' ? ' && ' : ' || ')})`
    case 'not':
      return `!(${written(test.part)})`
  }
}

export function ruleText(rule: Rule): string {
  const annotations = [`@id("${rule.id}")`, ...(rule.maxTtl === null ? [] : [`@max_ttl("${rule.maxTtl}")`]), ...(rule.proof ? ['@require_proof("true")'] : [])]
  const principal = rule.identity === null ? 'principal' : `principal == Workload::${text(rule.identity)}`
  const resource = rule.capability === null ? 'resource' : `resource == Capability::${text(rule.capability)}`
  const pins = `context.issuer == ${text(rule.issuer)} && context has github && [${rule.repositories.map(text).join(', ')}].contains(context.github.repository_id)`
  const when = rule.effect === 'permit' ? `${pins} && ${written(rule.when)}` : written(rule.when)
  return `${annotations.join(' ')} ${rule.effect} (${principal}, action == Action::"issue", ${resource}) when { ${when} }${rule.unless ? ` unless { ${written(rule.unless)} }` : ''};\n`
}

export function holds(test: Test, world: World): boolean {
  switch (test.kind) {
    case 'eq':
      return world[test.fact] === test.value
    case 'in':
      return test.values.includes(world[test.fact] as string)
    case 'has':
      return world[test.fact] !== undefined
    case 'label':
      return (world.labels as readonly string[]).includes(test.value)
    case 'under': {
      const ref = world['github.ref'] as string | undefined
      return ref !== undefined && (ref === test.value || ref.startsWith(`${test.value}/`))
    }
    case 'least':
      return (world[test.fact] as number) >= test.n
    case 'ttl':
      return (world.ttl as number) <= test.n
    case 'proof':
      return world.proof === true
    case 'and':
      return test.parts.every(part => holds(part, world))
    case 'or':
      return test.parts.some(part => holds(part, world))
    case 'not':
      return !holds(test.part, world)
  }
}

const applies = (rule: Rule, world: World): boolean =>
  (rule.capability === null || rule.capability === world.capability) &&
  (rule.identity === null || rule.identity === world.identity) &&
  (rule.effect === 'forbid' || (rule.issuer === world.issuer && rule.repositories.includes(world['github.repository_id'] as string))) &&
  holds(rule.when, world) &&
  !(rule.unless && holds(rule.unless, world))

export function judged(
  rules: readonly Rule[],
  world: World,
): { allowed: boolean; policies: readonly string[]; obligations: Obligations; forbiddenBy: readonly string[] } {
  const permits = rules.filter(r => r.effect === 'permit' && applies(r, world))
  const forbids = rules.filter(r => r.effect === 'forbid' && applies(r, world))
  const allowed = permits.length > 0 && forbids.length === 0
  const ttls = permits.flatMap(p => p.maxTtl ?? [])
  return {
    allowed,
    policies: (forbids.length > 0 ? forbids : permits).map(r => r.id).sort(),
    obligations: allowed
      ? { maxTtlSeconds: ttls.length > 0 ? Math.min(...ttls) : null, requireProof: permits.some(p => p.proof) }
      : { maxTtlSeconds: null, requireProof: false },
    forbiddenBy: forbids.map(r => r.id).sort(),
  }
}

// Small pools, so that rules and requests meet.
const REPOSITORIES = ['456789', '1', '2']
const REFS = ['refs/heads/main', 'refs/heads/main-evil', 'refs/heads/release/1', 'refs/tags/main', 'main']
const TEXTS: Readonly<Record<string, readonly string[]>> = {
  issuer: ['github', 'mesh'],
  profile: ['github', 'spiffe'],
  purpose: ['report', 'Report', ''],
  owner: ['dana', 'sam'],
  'capability.intent': ['read', 'destructive'],
  'capability.sensitivity': ['low', 'medium', 'high'],
  'capability.audience': ['orders', 'legacy'],
  'github.repository_id': REPOSITORIES,
  'github.ref': REFS,
  'github.event_name': ['push', 'schedule', 'pull_request'],
  'github.environment': ['production', 'Production'],
  'github.runner_environment': ['github-hosted', 'self-hosted'],
  'github.workflow_ref': ['a/b/.github/workflows/ci.yml@refs/heads/main', 'x'],
}
const facts = Object.keys(TEXTS)
const value = (fact: string) => fc.constantFrom(...(TEXTS[fact] as readonly string[]))

const leaf: fc.Arbitrary<Test> = fc.oneof(
  fc.constantFrom(...facts).chain(fact => value(fact).map((v): Test => ({ kind: 'eq', fact, value: v }))),
  fc.constantFrom(...facts).chain(fact => fc.array(value(fact), { minLength: 1, maxLength: 2 }).map((values): Test => ({ kind: 'in', fact, values }))),
  fc.constantFrom(...OPTIONAL).map((fact): Test => ({ kind: 'has', fact })),
  fc.constantFrom('team=orders', 'team=billing').map((v): Test => ({ kind: 'label', value: v })),
  fc.constantFrom('refs/heads', 'refs/heads/main', 'refs/heads/release', 'main').map((v): Test => ({ kind: 'under', value: v })),
  fc.record({
    kind: fc.constant('least' as const),
    fact: fc.constantFrom('strength' as const, 'depth' as const, 'evidence_age' as const),
    n: fc.integer({ min: 0, max: 3 }),
  }),
  fc.constant<Test>({ kind: 'proof' }),
)

/** `ttl` may only pull one way (see rules.ts): where it stands under an odd number of negations it is bounded from below, hence turned. */
const upright = fc.constantFrom(60, 300, 900).map((n): Test => ({ kind: 'ttl', n }))
const tree = (depth: number, widens: boolean): fc.Arbitrary<Test> => {
  const here = fc.oneof({ weight: 6, arbitrary: leaf }, { weight: 1, arbitrary: widens ? upright : upright.map((part): Test => ({ kind: 'not', part })) })
  if (depth === 0) return here
  const parts = fc.array(tree(depth - 1, widens), { minLength: 2, maxLength: 3 })
  return fc.oneof(
    { weight: 3, arbitrary: here },
    { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('and' as const, 'or' as const), parts }) },
    { weight: 1, arbitrary: tree(depth - 1, !widens).map((part): Test => ({ kind: 'not', part })) },
  )
}

const rule = (effect: 'permit' | 'forbid'): fc.Arbitrary<Omit<Rule, 'id'>> =>
  fc.record({
    effect: fc.constant(effect),
    capability: fc.option(fc.constantFrom(...CAPABILITIES.map(c => c.name)), { freq: 2 }),
    identity: fc.option(fc.constantFrom('github:repository_id=456789', 'github:repository_id=1', 'other'), { freq: 5 }).map(x => x),
    issuer: fc.constantFrom(...ISSUERS.slice(0, 1)),
    repositories: fc.subarray(REPOSITORIES, { minLength: 1 }),
    when: tree(2, effect === 'permit'),
    unless: fc.option(tree(1, effect !== 'permit'), { freq: 3 }),
    maxTtl: effect === 'permit' ? fc.option(fc.constantFrom(5, 60, 900)) : fc.constant(null),
    proof: effect === 'permit' ? fc.boolean() : fc.constant(false),
  })

export const forbidArb = rule('forbid').map((r): Rule => ({ ...r, id: 'added' }))
export const rulesArb = fc
  .tuple(fc.array(rule('permit'), { minLength: 1, maxLength: 6 }), fc.array(rule('forbid'), { maxLength: 2 }))
  .map(([permits, forbids]) => [...permits, ...forbids].map((r, i): Rule => ({ ...r, id: `r${i}` })))

export interface Drawn {
  readonly asked: Asked
  readonly world: World
}

const maybe = (fact: string) => fc.option(value(fact), { nil: null })

export const drawnArb: fc.Arbitrary<Drawn> = fc
  .record({
    caller: fc.constantFrom('github', 'github', 'github', 'spiffe'),
    capability: fc.constantFrom(...CAPABILITIES),
    repository_id: fc.constantFrom(...REPOSITORIES),
    ref: fc.constantFrom(...REFS),
    event_name: value('github.event_name'),
    environment: maybe('github.environment'),
    runner_environment: maybe('github.runner_environment'),
    workflow_ref: maybe('github.workflow_ref'),
    owner: maybe('owner'),
    purpose: value('purpose'),
    team: fc.constantFrom('orders', 'billing', ''),
    strength: fc.integer({ min: 1, max: 3 }),
    depth: fc.integer({ min: 0, max: 3 }),
    evidenceAge: fc.integer({ min: 0, max: 4 }),
    ttl: fc.constantFrom(5, 60, 61, 300, 900, 1_000),
    proof: fc.boolean(),
  })
  .map(drawn => {
    const {
      caller,
      capability,
      repository_id,
      ref,
      event_name,
      environment,
      runner_environment,
      workflow_ref,
      owner,
      purpose,
      team,
      strength,
      depth,
      evidenceAge,
      ttl,
      proof,
    } = drawn
    const identity = caller === 'github' ? `github:repository_id=${repository_id}` : (CALLERS[caller]?.identity as string)
    const attributes = caller === 'github' ? { repository_id, ref, event_name, environment, runner_environment, workflow_ref } : {}
    const labels: Record<string, string> = team === '' ? {} : { team }
    const world = {
      capability: capability.name,
      identity,
      issuer: CALLERS[caller]?.issuer as string,
      profile: CALLERS[caller]?.profile as string,
      purpose,
      labels: Object.entries(labels).map(([k, v]) => `${k}=${v}`),
      strength,
      depth,
      evidence_age: evidenceAge,
      ttl,
      proof,
      'capability.intent': capability.intent,
      'capability.sensitivity': capability.sensitivity,
      ...(owner === null ? {} : { owner }),
      ...(capability.audience === null ? {} : { 'capability.audience': capability.audience }),
      ...Object.fromEntries(Object.entries(attributes).flatMap(([name, v]) => (v === null ? [] : [[`github.${name}`, v]]))),
    } as World
    return { asked: { caller, capability: capability.name, identity, attributes, owner, purpose, labels, strength, depth, evidenceAge, ttl, proof }, world }
  })
