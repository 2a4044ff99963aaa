/** Owns `curfew/guard`: what a resource server imports to refuse by itself what is not for it, not in time, not proven or revoked, and to end what runs when its credential ends. */
import { setMaxListeners } from 'node:events'
import { RevocationIndex } from '../domain/revocation-index.js'
import { type Needed, refuseOutOfReach } from './access.js'
import { type Express, expressMiddleware, type FetchHandler, fetchHandler, type Needs } from './adapters.js'
import { verifiedCache } from './cache.js'
import { company, type ReplayReach } from './company.js'
import { GuardError, Refusal, refuse } from './errors.js'
import { type Feed, followFeed, told } from './feed.js'
import { introspection } from './introspection.js'
import { issuerKeys } from './keys.js'
import { type Ending, liveTokens } from './live.js'
import { addressOf, type Presented, present, type RequestLike, schemeOf } from './presented.js'
import { checkProof, useProof } from './proof.js'
import { type Seen, seenOf, verifiedBehind } from './seen.js'
import { type GuardOptions, type Mode, settle } from './settings.js'
import { digestOf, readToken, refuseOutOfTime, type Verified } from './token.js'

export type { ReplayReach } from './company.js'
export { GUARD_CODES, type GuardCode, GuardError } from './errors.js'
export type { RequestLike } from './presented.js'
export { memoryReplay, type Replay, redisReplay } from './replay.js'
export { CredentialEnded, type Seen } from './seen.js'
export type { GuardLog, GuardOptions, Mode, ProofRule } from './settings.js'

export interface VerifyOptions extends Needed {
  /** Ask introspection as well, however fresh the feed is. Needs `introspection` in the settings. */
  readonly strict?: boolean
}

export interface Health {
  /** It could say yes to a good token now. */
  readonly ok: boolean
  /** By which it would answer now. */
  readonly mode: Mode
  /** Null: unknown, or of no matter in this mode. */
  readonly staleMs: number | null
  readonly seq: number
  readonly entries: number
  readonly keysAgeMs: number | null
  readonly connected: boolean
  /** Processes that serve as this guard, this one included, as the broker counts them. Null: not told. */
  readonly instances: number | null
  /** Who sees which proofs were used. Null: they are not looked at here. */
  readonly replay: ReplayReach | null
}

export interface Guard {
  /** Resolves when there are keys and, with a guard key, a feed that is fresh. @throws GuardError(keys_unavailable | stale_feed) */
  ready(options?: { readonly timeoutMs?: number }): Promise<void>
  health(): Health
  /** @throws GuardError, and nothing else on account of the request. */
  verify(request: RequestLike, options?: VerifyOptions): Promise<Seen>
  /** Calls once, when the credential is revoked or expires; at once when it is already. Of an id, it must have been verified here lately. Answers how to let go. */
  onRevoked(credential: Seen | string, end: (why: Ending) => void): () => void
  /** Middleware for Express, Connect and what looks like them. */
  express: Express
  /** For handlers of web `Request`s. */
  fetch<Rest extends unknown[]>(handler: FetchHandler<Rest>, needs?: Needs<Request>): (request: Request, ...rest: Rest) => Promise<Response>
  close(): void
}

const READY_MS = 10_000

