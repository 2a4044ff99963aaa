/** Verb: settle what lives nowhere. Its end is that introspection refuses it, so many are looked at, and said to be dead, at once. */

import { fp } from '#failpoint'
import type { CredentialEngine } from '../ports.js'
import type { BrokerDeps } from './deps.js'
import { destroy } from './destroy.js'
import { inBatches } from './paced.js'

/** One replica an engine: two would look at the same rows, and one of them for nothing. */
export async function settleLocal(deps: BrokerDeps, signal: AbortSignal): Promise<void> {
  for (const engine of deps.engines.values()) {
    if (!engine.probeMany) continue
    try {
      await deps.store.withLock(`settle-${engine.kind}`, async () => void (await settleAll(deps, engine, signal)))
    } catch (error) {
      deps.log.warn({ err: error, engine: engine.kind }, 'what was closed is confirmed in the next round')
    }
  }
}

/** No claim: there is nothing to destroy, and the version that was looked at is the fence. */
function settleAll(deps: BrokerDeps, engine: CredentialEngine, signal: AbortSignal): Promise<number> {
  return inBatches(async limit => {
    const due = await deps.store.credentials.due(limit, engine.kind)
    if (due.length === 0) return { did: 0, more: false }
    const probes = (await engine.probeMany?.(due, signal)) ?? []
    const looked = due.flatMap((credential, i) => (probes[i] ? [{ credential, probe: probes[i] }] : []))
    const dead = looked.filter(({ probe }) => probe.outcome === 'dead')
    await fp('revoke.3c')
    const confirmed = new Set(await deps.store.credentials.confirmMany(dead))
    await fp('revoke.4')
    const now = deps.store.clock.now().getTime()
    for (const { credential: c } of dead)
      if (confirmed.has(c.id) && c.revokingAt) deps.meter.confirmed(engine.kind, Math.max(0, now - c.revokingAt.getTime()) / 1000)
    // What is not dead takes the ordinary road: a claim, a look of its own, and another time.
    for (const { credential, probe } of looked) if (probe.outcome !== 'dead' && !signal.aborted) await destroy(deps, credential.id, credential.version, signal)
    return { did: confirmed.size, more: due.length === limit && confirmed.size > 0 }
  }, signal)
}
