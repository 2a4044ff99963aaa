/** Owns the shapes of what we answer, each beside the view that makes it (views.ts): the types of the one are the description of the other. */
import { z } from 'zod'
import { type IdKind, idPattern } from '../domain/ids.js'
import { REASONS } from '../domain/revocation.js'
import type { Shown } from './declaration.js'

/** What a view must give. */
export type As<S extends z.ZodType> = Shown<z.output<S>>

/** What has a name of its own in the description. */
export const thing = <S extends z.ZodRawShape>(id: string, shape: S, description?: string) =>
  z.object(shape).meta({ id, ...(description === undefined ? {} : { description }) })

export const id = (kind: IdKind) => z.string().regex(idPattern(kind), `must be an id of its kind (${kind})`)
/** RFC 3339, in UTC and with milliseconds. */
const instant = z.iso.datetime({ precision: 3 })
const count = z.int().min(0)
const names = z.array(z.string())

export const actorShape = thing('Actor', { kind: z.enum(['holder', 'operator', 'signal', 'broker']), id: z.string() })

/** As it was given: one of the seven that stand alone, or attributes (docs/http-api.md, Selectors). */
export const selectorShape = thing('Selected', {
  credential: id('credential').optional(),
  task: id('task').optional(),
  identity: z.string().optional(),
  issuer: z.string().optional(),
  key: z.string().optional(),
  capability: z.string().optional(),
  all: z.literal(true).optional(),
  repository_id: z.string().optional(),
  workflow_ref: z.string().optional(),
  workflow_sha: z.string().optional(),
  run_id: z.string().optional(),
  actor: z.string().optional(),
  owner: z.string().optional(),
  label: z.record(z.string(), z.string()).optional(),
  audience: z.string().optional(),
  engine: z.string().optional(),
  issued_after: instant.optional(),
  issued_before: instant.optional(),
})
export type WrittenSelector = As<typeof selectorShape>

export const taskShape = thing('Task', {
  id: id('task'),
  state: z.enum(['open', 'completed', 'cancelled', 'expired', 'revoked']),
  purpose: z.string(),
  capabilities: names,
  owner: z.string().nullable(),
  labels: z.record(z.string(), z.string()),
  identity: z.string(),
  issuer: z.string(),
  parent: id('task').nullable(),
  ancestors: z.array(id('task')),
  actors: z.array(z.object({ identity: z.string(), issuer: id('issuer') })),
  opened_at: instant,
  deadline_at: instant,
  heartbeat_seconds: z.int().nullable(),
  heartbeat_at: instant,
  ended_at: instant.nullable(),
  end_reason: z.enum(REASONS).nullable(),
  ended_by: actorShape.nullable(),
})

const classShape = z.enum(['instant', 'backend', 'expiry-only'])

export const credentialShape = thing('Credential', {
  id: id('credential'),
  state: z.enum(['pending', 'active', 'revoking', 'stuck', 'revoked']),
  task: id('task'),
  identity: z.string(),
  issuer: z.string(),
  capability: z.string(),
  audience: z.string().nullable(),
  engine: z.string(),
  revocation: classShape,
  decision: id('decision'),
  issued_at: instant,
  expires_at: instant,
  reason: z.enum(REASONS).nullable(),
  ended_by: id('revocation').nullable(),
  revoking_at: instant.nullable(),
  revoked_at: instant.nullable(),
  exposed_until: instant.nullable(),
  attempts: count,
  next_attempt_at: instant.nullable(),
  failure: z.string().nullable(),
  probe: z.object({ outcome: z.enum(['dead', 'alive', 'waiting']), looked: names, detail: z.string().nullable() }).nullable(),
})

export const nearestRuleShape = z.object({ id: z.string(), held: count, of: count })
export const failedShape = z.array(z.object({ claim: z.string(), actual: z.string().nullable() }))

export const decisionShape = thing('Decision', {
  id: id('decision'),
  at: instant,
  allowed: z.boolean(),
  reason: z.string(),
  identity: z.string(),
  issuer: z.string(),
  capability: z.string(),
  task: id('task').nullable(),
  policies: names,
  policy_digest: id('policy'),
  obligations: z.object({ max_ttl_seconds: z.int().nullable(), require_proof: z.boolean() }),
  nearest_rule: nearestRuleShape.nullable(),
  failed: failedShape,
  forbidden_by: names,
  attributes: z.record(z.string(), z.unknown()),
})

/** AuthZEN 1.0. Beside the id operators are told why. */
export const evaluationShape = thing('Evaluation', {
  decision: z.boolean(),
  context: z.object({
    id: id('decision'),
    reason_admin: z.object({ en: z.string() }).optional(),
    policies: names.optional(),
    nearest_rule: nearestRuleShape.nullable().optional(),
    failed: failedShape.optional(),
  }),
})

export const revocationShape = thing('Revocation', {
  id: id('revocation'),
  seq: count,
  selector: selectorShape,
  reason: z.enum(REASONS),
  actor: actorShape,
  message: z.string().nullable(),
  refused_since: instant,
  credentials: count,
  tasks: count,
  receipt: id('receipt'),
})

const exposedShape = z.object({ credential: id('credential'), capability: z.string(), until: instant })

