/** Owns what is issued: its durable row, its states, and the only transitions there are. */
import type { RevocationClass } from './capability.js'
import type { CredentialId, DecisionId, RevocationId, TaskId } from './ids.js'
import type { Reason } from './revocation.js'

export type CredentialState = 'pending' | 'active' | 'revoking' | 'stuck' | 'revoked'

/** No other transition exists (architecture.md section 1). */
export const TRANSITIONS: Readonly<Record<CredentialState, readonly CredentialState[]>> = {
  pending: ['active', 'revoking'],
  active: ['revoking'],
  revoking: ['revoked', 'stuck'],
  stuck: ['revoked'],
  revoked: [],
}

/** What an engine needs to destroy a credential; never the secret itself. Grows by recorded steps, so all members are optional to a reader. */
export type Handle = Readonly<Record<string, string | number>>

/** What was seen at the target. `dead` is the only answer that leads to `revoked`. */
export interface Probe {
  readonly outcome: 'dead' | 'alive' | 'waiting'
  /** What was looked at: `lease`, `accessor`, `listing`, `role`, `sessions`, `token`, `crl`, `introspection`, `expiry`, or an engine's own word; empty is `not probed`. */
  readonly looked: readonly string[]
  /** Why it is alive or waiting, in words that hold no secret. */
  readonly detail: string | null
}

/** What Vault holds about a credential, not the credential: a lease can vanish without it dying (security.md 3.4). All else is the thing itself. */
export const RECORDS_ABOUT: readonly string[] = ['lease', 'accessor', 'listing']

export interface Credential {
  readonly id: CredentialId
  readonly task: TaskId
  readonly ancestors: readonly TaskId[]
  readonly identity: string
  readonly issuer: string
  readonly issuerId: string
  readonly capability: string
  readonly audience: string | null
  readonly engine: string
  readonly revocationClass: RevocationClass
  readonly decision: DecisionId
  readonly jkt: string | null
  /** The signing key, for kinds that are signed. */
  readonly kid: string | null
  readonly state: CredentialState
  readonly version: number
  readonly issuedAt: Date
  readonly expiresAt: Date
  /** While `pending`: settle before this or be swept. */
  readonly deadlineAt: Date
  readonly handle: Handle | null
  readonly revocation: RevocationId | null
  readonly reason: Reason | null
  readonly revokingAt: Date | null
  readonly revokedAt: Date | null
  readonly attempts: number
  readonly nextAttemptAt: Date | null
  /** The last failure to destroy, in words that hold no secret. */
  readonly failure: string | null
  readonly probe: Probe | null
}

/** What a closing answers of each row: enough to hurry its destruction. */
export type Closed = Pick<Credential, 'id' | 'task' | 'engine' | 'state' | 'version' | 'reason' | 'revocation' | 'nextAttemptAt'>

/** A credential whose destruction one worker has claimed; the version is the fence. */
export interface Claim {
  readonly credential: Credential
  readonly version: number
}

/** Settle within this, or the sweep closes it. */
export const MINT_WINDOW_MS = 20_000
/** A claim that is not confirmed within this is open to others. */
export const CLAIM_MS = 30_000
/** Failures before a person must look. Retries go on all the same. */
export const STUCK_AFTER = 3
const BACKOFF_CAP_SECONDS = 30
/** A host whose clock is behind ours by less does not accept what is just over. Seconds. */
export const KRL_MARGIN_SECONDS = 600

/** Seconds until the next try after so many failures: 2, 4, 8, 16, then 30 without end. */
export function backoffSeconds(attempts: number): number {
  return Math.min(2 ** Math.min(attempts, 10), BACKOFF_CAP_SECONDS)
}

export interface CredentialFilter {
  readonly task?: TaskId
  readonly identity?: string
  readonly capability?: string
  readonly state?: CredentialState | 'live'
  /** Those that this act ended. */
  readonly revocation?: RevocationId
  /** HMAC-sealed digest as stored; see `digestOf`. */
  readonly digest?: string
  readonly after?: CredentialId
  readonly limit: number
}
