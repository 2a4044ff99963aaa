/** Owns `curfew/guard/testing`: an issuer for the tests of a resource server, with its keys, its feed and its clock in this process. No broker and no network. */
import { createHash, randomUUID } from 'node:crypto'
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose'
import { newId } from '../domain/ids.js'
import { admitKeys, thumbprint } from '../domain/jwk.js'
import type { SelectorKind } from '../domain/revocation.js'
import { RevocationIndex } from '../domain/revocation-index.js'
import { refuse } from './errors.js'
import { createGuard, type Guard, type GuardOptions } from './guard.js'
import type { Fetch } from './outward.js'
import { readToken } from './token.js'

export interface MintOptions {
  readonly scope?: string
  /** Default 300. */
  readonly ttlSeconds?: number
  readonly capability?: string
  readonly subject?: string
  readonly task?: string
  /** Tasks above, nearest first. */
  readonly ancestors?: readonly string[]
  /** `iss_…` of the evidence. */
  readonly trustIssuer?: string
  /** RFC 8693. With it, `client_id` is its outermost actor. */
  readonly act?: Readonly<Record<string, unknown>>
  readonly locations?: readonly string[]
  readonly audience?: string
  /** False: a bearer token. */
  readonly bound?: boolean
  /** In place of what stands above; `undefined` takes a claim away. */
  readonly claims?: Readonly<Record<string, unknown>>
  readonly header?: Readonly<Record<string, unknown>>
}

export interface Minted {
  readonly token: string
  readonly credential: string
  readonly task: string
  readonly kid: string
  /** Headers of one request: the token, and a new proof where it is bound. */
  headers(method: string, url: string, proof?: ProofOptions): Promise<Record<string, string>>
  /** The same as a web `Request`. */
  request(url: string, init?: RequestInit, proof?: ProofOptions): Promise<Request>
}

export interface ProofOptions {
  readonly claims?: Readonly<Record<string, unknown>>
  readonly header?: Readonly<Record<string, unknown>>
}

/** What a revocation names, as in docs/http-api.md; the last five kinds take a cut-off, which is now when it is left out. `null`: none. */
export type TestSelector = { readonly [K in SelectorKind]?: K extends 'all' ? true : string } & { readonly issuedBefore?: Date | null }

export interface TestIssuer {
  readonly issuer: string
  readonly audience: string
  readonly clock: { now(): Date; advance(ms: number): void }
  mint(options?: MintOptions): Promise<Minted>
  /** By credential id or selector. Resolves when every open guard of this issuer refuses it. */
  revoke(what: string | TestSelector): Promise<number>
  /** The next token is signed by a new key; the old ones stay published, or not. */
  rotate(options?: { readonly keep?: boolean }): Promise<void>
  /** The feed goes silent and streams break, or comes back. */
  cut(isCut?: boolean): void
  /** What a guard has to be given to know nobody else. */
  readonly fetch: Fetch
  /** Ready when it is answered. Proofs are `if-bound`, unless said otherwise. */
  guard(options?: Partial<GuardOptions>): Promise<Guard>
  close(): void
}

interface Entry {
  readonly seq: number
  readonly kind: SelectorKind
  readonly key: string
  readonly issued_before?: string
  readonly until: string
}

const encoder = new TextEncoder()
const json = (value: unknown, status = 200) => new Response(JSON.stringify(value), { status, headers: { 'content-type': 'application/json' } })
const UNTIL = '9999-12-31T23:59:59.000Z'

