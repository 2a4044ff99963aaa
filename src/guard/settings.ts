/** Owns what a guard is told when it is made: every setting, its default, and the sentence that refuses a contradiction. */
import { randomBytes } from 'node:crypto'
import { withoutTrailing } from '../domain/trailing.js'
import type { Fetch } from './outward.js'
import { memoryReplay, type Replay } from './replay.js'

/** `required`: every token is bound and every request proves it. `if-bound`: a token that is bound is proven. `off`: proofs are checked by somebody in front of us. */
export type ProofRule = 'required' | 'if-bound' | 'off'

export interface GuardLog {
  warn(facts: object, message: string): void
  error(facts: object, message: string): void
}

export interface GuardOptions {
  /** Curfew's public URL, exactly as it stands in its metadata. */
  readonly issuer: string
  /** This resource server, exactly as it is registered at Curfew. */
  readonly audience: string
  /** `curfew guard add`. With it the guard holds the feed; without it, it asks introspection about every request. */
  readonly guardKey?: string | undefined
  readonly proof: ProofRule
  /** Where proofs that were used are remembered. Default: in this process. */
  readonly replay?: Replay | undefined
  /** `null`, written out: nobody is asked, a token is good until it expires. */
  readonly revocation?: { readonly maxStaleMs?: number; readonly whenStale?: 'refuse' | 'introspect' } | null | undefined
  /** The audience's configured name and its secret. */
  readonly introspection?: { readonly client: string; readonly secret: string } | undefined
  /** Where callers reach this server: base of every `htu`. Default: the origin of `audience`. */
  readonly publicUrl?: string | undefined
  /** Believe `X-Forwarded-Proto` and `X-Forwarded-Host`. Only behind a proxy that overwrites both. */
  readonly trustProxy?: boolean | undefined
  /** Replicas of Curfew to follow, by origin. Default: the issuer. */
  readonly feedUrls?: readonly string[] | undefined
  /** The name of this process at the feed. Default: made up. */
  readonly instance?: string | undefined
  /** Verified tokens kept. 0: none. Default 5,000. */
  readonly cacheSize?: number | undefined
  /** Connections that may wait for the end of their credential. Default 100,000. */
  readonly maxLive?: number | undefined
  readonly clock?: (() => Date) | undefined
  readonly fetch?: Fetch | undefined
  readonly log?: GuardLog | undefined
}

export type Mode = 'bounded' | 'strict' | 'offline'

export interface Settings {
  readonly issuer: string
  readonly audience: string
  readonly guardKey: string | null
  readonly proof: ProofRule
  readonly replay: Replay
  readonly mode: Mode
  readonly maxStaleMs: number
  readonly whenStale: 'refuse' | 'introspect'
  readonly introspection: { readonly client: string; readonly secret: string } | null
  readonly publicUrl: string
  readonly trustProxy: boolean
  readonly feedUrls: readonly string[]
  readonly instance: string
  readonly cacheSize: number
  readonly maxLive: number
  readonly clock: () => Date
  /** The clock is the host's own, so that a jump of it can be told from the test's hand. */
  readonly ownClock: boolean
  readonly fetch: Fetch
  readonly log: GuardLog
}

const wrong = (name: string, says: string): never => {
  throw new TypeError(`createGuard: ${name} ${says}`)
}