export const reachShape = thing('Reach', {
  credentials: count,
  tasks: count,
  instant: count,
  backend: count,
  expiry_only: count,
  engines: z.record(z.string(), count),
  capabilities: count,
  owners: z.array(z.object({ owner: z.string().nullable(), tasks: count })),
  exposed: z.array(exposedShape),
  exposed_until: instant.nullable(),
})

export const planShape = thing('Plan', {
  id: id('plan'),
  selector: selectorShape,
  reason: z.string().nullable(),
  made_by: actorShape,
  made_at: instant,
  valid_until: instant,
  revocation: id('revocation').nullable(),
  reach: reachShape,
})

export const quarantineShape = thing('Quarantine', {
  id: id('quarantine'),
  selector: selectorShape,
  message: z.string().nullable(),
  set_by: actorShape,
  set_at: instant,
  until: instant,
  revocation: id('revocation').nullable(),
  lifted_at: instant.nullable(),
  lifted_by: actorShape.nullable(),
  lift_reason: z.string().nullable(),
})

const actShape = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('revoke'), cap: count }),
  z.object({ kind: z.literal('quarantine'), seconds: count }),
  z.object({ kind: z.literal('shorten'), seconds: count, cap: count }),
])

export const signalShape = thing('Signal', {
  id: id('signal'),
  source: z.string(),
  event_id: z.string(),
  type: z.string(),
  severity: z.enum(['low', 'medium', 'high', 'critical']),
  subject: z.object({ credential: id('credential').optional(), task: id('task').optional(), identity: z.string().optional() }),
  occurred_at: instant,
  received_at: instant,
  detail: z.string().nullable(),
  rule: z.string().nullable(),
  act: actShape.nullable(),
  waits: z.boolean(),
  held: reachShape.nullable(),
  verdict: z.object({ kind: z.enum(['approved', 'dismissed']), by: actorShape, reason: z.string() }).nullable(),
  revocation: id('revocation').nullable(),
  quarantine: id('quarantine').nullable(),
  handled_at: instant.nullable(),
})

export const capabilityShape = thing('Capability', {
  name: z.string(),
  summary: z.string(),
  audience: z.string().nullable(),
  scopes: names,
  ttl_seconds: count,
  max_ttl_seconds: count,
  max_evidence_age_seconds: count,
  sensitivity: z.enum(['low', 'medium', 'high']),
  intent: z.enum(['read', 'write', 'destructive']),
  revocation: classShape,
  /** What `params` must or may hold. */
  params: z.record(z.string(), z.enum(['required', 'optional'])),
})

/** `{token}`, or the variables of a database client: the engine decides. */
const secretShape = z.record(z.string(), z.string())
export const tokenTypeShape = z.enum(['DPoP', 'Bearer'])
export const issuedShape = thing('Issued', { credential: credentialShape, secret: secretShape, token_type: tokenTypeShape.optional() })

/** A capability as one caller may have it: its ceilings are what remains of them for that caller. */
export const offerShape = thing('Offer', {
  ...capabilityShape.shape,
  require_proof: z.boolean(),
  evidence: z.enum(['sufficient', 'stale']),
})

export const evidenceShape = thing('Evidence', {
  identity: z.string(),
  issuer: z.string(),
  profile: z.string(),
  owner: z.string().nullable(),
  strength: z.literal([1, 2, 3]),
  attributes: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), names])),
  run: z.string().nullable(),
  issued_at: instant,
  expires_at: instant,
  age_seconds: count,
  replay: z.enum(['single_use', 'bounded', 'reusable']),
  use: z.enum(['reusable', 'unused', 'used', 'bound', 'bound_elsewhere']),
  jkt: z.string().nullable(),
})

export const receiptShape = thing('Receipt', {
  iss: z.string(),
  iat: count,
  jti: id('receipt'),
  sub: id('revocation'),
  selector: selectorShape,
  reason: z.enum(REASONS),
  message: z.string().nullable(),
  actor: actorShape,
  seq: count,
  refused_since: instant,
  tasks: count,
  credentials: z.object({ selected: count, revoked: count, revoking: count, stuck: count }),
  probed: z.record(z.string(), count),
  not_probed: count,
  guards: z.object({ applied: count, of: count, slowest_ms: z.int().nullable() }),
  exposed: z.array(exposedShape),
  exposed_total: count,
  exposed_until: instant.nullable(),
  final: z.boolean(),
})

export const guardShape = thing('Guard', {
  id: id('guard'),
  name: z.string(),
  created_at: instant,
  disabled_at: instant.nullable(),
  instances: z.array(z.object({ instance: z.string(), seq: count, lag_ms: z.int().nullable(), seen_at: instant, live: z.boolean() })),
})

export const feedEntryShape = thing('FeedEntry', {
  kind: z.enum(['credential', 'task', 'identity', 'issuer', 'key', 'capability', 'all']),
  key: z.string(),
  issued_before: instant.optional(),
  until: instant,
})

/** The path of what was made. */
export const locationShape = z.string().regex(/^\/v1\//)

/** RFC 7517, public members only. */
export const jwksShape = thing('JwkSet', {
  keys: z.array(
    z.object({
      kty: z.enum(['EC', 'RSA']),
      kid: z.string(),
      alg: z.enum(['ES256', 'RS256']),
      use: z.literal('sig'),
      crv: z.string().optional(),
      x: z.string().optional(),
      y: z.string().optional(),
      n: z.string().optional(),
      e: z.string().optional(),
    }),
  ),
})
