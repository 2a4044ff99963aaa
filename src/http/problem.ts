/** Owns the one translation of errors to the wire: RFC 9457 problems, and the OAuth form at the OAuth endpoints. */
import { CurfewError, type ErrorCode } from '../domain/errors.js'

/** RFC 9728 section 3. */
export const RESOURCE_METADATA = '/.well-known/oauth-protected-resource'

export type AgentAction = 'retry' | 'request_access' | 'ask_human' | 'stop'

export interface Telling {
  readonly status: number
  readonly title: string
  readonly action: AgentAction
}

const TELLINGS = {
  malformed: { status: 400, title: 'Malformed request', action: 'stop' },
  attestation_refused: { status: 401, title: 'Attestation refused', action: 'stop' },
  attestation_stale: { status: 401, title: 'Attestation too old', action: 'retry' },
  proof_refused: { status: 401, title: 'Proof of possession refused', action: 'retry' },
  policy_denied: { status: 403, title: 'Denied by policy', action: 'request_access' },
  approval_needed: { status: 403, title: 'Approval needed', action: 'ask_human' },
  capability_unknown: { status: 422, title: 'Unknown capability', action: 'stop' },
  target_unknown: { status: 422, title: 'Unknown resource server', action: 'stop' },
  task_ended: { status: 409, title: 'Task ended', action: 'stop' },
  not_found: { status: 404, title: 'Not found', action: 'stop' },
  forbidden: { status: 403, title: 'Forbidden', action: 'stop' },
  conflict: { status: 409, title: 'Conflict', action: 'retry' },
  rate_limited: { status: 429, title: 'Too many', action: 'retry' },
  engine_failed: { status: 502, title: 'A backend failed', action: 'retry' },
  unavailable: { status: 503, title: 'Unavailable', action: 'retry' },
} as const satisfies Record<ErrorCode, Telling>

export const statusOf = (code: ErrorCode): number => TELLINGS[code].status

/** RFC 6749 section 5.2, RFC 8693 section 2.2.2 (a bad subject token is `invalid_request`), RFC 9449 section 5, RFC 8707 section 2, RFC 9396 section 5. */
const OAUTH = {
  malformed: [400, 'invalid_request'],
  attestation_refused: [400, 'invalid_request'],
  attestation_stale: [400, 'invalid_request'],
  proof_refused: [400, 'invalid_dpop_proof'],
  policy_denied: [400, 'access_denied'],
  approval_needed: [400, 'access_denied'],
  capability_unknown: [400, 'invalid_authorization_details'],
  target_unknown: [400, 'invalid_target'],
  task_ended: [400, 'invalid_grant'],
  not_found: [400, 'invalid_request'],
  forbidden: [400, 'unauthorized_client'],
  conflict: [400, 'invalid_request'],
  rate_limited: [429, 'temporarily_unavailable'],
  engine_failed: [503, 'temporarily_unavailable'],
  unavailable: [503, 'temporarily_unavailable'],
} as const satisfies Record<ErrorCode, readonly [number, string]>

/** How a code is told where no OAuth client listens. */
export const tellingOf = (code: ErrorCode): Telling => TELLINGS[code]

export interface Told {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: Readonly<Record<string, unknown>> | string
}

/** `oauth` at the OAuth endpoints, `plain` where a sentence is wanted (AuthZEN 1.0), RFC 9457 everywhere else. */
interface Where {
  readonly serverUrl: string
  readonly requestId: string
  readonly form: 'problem' | 'oauth' | 'plain'
}

