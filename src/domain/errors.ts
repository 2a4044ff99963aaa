/** Owns the inner vocabulary of failure: one class, a closed set of codes, no word of HTTP. */
export const ERROR_CODES = [
  'malformed',
  'attestation_refused',
  'attestation_stale',
  'proof_refused',
  'policy_denied',
  'approval_needed',
  'capability_unknown',
  'target_unknown',
  'task_ended',
  'not_found',
  'forbidden',
  'conflict',
  'rate_limited',
  'engine_failed',
  'unavailable',
] as const
export type ErrorCode = (typeof ERROR_CODES)[number]

/** What the caller may be told beside the message. Facts are fields, never buried in prose. */
export interface ErrorFacts {
  /** Stable sub-reason, e.g. `replayed` or `audience_mismatch`; also the reason in the audit row. */
  readonly reason?: string
  /** The offending field of a body, header, claim or configuration, as a dotted path. */
  readonly field?: string
  /** What the failed part of a bundle is: its place is the field. */
  readonly capability?: string
  readonly decision?: string
  readonly nearestRule?: { readonly id: string; readonly held: number; readonly of: number }
  /** The caller's own claim and the caller's own value; never the policy's. */
  readonly failed?: readonly { readonly claim: string; readonly actual: string | null }[]
  readonly identity?: string
  /** Where the refused evidence stood, when that changes its word on the wire: RFC 7523 has one for grants and one for clients. */
  readonly shownAs?: 'assertion' | 'client_assertion'
  /** One sentence: what the caller can do next. */
  readonly next?: string
  readonly retryAfterSeconds?: number
  /** Of a refusal that comes too often to be evidence each time: whose limit it is, and how many before it left none. Null: this one leaves none either. */
  readonly repeats?: { readonly limit: 'source' | 'identity'; readonly key: string; readonly untold: number | null }
}

/** A refusal with a reason the caller may hear. `message` never quotes input or tokens; the private story is the `cause`, which is only logged. */
export class CurfewError extends Error {
  override readonly name = 'CurfewError'
  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly facts: ErrorFacts = {},
    options: { cause?: unknown } = {},
  ) {
    super(message, options)
  }
}

/** The same refusal, told of the part of a bundle that it is about: `capabilities.1`, or what is inside of it. */
export function ofPart(error: CurfewError, part: number, capability: string): CurfewError {
  const { field } = error.facts
  const inside = field === undefined || field === 'capability' ? '' : `.${field}`
  return new CurfewError(error.code, error.message, { ...error.facts, field: `capabilities.${part}${inside}`, capability }, { cause: error })
}

/** Thrown by an engine when trying again cannot help: the row is `stuck` at once, and the slow retries go on all the same. */
export class PermanentError extends Error {
  override readonly name = 'PermanentError'
}
