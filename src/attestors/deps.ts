/** Owns what every attestor is given. */
import type { Outbound } from '../clients/outbound.js'
import type { Clock } from '../ports.js'

export interface AttestorDeps {
  /** Ours: the audience of evidence where an issuer names no other. */
  readonly serverUrl: string
  readonly clock: Clock
  readonly outbound: Outbound
  readonly readFile: (path: string) => Promise<string>
  readonly log: { warn(fields: object, message: string): void; error(fields: object, message: string): void }
}
