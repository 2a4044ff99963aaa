/** Owns the hurrying: jobs and the doorbell. Nothing here decides or guarantees; rows do, and the sweep finds what was not hurried. */
import type { Credential } from '../domain/credential.js'
import type { BrokerDeps } from './deps.js'

/** Wakes a worker to destroy this credential, now or when its next attempt is due. */
export async function hurryDestroy(deps: BrokerDeps, credential: Credential): Promise<void> {
  await deps.queue.enqueue(
    { name: 'destroy', engine: credential.engine, credential: credential.id, version: credential.version },
    ...(credential.nextAttemptAt ? [credential.nextAttemptAt] : []),
  )
}

/** One job per second-bucket, whatever falls due in it (architecture.md section 6): the next full second after the expiry. */
export async function hurryExpiry(deps: BrokerDeps, credential: Credential): Promise<void> {
  const second = Math.floor(credential.expiresAt.getTime() / 1000) + 1
  await deps.queue.enqueue({ name: 'expire', second }, new Date(second * 1000))
}

export async function hurryAll(deps: BrokerDeps, credentials: readonly Credential[]): Promise<void> {
  for (const credential of credentials) await hurryDestroy(deps, credential)
}
