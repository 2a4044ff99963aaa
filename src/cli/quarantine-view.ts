/** Owns a quarantine as the broker tells it. */
import type { Auth, Broker } from './http.js'

export interface QuarantineView {
  readonly id: string
  readonly selector: unknown
  readonly message: string | null
  readonly set_by: unknown
  readonly set_at: string
  readonly until: string
  /** The act that it was set with. */
  readonly revocation?: string | null
  readonly lifted_at: string | null
  readonly lifted_by: unknown
  readonly lift_reason: string | null
}

export async function listQuarantines(broker: Broker, auth: Auth, all: boolean, signal: AbortSignal): Promise<QuarantineView[]> {
  const { body } = await broker.call({ method: 'GET', path: '/v1/quarantines', query: { all: all ? 'true' : undefined }, auth }, signal)
  return Array.isArray(body.quarantines) ? (body.quarantines as QuarantineView[]) : []
}
