/** Owns what a policy must be before it may be loaded, beyond what Cedar's own validator demands: nothing here can fail at three in the morning. */
import type { Capability } from '../domain/capability.js'
import { MIN_TTL_SECONDS, type Obligations } from '../domain/decision.js'
import { INTENTS, PROFILES, SENSITIVITIES } from './context.js'
import {
  conjunctsOf,
  depthOf,
  type Expr,
  entityLiteralOf,
  hasPathOf,
  literalOf,
  literalsOf,
  operandsOf,
  operatorOf,
  type PolicyEst,
  type Pull,
  pathOf,
  scopeEntity,
  startsWith,
  visitPolicy,
} from './est.js'
import { didYouMean } from './names.js'
import { pins } from './pins.js'

export interface Known {
  readonly capabilities: ReadonlyMap<string, Capability>
  readonly issuers: ReadonlySet<string>
  readonly isFact: (path: readonly string[]) => boolean
}

/**
 * Cedar in wasm has a stack of 1 MiB: about 70 nested operators overrun it, and an instance that overran is broken for good. What
 * is loaded stays well below.
 */
const MAX_DEPTH = 48
const MAX_TTL_SECONDS = 86_400
const ANNOTATIONS = new Set(['id', 'description', 'max_ttl', 'require_proof'])

/**
 * No arithmetic: it overflows, the validator does not foresee it, and a policy that errs is skipped, which in a `forbid` means let
 * pass. No extension functions, tags or computed records: the facts are text, numbers, truths and sets of text.
 */
const OPERATORS = new Set(
  [
    'Value',
    'Var',
    '!',
    '==',
    '!=',
    'in',
    '<',
    '<=',
    '>',
    '>=',
    '&&',
    '||',
    'contains',
    'containsAll',
    'containsAny',
    'isEmpty',
    '.',
    'has',
    'like',
    'is',
  ].concat(['if-then-else', 'Set']),
)

/** Flat names, whose alphabet has neither `:` nor `/`, so that a wildcard stays within one segment (P1). */
const FLAT = new Set([
  'context.kubernetes.namespace',
  'context.kubernetes.serviceaccount',
  'context.kubernetes.pod',
  'context.kubernetes.node',
  'context.registered.agent',
])

/** Facts with a closed vocabulary: a misspelt value would never match, and in a `forbid` that lets pass. */
function vocabulary(path: readonly string[], known: Known): readonly string[] | null {
  switch (path.join('.')) {
    case 'context.issuer':
      return [...known.issuers]
    case 'context.profile':
      return PROFILES
    case 'context.capability.intent':
      return INTENTS
    case 'context.capability.sensitivity':
      return SENSITIVITIES
    case 'context.capability.audience':
      return [...known.capabilities.values()].flatMap(c => c.audience ?? [])
    case 'context.github.ref_type':
    case 'context.gitlab.ref_type':
      return ['branch', 'tag']
    case 'context.github.ref_protected':
    case 'context.gitlab.ref_protected':
    case 'context.gitlab.target_ref_protected':
    case 'context.gitlab.environment_protected':
    case 'context.circleci.ssh_rerun':
      return ['true', 'false']
    case 'context.github.runner_environment':
      return ['github-hosted', 'self-hosted']
    case 'context.gitlab.runner_environment':
      return ['gitlab-hosted', 'self-hosted']
    default:
      return null
  }
}

/** The capabilities that a policy can apply to at all; null: any. Only what stands in its scope or as a conjunct of its own counts. */
export function capabilitiesOf(est: PolicyEst): readonly string[] | null {
  const scope = scopeEntity(est.resource)
  if (scope) return [scope.id]
  for (const expr of conjunctsOf(est)) {
    const { left, right } = operandsOf(expr)
    if ((operatorOf(expr) === '==' || operatorOf(expr) === 'in') && pathOf(left)?.join() === 'resource') {
      const one = entityLiteralOf(right)
      if (one) return [one.id]
      const many = ((right as Expr).Set as readonly unknown[] | undefined)?.map(entityLiteralOf)
      if (many?.every(e => e !== null)) return many.map(e => e.id)
    }
  }
  return null
}

/** The obligations in a policy's annotations, and what is wrong with it, each as a sentence without a subject. */
export function judge(est: PolicyEst, known: Known): { readonly obligations: Obligations; readonly problems: readonly string[] } {
  const problems: string[] = []
  const refuse = (problem: string) => {
    if (!problems.includes(problem)) problems.push(problem)
  }
  const obligations = readAnnotations(est, refuse)

  if (est.conditions.some(c => depthOf(c.body) > MAX_DEPTH)) {
    refuse(`is nested more than ${MAX_DEPTH} deep: split it into several policies`)
    return { obligations, problems }
  }
  const sanctioned = new Set<unknown>()
  visitPolicy(est, (expr, pull) => {
    checkOperator(expr, refuse)
    checkText(expr, refuse)
    checkNames(expr, known, refuse)
    checkLike(expr, pull, refuse)
    checkTtl(expr, pull, sanctioned, refuse)
    const asked = hasPathOf(expr)
    if (asked?.[0] === 'context' && !known.isFact(asked)) refuse(`asks for ${asked.join('.')}, which is no fact`)
  })
  for (const scope of [est.principal, est.resource, est.action]) checkEntity(scopeEntity(scope), known, refuse)
  if (est.effect === 'permit') {
    checkPins(est, refuse)
    checkReusableWorkflow(est, known, refuse)
    checkForks(est, refuse)
  }
  return { obligations, problems }
}

