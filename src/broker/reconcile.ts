/** Verb: reconcile. Compares what exists upstream with our rows: what has no row is destroyed, what has no upstream is closed. */
import type { Credential } from '../domain/credential.js'
import type { CredentialId } from '../domain/ids.js'
import { byBroker } from '../domain/revocation.js'
import type { Reconcilable, UpstreamThing } from '../ports.js'
import type { BrokerDeps } from './deps.js'
import { revoke } from './revoke.js'

/** Younger things may belong to an issue in flight. Seconds. */
const SETTLED_SECONDS = 60
const BATCH = 500

export async function reconcile(deps: BrokerDeps, signal: AbortSignal): Promise<void> {
  await deps.store.withLock('reconcile', async () => {
    for (const source of deps.reconcilables) {
      try {
        const began = deps.store.clock.now()
        const upstream = await source.list(signal)
        await destroyOrphans(deps, source, upstream, began, signal)
        await closeLost(deps, source, upstream, signal)
      } catch (error) {
        // An incomplete listing proves nothing: neither an orphan nor a loss.
        deps.log.error({ err: error, upstream: source.name }, 'reconcile could not list its upstream')
        deps.meter.found('listing_failed')
      }
    }
  })
}

/** @param began of the listing: what died since then may still be in it. */
async function destroyOrphans(deps: BrokerDeps, source: Reconcilable, upstream: readonly UpstreamThing[], began: Date, signal: AbortSignal): Promise<void> {
  const named = [...new Set(upstream.flatMap(t => (t.credential ? [t.credential] : [])))]
  const rows = new Map<CredentialId, Credential>()
  for (let i = 0; i < named.length; i += BATCH) for (const [id, row] of await deps.store.credentials.known(named.slice(i, i + BATCH))) rows.set(id, row)
  for (const thing of upstream) {
    if (thing.ageSeconds < SETTLED_SECONDS || !isOrphan(thing, thing.credential ? rows.get(thing.credential) : undefined, began)) continue
    deps.log.error({ upstream: source.name, kind: thing.kind, credential: thing.credential }, 'an orphan was found upstream and is destroyed')
    deps.meter.found('orphan')
    await deps.store.audit.append({
      kind: 'reconcile.finding',
      actor: byBroker('reconcile'),
      subject: thing.credential,
      reason: 'orphan',
      requestId: null,
      data: { upstream: source.name, thing: thing.kind },
    })
    await source.destroyUpstream(thing, signal)
  }
}

function isOrphan(thing: UpstreamThing, row: Credential | undefined, began: Date): boolean {
  if (!row) return thing.kind !== 'user'
  return row.revokedAt !== null && row.revokedAt < began
}

async function closeLost(deps: BrokerDeps, source: Reconcilable, upstream: readonly UpstreamThing[], signal: AbortSignal): Promise<void> {
  const seen = new Set(upstream.map(t => t.credential))
  const settledBefore = deps.store.clock.now().getTime() - SETTLED_SECONDS * 1000
  for (const engine of source.engines) {
    let after: CredentialId | undefined
    do {
      const page: readonly Credential[] = await deps.store.credentials.activeOf(engine, BATCH, after)
      for (const credential of page) {
        if (signal.aborted || seen.has(credential.id) || credential.issuedAt.getTime() > settledBefore) continue
        deps.meter.found('lost_upstream')
        await revoke(deps, { kind: 'credential', key: credential.id }, 'lost_upstream', { actor: byBroker('reconcile') })
      }
      after = page.length === BATCH ? page.at(-1)?.id : undefined
    } while (after)
  }
}
