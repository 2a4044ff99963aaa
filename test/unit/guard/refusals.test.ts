import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { GUARD_CODES, type Guard, type GuardCode, GuardError, type GuardOptions, type VerifyOptions } from '../../../src/guard/guard.js'
import { type MintOptions, type ProofOptions, type TestIssuer, testIssuer } from '../../../src/guard/testing.js'

const PLACE = 'https://orders.test/orders/17'
let iss: TestIssuer
let other: TestIssuer
const guards = new Map<string, Guard>()

beforeAll(async () => {
  ;[iss, other] = await Promise.all([testIssuer(), testIssuer({ issuer: 'https://other.test' })])
})
afterAll(() => {
  iss.close()
  other.close()
})

async function guard(options: Partial<GuardOptions> = {}): Promise<Guard> {
  const name = JSON.stringify(options)
  const made = guards.get(name) ?? (await iss.guard(options))
  guards.set(name, made)
  return made
}

interface Case {
  readonly mint?: MintOptions
  readonly proof?: ProofOptions
  readonly guard?: Partial<GuardOptions>
  readonly options?: VerifyOptions
  readonly url?: string
  readonly method?: string
  readonly of?: () => TestIssuer
  /** What a hostile or broken caller does to a request that would pass. */
  readonly spoil?: (headers: Record<string, string>) => Record<string, string> | Promise<Record<string, string>>
  readonly before?: (credential: string, g: Guard) => Promise<unknown>
}

async function run(c: Case): Promise<GuardError | 'passes'> {
  const g = await guard(c.guard)
  const token = await (c.of?.() ?? iss).mint({ scope: 'orders:read', ...c.mint })
  const method = c.method ?? 'GET'
  let headers = await token.headers(method, c.url ?? PLACE, c.proof)
  await c.before?.(token.credential, g)
  headers = (await c.spoil?.(headers)) ?? headers
  try {
    await g.verify({ method, url: '/orders/17?page=2', headers }, { scope: 'orders:read', ...c.options })
    return 'passes'
  } catch (error) {
    if (!(error instanceof GuardError)) throw error
    const told = `${error.message} ${error.wwwAuthenticate} ${error.body()} ${error.expected} ${error.actual}`
    // Nothing of the token leaves by an error (I11).
    for (const part of `${token.token}.${headers.dpop ?? ''}`.split('.')) if (part.length > 12) expect(told).not.toContain(part)
    return error
  }
}