/** What the caller hears, whatever was thrown; what is not a CurfewError is our bug and is told by nothing but its number. */
export function tell(error: unknown, where: Where): Told {
  if (!(error instanceof CurfewError)) return tellBug(where)
  const { status, title, action } = TELLINGS[error.code]
  const f = error.facts
  const members = {
    code: error.code,
    reason: f.reason,
    field: f.field,
    capability: f.capability,
    request_id: where.requestId,
    decision_id: f.decision,
    identity: f.identity,
    nearest_rule: f.nearestRule,
    failed: f.failed,
    next: f.next,
    agent_action: action,
    retry_after: f.retryAfterSeconds ?? (action === 'retry' && (status === 429 || status >= 500) ? 1 : null),
  }
  const retry: Record<string, string> = members.retry_after === null ? {} : { 'Retry-After': String(members.retry_after) }
  if (where.form === 'oauth') {
    // The stable machine word first, so that clients which keep only the description keep it too (standards.md 2.2.3).
    const [oauthStatus, oauthError] = wordFor(error)
    // RFC 6749 section 5.2: to those who may, or did, authenticate by a header. To others it would name a way that is none.
    const isChallenged = oauthStatus === 401 && f.field === 'Authorization'
    const challenge: Record<string, string> = isChallenged
      ? { 'WWW-Authenticate': BASIC.has(f.reason ?? '') ? 'Basic realm="curfew"' : challengeOf(error, where.serverUrl) }
      : {}
    return {
      status: oauthStatus,
      headers: { ...retry, ...challenge },
      body: { error: oauthError, error_description: describable(`${f.reason ?? error.code}: ${error.message}`), ...members },
    }
  }
  // The member and the status line must say the same (RFC 9457 section 3.1.2).
  const said = f.reason === 'body_too_large' ? 413 : f.reason === 'media_type' ? 415 : status
  if (where.form === 'plain') {
    const challenge: Record<string, string> = status === 401 ? { 'WWW-Authenticate': 'Basic realm="curfew", Bearer realm="curfew"' } : {}
    return {
      status: said,
      headers: { ...retry, ...challenge, ...PLAIN },
      body: `${f.reason ?? error.code}: ${f.field ? `${f.field} ` : ''}${error.message}`,
    }
  }
  const challenge: Record<string, string> = status === 401 ? { 'WWW-Authenticate': challengeOf(error, where.serverUrl) } : {}
  return {
    status: said,
    headers: { ...retry, ...challenge, 'Content-Type': 'application/problem+json' },
    body: { type: `${where.serverUrl}/e/${error.code}`, title, status: said, detail: error.message, ...members },
  }
}

/** RFC 9449 section 7.1, and where to learn what is wanted (RFC 9728 section 5.1). What was wrong with evidence in a body is no matter of a token. */
function challengeOf(error: CurfewError, serverUrl: string): string {
  const { reason, field } = error.facts
  const word =
    reason === 'nonce_required'
      ? 'use_dpop_nonce'
      : error.code === 'proof_refused'
        ? 'invalid_dpop_proof'
        : field === 'Authorization' && reason !== 'credentials_missing'
          ? 'invalid_token'
          : null
  return `DPoP ${word === null ? '' : `error="${word}", `}algs="ES256 RS256", resource_metadata="${serverUrl}${RESOURCE_METADATA}/v1"`
}

/** Reasons of a client that did not authenticate, wherever it should have. */
const UNAUTHENTICATED = new Set(['client_unauthenticated', 'client_mismatch', 'authorization_refused'])
const BASIC = new Set(['client_unauthenticated', 'authorization_refused', 'authorization_malformed'])

function wordFor(error: CurfewError): readonly [number, string] {
  const { reason = '', field = '', shownAs } = error.facts
  if (reason === 'grant_type_unsupported') return [400, 'unsupported_grant_type']
  // RFC 7009 section 2.2.1.
  if (reason === 'token_kind_refused') return [400, 'unsupported_token_type']
  if (reason === 'nonce_required') return [400, 'use_dpop_nonce']
  if (UNAUTHENTICATED.has(reason)) return [401, 'invalid_client']
  // One bad token has three words: of a subject token (RFC 8693 section 2.2.2), of a grant (RFC 7523 section 3.1), of a client (section 3.2).
  if (error.code === 'attestation_refused' || error.code === 'attestation_stale') {
    if (shownAs === 'assertion') return [400, 'invalid_grant']
    if (shownAs === 'client_assertion' || field === 'Authorization') return [401, 'invalid_client']
  }
  // Twice is a fault of the request, whatever it is that came twice (RFC 6749 section 5.2).
  if (reason === 'parameter_repeated') return OAUTH.malformed
  if (field.startsWith('authorization_details')) return [400, 'invalid_authorization_details']
  if (field === 'scope') return [400, 'invalid_scope']
  if (/^(resource|audience)(\.|$)/.test(field)) return [400, 'invalid_target']
  return OAUTH[error.code]
}

/** RFC 6749 section 5.2: printable ASCII without `"` and `\`. */
function describable(text: string): string {
  return text.replaceAll('"', "'").replace(/[^\x20-\x5b\x5d-\x7e]/g, '?')
}

function tellBug({ form, requestId }: Where): Told {
  switch (form) {
    case 'oauth':
      return { status: 500, headers: {}, body: { error: 'server_error', request_id: requestId } }
    case 'plain':
      return { status: 500, headers: PLAIN, body: 'server_error' }
    case 'problem':
      return {
        status: 500,
        headers: { 'Content-Type': 'application/problem+json' },
        body: { type: 'about:blank', status: 500, request_id: requestId, agent_action: 'stop' },
      }
    default:
      return form satisfies never
  }
}

const PLAIN = { 'Content-Type': 'text/plain; charset=utf-8' }
