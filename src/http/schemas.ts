/** Owns the shapes of what callers send: strict, bounded, printable. */
import { z } from 'zod'
import { idPattern } from '../domain/ids.js'
import type { Selector } from '../domain/revocation.js'
import type { SignalSubject } from '../domain/signal.js'

/** Longest legal token (security.md 4, step 1). */
const token = z.string().min(1).max(8_192)

/** One line that people read: no control characters, no direction overrides, well-formed, not padded (T60). */
const line = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    .refine(s => !/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u.test(s), 'must be one line without control or formatting characters')
    .refine(s => s === s.trim(), 'must not begin or end with a space')

const word = z.string().regex(/^[a-z][a-z0-9_-]{0,62}$/, 'must be lower-case letters, digits, _ and -')
export const capabilityName = z
  .string()
  .max(100)
  .regex(/^[a-z][a-z0-9-]*(\/[a-z0-9][a-z0-9-]*)*$/, 'must be lower-case words joined by /')
/** Printable ASCII: identities are compared code point by code point (P33). */
const identity = z.string().regex(/^[\x21-\x7e]{1,2048}$/, 'must be printable ASCII without spaces')
const seconds = (min: number, max: number) => z.int().min(min).max(max)
const labels = z
  .record(word, line(200))
  .refine(l => Object.keys(l).length <= 16, 'may have 16 entries at most')
  .meta({ maxProperties: 16 })

export const EVIDENCE_TYPES = ['urn:ietf:params:oauth:token-type:id_token', 'urn:ietf:params:oauth:token-type:jwt'] as const
export const evidenceType = z.enum(EVIDENCE_TYPES)

const taskMembers = {
  purpose: line(200),
  capabilities: z.array(capabilityName).min(1).max(16),
  life_seconds: seconds(5, 86_400).optional(),
  owner: line(200).optional(),
  labels: labels.default({}),
  heartbeat_seconds: seconds(1, 600).optional(),
}

export const openTaskBody = z
  .strictObject({ subject_token: token.optional(), subject_token_type: evidenceType.optional(), parent_grant: token.optional(), ...taskMembers })
  .refine(b => b.subject_token !== undefined || b.parent_grant !== undefined, { path: ['subject_token'], message: 'is required without a parent_grant' })
  .meta({ anyOf: [{ required: ['subject_token'] }, { required: ['parent_grant'] }] })

