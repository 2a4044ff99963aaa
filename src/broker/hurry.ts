/** Owns the hurrying: jobs and the doorbell. Nothing here decides or guarantees; rows do, and the sweep finds what was not hurried. */
import type { Closed, Credential } from '../domain/credential.js'
import type { BrokerDeps } from './deps.js'

/** Wakes a worker to destroy this credential, now or when its next attempt is due. */
export async function hurryDestroy(deps: BrokerDeps, credential: Closed): Promise<void> {
  await deps.queue.enqueue(
    { name: 'destroy', engine: credential.engine, credential: credential.id, version: credential.version },
    ...(credential.nextAttemptAt ? [credential.nextAttemptAt] : []),
  )
}

/** One job per second-bucket, whatever falls due in it (architecture.md section 6): the next full second after the expiry. */
export async function hurryExpiry(deps: BrokerDeps, credential: Credential): Promise<void> {
  await closeAfter(deps, credential.expiresAt)
}

/** For an act that may have more behind it than it closed itself: within a second, where the sweep would come in five. */
export async function hurryClosing(deps: BrokerDeps): Promise<void> {
  await closeAfter(deps, deps.store.clock.now())
}

/** The bucket after it has not begun: one that runs now may have looked already. */
async function closeAfter(deps: BrokerDeps, at: Date): Promise<void> {
  const second = Math.floor(at.getTime() / 1000) + 1
  await deps.queue.enqueue({ name: 'expire', second }, new Date(second * 1000))
}

/** A job each for what must be destroyed; what lives nowhere is settled in batches by whoever closed it. */
export async function hurryAll(deps: BrokerDeps, closed: readonly Closed[]): Promise<void> {
  await Promise.all(closed.filter(c => !deps.engines.get(c.engine)?.probeMany).map(c => hurryDestroy(deps, c)))
}

/** At once, an engine. What is due beyond them is hurried a second later, when most of these are gone. */
const WINDOW = 1_000

/** For what an act closed and did not hurry itself. A job that waits already is not placed twice. */
export async function hurryDue(deps: BrokerDeps): Promise<void> {
  for (const engine of deps.engines.values()) {
    if (engine.probeMany) continue
    const due = await deps.store.credentials.due(WINDOW, engine.kind)
    await hurryAll(deps, due)
    if (due.length === WINDOW) await hurryClosing(deps)
  }
}
