/** Owns policy's answer and the one type that proves a permit was given: nothing is issued without a Grant. */
import type { Acting } from './actors.js'
import { type Audience, BEARER_MAX_SECONDS, type Capability, type RevocationClass, weakerClass } from './capability.js'
import { CurfewError } from './errors.js'
import type { CredentialId, DecisionId, PolicyId, TaskId } from './ids.js'
import type { TaskAttestation } from './task.js'

/** What policy is asked: everything it may look at, as plain facts. */
export interface PolicyRequest {
  readonly attestation: TaskAttestation
  readonly capability: Capability
  readonly audience: Audience | null
  readonly task: { readonly purpose: string; readonly labels: Readonly<Record<string, string>>; readonly owner: string | null; readonly depth: number }
  readonly ttlSeconds: number
  /** Whole seconds since the evidence was made, by database time. */
  readonly evidenceAgeSeconds: number
  /** True when the caller proved possession of a key in this request. */
  readonly proof: boolean
}

/** What determining permits demand (Cedar annotations): the strictest wins. */
export interface Obligations {
  readonly maxTtlSeconds: number | null
  readonly requireProof: boolean
}

export interface PolicyAnswer {
  readonly allowed: boolean
  /** Ids of the policies that determined it; empty for a denial by default. */
  readonly policies: readonly string[]
  readonly obligations: Obligations
  readonly digest: PolicyId
  /** Why an evaluation that failed denies: `policy_error`; null when policy simply answered. */
  readonly fault: string | null
}

/** The nearest rule, and the first of the caller's own claims that differs (ux.md 3.3). */
export interface Explanation {
  readonly nearestRule: { readonly id: string; readonly held: number; readonly of: number } | null
  readonly failed: readonly { readonly claim: string; readonly actual: string | null }[]
  /** A `forbid` that matched: no permit can help. */
  readonly forbiddenBy: readonly string[]
}

export interface Decision {
  readonly id: DecisionId
  readonly at: Date
  readonly allowed: boolean
  readonly identity: string
  readonly issuer: string
  readonly capability: string
  readonly task: TaskId | null
  readonly policies: readonly string[]
  readonly digest: PolicyId
  readonly obligations: Obligations
  /** `permitted`, or the reason of the denial: `no_permit`, `forbidden`, `policy_error`, `quarantined`, `evidence_stale`, … */
  readonly reason: string
  readonly explanation: Explanation | null
  /** The attributes it was decided on: evidence for those who come after. */
  readonly attributes: Readonly<Record<string, unknown>>
}

/** One permit out of the permits of a task and of all above it: each had to be given, and each demand stands. */
export function strictest(own: Decision, above: readonly Decision[]): Decision {
  const all = [own, ...above]
  const ttls = all.flatMap(d => d.obligations.maxTtlSeconds ?? [])
  return {
    ...own,
    policies: [...new Set(all.flatMap(d => d.policies))],
    obligations: { maxTtlSeconds: ttls.length > 0 ? Math.min(...ttls) : null, requireProof: all.some(d => d.obligations.requireProof) },
  }
}

/** What a caller adds when it asks for one credential (a public key to be certified); the engine owns its shape. */
export type AskParams = Readonly<Record<string, string | number | boolean>>

export interface GrantTerms {
  readonly credential: CredentialId
  readonly capability: Capability
  /** Judged by the engine's `ask`. */
  readonly params: AskParams
  readonly engineClass: RevocationClass
  readonly audience: Audience | null
  readonly task: TaskId
  readonly ancestors: readonly TaskId[]
  /** As the task has them. */
  readonly actors: readonly Acting[]
  readonly attestation: TaskAttestation
  readonly jkt: string | null
  readonly askedTtlSeconds: number | null
  readonly now: Date
  readonly taskDeadline: Date
  readonly issuerMaxTtlSeconds: number
}

/** Shorter than this a credential cannot be used for anything; the task is about to end. Seconds. */
export const MIN_TTL_SECONDS = 5

/** The ceilings on a credential's life that do not depend on its task. Seconds. */
export const longestLife = (
  of: Pick<GrantTerms, 'audience' | 'issuerMaxTtlSeconds'> & { readonly capability: Pick<Capability, 'maxTtlSeconds'>; readonly obligations: Obligations },
): number =>
  Math.min(
    of.capability.maxTtlSeconds,
    of.issuerMaxTtlSeconds,
    of.obligations.maxTtlSeconds ?? Number.POSITIVE_INFINITY,
    of.audience && !of.audience.senderConstrained ? BEARER_MAX_SECONDS : Number.POSITIVE_INFINITY,
  )

/** The proof that policy said yes, with the life already clamped. Only `Grant.from` makes one. */
export class Grant {
  readonly #permit: Decision
  private constructor(
    permit: Decision,
    readonly terms: GrantTerms,
    readonly ttlSeconds: number,
  ) {
    this.#permit = permit
  }

  static from(decision: Decision, terms: GrantTerms): Grant {
    if (!decision.allowed) throw denial(decision)
    if (decision.capability !== terms.capability.name) throw new TypeError('a permit is good for the capability it names')
    const bound = terms.jkt !== null && (terms.audience?.senderConstrained ?? true)
    if (decision.obligations.requireProof && !bound) {
      throw new CurfewError('policy_denied', 'this capability is granted only to holders of a proof key, at an audience that checks it', {
        reason: 'proof_required',
        decision: decision.id,
        next: 'send a DPoP proof (RFC 9449) with the request',
      })
    }
    const remaining = Math.floor((terms.taskDeadline.getTime() - terms.now.getTime()) / 1000)
    const longest = longestLife({ ...terms, obligations: decision.obligations })
    const ttl = Math.min(terms.askedTtlSeconds ?? terms.capability.ttlSeconds, longest, remaining)
    if (ttl < MIN_TTL_SECONDS) {
      throw new CurfewError('task_ended', 'the task ends before a credential could be used', { reason: 'too_little_time', next: 'open a new task' })
    }
    return new Grant(decision, terms, ttl)
  }

  get decision(): Decision {
    return this.#permit
  }
  get id(): CredentialId {
    return this.terms.credential
  }
  /** Seconds since the epoch: what goes into `iat` and `exp`. */
  get issuedAt(): number {
    return Math.floor(this.terms.now.getTime() / 1000)
  }
  get expiresAt(): Date {
    return new Date((this.issuedAt + this.ttlSeconds) * 1000)
  }
  get revocation(): RevocationClass {
    return weakerClass(this.terms.engineClass, this.terms.audience)
  }
  /** The key the credential is bound to; null at audiences that cannot check a proof. */
  get confirmation(): string | null {
    return this.terms.audience && !this.terms.audience.senderConstrained ? null : this.terms.jkt
  }
}

/** A denial as the caller hears it: the nearest rule, its own differing claim, and what to do. */
export function denial(decision: Decision): CurfewError {
  const nearest = decision.explanation?.nearestRule
  const failed = decision.explanation?.failed ?? []
  const claim = failed[0]?.claim
  const why =
    decision.reason === 'issuer_disabled' ? 'the issuer of its evidence is not trusted any more' : `no rule permits this workload to use ${decision.capability}`
  return new CurfewError('policy_denied', why, {
    reason: decision.reason,
    decision: decision.id,
    identity: decision.identity,
    ...(nearest ? { nearestRule: nearest } : {}),
    ...(failed.length > 0 ? { failed } : {}),
    next: claim ? `ask with another ${claim}, or ask an admin to look at decision ${decision.id}` : `ask an admin to look at decision ${decision.id}`,
  })
}