export async function testIssuer(options: { readonly issuer?: string; readonly audience?: string } = {}): Promise<TestIssuer> {
  const { issuer = 'https://curfew.test', audience = 'https://orders.test/' } = options
  let ahead = 0
  const now = () => new Date(Date.now() + ahead)
  let keys = [await newKey()]
  const holder = await newKey()
  const jkt = thumbprint(holder.jwk)
  const entries: Entry[] = []
  const index = new RevocationIndex()
  const streams = new Set<ReadableStreamDefaultController<Uint8Array>>()
  const guards = new Set<Guard>()
  let seq = 0
  let isCut = false

  const published = () => admitKeys({ keys: keys.map(k => k.jwk) }, { use: 'sig', algs: ['ES256'] })
  const send = (to: Iterable<ReadableStreamDefaultController<Uint8Array>>, name: string, data: unknown, id?: number) => {
    const bytes = encoder.encode(`${id === undefined ? '' : `id: ${id}\n`}event: ${name}\ndata: ${JSON.stringify(data)}\n\n`)
    for (const stream of to) {
      try {
        stream.enqueue(bytes)
      } catch {
        streams.delete(stream)
      }
    }
  }
  const written = (list: readonly Entry[]) => list.map(({ seq: _seq, ...entry }) => entry)
  const beat = (to: Iterable<ReadableStreamDefaultController<Uint8Array>>) => send(to, 'beat', { seq, stale_ms: 0 })
  const beating = setInterval(() => beat(streams), 250)
  beating.unref()

  function follow(lastId: string | null): Response {
    let own: ReadableStreamDefaultController<Uint8Array>
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        own = controller
        if (lastId === null) {
          send([own], 'entries', { entries: written(entries) })
          send([own], 'ready', { seq }, seq)
        } else for (const entry of entries) if (entry.seq > Number(lastId)) send([own], 'revoked', { seq: entry.seq, entries: written([entry]) }, entry.seq)
        beat([own])
        streams.add(own)
      },
      cancel: () => void streams.delete(own),
    })
    return new Response(body, { headers: { 'content-type': 'text/event-stream' } })
  }

  const fetch: Fetch = async (url, init) => {
    const headers = new Headers(init.headers)
    switch (url) {
      case `${issuer}/.well-known/oauth-authorization-server`:
        return json({ issuer, jwks_uri: `${issuer}/.well-known/jwks.json`, introspection_endpoint: `${issuer}/oauth2/introspect` })
      case `${issuer}/.well-known/jwks.json`:
        return json({ keys: keys.map(k => k.jwk) })
      case `${issuer}/oauth2/introspect`: {
        const token = new URLSearchParams(init.body as string).get('token') ?? ''
        try {
          const { names, claims } = await readToken(
            token,
            { issuer, audience, now: now() },
            { find: async kid => published().find(k => k.kid === kid) ?? refuse('key_unknown') },
          )
          return json(index.hit(names) ? { active: false } : { ...claims, active: true })
        } catch {
          return json({ active: false })
        }
      }
      case `${issuer}/v1/feed`:
        if (isCut) throw new TypeError('the feed is cut')
        return follow(headers.get('last-event-id'))
      case `${issuer}/v1/feed/acks`:
        return new Response(null, { status: 204 })
      default:
        return json({}, 404)
    }
  }

  async function mint(given: MintOptions = {}): Promise<Minted> {
    const key = keys.at(-1) as (typeof keys)[number]
    const iat = Math.floor(now().getTime() / 1000)
    const credential = newId('credential')
    const task = given.task ?? newId('task')
    const { scope = '', capability = 'test/orders', subject = 'test:workload', bound = true } = given
    const claims = {
      iss: issuer,
      aud: given.audience ?? audience,
      sub: subject,
      client_id: (given.act?.sub as string | undefined) ?? subject,
      jti: credential,
      iat,
      nbf: iat,
      exp: iat + (given.ttlSeconds ?? 300),
      task: { id: task, ancestors: given.ancestors ?? [] },
      trust_issuer: given.trustIssuer ?? 'iss_test',
      ...(given.act ? { act: given.act } : {}),
      ...(scope === '' ? {} : { scope }),
      authorization_details: [
        {
          type: `${issuer}/rar/task/v1`,
          identifier: task,
          capabilities: [capability],
          actions: scope === '' ? [] : scope.split(' '),
          locations: given.locations ?? [given.audience ?? audience],
        },
      ],
      ...(bound ? { cnf: { jkt } } : {}),
      ...given.claims,
    }
    const token = await new SignJWT(claims as JWTPayload)
      .setProtectedHeader({ alg: key.alg, typ: 'at+jwt', kid: key.kid, ...given.header })
      .sign(key.privateKey)

    async function headers(method: string, url: string, proof: ProofOptions = {}): Promise<Record<string, string>> {
      if (!bound) return { authorization: `Bearer ${token}` }
      const made = {
        jti: randomUUID(),
        htm: method,
        htu: url.replace(/[?#].*/s, ''),
        iat: Math.floor(now().getTime() / 1000),
        ath: createHash('sha256').update(token).digest('base64url'),
        ...proof.claims,
      }
      const dpop = await new SignJWT(made).setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk: holder.bare, ...proof.header }).sign(holder.privateKey)
      return { authorization: `DPoP ${token}`, dpop }
    }
    return {
      token,
      credential: String(claims.jti),
      task,
      kid: key.kid,
      headers,
      request: async (url, init = {}, proof = {}) =>
        new Request(url, { ...init, headers: { ...Object.fromEntries(new Headers(init.headers)), ...(await headers(init.method ?? 'GET', url, proof)) } }),
    }
  }

  async function revoke(what: string | TestSelector): Promise<number> {
    const { issuedBefore, ...named } = typeof what === 'string' ? { credential: what, issuedBefore: null } : what
    const [kind, key] = Object.entries(named)[0] as [SelectorKind, string | true]
    const cut = issuedBefore === undefined && kind !== 'credential' && kind !== 'task' ? now() : (issuedBefore ?? null)
    const entry = { seq: ++seq, kind, key: key === true ? '*' : key, ...(cut ? { issued_before: cut.toISOString() } : {}), until: UNTIL }
    entries.push(entry)
    index.apply({ seq, kind, key: entry.key, issuedBefore: cut, until: new Date(UNTIL) })
    send(streams, 'revoked', { seq, entries: written([entry]) }, seq)
    const at = seq
    const isTaken = () => [...guards].every(g => g.health().seq >= at || !g.health().connected)
    for (const since = performance.now(); !isTaken() && performance.now() - since < 5_000; ) await new Promise(resolve => setImmediate(resolve))
    return at
  }

  return {
    issuer,
    audience,
    clock: {
      now,
      advance(ms) {
        ahead += ms
        beat(streams)
      },
    },
    mint,
    revoke,
    async rotate({ keep = true } = {}) {
      keys = [...(keep ? keys : []), await newKey()]
    },
    cut(now = true) {
      isCut = now
      if (!isCut) return
      for (const stream of streams) stream.error(new TypeError('the feed is cut'))
      streams.clear()
    },
    fetch,
    async guard(given = {}) {
      // As in life: with introspection alone it holds no feed.
      const followsFeed = given.revocation !== null && (given.introspection === undefined || given.revocation !== undefined)
      const guard = createGuard({ issuer, audience, proof: 'if-bound', ...(followsFeed ? { guardKey: 'curfew_guard_test' } : {}), clock: now, fetch, ...given })
      guards.add(guard)
      await guard.ready()
      return guard
    },
    close() {
      clearInterval(beating)
      for (const guard of guards) guard.close()
      streams.clear()
    },
  }
}

async function newKey() {
  const { publicKey, privateKey } = await generateKeyPair('ES256')
  const bare = await exportJWK(publicKey)
  // As Curfew names its own (K3).
  const kid = thumbprint(bare)
  return { kid, alg: 'ES256' as const, bare, jwk: { ...bare, kid, use: 'sig', alg: 'ES256' }, privateKey }
}
