/** Owns the listing of what exists in Vault under our name, for reconcile: its own identity, complete or an error. */
import type { VaultClient } from '../clients/vault.js'
import type { CredentialId } from '../domain/ids.js'
import type { Clock, Reconcilable, UpstreamThing } from '../ports.js'

export interface UpstreamDeps {
  readonly reconciler: VaultClient
  readonly clock: Clock
  /** The engines whose active credentials have a token there; what has none is lost. */
  readonly engines: readonly string[]
  /** Where the leases of each capability lie: `database/creds/orders-ro`. One may have several. */
  readonly paths: readonly { readonly capability: string; readonly prefix: string }[]
  /** Which of these leases a row knows, whatever its state. */
  readonly credentialOf: (leaseIds: readonly string[]) => Promise<ReadonlyMap<string, CredentialId>>
}

export interface VaultUpstream extends Reconcilable {
  /** Up to when every lease of this capability is known to a row, as the latest complete listing showed; null before the first. */
  clearSince(capability: string): Date | null
}

/** Vault says by its own clock when it made a lease; ours and its may differ by this. Milliseconds. */
const CLOCKS_MS = 5_000

export function vaultUpstream(deps: UpstreamDeps): VaultUpstream {
  /** By prefix. */
  const clear = new Map<string, Date>()

  async function leases(prefix: string, signal: AbortSignal): Promise<UpstreamThing[]> {
    const began = deps.clock.now()
    const ids = await deps.reconciler.listLeases(prefix, signal)
    const known = await deps.credentialOf(ids)
    const unknown = ids.filter(id => !known.has(id))
    const strangers = await Promise.all(unknown.map(async id => ({ id, at: await deps.reconciler.leaseIssuedAt(id, signal) })))
    // Only what is older than the oldest stranger is proven: on a busy path some issue is always in flight, and must not keep all others waiting.
    const oldest = Math.min(...strangers.flatMap(({ at }) => (at ? [at.getTime() - CLOCKS_MS] : [])))
    const until = new Date(Math.min(began.getTime(), oldest))
    const before = clear.get(prefix)
    if (!before || until > before) clear.set(prefix, until)
    return [
      ...ids.flatMap(id =>
        known.has(id) ? [{ kind: 'lease' as const, ref: id, credential: known.get(id) as CredentialId, ageSeconds: Number.POSITIVE_INFINITY }] : [],
      ),
      ...strangers.flatMap(({ id, at }) =>
        at ? [{ kind: 'lease' as const, ref: id, credential: null, ageSeconds: (began.getTime() - at.getTime()) / 1000 }] : [],
      ),
    ]
  }

  async function tokens(signal: AbortSignal): Promise<UpstreamThing[]> {
    const now = deps.clock.now().getTime()
    const found: UpstreamThing[] = []
    for (const accessor of await deps.reconciler.listAccessors(signal)) {
      const info = await deps.reconciler.accessor(accessor, signal)
      if (info?.credential) {
        found.push({
          kind: 'accessor',
          ref: accessor,
          credential: info.credential,
          ageSeconds: info.createdAt ? (now - info.createdAt.getTime()) / 1000 : Number.POSITIVE_INFINITY,
        })
      }
    }
    return found
  }

  return {
    name: 'vault',
    engines: deps.engines,
    clearSince(capability) {
      const known = deps.paths.filter(p => p.capability === capability).map(p => clear.get(p.prefix) ?? null)
      return known.reduce((least, at) => (least && at && least < at ? least : at), known[0] ?? null)
    },
    async list(signal) {
      const things = await tokens(signal)
      for (const prefix of new Set(deps.paths.map(p => p.prefix))) things.push(...(await leases(prefix, signal)))
      return things
    },
    async destroyUpstream(thing, signal) {
      if (thing.kind === 'lease') await deps.reconciler.revokeLease(thing.ref, signal)
      else await deps.reconciler.revokeAccessor(thing.ref, signal)
    },
  }
}
