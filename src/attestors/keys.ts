/** Owns the keys of one trust issuer in this process: fetched together, kept for a while, trusted for a bounded time when the source is silent. */
import { untilAborted, within } from '../domain/deadline.js'
import { CurfewError } from '../domain/errors.js'
import { parseStrict } from '../domain/json.js'
import { type AdmittedKey, admitKeys, type KeyRules } from '../domain/jwk.js'

/** Milliseconds. Fresh for FRESH_MS; an unknown `kid` asks again, but not sooner than COOLDOWN_MS; silence is bridged until STALE_MS. */
const FRESH_MS = 300_000
const COOLDOWN_MS = 30_000
const STALE_MS = 600_000
/** After a failure the source is asked again this much later, and nobody who has a good key waits for it. */
const RETRY_MS = 2_000
const FETCH_MS = 5_000
/** A file is read again this often, so that what was taken out of it is refused soon. */
export const FILE_REFRESH_SECONDS = 10

export interface KeySourceAnswer {
  readonly set: unknown
  /** The source's own hint, in seconds (`spiffe_refresh_hint`); longer than FRESH_MS is not honoured. */
  readonly refreshSeconds?: number
}

export interface KeySource {
  /** The configured name of the issuer, for the log. */
  readonly issuer: string
  readonly rules: KeyRules
  readonly fetch: (signal: AbortSignal) => Promise<KeySourceAnswer>
  /** True: a set without a usable key means that all are revoked. False: it is a failure of the source like any other (H15). */
  readonly emptyRevokes?: boolean
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

export function issuerKeys(source: KeySource, deps: KeysDeps): IssuerKeys {
  const { issuer } = source
  const monotonic = deps.monotonic ?? (() => performance.now())
  let keys: ReadonlyMap<string, AdmittedKey> = new Map()
  let fetchedAt = Number.NEGATIVE_INFINITY
  let askedAt = Number.NEGATIVE_INFINITY
  let freshMs = FRESH_MS
  let failure: CurfewError | null = null
  let flight: Promise<void> | null = null

  async function refresh(): Promise<void> {
    askedAt = monotonic()
    try {
      // Its own deadline, not the caller's: others wait for the same flight.
      const answer = await source.fetch(within(FETCH_MS))
      const admitted = admitKeys(answer.set, source.rules)
      if (admitted.length === 0 && !source.emptyRevokes) throw unavailable('key_set_empty')
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
      failure = null
    } catch (error) {
      failure = error instanceof CurfewError ? error : unavailable('key_source_failed', error)
      if (isStale()) deps.log.error({ issuer, err: error }, 'the keys of a trust issuer cannot be had: its evidence is refused')
      else deps.log.warn({ issuer, err: error }, 'the keys of a trust issuer could not be refreshed; the last good ones are used for now')
    }
  }

  /** Single flight: two hundred requests with unknown names cost one fetch (H16). Never rejects; what went wrong is `failure`. */
  function shared(): Promise<void> {
    flight ??= refresh().finally(() => {
      flight = null
    })
    return flight
  }

  const isStale = () => monotonic() - fetchedAt > STALE_MS
  const named = (kid: string | undefined) => (kid === undefined ? (keys.size === 1 ? keys.values().next().value : undefined) : keys.get(kid))

  return {
    async find(kid, signal) {
      const known = named(kid)
      const old = monotonic() - fetchedAt > freshMs
      const asked = monotonic() - askedAt
      if (old || !known) {
        // An invented name never makes a failing source be asked more often.
        const due = asked >= (old ? (failure ? RETRY_MS : 0) : COOLDOWN_MS)
        const flying = flight ?? (due ? shared() : null)
        // While the source fails, whoever has a last good key goes on with it and does not wait.
        if (flying && !(known && failure && !isStale())) await untilAborted(flying, signal, cause => unavailable('deadline', cause))
      }
      // At its end the bridge is closed for known names too (P42).
      if (isStale()) throw failure ?? unavailable('keys_stale')
      const key = named(kid)
      if (key) return key
      const reason = kid === undefined && keys.size > 1 ? 'key_ambiguous' : 'key_unknown'
      throw new CurfewError('attestation_refused', 'no key of this trust issuer has that name', { reason, field: 'kid' })
    },
  }
}

/** A file of the operator's, read as strictly as what comes from elsewhere. */
export async function readJson(deps: { readFile: (path: string) => Promise<string> }, path: string): Promise<unknown> {
  return parseStrict(await deps.readFile(path), { maxMembers: 4_096 })
}

const unavailable = (reason: string, cause?: unknown) =>
  new CurfewError('unavailable', 'the keys of a trust issuer could not be had', { reason, retryAfterSeconds: 5 }, { cause })
