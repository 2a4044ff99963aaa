/** Owns an authenticated statement of risk, normalised; it can shorten a life and never lengthen one. */
import type { RevocationId, SignalId } from './ids.js'

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
  readonly revocation: RevocationId | null
  readonly handledAt: Date | null
}

/** What a matching rule does: end what is alive, or deny new for a time. */
export type SignalAct = { readonly kind: 'revoke' } | { readonly kind: 'deny'; readonly seconds: number }
