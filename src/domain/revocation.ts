/** Owns the one committed act that ends things: selector, reason, actor, time. */
import { createHash } from 'node:crypto'
import type { CredentialId, ReceiptId, RevocationId, TaskId } from './ids.js'
import type { TaskState } from './task.js'
import { canonical, type Where } from './where.js'

/** The kinds that a feed entry can name (architecture.md section 7). */
export const SELECTOR_KINDS = ['credential', 'task', 'identity', 'issuer', 'key', 'capability', 'all'] as const
export type SelectorKind = (typeof SELECTOR_KINDS)[number]

export type Selector =
  | { readonly kind: 'credential'; readonly key: CredentialId }
  | { readonly kind: 'task'; readonly key: TaskId }
  /** A scope: ends what was issued at or before the cut-off, which is the commit's own time unless an earlier one is given. */
  | { readonly kind: 'identity' | 'issuer' | 'key' | 'capability'; readonly key: string; readonly issuedBefore?: Date }
  | { readonly kind: 'all'; readonly key: '*'; readonly issuedBefore?: Date }
  /** Attributes: resolved to the tasks that are open at the commit. The key stands for them where one text is wanted. */
  | { readonly kind: 'where'; readonly key: string; readonly where: Where }

/** The cut-off of a key that others may hold: what bears it is refused whatever `iat` they wrote into it. */
export const FOR_GOOD = new Date('9999-12-31T23:59:59Z')

export const byAttributes = (where: Where): Selector => ({ kind: 'where', key: createHash('sha256').update(canonical(where)).digest('base64url'), where })

export const REASONS = [
  'completed',
  'cancelled',
  'expired',
  'deadline',
  'heartbeat_missed',
  'parent_ended',
  'risk_signal',
  'requested',
  'holder_revoked',
  'issuance_failed',
  'lost_upstream',
  'orphan',
] as const
export type Reason = (typeof REASONS)[number]

/** Who acted. `id` is an operator, task, signal source or part of the broker. */
export interface Actor {
  readonly kind: 'holder' | 'operator' | 'signal' | 'broker'
  readonly id: string
}

/** Its run was over and its holder had never said so: a step that should have told us may have been tampered with. */
export const isAbandoned = (reason: Reason, actor: Actor): boolean => reason === 'completed' && actor.kind === 'signal'

export const byBroker = (part: string): Actor => ({ kind: 'broker', id: part })

export interface Revocation {
  readonly id: RevocationId
  /** Commit-ordered: a reader that has seen `seq` never meets a smaller one later. */
  readonly seq: number
  readonly selector: Selector
  readonly reason: Reason
  readonly actor: Actor
  /** For people: an incident number, a sentence. */
  readonly message: string | null
  /** From here on introspection and issuing refuse. Database time. */
  readonly at: Date
  /** How many rows moved to `revoking` inside the commit. */
  readonly credentials: number
  readonly tasks: number
  readonly receipt: ReceiptId
}

/** What a verifier needs to know of a revocation. */
export interface FeedEntry {
  readonly seq: number
  readonly kind: SelectorKind
  readonly key: string
  /** Mandatory for the scopes: refuses `iat <= issuedBefore`. */
  readonly issuedBefore: Date | null
  readonly until: Date
}

/** How a task is called after it was ended for a reason. */
export function taskStateAfter(reason: Reason): Exclude<TaskState, 'open'> {
  switch (reason) {
    case 'completed':
      return 'completed'
    case 'cancelled':
      return 'cancelled'
    case 'expired':
    case 'deadline':
    case 'heartbeat_missed':
      return 'expired'
    default:
      return 'revoked'
  }
}

/** Reasons that mean harm: the job run is tombstoned, so that a live runner cannot mint fresh evidence and open a new task. */
export function isForCause(reason: Reason): boolean {
  return reason === 'risk_signal' || reason === 'requested'
}
