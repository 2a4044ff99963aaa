/** Verb: tell verifiers of what was replaced under its Idempotency-Key. Its row was closed with the issue that replaced it; an act of its own puts it into the feed. */
import { byBroker } from '../domain/revocation.js'
import type { BrokerDeps } from './deps.js'
import { revoke } from './revoke.js'

const BATCH = 100

export async function tellReplaced(deps: BrokerDeps): Promise<void> {
  for (const id of await deps.store.credentials.untold(BATCH)) await revoke(deps, { kind: 'credential', key: id }, 'cancelled', { actor: byBroker('issue') })
}
