/** Verb: close what is due, and what stands behind acts. Asked by jobs and by the sweep; the database says what is due, never the job. */
import type { BrokerDeps } from './deps.js'
import { hurryAll, hurryDue } from './hurry.js'
import { inBatches } from './paced.js'
import { settleLocal } from './settle-local.js'

/** For a job: hurries what acts left, closes all that is due, and says of what lives nowhere that it is dead. How many were closed. */
export async function closeDue(deps: BrokerDeps, signal: AbortSignal): Promise<number> {
  // First: what is closed here is hurried as it is closed.
  await hurryDue(deps)
  const closed = (await expireDue(deps, signal)) + (await closeBehindActs(deps, signal))
  await settleLocal(deps, signal)
  return closed
}

/** Two at a time: while one batch waits for the disk, the database closes another; each skips the rows that the other has locked. */
const LANES = 2

export function expireDue(deps: BrokerDeps, signal: AbortSignal): Promise<number> {
  const act = async (limit: number) => {
    const batch = await deps.store.credentials.expire(limit)
    if (batch.length > 0) deps.meter.revoked('expired', batch.length)
    await hurryAll(deps, batch)
    return { did: batch.length, more: batch.length === limit }
  }
  return inBatches(act, signal, LANES)
}

/** One at a time: what stands behind an act is refused already, and other acts are not to wait for it. */
export function closeBehindActs(deps: BrokerDeps, signal: AbortSignal): Promise<number> {
  const act = async (limit: number) => {
    const batch = await deps.store.credentials.closeOverdue(limit)
    await hurryAll(deps, batch)
    return { did: batch.length, more: batch.length > 0 }
  }
  return inBatches(act, signal)
}