/** @throws TypeError that names the setting. */
export function settle(options: GuardOptions): Settings {
  const issuer = address('issuer', options.issuer)
  const { audience, proof, guardKey } = options
  if (typeof audience !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(audience))
    wrong('audience', 'is required: this resource server as it is registered at Curfew')
  if (proof !== 'required' && proof !== 'if-bound' && proof !== 'off') wrong('proof', "is required: 'required', 'if-bound' or 'off'")
  if (guardKey !== undefined && (typeof guardKey !== 'string' || !/^[\x21-\x7e]{1,512}$/.test(guardKey)))
    wrong('guardKey', 'must be a key of `curfew guard add`')
  const introspection = options.introspection ?? null
  if (introspection && !(isText(introspection.client) && isText(introspection.secret) && !introspection.client.includes(':')))
    wrong('introspection', 'needs client, the name of the audience at Curfew, and its secret')

  const { mode, maxStaleMs, whenStale } = revocationOf(options, guardKey !== undefined, introspection !== null)
  const instance = options.instance ?? `g-${randomBytes(9).toString('base64url')}`
  if (!/^[A-Za-z0-9._-]{1,64}$/.test(instance)) wrong('instance', 'must be 1 to 64 of A-Z a-z 0-9 . _ -')
  return Object.freeze({
    issuer,
    audience,
    guardKey: guardKey ?? null,
    proof,
    replay: options.replay ?? memoryReplay(),
    mode,
    maxStaleMs,
    whenStale,
    introspection,
    publicUrl: publicUrlOf(options),
    trustProxy: options.trustProxy === true,
    feedUrls: (options.feedUrls?.length ? options.feedUrls : [issuer]).map(u => address('feedUrls', u).replace(/\/$/, '')),
    instance,
    cacheSize: whole('cacheSize', options.cacheSize ?? 5_000, 0, 1_000_000),
    maxLive: whole('maxLive', options.maxLive ?? 100_000, 1, 10_000_000),
    clock: options.clock ?? (() => new Date()),
    ownClock: options.clock === undefined,
    // Looked up late, so that whoever wraps the global one is heard.
    fetch: options.fetch ?? ((input, init) => globalThis.fetch(input, init)),
    log: options.log ?? { warn() {}, error() {} },
  })
}

function revocationOf(options: GuardOptions, hasKey: boolean, canAsk: boolean): Pick<Settings, 'mode' | 'maxStaleMs' | 'whenStale'> {
  if (options.revocation === null) {
    if (hasKey) wrong('revocation', 'is null, which asks nobody: leave guardKey out, or say how stale the feed may be')
    return { mode: 'offline', maxStaleMs: 0, whenStale: 'refuse' }
  }
  const { maxStaleMs = 5_000, whenStale = 'refuse' } = options.revocation ?? {}
  // Beats come every second, and past 10 s nobody could promise anything (security.md 6.1).
  whole('revocation.maxStaleMs', maxStaleMs, 1_000, 10_000)
  if (whenStale !== 'refuse' && whenStale !== 'introspect') wrong('revocation.whenStale', "must be 'refuse' or 'introspect'")
  if (whenStale === 'introspect' && !canAsk) wrong('introspection', "is required where revocation.whenStale is 'introspect'")
  if (!hasKey && !canAsk)
    wrong('guardKey', 'or introspection is required: without both nobody tells what is revoked (`revocation: null` accepts that, in writing)')
  return { mode: hasKey ? 'bounded' : 'strict', maxStaleMs, whenStale }
}

function publicUrlOf({ publicUrl, audience, proof }: GuardOptions): string {
  if (publicUrl !== undefined) {
    if (typeof publicUrl !== 'string' || !URL.canParse(publicUrl) || !/^https?:\/\/[^?#\s]+$/i.test(publicUrl))
      wrong('publicUrl', 'must be an http URL without query and fragment')
    return withoutTrailing(publicUrl, '/')
  }
  if (/^https?:/i.test(audience) && URL.canParse(audience)) return new URL(audience).origin
  if (proof !== 'off') wrong('publicUrl', 'is required where audience is no http URL: proofs name the address that callers use')
  return ''
}

/** https, or http to this very machine. */
function address(name: string, value: unknown): string {
  if (typeof value !== 'string' || !URL.canParse(value)) return wrong(name, 'is required: the public URL of Curfew')
  const url = new URL(value)
  const near = url.hostname === 'localhost' || url.hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(url.hostname)
  if (url.protocol !== 'https:' && !(url.protocol === 'http:' && near)) return wrong(name, 'must be https, except on this machine')
  if (url.username !== '' || url.password !== '' || value.includes('?') || value.includes('#')) return wrong(name, 'must be a plain URL')
  return value
}

function whole(name: string, value: number, least: number, most: number): number {
  if (!Number.isSafeInteger(value) || value < least || value > most) wrong(name, `must be a whole number from ${least} to ${most}`)
  return value
}

const isText = (value: unknown): value is string => typeof value === 'string' && value.length > 0 && value.length <= 512
