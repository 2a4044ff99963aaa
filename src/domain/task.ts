/** Owns the unit of work: who does what, until when, and how it ends. */
import type { Acting } from './actors.js'
import type { TaskId } from './ids.js'
import type { Actor, Reason } from './revocation.js'
import type { Attestation } from './workload.js'

export type TaskState = 'open' | 'completed' | 'cancelled' | 'expired' | 'revoked'

/** What a task remembers of the attestation it stands on, so that later requests are judged on the same facts. */
export type TaskAttestation = Omit<Attestation, 'mark' | 'replay'>

export interface NewTask {
  readonly id: TaskId
  readonly purpose: string
  readonly capabilities: readonly string[]
  readonly parent: TaskId | null
  /** Nearest first, at most MAX_ANCESTORS. */
  readonly ancestors: readonly TaskId[]
  /** Whose work it does: the identities above it, nearest first, the principal last. Empty when it acts for itself. */
  readonly actors: readonly Acting[]
  readonly owner: string | null
  readonly labels: Readonly<Record<string, string>>
  /** Life from now, in seconds; the deadline is set by the store's clock. */
  readonly lifeSeconds: number
  /** A holder silent for longer than this has died: the task ends. Null: only the deadline ends it. */
  readonly heartbeatSeconds: number | null
  readonly attestation: TaskAttestation
  /** RFC 7638 thumbprint of the proof key the task is bound to. */
  readonly jkt: string
}

export interface Task extends Omit<NewTask, 'lifeSeconds'> {
  readonly state: TaskState
  readonly openedAt: Date
  readonly deadlineAt: Date
  readonly heartbeatAt: Date
  readonly endedAt: Date | null
  readonly endReason: Reason | null
  /** Who said so: its holder, an operator, a source of signals, a part of the broker. */
  readonly endedBy: Actor | null
  readonly version: number
}

export const MAX_ANCESTORS = 5
/** Silence tolerated: this many heartbeat intervals, so that one lost packet ends nobody's work. */
export const HEARTBEATS_MISSED = 3

export interface TaskFilter {
  readonly identity?: string
  readonly state?: Task['state']
  readonly limit: number
}
