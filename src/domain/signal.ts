/** Owns an authenticated statement of risk, normalised; it can shorten a life and never lengthen one. */
import type { QuarantineId, RevocationId, SignalId } from './ids.js'
import type { Reach } from './plan.js'
import type { Actor } from './revocation.js'

/** The source of what we see ourselves. It has no secret: nobody can sign as it. */
export const OURSELVES = 'curfew'

export type SignalSubject = { readonly kind: 'credential' | 'task' | 'identity'; readonly key: string }

export interface NewSignal {
  readonly id: SignalId
  readonly source: string
  /** The sender's own id of the event: the same one twice is one signal. */
  readonly eventId: string
  readonly type: string
  readonly severity: 'low' | 'medium' | 'high' | 'critical'
  readonly subject: SignalSubject
  readonly occurredAt: Date
  readonly detail: string | null
}

export interface Signal extends NewSignal {
  readonly receivedAt: Date
  /** The rule that matched, or null: received, recorded, nothing done. */
  readonly rule: string | null
  readonly act: SignalAct | null
  /** What it would have ended, when that was more than its rule may: it waits for a person. */
  readonly held: Reach | null
  readonly verdict: Verdict | null
  /** What it did, once it was handled. */
  readonly revocation: RevocationId | null
  readonly quarantine: QuarantineId | null
  readonly handledAt: Date | null
}

/** What a person said of a held signal. */
export interface Verdict {
  readonly kind: 'approved' | 'dismissed'
  readonly by: Actor
  readonly reason: string
}

/** What a matching rule does: end what is alive, deny what is new for a time, or let open tasks end sooner. `cap`: what it may end without a person. */
export type SignalAct =
  | { readonly kind: 'revoke'; readonly cap: number }
  | { readonly kind: 'quarantine'; readonly seconds: number }
  | { readonly kind: 'shorten'; readonly seconds: number; readonly cap: number }

/** Held, and nobody has decided yet. */
export const isWaiting = (s: Signal): boolean => s.held !== null && s.verdict === null && s.handledAt === null
