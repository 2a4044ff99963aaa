/** Owns what we believe about a caller after verifying its evidence: normalised, immutable, free of the provider's own format. */
import type { ClientMethod } from './client-methods.js'
import { CurfewError } from './errors.js'
import type { IdentityId, IssuerId } from './ids.js'

export type AttestorKind = 'oidc' | 'spiffe' | 'registered'

/** What a workload presents, not yet believed. The type is the caller's claim about the format (RFC 8693 section 3). */
export interface Evidence {
  readonly type: 'jwt'
  readonly token: string
  /** Shown to authenticate a client: only the attestor of this method may believe it, and its audience is our issuer alone (RFC 7523bis section 3). */
  readonly client?: ClientMethod
}

/**
 * How much the evidence is worth. Policy reads it as a number so that it can say "at least".
 * 1 a registered key (whoever holds it), 2 a platform's word about a shared runtime, 3 a platform's word about one workload.
 */
export type Strength = 1 | 2 | 3

/** Flat, typed facts that policy reads. Numbers are whole. */
export type Attributes = Readonly<Record<string, string | number | boolean | readonly string[]>>

/** How often one piece of evidence may be used (standards.md 2.2.4). */
export type ReplayMode = 'single_use' | 'bounded' | 'reusable'

/** A one-time thing that a transaction consumes: unique by namespace and id until it cannot be presented any more. */
export interface Mark {
  readonly namespace: string
  readonly id: string
  readonly until: Date
  /** For `bounded` evidence: the proof key that may present it again. Another holder of the same mark is refused. */
  readonly holder?: string
}

/** The refusal of bounded evidence that comes with another key than it first came with: it was copied, or its job did not keep its key. */
export const secondKey = () =>
  new CurfewError('attestation_refused', 'this evidence was used before, with another key', {
    reason: 'second_key',
    field: 'subject_token',
    next: 'let every command of the job use the same key: the same user and home folder, or one `curfew run` around them',
  })

/** The marks of one-time grants: a child task is opened by each at most once. */
export const GRANT_NAMESPACE = 'grant'

export interface Attestation {
  /** The configured name of the trust issuer, and its id. */
  readonly issuer: string
  readonly issuerId: IssuerId
  readonly kind: AttestorKind
  /** The provider profile that shaped the attributes: `github`, `gitlab`, `kubernetes`, `spiffe`, …, `generic`. */
  readonly profile: string
  /** The workload identity as a URI: issuer plus immutable key, e.g. `github:repository_id=456789` or a SPIFFE ID. */
  readonly identity: string
  readonly identityId: IdentityId
  readonly owner: string | null
  readonly attributes: Attributes
  readonly strength: Strength
  /** When the evidence was made (`iat`), and when it ends. */
  readonly evidenceAt: Date
  readonly expiresAt: Date
  readonly replay: ReplayMode
  /** To be consumed by the transaction that acts on this evidence; absent for `reusable`. */
  readonly mark: Mark | null
  /** The job run, if the provider names one: what a tombstone refuses. */
  readonly run: string | null
  /** SHA-256 of the decoded evidence, for the audit row; never the evidence. */
  readonly digest: string
}
