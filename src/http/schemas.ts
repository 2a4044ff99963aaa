/** Owns the shapes of what callers send: strict, bounded, printable. */
import { z } from 'zod'
import { isId } from '../domain/ids.js'
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
    .refine(
      s => !/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/u.test(s),
      'must be one line without control or formatting characters',
    )
    .refine(s => s === s.trim(), 'must not begin or end with a space')

const word = z.string().regex(/^[a-z][a-z0-9_-]{0,62}$/, 'must be lower-case letters, digits, _ and -')
export const capabilityName = z
  .string()
  .max(100)
  .regex(/^[a-z][a-z0-9-]*(\/[a-z0-9][a-z0-9-]*)*$/, 'must be lower-case words joined by /')
const seconds = (min: number, max: number) => z.int().min(min).max(max)
const labels = z.record(word, line(200)).refine(l => Object.keys(l).length <= 16, 'may have 16 entries at most')

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

export const openTaskBody = z.strictObject({ subject_token: token, subject_token_type: evidenceType.optional(), ...taskMembers })

export const rarTask = (type: string) =>
  z.strictObject({ type: z.literal(type, 'is not a type of this server'), ...taskMembers, ttl: seconds(5, 43_200).optional() })

export const tokenForm = z.strictObject({
  grant_type: z.string(),
  subject_token: token.optional(),
  subject_token_type: z.string().optional(),
  authorization_details: z.string().max(8_192).optional(),
  resource: z.string().max(2_048).optional(),
  requested_token_type: z.enum(['urn:ietf:params:oauth:token-type:access_token', 'urn:ietf:params:oauth:token-type:jwt']).optional(),
})

export const tokenQueryForm = z.strictObject({ token, token_type_hint: z.string().max(100).optional() })

export const credentialBody = z.strictObject({
  capability: capabilityName,
  ttl_seconds: seconds(5, 43_200).optional(),
  subject_token: token.optional(),
  subject_token_type: evidenceType.optional(),
})
export const idempotencyKey = z.string().regex(/^[\x21-\x7e]{8,128}$/, 'must be 8 to 128 printable characters')
export const outcomeBody = z.strictObject({ outcome: line(200).optional() })
export const emptyBody = z.strictObject({})
export const explainBody = z.strictObject({
  subject_token: token,
  subject_token_type: evidenceType.optional(),
  capability: capabilityName,
  ttl_seconds: seconds(5, 43_200).optional(),
  purpose: line(200).default('explain'),
  labels: labels.default({}),
})

const credentialId = z.string().refine(s => isId('credential', s), 'must be a credential id (crd_…)')
const taskId = z.string().refine(s => isId('task', s), 'must be a task id (tsk_…)')
/** Printable ASCII: identities are compared code point by code point (P33). */
const identity = z.string().regex(/^[\x21-\x7e]{1,2048}$/, 'must be printable ASCII without spaces')

const subject = z
  .strictObject({ credential: credentialId.optional(), task: taskId.optional(), identity: identity.optional() })
  .refine(s => Object.values(s).filter(v => v !== undefined).length === 1, 'must name exactly one of credential, task, identity')

export const revocationBody = z.strictObject({ selector: subject, message: line(500).optional(), reason: line(200).optional() })
export const signalBody = z.strictObject({
  id: z.string().regex(/^[\x21-\x7e]{1,200}$/, 'must be 1 to 200 printable characters'),
  type: z.string().regex(/^[a-z0-9][a-z0-9._/-]{0,99}$/, 'must be lower-case, like account.compromised'),
  severity: z.enum(['low', 'medium', 'high', 'critical']),
  subject,
  occurred_at: z.iso.datetime({ offset: true }),
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