/** RFC 6749 section 3.3: tokens of printable ASCII without `"` and `\`, one space between two. */
const scope = z
  .string()
  .max(2_048)
  .regex(/^[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*$/, 'must be scopes with one space between two')
/** RFC 8707 section 2: an absolute URI without a fragment. Which ones there are, the configuration says. */
const resource = z
  .string()
  .max(2_048)
  .regex(/^[A-Za-z][A-Za-z0-9+.-]*:[\x21\x22\x24-\x7e]+$/, 'must be an absolute URI without a fragment')

/** Of both task objects: RFC 9396 section 2.2, by the words of a token request. */
const rarCommon = (type: string) => ({
  type: z.literal(type, 'is not a type of this server'),
  ttl: seconds(5, 43_200).optional(),
  locations: z.array(resource).min(1).max(16).optional(),
  actions: z
    .array(z.string().regex(/^[\x21\x23-\x5b\x5d-\x7e]{1,100}$/, 'must be a scope'))
    .max(32)
    .optional(),
})
/** Opens a task. */
export const rarTask = (type: string) => z.strictObject({ ...rarCommon(type), ...taskMembers })
/** Of a task that is open. */
export const rarOpenTask = (type: string) =>
  z.strictObject({ ...rarCommon(type), identifier: z.string().max(64), purpose: taskMembers.purpose.optional(), capabilities: taskMembers.capabilities })

/** Of all grants together; what is not recognised is ignored (RFC 6749 section 3.2), which of these a grant takes is its own to say. */
export const tokenForm = z.object({
  grant_type: z.string(),
  subject_token: token.optional(),
  subject_token_type: z.string().optional(),
  actor_token: token.optional(),
  actor_token_type: z.string().optional(),
  requested_token_type: z.enum(['urn:ietf:params:oauth:token-type:access_token', 'urn:ietf:params:oauth:token-type:jwt']).optional(),
  assertion: token.optional(),
  client_assertion: token.optional(),
  client_assertion_type: z.string().optional(),
  client_id: z.string().max(2_048).optional(),
  client_secret: z.string().optional(),
  authorization_details: z.string().max(8_192).optional(),
  resource: z.array(resource).max(16).default([]),
  audience: z.array(z.string().max(2_048)).max(16).default([]),
  scope: scope.optional(),
})
export type TokenForm = z.output<typeof tokenForm>

/** What a hint says is not looked at: every kind is searched for (RFC 7009 section 2.1, RFC 7662 section 2.1). */
export const tokenQueryForm = z.object({ token, token_type_hint: z.string().optional() })
export const giveBackForm = tokenQueryForm.extend({ client_id: z.string().max(2_048).optional() })

/** For the engine, which owns the shape: a public key, a certificate request. Bounded here, judged there. */
const params = z
  .record(word, z.union([z.string().min(1).max(8_192), z.int(), z.boolean()], { error: 'must be text, a whole number, or true or false' }))
  .refine(p => Object.keys(p).length <= 8, 'may have 8 entries at most')

const partMembers = { capability: capabilityName, ttl_seconds: seconds(5, 43_200).optional(), params: params.default({}) }
const evidenceMembers = { subject_token: token.optional(), subject_token_type: evidenceType.optional() }
/** One credential, or several that are issued all or none. */
export const credentialBody = z.union([
  z.strictObject({ ...partMembers, ...evidenceMembers }),
  z.strictObject({ capabilities: z.array(z.strictObject(partMembers)).min(2).max(16), ...evidenceMembers }),
])
export const idempotencyKey = z.string().regex(/^[\x21-\x7e]{8,128}$/, 'must be 8 to 128 printable characters')
export const outcomeBody = z.strictObject({ outcome: line(200).optional() })
export const grantBody = z.strictObject({
  capabilities: taskMembers.capabilities,
  to: z
    .strictObject({
      identity: identity.optional(),
      jkt: z
        .string()
        .regex(/^[A-Za-z0-9_-]{43}$/, 'must be a SHA-256 thumbprint (RFC 7638)')
        .optional(),
    })
    .refine(to => to.identity !== undefined || to.jkt !== undefined, 'must name an identity, a key (jkt), or both')
    .meta({ minProperties: 1 }),
  life_seconds: taskMembers.life_seconds,
  purpose: taskMembers.purpose.optional(),
})
export const emptyBody = z.strictObject({})
export const explainBody = z.strictObject({
  subject_token: token,
  subject_token_type: evidenceType.optional(),
  capability: capabilityName,
  ttl_seconds: seconds(5, 43_200).optional(),
  purpose: line(200).default('explain'),
  labels: labels.default({}),
})

/** AuthZEN 1.0: members that are not known are ignored, and the description says so. */
const entity = z.looseObject({ type: z.string().min(1).max(100), id: z.string().min(1).max(2_048) })
const asked = {
  subject: entity.extend({ properties: z.record(z.string(), z.unknown()).optional() }),
  action: z.looseObject({ name: z.string().min(1).max(200) }),
  resource: entity,
}
const evaluationContext = z.looseObject({
  purpose: line(200).default('authzen'),
  labels: labels.default({}),
  ttl_seconds: seconds(5, 43_200).optional(),
  proof: z.boolean().default(true),
})
export const evaluationRequest = z.looseObject({ ...asked, context: evaluationContext.prefault({}) })
const partly = z.looseObject(asked).partial().extend({ context: evaluationContext.optional() })
export const evaluationsRequest = partly.extend({
  evaluations: z.array(partly).max(50).optional(),
  options: z.looseObject({ evaluations_semantic: z.enum(['execute_all', 'deny_on_first_deny', 'permit_on_first_permit']).optional() }).optional(),
})
const fact = z.union([z.string().max(2_048), z.int(), z.boolean(), z.array(z.string().max(512)).max(64)])
/** What is said of a subject of type `workload`. */
export const workloadProperties = z.looseObject({
  issuer: z.string().min(1).max(200),
  attributes: z.record(z.string().max(100), fact).default({}),
  owner: line(200).optional(),
  evidence_age: seconds(0, 86_400).default(0),
  run: z.string().max(512).optional(),
})

export const describeBody = z.strictObject({
  subject_token: token,
  subject_token_type: evidenceType.optional(),
  purpose: line(200).default('explain'),
  labels: labels.default({}),
})

const credentialId = z.string().regex(idPattern('credential'), 'must be a credential id (crd_…)')
const planId = z.string().regex(idPattern('plan'), 'must be a plan id (pln_…)')
const taskId = z.string().regex(idPattern('task'), 'must be a task id (tsk_…)')

/** RFC 3339 with an offset. PostgreSQL has no year 0 and we write no year of five digits, and an offset can lead to both: 1970 to 9999 in UTC. */
const instant = z.iso
  .datetime({ offset: true })
  .transform(text => new Date(text))
  .refine(at => at.getTime() >= 0 && at.getUTCFullYear() <= 9999, 'must lie in the years 1970 to 9999')
const text = (max: number) => z.string().regex(new RegExp(`^[\\x21-\\x7e]{1,${max}}$`), 'must be printable ASCII without spaces')

const subject = z
  .strictObject({ credential: credentialId.optional(), task: taskId.optional(), identity: identity.optional() })
  .refine(s => Object.values(s).filter(v => v !== undefined).length === 1, 'must name exactly one of credential, task, identity')
  .meta({ minProperties: 1, maxProperties: 1 })

/** What selectors.ts makes of a selector, as far as a schema can say it. */
const combinations = {
  description: 'One of credential, task, key and all stands alone, key and all perhaps with issued_before; of anything else all must hold.',
  anyOf: [
    ...['credential', 'task'].map(name => ({ required: [name], maxProperties: 1 })),
    ...['key', 'all'].map(name => ({ required: [name], propertyNames: { enum: [name, 'issued_before'] } })),
    { minProperties: 1, not: { anyOf: ['credential', 'task', 'key', 'all'].map(name => ({ required: [name] })) } },
  ],
}

/** Attributes that all must hold, and the seven that stand alone (docs/http-api.md, Selectors). */
const selector = z
  .strictObject({
    credential: credentialId.optional(),
    task: taskId.optional(),
    identity: identity.optional(),
    issuer: text(200).optional(),
    key: z
      .string()
      .regex(/^[A-Za-z0-9_-]{43}$/, 'must be a kid, the RFC 7638 thumbprint of a key')
      .optional(),
    capability: capabilityName.optional(),
    all: z.literal(true).optional(),
    issued_before: instant.optional(),
    issued_after: instant.optional(),
    repository_id: z
      .string()
      .regex(/^\d{1,20}$/, 'must be a number')
      .optional(),
    workflow_ref: text(512).optional(),
    workflow_sha: z
      .string()
      .regex(/^[0-9a-f]{40,64}$/, 'must be a commit hash')
      .optional(),
    run_id: z
      .string()
      .regex(/^\d{1,20}$/, 'must be a number')
      .optional(),
    actor: text(100).optional(),
    owner: line(200).optional(),
    label: labels
      .refine(l => Object.keys(l).length > 0, 'must name a label')
      .meta({ minProperties: 1, maxProperties: 16 })
      .optional(),
    audience: z.url().max(2_048).optional(),
    engine: word.optional(),
  })
  .meta({ id: 'Selector', ...combinations })

export type GivenSelector = z.output<typeof selector>

const quarantine = z.strictObject({ ttl_seconds: seconds(1, 2_592_000), message: line(500).optional() })
export const revocationBody = z
  .strictObject({
    selector: selector.optional(),
    plan: planId.optional(),
    reason: line(500).optional(),
    message: line(500).optional(),
    quarantine: quarantine.optional(),
  })
  .refine(b => (b.selector === undefined) !== (b.plan === undefined), { message: 'must name either a selector or a plan', path: ['selector'] })
  .meta({ oneOf: [{ required: ['selector'] }, { required: ['plan'] }] })
export const planBody = z.strictObject({ selector, reason: line(500).optional() })
export const quarantineBody = z.strictObject({ selector, ttl_seconds: seconds(1, 2_592_000), message: line(500).optional() })
export const ackBody = z.strictObject({ seq: z.int().min(0) })
export const guardInstance = z.string().regex(/^[A-Za-z0-9._-]{1,64}$/, 'must name this process, in 1 to 64 of A-Z a-z 0-9 . _ -')
export const lastEventId = z.string().regex(/^\d{1,15}$/, 'must be a seq')
export const guardBody = z.strictObject({ name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, 'must be letters, digits and . _ -') })
export const forwardQuery = z.strictObject({
  audience: z.string().regex(/^[a-z][a-z0-9-]{0,62}$/, 'must be the name of an audience'),
  scope: text(200).optional(),
})
export const reasonBody = z.strictObject({ reason: line(500) })
export const findBody = z.strictObject({ digest: z.string().regex(/^[A-Za-z0-9_-]{43}$/, 'must be a SHA-256 in base64url') })
export const signalBody = z.strictObject({
  id: z.string().regex(/^[\x21-\x7e]{1,200}$/, 'must be 1 to 200 printable characters'),
  type: z.string().regex(/^[a-z0-9][a-z0-9._/-]{0,99}$/, 'must be lower-case, like account.compromised'),
  severity: z.enum(['low', 'medium', 'high', 'critical']),
  subject,
  occurred_at: instant,
  detail: line(500).optional(),
})

export function subjectOf(given: z.output<typeof subject>): Selector & SignalSubject {
  const [kind, key] = Object.entries(given).find(([, v]) => v !== undefined) as [string, string]
  return { kind, key } as Selector & SignalSubject
}

const limit = z.coerce.number().int().min(1).max(200).default(50)
export const credentialQuery = z.strictObject({
  task: taskId.optional(),
  identity: identity.optional(),
  capability: capabilityName.optional(),
  state: z.enum(['pending', 'active', 'revoking', 'stuck', 'revoked', 'live']).optional(),
  after: credentialId.optional(),
  limit,
})
export const decisionQuery = z.strictObject({
  identity: identity.optional(),
  capability: capabilityName.optional(),
  allowed: z.enum(['true', 'false']).optional(),
  limit,
})
export const pageQuery = z.strictObject({ limit })
export const signalQuery = z.strictObject({ held: z.enum(['true', 'false']).optional(), limit })
export const quarantineQuery = z.strictObject({ all: z.enum(['true', 'false']).optional(), limit })
