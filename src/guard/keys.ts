/** Owns the issuer's public keys as a guard holds them: fetched from the issuer alone, kept for a day at most, and never exchanged under the same name. */

import { parseStrictBytes } from '../domain/json.js'
import { type AdmittedKey, admitKeys } from '../domain/jwk.js'
import { Refusal, refuse } from './errors.js'
import { ask, type Outward } from './outward.js'
import type { GuardLog } from './settings.js'

export interface Keys {
  /** The key of that name. @throws Refusal(key_unknown), or keys_unavailable when that could not be found out. */
  find(kid: string): Promise<AdmittedKey>
  /** The issuer has taken one back: what took its place is asked for at once, and again until it is there. */
  changed(): void
  /** Still published and still to be believed. */
  holds(key: AdmittedKey): boolean
  /** Resolves when there are keys. */
  load(): Promise<void>
  /** Null: none yet. */
  ageMs(): number | null
  /** Of the issuer's metadata. */
  introspectionUrl(): Promise<string>
}

export interface KeysOptions {
  readonly issuer: string
  readonly out: Outward
  readonly log: GuardLog
  readonly monotonic?: () => number
}

/** Our own issuer's keys outlive an outage of it, but not for ever (P42). Milliseconds. */
export const KEEP_MS = 86_400_000
/** As long as the issuer lets verifiers keep them: what it takes back is gone here after this. */
const FRESH_MS = 300_000
/** A spray of names costs one request (P41). */
export const COOLDOWN_MS = 30_000
/** Between two tries while there are no keys at all, or just after they have changed. */
const RETRY_MS = 1_000
/** A replica of the issuer may not have heard yet itself. */
const CHANGING_MS = 15_000
const WITHIN_MS = 3_000
const MAX_BYTES = 102_400
const REMEMBERED = 1_000

interface Metadata {
  readonly jwks: string
  readonly introspection: string
}

export function issuerKeys({ issuer, out, log, monotonic = () => performance.now() }: KeysOptions): Keys {
  let held: ReadonlyMap<string, AdmittedKey> = new Map()
  let heldAt: number | null = null
  let metadata: Metadata | null = null
  let flight: Promise<void> | null = null
  let triedAt = Number.NEGATIVE_INFINITY
  let failed = false
  /** When an unknown name last made us ask. */
  let wonderedAt = Number.NEGATIVE_INFINITY
  let changedAt = Number.NEGATIVE_INFINITY
  /** Every name ever seen, with its key: gone and come back, it is still the same or refused (K3). */
  const names = new Map<string, string>()

  async function discover(): Promise<Metadata> {
    const { origin, pathname } = new URL(issuer)
    // RFC 8414 section 3: the well-known part stands between host and path.
    const read = await readJson(`${origin}/.well-known/oauth-authorization-server${pathname === '/' ? '' : pathname}`)
    // Byte for byte (P34): another's metadata would name another's keys.
    if (read.issuer !== issuer) throw new Error('the metadata is of another issuer')
    const own = (url: unknown, fallback: string): string => {
      if (url === undefined) return fallback
      if (typeof url !== 'string' || !URL.canParse(url) || new URL(url).origin !== origin) throw new Error('the metadata points away from the issuer')
      return url
    }
    const base = issuer.replace(/\/$/, '')
    return { jwks: own(read.jwks_uri, `${base}/.well-known/jwks.json`), introspection: own(read.introspection_endpoint, `${base}/oauth2/introspect`) }
  }

  async function readJson(url: string): Promise<Record<string, unknown>> {
    const { status, bytes } = await ask(out, url, { withinMs: WITHIN_MS, maxBytes: MAX_BYTES })
    if (status !== 200) throw new Error(`the issuer answered ${status}`)
    const value = parseStrictBytes(bytes, { maxMembers: 4_096 })
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('the issuer answered no object')
    return value as Record<string, unknown>
  }

  function take(keys: readonly AdmittedKey[]): void {
    // An issuer that signs publishes a key; an empty set is a fault of its, and revoking a key is the feed's to say.
    if (keys.length === 0) throw new Error('the key set holds no key that is admitted')
    for (const { kid, thumbprint } of keys) {
      // Whoever puts another key under a known name is not in control of the set, or not the issuer (H15): all of it is refused.
      if (names.has(kid) && names.get(kid) !== thumbprint) throw new Error('another key is published under a known name')
    }
    for (const { kid, thumbprint } of keys) {
      // At the end of the order: what is published is forgotten last.
      names.delete(kid)
      names.set(kid, thumbprint)
    }
    for (const kid of names.keys()) {
      if (names.size <= REMEMBERED) break
      names.delete(kid)
    }
    held = new Map(keys.map(key => [key.kid, key]))
    heldAt = monotonic()
  }

  /** One at a time; those who come meanwhile wait for the same answer. */
  function refresh(): Promise<void> {
    flight ??= (async () => {
      triedAt = monotonic()
      try {
        metadata ??= await discover()
        take(admitKeys(await readJson(metadata.jwks), { use: 'sig', algs: ['ES256', 'RS256'] }))
        failed = false
      } catch (err) {
        failed = true
        // Perhaps it moved.
        metadata = null
        if (!out.signal.aborted)
          log.error({ err, keys: held.size }, 'the keys of the issuer could not be read: those that are known are kept for a day at most')
      } finally {
        flight = null
      }
    })()
    return flight
  }

  const cooldown = () => (monotonic() - changedAt < CHANGING_MS ? RETRY_MS : COOLDOWN_MS)
  const ageMs = () => (heldAt === null ? null : monotonic() - heldAt)
  const isUsable = () => heldAt !== null && monotonic() - heldAt <= KEEP_MS

  async function usable(): Promise<void> {
    if (isUsable()) return
    if (flight || monotonic() - triedAt >= RETRY_MS) await refresh()
    if (!isUsable()) refuse('keys_unavailable')
  }

  return {
    async find(kid) {
      await usable()
      const known = held.get(kid)
      if (known) {
        // What the issuer has taken back goes within its own max-age; nobody waits for that.
        if (monotonic() - (heldAt as number) > FRESH_MS && monotonic() - triedAt >= COOLDOWN_MS) void refresh()
        return known
      }
      if (flight) await flight
      else if (monotonic() - wonderedAt >= cooldown()) {
        wonderedAt = monotonic()
        await refresh()
      }
      return held.get(kid) ?? refuse(failed ? 'keys_unavailable' : 'key_unknown')
    },
    changed() {
      changedAt = monotonic()
      void refresh()
    },
    holds(key) {
      if (heldAt === null) return false
      const age = monotonic() - heldAt
      if (age > FRESH_MS && monotonic() - triedAt >= COOLDOWN_MS) void refresh()
      return age <= KEEP_MS && held.get(key.kid)?.thumbprint === key.thumbprint
    },
    load: usable,
    ageMs,
    async introspectionUrl() {
      try {
        metadata ??= await discover()
      } catch (cause) {
        throw new Refusal('introspection_failed', { cause })
      }
      return metadata.introspection
    },
  }
}
