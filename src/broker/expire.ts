/** Verb: close what is due. Asked by a job per second-bucket and by the sweep; the database says what is due, never the job. */
import type { BrokerDeps } from './deps.js'
import { hurryAll } from './hurry.js'

/** Rows a transaction: larger batches keep other calls waiting (performance.md section 1). */
const BATCH = 200

/** How many were closed. */
export async function expireDue(deps: BrokerDeps, signal: AbortSignal): Promise<number> {
  let closed = 0
  while (!signal.aborted) {
    const batch = await deps.store.credentials.expire(BATCH)
    closed += batch.length
    if (batch.length > 0) deps.meter.revoked('expired', batch.length)
    await hurryAll(deps, batch)
    if (batch.length < BATCH) break
  }
  return closed
}