type Refuse = (problem: string) => void

function readAnnotations(est: PolicyEst, refuse: Refuse): Obligations {
  const annotations = est.annotations ?? {}
  for (const name of Object.keys(annotations)) {
    if (!ANNOTATIONS.has(name)) refuse(`has an annotation @${name}, which means nothing here${didYouMean(name, [...ANNOTATIONS])}`)
  }
  if (est.effect === 'forbid' && ('max_ttl' in annotations || 'require_proof' in annotations))
    refuse('is a forbid and grants nothing that @max_ttl or @require_proof could bound')
  if ('require_proof' in annotations && annotations.require_proof !== 'true')
    refuse('has an @require_proof that is not "true": leave it out where none is required')
  return { maxTtlSeconds: 'max_ttl' in annotations ? readTtl(annotations.max_ttl ?? '', refuse) : null, requireProof: 'require_proof' in annotations }
}

function readTtl(written: string, refuse: Refuse): number {
  const match = /^(\d{1,6})([smh]?)$/.exec(written)
  const seconds = match ? Number(match[1]) * { '': 1, s: 1, m: 60, h: 3_600 }[match[2] as '' | 's' | 'm' | 'h'] : Number.NaN
  if (seconds >= MIN_TTL_SECONDS && seconds <= MAX_TTL_SECONDS) return seconds
  refuse(`has an @max_ttl that is not a time from ${MIN_TTL_SECONDS} seconds to a day, like "900" or "15m"`)
  return MIN_TTL_SECONDS
}

function checkOperator(expr: Expr, refuse: Refuse): void {
  const op = operatorOf(expr)
  if (OPERATORS.has(op)) return
  refuse(['+', '-', '*', 'neg'].includes(op) ? 'computes a number, which can overflow: write the number' : `uses ${op}, which is not available here`)
}

function checkText(expr: Expr, refuse: Refuse): void {
  const pattern = (expr.like as { pattern: readonly ('Wildcard' | { Literal: string })[] } | undefined)?.pattern
  const written = pattern ? pattern.map(p => (p === 'Wildcard' ? '' : p.Literal)).join('') : (literalOf(expr) ?? entityLiteralOf(expr)?.id)
  // T60: what cannot be seen in review must not decide.
  if (typeof written === 'string' && (/\p{C}/u.test(written) || written !== written.normalize('NFC')))
    refuse('contains text with invisible or decomposed characters')
}

function checkEntity(entity: { readonly type: string; readonly id: string } | null, known: Known, refuse: Refuse): void {
  if (entity?.type === 'Capability' && !known.capabilities.has(entity.id)) {
    refuse(`names the capability "${entity.id}", which the configuration does not have${didYouMean(entity.id, [...known.capabilities.keys()])}`)
  }
}

function checkNames(expr: Expr, known: Known, refuse: Refuse): void {
  checkEntity(entityLiteralOf(expr), known, refuse)
  const { left, right } = operandsOf(expr)
  const op = operatorOf(expr)
  const compared =
    op === '==' || op === '!='
      ? [
          { path: pathOf(left), values: [literalOf(right)] },
          { path: pathOf(right), values: [literalOf(left)] },
        ]
      : op === 'contains'
        ? [{ path: pathOf(right), values: literalsOf(left) ?? [] }]
        : []
  for (const { path, values } of compared) {
    const words = path && vocabulary(path, known)
    for (const value of words ? values : []) {
      if (typeof value !== 'string' || !words || words.includes(value)) continue
      const what = path?.join('.') === 'context.issuer' ? 'the trust issuer' : `${path?.join('.')} as`
      refuse(`names ${what} "${value}", which there is not${didYouMean(value, words)}`)
    }
  }
}

function checkLike(expr: Expr, pull: Pull, refuse: Refuse): void {
  const like = expr.like as { left: unknown; pattern: readonly ('Wildcard' | { Literal: string })[] } | undefined
  if (!like || pull === 'narrows') return
  const path = pathOf(like.left)?.join('.') ?? 'a computed value'
  if (!FLAT.has(path)) {
    refuse(`grants by "like" on ${path}: a wildcard there crosses / and :, so that more match than meant; use ==, a set, or the *_prefixes facts`)
  } else if (like.pattern[0] === 'Wildcard' || like.pattern.length === 0) {
    refuse(`grants by a pattern on ${path} that has no fixed beginning`)
  }
}