const now = () => Math.floor(iss.clock.now().getTime() / 1000)
const b64 = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
const reheaded = (token: string, header: unknown) => [b64(header), ...token.split('.').slice(1)].join('.')
const authorization = (change: (token: string) => string) => (h: Record<string, string>) => {
  const [scheme, token] = (h.authorization as string).split(' ')
  return { ...h, authorization: `${scheme} ${change(token as string)}` }
}
const cases: Record<GuardCode, readonly { readonly name: string; readonly bad: Case; readonly twin: Case }[]> = {
  token_missing: [
    { name: 'no header', bad: { spoil: ({ authorization: _, ...h }) => h }, twin: {} },
    { name: 'a scheme that is none of ours', bad: { spoil: h => ({ ...h, authorization: 'Basic abc' }) }, twin: {} },
  ],
  token_malformed: [
    { name: 'two parts', bad: { spoil: authorization(t => t.slice(0, t.lastIndexOf('.'))) }, twin: {} },
    { name: 'five parts (T13)', bad: { spoil: authorization(t => `${t}.a.b`) }, twin: {} },
    { name: 'two tokens joined by a proxy', bad: { spoil: h => ({ ...h, authorization: `${h.authorization}, ${h.authorization}` }) }, twin: {} },
    { name: 'padding: another spelling of the same bytes (T46)', bad: { spoil: authorization(t => `${t}=`) }, twin: {} },
    { name: 'a nested token by cty (T13)', bad: { mint: { header: { cty: 'JWT' } } }, twin: {} },
    { name: 'no task: no revocation of it could find it', bad: { mint: { claims: { task: undefined } } }, twin: {} },
    { name: 'no trust issuer', bad: { mint: { claims: { trust_issuer: undefined } } }, twin: {} },
    { name: 'no capability', bad: { mint: { claims: { authorization_details: undefined } } }, twin: {} },
    { name: 'a binding that nobody knows', bad: { mint: { claims: { cnf: { kid: 'a' } } } }, twin: {} },
    { name: 'two bindings', bad: { mint: { claims: { cnf: { jkt: 'a'.repeat(43), kid: 'a' } } } }, twin: {} },
    { name: 'a binding to nothing', bad: { mint: { bound: false, claims: { cnf: {} } } }, twin: { mint: { bound: false } } },
    { name: 'six actors', bad: { mint: { act: chain(6) } }, twin: { mint: { act: chain(5) } } },
    { name: 'a life of more than a day', bad: { mint: { ttlSeconds: 86_401 } }, twin: { mint: { ttlSeconds: 86_400 } } },
    { name: 'exp that is no whole number', bad: { mint: { claims: { exp: 1e12 + 0.5 } } }, twin: {} },
    { name: 'jku', bad: { spoil: authorization(t => reheaded(t, { alg: 'ES256', typ: 'at+jwt', kid: 'k', jku: 'https://evil.test' })) }, twin: {} },
  ],
  token_expired: [{ name: 'past the tolerance', bad: { mint: { claims: { iat: 1, nbf: 1, exp: 2 } } }, twin: { mint: { ttlSeconds: 1 } } }],
  token_not_yet: [
    {
      name: 'nbf ahead',
      bad: {
        mint: {
          get claims() {
            return { nbf: now() + 60 }
          },
        },
      },
      twin: {
        mint: {
          get claims() {
            return { nbf: now() + 2 }
          },
        },
      },
    },
    {
      name: 'iat ahead',
      bad: {
        mint: {
          get claims() {
            return { iat: now() + 60, nbf: undefined }
          },
        },
      },
      twin: {
        mint: {
          get claims() {
            return { iat: now() + 2, nbf: undefined }
          },
        },
      },
    },
  ],
  revoked: [
    { name: 'by the feed', bad: { before: c => iss.revoke(c) }, twin: { before: () => iss.revoke('crd_another') } },
    {
      name: 'by introspection',
      bad: { guard: { introspection: { client: 'a', secret: 'b' } }, before: c => iss.revoke(c) },
      twin: { guard: { introspection: { client: 'a', secret: 'b' } } },
    },
  ],
  wrong_issuer: [
    { name: 'another Curfew', bad: { of: () => other }, twin: {} },
    { name: 'a slash more', bad: { mint: { claims: { iss: 'https://curfew.test/' } } }, twin: {} },
  ],
  wrong_audience: [
    { name: 'another server', bad: { mint: { audience: 'https://billing.test/' } }, twin: {} },
    {
      name: 'ours and another',
      bad: { mint: { claims: { aud: ['https://orders.test/', 'https://billing.test/'] } } },
      twin: { mint: { claims: { aud: ['https://orders.test/'] } } },
    },
  ],
  wrong_type: [
    ...['JWT', 'dpop+jwt', 'secevent+jwt', 'token-introspection+jwt', 'logout+jwt'].map(typ => ({
      name: `typ ${typ} (T16)`,
      bad: { mint: { header: { typ } } },
      twin: { mint: { header: { typ: 'application/AT+JWT' } } },
    })),
    { name: 'no typ', bad: { mint: { header: { typ: undefined } } }, twin: {} },
  ],
  signature_invalid: [
    {
      name: 'another token’s signature',
      bad: { spoil: async h => ({ ...h, authorization: `${(h.authorization as string).replace(/\.[^.]*$/, '')}.${(await iss.mint()).token.split('.')[2]}` }) },
      twin: {},
    },
    { name: 'alg none', bad: { spoil: authorization(t => `${reheaded(t, { alg: 'none', typ: 'at+jwt', kid: 'k' }).replace(/[^.]*$/, '')}AA`) }, twin: {} },
    { name: 'HS256', bad: { spoil: authorization(t => reheaded(t, { alg: 'HS256', typ: 'at+jwt', kid: 'k' })) }, twin: {} },
    {
      name: 'RS256 by an EC key (its own alg counts)',
      bad: { spoil: authorization(t => reheaded(t, { ...JSON.parse(Buffer.from(t.split('.')[0] as string, 'base64url').toString()), alg: 'RS256' })) },
      twin: {},
    },
  ],
  key_unknown: [{ name: 'a kid that nobody published', bad: { mint: { header: { kid: 'nobodys' } } }, twin: {} }],
  scope_missing: [
    {
      name: 'another scope',
      bad: { options: { scope: ['orders:read', 'orders:write'] } },
      twin: { mint: { scope: 'orders:write orders:read' }, options: { scope: ['orders:read', 'orders:write'] } },
    },
  ],
  resource_missing: [
    {
      name: 'beside its location',
      bad: { mint: { locations: ['https://orders.test/order/17'] }, options: { resource: 'order/171' } },
      twin: { mint: { locations: ['https://orders.test/order/17'] }, options: { resource: 'order/17/lines' } },
    },
    {
      name: 'climbing out',
      bad: { mint: { locations: ['https://orders.test/order/'] }, options: { resource: 'order/../admin' } },
      twin: { mint: { locations: ['https://orders.test/order/'] }, options: { resource: 'order/x/../y' } },
    },
    { name: 'another host', bad: { options: { resource: '//evil.test/x' } }, twin: { options: { resource: '/x' } } },
    { name: 'a query that hides the rest', bad: { options: { resource: 'order?x=/17' } }, twin: { options: { resource: 'order/17' } } },
    {
      name: 'the act is allowed elsewhere only',
      bad: {
        mint: {
          claims: {
            authorization_details: [
              { capabilities: ['a'], actions: ['orders:read'], locations: ['https://orders.test/a/'] },
              { capabilities: ['b'], actions: ['other'], locations: ['https://orders.test/b/'] },
            ],
          },
        },
        options: { resource: 'b/1' },
      },
      twin: {
        mint: { claims: { authorization_details: [{ capabilities: ['a'], actions: ['orders:read'], locations: ['https://orders.test/a/'] }] } },
        options: { resource: 'a/1' },
      },
    },
  ],
  proof_missing: [
    { name: 'no proof (T41)', bad: { spoil: ({ dpop: _, ...h }) => h }, twin: {} },
    {
      name: 'an unbound token where all must be bound',
      bad: { guard: { proof: 'required' }, mint: { bound: false } },
      twin: { guard: { proof: 'if-bound' }, mint: { bound: false } },
    },
  ],
  proof_malformed: [
    { name: 'two proofs (P52)', bad: { spoil: h => ({ ...h, dpop: `${h.dpop}, ${h.dpop}` }) }, twin: {} },
    { name: 'another typ (T16)', bad: { proof: { header: { typ: 'at+jwt' } } }, twin: {} },
    { name: 'a private key shown', bad: { proof: { header: { jwk: { kty: 'EC', crv: 'P-256', x: 'a', y: 'b', d: 'c' } } } }, twin: {} },
    { name: 'no jti', bad: { proof: { claims: { jti: undefined } } }, twin: {} },
  ],
  proof_replayed: [
    {
      name: 'twice',
      bad: {
        proof: { claims: { jti: 'once' } },
        before: async (_, g) => void (await g.verify(await (await iss.mint()).request(PLACE, {}, { claims: { jti: 'once' } }))),
      },
      twin: { proof: { claims: { jti: 'another' } } },
    },
  ],
  proof_htm_mismatch: [
    { name: 'another method', bad: { proof: { claims: { htm: 'POST' } } }, twin: { proof: { claims: { htm: 'GET' } } } },
    { name: 'lower case', bad: { proof: { claims: { htm: 'get' } } }, twin: {} },
  ],
  proof_htu_mismatch: [
    { name: 'another path (T42)', bad: { url: 'https://orders.test/orders/18' }, twin: { url: 'https://ORDERS.test:443/orders/%31%37' } },
    { name: 'another host', bad: { url: 'https://evil.test/orders/17' }, twin: {} },
    { name: 'http', bad: { url: 'http://orders.test/orders/17' }, twin: {} },
    { name: 'a slash more', bad: { url: `${PLACE}/` }, twin: { url: `${PLACE}?q=1#f` } },
    {
      name: 'a forged X-Forwarded-Host',
      bad: { url: 'https://evil.test/orders/17', spoil: h => ({ ...h, host: 'evil.test', 'x-forwarded-host': 'evil.test', 'x-forwarded-proto': 'https' }) },
      twin: { spoil: h => ({ ...h, 'x-forwarded-host': 'evil.test', 'x-forwarded-proto': 'https' }) },
    },
    {
      name: 'two X-Forwarded-Host, proxy trusted',
      bad: {
        guard: { trustProxy: true },
        url: 'https://api.test/orders/17',
        spoil: h => ({ ...h, 'x-forwarded-host': 'evil.test, api.test', 'x-forwarded-proto': 'https' }),
      },
      twin: {
        guard: { trustProxy: true },
        url: 'https://api.test/orders/17',
        spoil: h => ({ ...h, 'x-forwarded-host': 'api.test', 'x-forwarded-proto': 'https' }),
      },
    },
    {
      name: 'behind a mount',
      bad: { guard: { publicUrl: 'https://api.test/orders-v2/' }, url: 'https://api.test/orders/17' },
      twin: { guard: { publicUrl: 'https://api.test/orders-v2/' }, url: 'https://api.test/orders-v2/orders/17' },
    },
  ],
  proof_key_mismatch: [
    { name: 'a token of another key', bad: { mint: { claims: { cnf: { jkt: 'a'.repeat(43) } } } }, twin: {} },
    {
      name: 'an unbound token under the DPoP scheme',
      bad: { mint: { bound: false }, spoil: h => ({ authorization: (h.authorization as string).replace('Bearer', 'DPoP') }) },
      twin: { mint: { bound: false } },
    },
  ],
  proof_ath_mismatch: [
    { name: 'a proof for another token', bad: { proof: { claims: { ath: 'a'.repeat(43) } } }, twin: {} },
    { name: 'no ath', bad: { proof: { claims: { ath: undefined } } }, twin: {} },
  ],
  proof_old: [
    {
      name: 'six minutes old (T43)',
      bad: {
        proof: {
          get claims() {
            return { iat: now() - 360 }
          },
        },
      },
      twin: {
        proof: {
          get claims() {
            return { iat: now() - 290 }
          },
        },
      },
    },
    {
      name: 'two minutes ahead',
      bad: {
        proof: {
          get claims() {
            return { iat: now() + 120 }
          },
        },
      },
      twin: {
        proof: {
          get claims() {
            return { iat: now() + 50 }
          },
        },
      },
    },
  ],
  // RFC 8705: never a bearer, whatever it is shown with and whoever checks proofs.
  binding_unsupported: [
    ...(
      [
        ['under DPoP', {}, { 'x5t#S256': 'a'.repeat(43) }],
        ['as a bearer', {}, { 'x5t#S256': 'a'.repeat(43) }],
        ['as a bearer, all must be bound', { proof: 'required' }, { 'x5t#S256': 'a'.repeat(43) }],
        ['as a bearer, proofs are checked elsewhere', { proof: 'off' }, { 'x5t#S256': 'a'.repeat(43) }],
        ['with a key beside it', {}, { jkt: 'a'.repeat(43), 'x5t#S256': 'a'.repeat(43) }],
        ['to no certificate', {}, { 'x5t#S256': null }],
      ] as const
    ).map(([name, guard, cnf]) => ({
      name: `bound to a certificate, ${name}`,
      bad: {
        guard,
        mint: { bound: name === 'under DPoP', claims: { cnf } },
        spoil: (h: Record<string, string>) => (name.startsWith('as a bearer') ? { authorization: (h.authorization as string).replace('DPoP', 'Bearer') } : h),
      },
      // The same token without the certificate is one that passes there.
      twin: { guard, mint: { bound: name === 'under DPoP' || 'proof' in guard } },
    })),
  ],
  bearer_downgrade: [
    {
      name: 'a bound token as a bearer',
      bad: { spoil: h => ({ authorization: (h.authorization as string).replace('DPoP', 'Bearer') }) },
      twin: { mint: { bound: false } },
    },
    {
      name: 'also where proofs are not checked',
      bad: { guard: { proof: 'off' }, spoil: h => ({ authorization: (h.authorization as string).replace('DPoP', 'Bearer') }) },
      twin: { guard: { proof: 'off' }, spoil: ({ dpop: _, ...h }) => h },
    },
  ],
  // Those that blame nobody stand below, each with its own twin.
  stale_feed: [],
  keys_unavailable: [],
  introspection_failed: [],
}

