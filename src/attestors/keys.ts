/** Owns the keys of one trust issuer in this process: fetched together, kept for a while, trusted for a bounded time when the source is silent. */
import { CurfewError } from '../domain/errors.js'
import { type AdmittedKey, admitKeys, type KeyRules } from '../domain/jwk.js'

/** Milliseconds. Fresh for FRESH_MS; an unknown `kid` asks again, but not sooner than COOLDOWN_MS; silence is bridged until STALE_MS. */
const FRESH_MS = 300_000
const COOLDOWN_MS = 30_000
const STALE_MS = 600_000

export interface KeySourceAnswer {
  readonly set: unknown
  /** The source's own hint, in seconds (`spiffe_refresh_hint`). */
  readonly refreshSeconds?: number
}

export interface IssuerKeys {
  /** The key of this `kid`; throws `attestation_refused` when there is none, `unavailable` when the source has been silent for too long. */
  find(kid: string | undefined, signal: AbortSignal): Promise<AdmittedKey>
}

export interface KeysDeps {
  readonly log: { warn(fields: object, message: string): void; error(fields: object, message: string): void }
  /** Monotonic milliseconds: deadlines of a cache decide nothing about a row. */
  readonly monotonic?: () => number
}

export function issuerKeys(issuer: string, rules: KeyRules, fetch: (signal: AbortSignal) => Promise<KeySourceAnswer>, deps: KeysDeps): IssuerKeys {
  const monotonic = deps.monotonic ?? (() => performance.now())
  let keys: ReadonlyMap<string, AdmittedKey> = new Map()
  let fetchedAt = Number.NEGATIVE_INFINITY
  let askedAt = Number.NEGATIVE_INFINITY
  let freshMs = FRESH_MS
  let flight: Promise<void> | null = null

  async function refresh(): Promise<void> {
    askedAt = monotonic()
    // Its own deadline, not the caller's: others wait for the same flight.
    const answer = await fetch(AbortSignal.timeout(5_000))
    const admitted = admitKeys(answer.set, rules)
    for (const key of admitted) {
      const before = keys.get(key.kid)
      // Another key under a known name is how a swapped key set looks; the issuer must use a new name (K3, H15).
      if (before && before.thumbprint !== key.thumbprint) {
        deps.log.error({ issuer, kid: key.kid }, 'a trust issuer published another key under a known kid; the set is refused')
        throw new CurfewError('attestation_refused', 'the key set of this trust issuer is not admitted', { reason: 'key_swapped' })
      }
    }
    keys = new Map(admitted.map(k => [k.kid, k]))
    fetchedAt = monotonic()
    freshMs = Math.min(FRESH_MS, Math.max(1, answer.refreshSeconds ?? FRESH_MS / 1000) * 1000)
  }

  /** Single flight: two hundred requests with unknown names cost one fetch (H16). */
  function shared(): Promise<void> {
    flight ??= refresh().finally(() => {
      flight = null
    })
    return flight
  }

  return {
    async find(kid, _signal) {
      const age = monotonic() - fetchedAt
      const known = kid === undefined ? keys.size === 1 : keys.has(kid)
      const mayAsk = monotonic() - askedAt >= COOLDOWN_MS || fetchedAt === Number.NEGATIVE_INFINITY
      if (flight || age > freshMs || (!known && mayAsk)) {
        try {
          if (flight || mayAsk || age > freshMs) await shared()
        } catch (error) {
          if (monotonic() - fetchedAt > STALE_MS) throw error
          deps.log.warn({ issuer, err: error }, 'the keys of a trust issuer could not be refreshed; the last good ones are used for now')
        }
      }
      const key = kid === undefined ? (keys.size === 1 ? keys.values().next().value : undefined) : keys.get(kid)
      if (!key) throw new CurfewError('attestation_refused', 'no key of this trust issuer has that name', { reason: 'key_unknown', field: 'kid' })
      return key
    },
  }
}