/** @throws TypeError that names the setting that is missing or contradicts another. */
export function createGuard(options: GuardOptions): Guard {
  const settings = settle(options)
  const { audience, issuer, log, mode } = settings
  const ended = new AbortController()
  // One for each request that is on its way out, and each goes with it.
  setMaxListeners(0, ended.signal)
  const out = { fetch: settings.fetch, signal: ended.signal }
  const now = () => settings.clock().getTime()
  const index = new RevocationIndex()
  const live = liveTokens({ max: settings.maxLive, now })
  const cache = verifiedCache(settings.cacheSize)
  const keys = issuerKeys({ issuer, out, log })
  const others = company({ remembersAlone: settings.proof !== 'off' && settings.replay.isOwn === true, log })
  const ask = settings.introspection && introspection({ out, url: keys.introspectionUrl, ...settings.introspection })
  const feed: Feed | null =
    settings.guardKey === null
      ? null
      : followFeed({
          urls: settings.feedUrls,
          key: settings.guardKey,
          instance: settings.instance,
          maxStaleMs: settings.maxStaleMs,
          index,
          out,
          log,
          now,
          ownClock: settings.ownClock,
          onApplied: entries => {
            if (entries.some(e => e.kind === 'key')) keys.changed()
            if (entries.length > 0) live.apply(entries)
            else live.expire(now())
          },
          onCounted: others.told,
        })
  // Asked for before the first request, so that it does not wait; a failure is told to whoever comes then.
  keys.load().catch(() => {})

  const isStale = () => feed !== null && feed.staleMs() > settings.maxStaleMs
  const modeNow = (stale: boolean): Mode => (mode === 'bounded' && settings.whenStale === 'introspect' && stale ? 'strict' : mode)

  /** The signature, once for each token; whether its key is still believed, each time. */
  function known(token: string): Verified | Promise<Verified> {
    if (settings.cacheSize === 0) return read(token)
    const digest = digestOf(token)
    const kept = cache.get(digest)
    if (kept && keys.holds(kept.key)) return kept
    if (kept) cache.delete(digest)
    return learned(token, digest)
  }
  async function learned(token: string, digest: string): Promise<Verified> {
    const verified = await read(token)
    cache.set(digest, verified)
    return verified
  }
  const read = (token: string) => readToken(token, { issuer, audience, now: settings.clock() }, keys)

  /** Synchronous, and the last word: nothing is awaited between the last call of it and the answer. */
  function refuseDead(verified: Verified): void {
    refuseOutOfTime(verified, now())
    if (index.hit(verified.names)) refuse('revoked')
  }

  /** Which of the three, from the token's binding, the scheme and the rule (standards.md 2.2.12). */
  function needsProof({ jkt }: Verified, { scheme }: Presented): boolean {
    if (jkt !== null && scheme === 'Bearer') return refuse('bearer_downgrade')
    if (jkt === null && scheme === 'DPoP') return refuse('proof_key_mismatch')
    if (jkt === null && settings.proof === 'required') return refuse('proof_missing', { says: 'a token that is bound to a key is needed' })
    return jkt !== null && settings.proof !== 'off'
  }

  /** Who the caller is, what it may, that it is the holder, that it is live: in that order, and what is used up is used up last. */
  async function admit(request: RequestLike, needed: VerifyOptions): Promise<Seen> {
    const presented = present(request)
    const found = known(presented.token)
    const verified = found instanceof Promise ? await found : found
    refuseDead(verified)
    const mustProve = needsProof(verified, presented)
    refuseOutOfReach(verified, needed, audience)
    let stale = isStale()
    if (stale && settings.whenStale === 'refuse') refuse('stale_feed')
    if (mustProve) {
      const url = addressOf(request, settings.publicUrl, settings.trustProxy)
      const proof = await checkProof(presented, { method: request.method ?? '', url, now: settings.clock(), jkt: verified.jkt as string })
      await useProof(settings.replay, proof, settings.clock())
      stale = isStale()
    }
    let answeredBy = modeNow(stale)
    if (answeredBy === 'strict' || needed.strict) {
      if (!ask) throw new TypeError('verify: strict needs introspection in the settings of the guard')
      await ask(presented.token, verified.names.credential)
      answeredBy = 'strict'
    } else if (stale) refuse('stale_feed')
    // What was so before somebody was waited for may be so no more.
    if (mustProve || answeredBy === 'strict') refuseDead(verified)
    return seenOf(verified, { mode: answeredBy, staleMs: feed && told(feed.staleMs()), watch })
  }

  /** Registered first and looked at then: between the two nothing can slip through. */
  function watch(verified: Verified, end: (why: Ending) => void): () => void {
    const gone = live.add(verified, end)
    if (gone === null) log.error({ max: settings.maxLive }, 'more connections than can be watched: the new one is ended at once')
    const why = verified.expiresAt * 1000 <= now() ? 'token_expired' : gone === null || index.hit(verified.names) ? 'revoked' : null
    if (why === null) return gone as () => void
    gone?.()
    end(why)
    return () => {}
  }

  async function verify(request: RequestLike, needed: VerifyOptions = {}): Promise<Seen> {
    try {
      return await admit(request, needed)
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      const scope = typeof needed.scope === 'string' ? needed.scope : needed.scope?.join(' ')
      throw new GuardError(error, { proof: settings.proof, scheme: schemeOf(request), ...(scope === undefined ? {} : { scope }) })
    }
  }

  async function ready({ timeoutMs = READY_MS }: { readonly timeoutMs?: number } = {}): Promise<void> {
    const late = performance.now() + timeoutMs
    let timer: NodeJS.Timeout | undefined
    const deadline = new Promise<'late'>(resolve => {
      timer = setTimeout(resolve, timeoutMs, 'late')
    })
    const fail = (code: 'keys_unavailable' | 'stale_feed') => new GuardError(new Refusal(code), { proof: settings.proof })
    try {
      const haveKeys = async () => {
        while (performance.now() < late && !ended.signal.aborted) {
          if (
            await keys.load().then(
              () => true,
              () => false,
            )
          )
            return
          await new Promise(resolve => setTimeout(resolve, 100))
        }
        await deadline
      }
      if ((await Promise.race([haveKeys(), deadline])) === 'late' || keys.ageMs() === null) throw fail('keys_unavailable')
      if (feed && (await Promise.race([feed.fresh(), deadline])) === 'late') throw fail('stale_feed')
    } finally {
      clearTimeout(timer)
    }
  }

  const guard: Guard = {
    ready,
    health() {
      const keysAgeMs = keys.ageMs()
      const stale = feed && told(feed.staleMs())
      const ok = keysAgeMs !== null && keysAgeMs <= 86_400_000 && !(isStale() && settings.whenStale === 'refuse')
      return {
        ok,
        mode: modeNow(isStale()),
        staleMs: stale,
        seq: feed?.seq ?? 0,
        entries: index.size,
        keysAgeMs: keysAgeMs === null ? null : Math.round(keysAgeMs),
        connected: feed?.connected ?? false,
        instances: others.instances,
        replay: settings.proof === 'off' ? null : others.replay,
      }
    },
    verify,
    onRevoked(credential, end) {
      const verified = typeof credential === 'string' ? cache.byCredential(credential) : verifiedBehind(credential, watch)
      if (!verified) throw new TypeError('onRevoked: not a credential that this guard has verified lately; give it what verify answered')
      return watch(verified, why => {
        try {
          end(why)
        } catch (err) {
          // One that fails must not keep the next from being ended, nor the feed from going on.
          log.error({ err, credential: verified.names.credential }, 'what was to be ended with its credential failed to')
        }
      })
    },
    express: needs => expressMiddleware(verify, needs),
    fetch: (handler, needs) => fetchHandler(verify, handler, needs),
    close() {
      ended.abort(new Error('the guard is closed'))
      live.close()
    },
  }
  return guard
}
