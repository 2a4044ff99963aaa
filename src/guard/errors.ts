/** Owns how a guard refuses: a closed set of codes, what each says on the wire (RFC 6750 section 3, RFC 9449 section 7.1), and what only the operator hears. */
import type { ProofRule } from './settings.js'

interface Said {
  readonly status: 401 | 403 | 503
  /** Of the challenge; null: none is named there (RFC 6750 section 3.1), or there is no challenge. */
  readonly error: 'invalid_token' | 'invalid_dpop_proof' | 'insufficient_scope' | 'temporarily_unavailable' | null
  /** For the caller. Nothing of the token stands in it. */
  readonly says: string
}

const bad = (says: string): Said => ({ status: 401, error: 'invalid_token', says })
const proof = (says: string): Said => ({ status: 401, error: 'invalid_dpop_proof', says })
const short = (says: string): Said => ({ status: 403, error: 'insufficient_scope', says })
/** No verdict is no pass. */
const none = (says: string): Said => ({ status: 503, error: 'temporarily_unavailable', says })

export const GUARD_CODES = {
  token_missing: { status: 401, error: null, says: 'an access token is needed' },
  token_malformed: bad('the token is not one that is accepted here'),
  token_expired: bad('the token is expired'),
  token_not_yet: bad('the token is not valid yet'),
  revoked: bad('the credential is revoked'),
  wrong_issuer: bad('the token is of another issuer'),
  wrong_audience: bad('the token is for another audience'),
  wrong_type: bad('the token is of another type'),
  signature_invalid: bad('the signature is not valid'),
  key_unknown: bad('the token is signed by a key that its issuer does not publish'),
  scope_missing: short('the token lacks a scope that this needs'),
  resource_missing: short('the token does not reach this resource'),
  proof_missing: proof('a DPoP proof is needed'),
  proof_malformed: proof('the DPoP proof is not one that is accepted here'),
  proof_replayed: proof('the DPoP proof was used before'),
  proof_htm_mismatch: proof('the DPoP proof is for another method'),
  proof_htu_mismatch: proof('the DPoP proof is for another address'),
  proof_key_mismatch: bad('the token is not bound to the key of the DPoP proof'),
  proof_ath_mismatch: proof('the DPoP proof is for another token'),
  proof_old: proof('the time of the DPoP proof lies outside the window'),
  binding_unsupported: bad('the token is bound to a client certificate, which is not checked here'),
  bearer_downgrade: bad('the token is bound to a key and was presented as a bearer'),
  stale_feed: none('what is revoked is not known well enough at the moment'),
  keys_unavailable: none('the keys of the issuer are not to be had at the moment'),
  introspection_failed: none('the issuer could not be asked'),
} as const satisfies Record<string, Said>

export type GuardCode = keyof typeof GUARD_CODES

export interface RefusalFacts {
  /** For whoever runs the resource server, never on the wire: what we wanted and what we were shown. */
  readonly expected?: string
  readonly actual?: string
  /** Instead of the code's own sentence. */
  readonly says?: string
  /** A code that usually blames the caller, where we could not find out. */
  readonly status?: 503
  readonly cause?: unknown
}

/** What the parts of the guard throw among themselves; it leaves as a GuardError. */
export class Refusal extends Error {
  override readonly name = 'Refusal'
  constructor(
    readonly code: GuardCode,
    readonly facts: RefusalFacts = {},
  ) {
    super(facts.says ?? GUARD_CODES[code].says, { cause: facts.cause })
  }
}

export const refuse = (code: GuardCode, facts?: RefusalFacts): never => {
  throw new Refusal(code, facts)
}

/** The one error that `verify` refuses with. `message` and `wwwAuthenticate` may be sent; `expected` and `actual` are for the log. */
export class GuardError extends Error {
  override readonly name = 'GuardError'
  readonly code: GuardCode
  readonly status: 401 | 403 | 503
  /** The challenge to answer with; null beside 503. */
  readonly wwwAuthenticate: string | null
  /** Seconds, beside 503. */
  readonly retryAfter: number | null
  /** OAuth's own word for it. */
  readonly error: string | null
  readonly expected?: string
  readonly actual?: string

  constructor(refusal: Refusal, context: { readonly proof: ProofRule; readonly scheme?: Scheme | null; readonly scope?: string }) {
    super(refusal.message, { cause: refusal.facts.cause })
    const said: Said = GUARD_CODES[refusal.code]
    this.code = refusal.code
    this.status = refusal.facts.status ?? said.status
    this.error = this.status === 503 ? 'temporarily_unavailable' : said.error
    this.retryAfter = this.status === 503 ? 1 : null
    this.wwwAuthenticate = this.status === 503 ? null : challenge(this.error, this.message, context)
    if (refusal.facts.expected !== undefined) this.expected = refusal.facts.expected
    if (refusal.facts.actual !== undefined) this.actual = refusal.facts.actual
  }

  /** Ready to be sent, whatever the framework. */
  headers(): Record<string, string> {
    return {
      'Cache-Control': 'no-store',
      'Content-Type': 'application/json',
      ...(this.wwwAuthenticate === null ? {} : { 'WWW-Authenticate': this.wwwAuthenticate }),
      ...(this.retryAfter === null ? {} : { 'Retry-After': String(this.retryAfter) }),
    }
  }
  body(): string {
    return JSON.stringify({ error: this.error ?? 'invalid_request', error_description: this.message, code: this.code })
  }
}

export type Scheme = 'DPoP' | 'Bearer'

/** RFC 9449 section 7.1: a DPoP challenge names the algorithms. The scheme is the one that was used; without one, all that would do. */
function challenge(error: string | null, says: string, { proof, scheme, scope }: { proof: ProofRule; scheme?: Scheme | null; scope?: string }): string {
  const told = [
    ...(error === null ? [] : [`error="${error}"`, `error_description="${says}"`]),
    ...(error === 'insufficient_scope' && scope ? [`scope="${scope}"`] : []),
  ]
  const dpop = ['algs="ES256 RS256"', ...told].join(', ')
  const bearer = told.length > 0 ? `Bearer ${told.join(', ')}` : 'Bearer'
  if (proof === 'required' || error === 'invalid_dpop_proof') return `DPoP ${dpop}`
  if (scheme === 'DPoP') return `DPoP ${dpop}`
  return proof === 'off' || scheme === 'Bearer' ? bearer : `DPoP ${dpop}, ${bearer}`
}