function chain(depth: number): Record<string, unknown> {
  return { sub: `agent-${depth}`, iss: 'iss_test', ...(depth > 1 ? { act: chain(depth - 1) } : {}) }
}

describe('every code, and beside it what passes', () => {
  for (const [code, list] of Object.entries(cases) as [GuardCode, (typeof cases)[GuardCode]][]) {
    test.each(list.map(c => [c.name, c] as const))(`${code}: %s`, async (_, c) => {
      const refused = await run(c.bad)
      expect(refused).toBeInstanceOf(GuardError)
      expect((refused as GuardError).code).toBe(code)
      expect((refused as GuardError).status).toBe(GUARD_CODES[code].status)
      expect(await run(c.twin)).toBe('passes')
    })
  }

  test('stale_feed: a feed that was cut; its twin is there again', async () => {
    const fresh = await testIssuer()
    const g = await fresh.guard({ revocation: { maxStaleMs: 1_000, whenStale: 'refuse' } })
    const t = await fresh.mint()
    await g.verify(await t.request(PLACE))
    fresh.cut()
    await expect.poll(() => g.health().ok).toBe(false)
    const refused = await g.verify(await t.request(PLACE)).catch(e => e)
    expect([refused.code, refused.status, refused.wwwAuthenticate, refused.headers()['Retry-After']]).toEqual(['stale_feed', 503, null, '1'])
    fresh.cut(false)
    await expect.poll(() => g.health().ok, { timeout: 20_000 }).toBe(true)
    await g.verify(await t.request(PLACE))
    fresh.close()
  })

  test('keys_unavailable: an issuer that publishes none; its twin publishes them', async () => {
    const fresh = await testIssuer()
    const t = await fresh.mint({ bound: false })
    let isDown = true
    const g = fresh.guard({ fetch: (url, init) => (isDown && url.includes('well-known') ? Promise.reject(new TypeError('down')) : fresh.fetch(url, init)) })
    const { createGuard } = await import('../../../src/guard/guard.js')
    const raw = createGuard({
      issuer: fresh.issuer,
      audience: fresh.audience,
      proof: 'if-bound',
      revocation: null,
      fetch: (url, init) => (isDown ? Promise.reject(new TypeError('down')) : fresh.fetch(url, init)),
    })
    const refused = await raw.verify(await t.request(PLACE)).catch(e => e)
    expect([refused.code, refused.status, refused.retryAfter]).toEqual(['keys_unavailable', 503, 1])
    isDown = false
    await (await g).verify(await t.request(PLACE))
    await raw.ready()
    expect((await raw.verify(await t.request(PLACE))).mode).toBe('offline')
    raw.close()
    fresh.close()
  })

  test.each([
    ['no answer', () => Promise.reject(new TypeError('down'))],
    ['500', async () => new Response('{}', { status: 500 })],
    ['401: our own secret is wrong', async () => new Response('{}', { status: 401 })],
    ['HTML', async () => new Response('<html>', { status: 200 })],
    ['no active', async () => new Response('{}', { status: 200 })],
    ['active as a text', async () => new Response('{"active":"true"}', { status: 200 })],
    ['two of them (P25)', async () => new Response('{"active":false,"active":true}', { status: 200 })],
    ['of another credential', async () => new Response('{"active":true,"jti":"crd_another"}', { status: 200 })],
    ['of no credential', async () => new Response('{"active":true}', { status: 200 })],
    ['endless', async () => new Response(`{"active":true,"x":"${'x'.repeat(70_000)}"}`, { status: 200 })],
  ])('introspection_failed: %s; its twin answers', async (_, broken) => {
    let isBroken = true
    const fetch: typeof iss.fetch = (url, init) => (isBroken && url.endsWith('/introspect') ? broken() : iss.fetch(url, init))
    const g = await iss.guard({ introspection: { client: 'orders', secret: 's' }, fetch })
    const t = await iss.mint()
    const refused = await g.verify(await t.request(PLACE)).catch(e => e)
    expect([refused.code, refused.status, refused.wwwAuthenticate]).toEqual(['introspection_failed', 503, null])
    isBroken = false
    expect((await g.verify(await t.request(PLACE))).mode).toBe('strict')
    g.close()
  })
})

