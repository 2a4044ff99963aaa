/** Owns what a revocation would hit, and hit: counted before the act for a plan, and after it for the receipt. */
import type { RevocationClass } from './capability.js'
import type { CredentialId, PlanId, RevocationId } from './ids.js'
import type { Actor, Selector } from './revocation.js'

/** A credential that only its own end ends. */
export interface Exposed {
  readonly credential: CredentialId
  readonly capability: string
  readonly until: Date
}

export interface Reach {
  /** Live now. */
  readonly credentials: number
  readonly classes: Readonly<Record<RevocationClass, number>>
  readonly engines: Readonly<Record<string, number>>
  readonly capabilities: number
  /** Open tasks, with all below them. */
  readonly tasks: number
  /** Those with most tasks, OWNERS_TOLD at most. */
  readonly owners: readonly { readonly owner: string | null; readonly tasks: number }[]
  /** Those exposed for longest, EXPOSED_TOLD at most. */
  readonly exposed: readonly Exposed[]
  readonly exposedUntil: Date | null
}

export const OWNERS_TOLD = 20
export const EXPOSED_TOLD = 20
/** What was counted longer ago than this is no ground for an act. */
export const PLAN_SECONDS = 300

export interface Plan {
  readonly id: PlanId
  readonly selector: Selector
  /** For people; kept with the revocation unless another is given. */
  readonly reason: string | null
  readonly reach: Reach
  readonly madeBy: Actor
  readonly madeAt: Date
  readonly validUntil: Date
  /** The act that executed it. */
  readonly revocation: RevocationId | null
}

/** What has become of all that one act moved. */
export interface Outcome {
  readonly revoking: number
  readonly stuck: number
  readonly revoked: number
  /** What was looked at, over all that are revoked, and how often (`Probe.looked`). */
  readonly looked: Readonly<Record<string, number>>
  /** Revoked, but nobody could look at the target itself. */
  readonly notProbed: number
  /** Those exposed for longest, EXPOSED_TOLD at most. */
  readonly exposed: readonly Exposed[]
  readonly exposedTotal: number
  readonly exposedUntil: Date | null
  /** Everything behind its cut-off has been closed. */
  readonly closed: boolean
}
