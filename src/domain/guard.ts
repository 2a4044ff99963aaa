/** Owns the resource servers that hold the feed, as we know them: a name, a key of which only a digest is kept, and what each of their processes has applied. */
import type { GuardId } from './ids.js'

export interface Guard {
  readonly id: GuardId
  readonly name: string
  readonly createdAt: Date
  readonly disabledAt: Date | null
}

export interface GuardInstance {
  readonly guard: GuardId
  /** One process of it, by the name it gave itself. */
  readonly instance: string
  /** It refuses everything up to this. */
  readonly seq: number
  /** From our sending of the last act that it applied to its word, in milliseconds. */
  readonly lagMs: number | null
  readonly seenAt: Date
}

/** What is known of a guard when one of its instances is heard of. */
export interface Presence {
  readonly guard: GuardId
  readonly isDisabled: boolean
  /** Those that are there, as receipts count them. */
  readonly instances: number
}

/** What a receipt says of guards: of those that are there, how many refuse what the act ended. */
export interface Attendance {
  readonly applied: number
  readonly of: number
  readonly slowestMs: number | null
}

/** One that has not been heard of for longer is gone: it holds no feed, and refuses by its own staleness. Seconds. */
export const GONE_AFTER = 30
/** So long one that is gone is listed: each start of a process may bring a new name. Seconds. */
export const LISTED_FOR = 86_400