describe('what is told', () => {
  test('expected and actual stand in the error only, never on the wire', async () => {
    const refused = (await run({ url: 'https://internal.test/orders/17' })) as GuardError
    expect(refused).toMatchObject({ code: 'proof_htu_mismatch', expected: PLACE, actual: 'https://internal.test/orders/17' })
    expect(`${refused.message}${refused.wwwAuthenticate}${refused.body()}`).not.toContain('internal.test')
    expect(refused.wwwAuthenticate).toBe('DPoP algs="ES256 RS256", error="invalid_dpop_proof", error_description="the DPoP proof is for another address"')
  })
  test('challenges of RFC 6750 and RFC 9449', async () => {
    const missing = async (proof: GuardOptions['proof']) => ((await run({ guard: { proof }, spoil: () => ({}) })) as GuardError).wwwAuthenticate
    expect(await missing('required')).toBe('DPoP algs="ES256 RS256"')
    expect(await missing('if-bound')).toBe('DPoP algs="ES256 RS256", Bearer')
    expect(await missing('off')).toBe('Bearer')
    const scope = (await run({ options: { scope: 'orders:write' }, mint: { bound: false } })) as GuardError
    expect(scope.wwwAuthenticate).toBe('Bearer error="insufficient_scope", error_description="the token lacks a scope that this needs", scope="orders:write"')
  })
  test('a key set that holds RS256 as well: each by its own', async () => {
    const { privateKey, publicKey } = await generateKeyPair('RS256')
    const jwk = { ...(await exportJWK(publicKey)), kid: 'rsa', alg: 'RS256', use: 'sig' }
    const fetch: typeof iss.fetch = async (url, init) => (url.endsWith('jwks.json') ? new Response(JSON.stringify({ keys: [jwk] })) : iss.fetch(url, init))
    const g = await iss.guard({ fetch })
    const t = await iss.mint({ bound: false })
    const claims = JSON.parse(Buffer.from(t.token.split('.')[1] as string, 'base64url').toString())
    const token = await new SignJWT(claims).setProtectedHeader({ alg: 'RS256', typ: 'at+jwt', kid: 'rsa' }).sign(privateKey)
    expect((await g.verify({ method: 'GET', url: '/', headers: { authorization: `Bearer ${token}` } })).credential).toBe(t.credential)
    const ps = await new SignJWT(claims)
      .setProtectedHeader({ alg: 'PS256', typ: 'at+jwt', kid: 'rsa' })
      .sign(privateKey)
      .catch(() => null)
    if (ps) await expect(g.verify({ method: 'GET', url: '/', headers: { authorization: `Bearer ${ps}` } })).rejects.toMatchObject({ code: 'signature_invalid' })
    g.close()
  })
})
