/** Owns the refusal of what is new: a deny marker with an end, a message and a name, so that it can be listed and lifted. */
import type { QuarantineId, RevocationId } from './ids.js'
import type { Actor, Selector } from './revocation.js'

export interface NewQuarantine {
  readonly id: QuarantineId
  readonly selector: Selector
  readonly seconds: number
  /** Shown to the workload that is refused. */
  readonly message: string | null
}

export interface Quarantine extends Omit<NewQuarantine, 'seconds'> {
  readonly setBy: Actor
  readonly setAt: Date
  readonly until: Date
  /** The act that it was set with. */
  readonly revocation: RevocationId | null
  readonly liftedAt: Date | null
  readonly liftedBy: Actor | null
  readonly liftReason: string | null
}
