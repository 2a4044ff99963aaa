/** Owns the listing of what exists in Vault under our name, for reconcile: its own identity, complete or an error. */
import type { VaultClient } from '../clients/vault.js'
import type { CredentialId } from '../domain/ids.js'
import type { Clock, Reconcilable, UpstreamThing } from '../ports.js'

export interface UpstreamDeps {
  readonly reconciler: VaultClient
  readonly clock: Clock
  /** Each capability's mount and role. */
  readonly paths: readonly { readonly capability: string; readonly mount: string; readonly role: string }[]
  /** Which of these leases a row knows, whatever its state. */
  readonly credentialOf: (leaseIds: readonly string[]) => Promise<ReadonlyMap<string, CredentialId>>
}

export interface VaultUpstream extends Reconcilable {
  /** Up to when every lease of this path is known to a row, as the latest complete listing showed; null before the first. */
  clearSince(capability: string): Date | null
}

/** Vault says by its own clock when it made a lease; ours and its may differ by this. Milliseconds. */
const CLOCKS_MS = 5_000

export function vaultUpstream(deps: UpstreamDeps): VaultUpstream {
  const clear = new Map<string, Date>()

  async function leases(path: UpstreamDeps['paths'][number], signal: AbortSignal): Promise<UpstreamThing[]> {
    const began = deps.clock.now()
    const ids = await deps.reconciler.listLeases(path.mount, path.role, signal)
    const known = await deps.credentialOf(ids)
    const unknown = ids.filter(id => !known.has(id))
    const strangers = await Promise.all(unknown.map(async id => ({ id, at: await deps.reconciler.leaseIssuedAt(id, signal) })))
    // Only what is older than the oldest stranger is proven: on a busy path some issue is always in flight, and must not keep all others waiting.
    const oldest = Math.min(...strangers.flatMap(({ at }) => (at ? [at.getTime() - CLOCKS_MS] : [])))
    const until = new Date(Math.min(began.getTime(), oldest))
    const before = clear.get(path.capability)
    if (!before || until > before) clear.set(path.capability, until)
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
    engine: 'vault-database',
    clearSince: capability => clear.get(capability) ?? null,
    async list(signal) {
      const things = await tokens(signal)
      for (const path of deps.paths) things.push(...(await leases(path, signal)))
      return things
    },
    async destroyUpstream(thing, signal) {
      if (thing.kind === 'lease') await deps.reconciler.revokeLease(thing.ref, signal)
      else await deps.reconciler.revokeAccessor(thing.ref, signal)
    },
  }
}