/** Asking for less must never turn a yes into a no (P-diff): `ttl` may only be bounded from above. */
function checkTtl(expr: Expr, pull: Pull, sanctioned: Set<unknown>, refuse: Refuse): void {
  const isTtl = (e: unknown) => pathOf(e)?.join('.') === 'context.ttl'
  const { left, right } = operandsOf(expr)
  const op = operatorOf(expr)
  if (['<', '<=', '>', '>='].includes(op) && isTtl(left) !== isTtl(right)) {
    const fromAbove = op.startsWith('<') === isTtl(left)
    if (pull === (fromAbove ? 'widens' : 'narrows')) sanctioned.add(isTtl(left) ? left : right)
  }
  if (isTtl(expr) && !sanctioned.has(expr)) refuse('grants less to who asks for less time: context.ttl may only be bounded from above')
}

const IDENTIFYING: readonly (readonly string[])[] = [
  // Numbers, since names are sold, transferred and reused (P2, T34).
  ['context', 'github', 'repository_id'],
  ['context', 'github', 'repository_owner_id'],
  ['context', 'github', 'enterprise_id'],
  ['context', 'gitlab', 'project_id'],
  ['context', 'gitlab', 'namespace_id'],
  ['context', 'buildkite', 'organization_id'],
  ['context', 'buildkite', 'pipeline_id'],
  ['context', 'circleci', 'org_id'],
  ['context', 'circleci', 'project_id'],
  ['context', 'kubernetes', 'serviceaccount_uid'],
  ['context', 'kubernetes', 'pod_uid'],
  ['context', 'kubernetes', 'namespace'],
  ['context', 'spiffe', 'spiffe_id'],
  ['context', 'spiffe', 'path'],
  ['context', 'spiffe', 'path_prefixes'],
  ['context', 'registered'],
  ['context', 'oidc', 'claims'],
]
const ANYBODYS = new Set(['context.oidc.claims.iss', 'context.oidc.claims.aud'])

/** T33, P9, P10: an issuer vouches for many and an audience can be had by all, so that a permit says which issuer, and who there. */
function checkPins(est: PolicyEst, refuse: Refuse): void {
  const conjuncts = est.conditions.flatMap(c => (c.kind === 'when' ? [c.body] : []))
  const issuer = conjuncts.some(c => pins(c, path => path.join('.') === 'context.issuer'))
  if (!issuer) refuse('does not say whose word it believes: add context.issuer == "…", since names and ids are unique only within an issuer')
  const who = (path: readonly string[]) => path.join('.') === 'principal' || (IDENTIFYING.some(p => startsWith(path, p)) && !ANYBODYS.has(path.join('.')))
  if (!scopeEntity(est.principal) && !conjuncts.some(c => pins(c, who))) {
    refuse(
      'permits everybody the issuer vouches for: say who, by principal ==, github.repository_id or repository_owner_id, gitlab.project_id or namespace_id, buildkite.pipeline_id or organization_id, circleci.project_id, kubernetes.namespace or serviceaccount_uid, spiffe.path, has registered, or a claim',
    )
  }
}

/** P6: a reusable workflow named by branch or tag is whatever its owner pushes there next. */
function checkReusableWorkflow(est: PolicyEst, known: Known, refuse: Refuse): void {
  const conjuncts = est.conditions.flatMap(c => (c.kind === 'when' ? [c.body] : []))
  const on = (name: string) => conjuncts.some(c => pins(c, path => path.join('.') === `context.github.${name}`))
  const reach = capabilitiesOf(est) ?? [...known.capabilities.keys()]
  if (on('job_workflow_ref') && !on('job_workflow_sha') && reach.some(name => known.capabilities.get(name)?.intent === 'destructive')) {
    refuse('grants what is destructive to a reusable workflow by its ref, which can be moved: pin context.github.job_workflow_sha too')
  }
}

/** P8: a fork that was given the project's secrets builds under the project's own id; the repository that the code came from tells it apart. */
function checkForks(est: PolicyEst, refuse: Refuse): void {
  const conjuncts = conjunctsOf(est)
  let isTheirs = CIRCLECI_IDENTITY.test(scopeEntity(est.principal)?.id ?? '')
  visitPolicy(est, expr => {
    isTheirs ||= pathOf(expr)?.[1] === 'circleci' || CIRCLECI_IDENTITY.test(entityLiteralOf(expr)?.id ?? '')
  })
  const origin = 'context.circleci.vcs_origin'
  // Whoever starts a pipeline by a custom webhook has no repository to show, and says so.
  const hasNone = (expr: Expr) => operatorOf(expr) === '!' && hasPathOf(operandsOf(expr).arg as Expr)?.join('.') === origin
  if (isTheirs && !conjuncts.some(c => pins(c, path => path.join('.') === origin) || hasNone(c)))
    refuse(`grants to a project of CircleCI wherever its code came from, forks included: add ${origin} == "…"`)
}

const CIRCLECI_IDENTITY = /:org_id=[0-9a-f-]+&project_id=/
