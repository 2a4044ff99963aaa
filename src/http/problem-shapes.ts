/** Owns the shapes of what problem.ts tells, and which errors a route can give. */
import { z } from 'zod'
import { ERROR_CODES, type ErrorCode } from '../domain/errors.js'
import type { Declaration } from './declaration.js'
import { statusOf } from './problem.js'
import { failedShape, nearestRuleShape, thing } from './shapes.js'

const action = z.enum(['retry', 'request_access', 'ask_human', 'stop'])

const members = {
  code: z.enum(ERROR_CODES),
  reason: z.string().optional(),
  field: z.string().optional(),
  capability: z.string().optional(),
  request_id: z.string(),
  decision_id: z.string().optional(),
  identity: z.string().optional(),
  nearest_rule: nearestRuleShape.optional(),
  failed: failedShape.optional(),
  next: z.string().optional(),
  agent_action: action,
  retry_after: z.number().nullable(),
}

/** RFC 9457, with our members. */
export const problemShape = thing(
  'Problem',
  { type: z.url(), title: z.string(), status: z.int(), detail: z.string(), ...members },
  'RFC 9457. `type` is the page of the code, `reason` the stable word within it, `field` what was wrong in the request, `capability` the part of a bundle that failed.',
)

/** RFC 6749 section 5.2, RFC 7009 section 2.2.1, RFC 8707 section 2, RFC 9396 section 5, RFC 9449 section 5; two of the authorization endpoint, as others have them here. */
const oauthError = z.enum([
  'invalid_request',
  'invalid_client',
  'invalid_grant',
  'unauthorized_client',
  'unsupported_grant_type',
  'invalid_scope',
  'unsupported_token_type',
  'invalid_target',
  'invalid_authorization_details',
  'invalid_dpop_proof',
  'use_dpop_nonce',
  'access_denied',
  'temporarily_unavailable',
])

export const oauthErrorShape = thing(
  'OAuthError',
  { error: oauthError, error_description: z.string(), ...members },
  'RFC 6749 section 5.2, with the members of a problem.',
)

/** A failure that is ours, told by nothing but its number. */
export const bugShape = thing('Bug', { type: z.literal('about:blank'), status: z.literal(500), request_id: z.string(), agent_action: z.literal('stop') })
export const oauthBugShape = thing('OAuthBug', { error: z.literal('server_error'), request_id: z.string() })

/** By status, the codes that a caller of this route may meet; sorted, so that two documents of one house are one text. */
export function refusalsOf(d: Declaration): ReadonlyMap<number, readonly ErrorCode[]> {
  const byStatus = new Map<number, Set<ErrorCode>>()
  const may = (status: number, code: ErrorCode) => void byStatus.set(status, (byStatus.get(status) ?? new Set()).add(code))
  for (const code of codesOf(d)) may(statusOf(code), code)
  if (d.json || d.rawBody) for (const status of [413, 415]) may(status, 'malformed')
  return new Map([...byStatus].sort(([a], [b]) => a - b).map(([status, codes]) => [status, [...codes].sort()]))
}

function codesOf(d: Declaration): ErrorCode[] {
  const shown = d.who === 'public' ? new Set((d.shows ?? []).flat()) : null
  const who = d.who === 'public' ? {} : d.who
  return [
    // A server that cannot write its audit log, or read its store, says nothing else.
    'malformed',
    'unavailable',
    ...(d.who !== 'public' || (shown && shown.size > 0) ? (['attestation_refused'] as const) : []),
    ...(who.operator ? (['forbidden'] as const) : []),
    // Another's task answers like one that does not exist (T57).
    ...(who.holder ? (['proof_refused', 'not_found'] as const) : []),
    ...(d.asks ? (['rate_limited'] as const) : []),
    ...(shown?.has('proof') ? (['proof_refused'] as const) : []),
    ...(d.refuses ?? []),
  ]
}
