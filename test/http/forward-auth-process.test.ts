/** Forward-auth beside a proxy, before the broker itself: who passes by the feed, how soon a revocation is heard, and that silence is no pass. */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { forwardAuthSettings } from '../../src/config-forward-auth.js'
import { newGuardKey } from '../../src/domain/operator-token.js'
import { forwardAuthHandler } from '../../src/guard/forward-auth.js'
import { createGuard, type Guard, type GuardOptions } from '../../src/guard/guard.js'
import { type Caller, caller, type Held } from '../caller.js'
import { type House, makeHouse, ORDERS, SERVER } from '../house.js'

const MAX_STALE = 2_000
const ORIGIN = new URL(ORDERS).origin
let house: House
let ci: Caller
let held: Held
let responder: string
let guard: Guard
let broker: Server
let door: Server
let brokerUrl: string
const faults: string[] = []

const started = async (server: Server): Promise<string> => {
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}
const stopped = (server: Server) =>
  new Promise<void>(resolve => {
    server.close(() => resolve())
    server.closeAllConnections()
  })

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
  held = await ci.opened()
  responder = await house.operator('responder')
  const added = await supertest(house.http)
    .post('/v1/guards')
    .set('Authorization', `Bearer ${await house.operator('admin')}`)
    .send({ name: 'beside-the-proxy' })
  broker = createServer((req, res) => house.http(req, res))
  brokerUrl = await started(broker)
  // The public name of the house leads to its socket.
  const fetch: NonNullable<GuardOptions['fetch']> = (to, init) => globalThis.fetch(to.replace(SERVER, brokerUrl), init)
  guard = createGuard({ issuer: SERVER, audience: ORDERS, guardKey: added.body.key, proof: 'required', revocation: { maxStaleMs: MAX_STALE }, fetch })
  const log = { warn: () => {}, error: (_facts: object, message: string) => void faults.push(message) }
  door = createServer(forwardAuthHandler({ guard, audiences: [ORDERS, 'orders'], scopes: ['orders:read'], maxStaleMs: MAX_STALE, log }))
  await started(door)
})
afterAll(async () => {
  guard.close()
  await Promise.all([stopped(door), stopped(broker)])
  await house.close()
  expect(faults).toEqual([])
})

async function issued(of: Held = held) {
  const { credential, secret } = (await ci.credential(of, 'demo/orders-ro')).body
  return { id: credential.id as string, token: secret.token as string }
}
const proofOf = (token: string, method: string, path: string) => ci.proof(method, '', token, { htu: ORIGIN + path })
const nginx = (method: string, uri: string) => ({ 'X-Original-Method': method, 'X-Original-URI': uri })
const ask = async (headers: Record<string, string>, path = '/v1/forward-auth?audience=orders', method: 'get' | 'head' | 'post' = 'get') =>
  supertest(door)[method](path).set(headers)
const bound = async (token: string, more: Record<string, string> = {}) => ({
  ...nginx('GET', '/orders/1?full=yes'),
  Authorization: `DPoP ${token}`,
  DPoP: await proofOf(token, 'GET', '/orders/1'),
  ...more,
})

describe('beside a proxy', () => {
  it('nothing passes before there are keys and a feed; then it says that it is well', async () => {
    await guard.ready()
    const { status, body } = await supertest(door).get('/healthz')
    expect([status, body]).toEqual([200, expect.objectContaining({ ok: true, mode: 'bounded', connected: true, stale_ms: expect.any(Number) })])
  })

  it.each([
    ['nginx', (uri: string) => nginx('GET', uri)],
    ['Traefik', (uri: string) => ({ 'X-Forwarded-Method': 'GET', 'X-Forwarded-Proto': 'https', 'X-Forwarded-Host': 'evil.example', 'X-Forwarded-Uri': uri })],
    ['Caddy', (uri: string) => ({ 'X-Forwarded-Method': 'GET', 'X-Forwarded-Uri': uri, 'X-Forwarded-For': '203.0.113.9' })],
  ])('%s: a live token with its proof passes with who it is, once', async (_name, headersOf) => {
    const { id, token } = await issued()
    const headers = { ...headersOf('/orders/1?full=yes'), Authorization: `DPoP ${token}`, DPoP: await proofOf(token, 'GET', '/orders/1') }
    const answer = await ask(headers)
    expect([answer.status, answer.headers]).toEqual([
      200,
      expect.objectContaining({
        'x-curfew-credential': id,
        'x-curfew-subject': 'github:repository_id=456789',
        'x-curfew-task': held.task,
        'x-curfew-scope': 'orders:read',
      }),
    ])
    // Kept for a moment, and never beyond what the feed still covers.
    expect(['no-store', 'private, max-age=1', 'private, max-age=2']).toContain(answer.headers['cache-control'])
    expect((await ask(headers)).body).toMatchObject({ code: 'proof_replayed' })
  })

  it('Envoy asks with the method and under the path of the request; HEAD is answered like GET', async () => {
    const { id, token } = await issued()
    const envoy = { 'X-Curfew-Audience': 'orders', Authorization: `DPoP ${token}` }
    const answer = await ask({ ...envoy, DPoP: await proofOf(token, 'POST', '/orders/1') }, '/v1/forward-auth/envoy/orders/1?audience=other', 'post')
    expect([answer.status, answer.headers['x-curfew-credential']]).toEqual([200, id])
    const other = await ask({ ...envoy, DPoP: await proofOf(token, 'GET', '/orders/1') }, '/v1/forward-auth/envoy/orders/1', 'post')
    expect([other.status, other.body.code]).toEqual([401, 'proof_htm_mismatch'])
    expect((await ask(await bound(token), '/v1/forward-auth', 'head')).headers['x-curfew-credential']).toBe(id)
  })

  it.each<[string, Record<string, string>, number, string]>([
    ['no token', { Authorization: 'Basic abc' }, 401, 'token_missing'],
    ['a stranger’s token', { Authorization: 'DPoP a.b.c' }, 401, 'token_malformed'],
    ['no proof', { DPoP: '' }, 401, 'proof_malformed'],
    ['what is asked about is missing', { 'X-Original-URI': '' }, 400, 'malformed'],
    ['two dialects that differ', { 'X-Forwarded-Uri': '/admin' }, 400, 'malformed'],
    ['a whole address for a path', { 'X-Original-URI': 'https://evil.example/orders' }, 400, 'malformed'],
  ])('%s does not pass', async (_what, change, status, code) => {
    const answer = await ask({ ...(await bound((await issued()).token)), ...change })
    expect([answer.status, answer.body.code, answer.headers['x-curfew-credential'], answer.headers['cache-control']]).toEqual([
      status,
      code,
      undefined,
      'no-store',
    ])
  })

  it('a bound token as bearer is 401, a scope that was not granted 403, each with its challenge', async () => {
    const { token } = await issued()
    const bearer = await ask({ ...nginx('GET', '/orders/1'), Authorization: `Bearer ${token}` })
    expect([bearer.status, bearer.body.code]).toEqual([401, 'bearer_downgrade'])
    const wide = await ask(await bound(token), '/v1/forward-auth?scope=orders:write')
    expect([wide.status, wide.headers['www-authenticate']]).toEqual([403, expect.stringContaining('insufficient_scope')])
  })

  it.each([
    ['/v1/forward-auth?audience=legacy', 'audience'],
    ['/v1/forward-auth?audience=orders&audience=orders', 'audience'],
    ['/v1/forward-auth?scope=', 'scope'],
    ['/v1/forward-auth?more=1', 'more'],
  ])('%s is refused and named', async (path, field) => {
    expect((await ask(await bound((await issued()).token), path)).body).toMatchObject({ status: 400, field })
  })

  it('other paths and methods are none', async () => {
    expect([(await ask({}, '/')).status, (await ask({}, '/v1/forward-auth', 'post')).status]).toEqual([404, 405])
  })

  it('what is revoked is refused within a second of its commit', async () => {
    const own = await ci.opened()
    const { id, token } = await issued(own)
    expect((await ask(await bound(token))).status).toBe(200)
    const made = await supertest(house.http)
      .post('/v1/revocations')
      .set('Authorization', `Bearer ${responder}`)
      .send({ selector: { credential: id } })
    const committed = performance.now()
    expect(made.body.revocation.id).toMatch(/^rev_/)
    let answer = await ask(await bound(token))
    while (answer.status === 200 && performance.now() - committed < 3_000) answer = await ask(await bound(token))
    expect(performance.now() - committed).toBeLessThan(1_000)
    expect([answer.status, answer.body.code, answer.headers['www-authenticate']]).toEqual([401, 'revoked', expect.stringContaining('invalid_token')])
  })

  it('cut off from the broker for longer than may be, nothing passes and it says so; then all is well again', async () => {
    const { token } = await issued()
    const { port } = broker.address() as AddressInfo
    await stopped(broker)
    const since = performance.now()
    while ((await ask(await bound(token))).status === 200 && performance.now() - since < 10_000) await new Promise(resolve => setTimeout(resolve, 50))
    expect(performance.now() - since).toBeLessThan(MAX_STALE + 1_500)
    const answer = await ask(await bound(token))
    expect([answer.status, answer.body.code, answer.headers['retry-after']]).toEqual([503, 'stale_feed', '1'])
    const health = await supertest(door).get('/healthz')
    expect([health.status, health.body]).toEqual([503, expect.objectContaining({ ok: false, connected: false })])

    await new Promise<void>(resolve => broker.listen(port, '127.0.0.1', resolve))
    await expect.poll(async () => (await supertest(door).get('/healthz')).status, { timeout: 15_000 }).toBe(200)
    expect((await ask(await bound(token))).status).toBe(200)
  })
})

describe('its settings', () => {
  const GUARD_KEY = newGuardKey().reveal().token as string
  const env = { CURFEW_ISSUER: SERVER, CURFEW_AUDIENCE: ORDERS, CURFEW_GUARD_KEY: GUARD_KEY }
  const files: Record<string, string> = { '/run/key': `${GUARD_KEY}\n`, '/run/empty': '\n' }
  const readFile = (path: string) =>
    files[path] ??
    (() => {
      throw new Error('no such file')
    })()
  const read = (change: Record<string, string | undefined> = {}) => forwardAuthSettings({ env: { ...env, ...change }, readFile })

  it('three are enough; the key may lie in a file', () => {
    expect(read()).toMatchObject({ listen: { host: '127.0.0.1', port: 8785 }, proof: 'required', maxStaleMs: 5_000, whenStale: 'refuse', scopes: [] })
    expect(read({ CURFEW_GUARD_KEY: '', CURFEW_GUARD_KEY_FILE: '/run/key' }).guardKey).toBe(GUARD_KEY)
    expect(read({ CURFEW_LISTEN: '[::1]:80', CURFEW_SCOPE: 'a b', CURFEW_MAX_STALE: '1500ms' })).toMatchObject({
      listen: { host: '::1', port: 80 },
      scopes: ['a', 'b'],
      maxStaleMs: 1_500,
    })
  })
  it.each<[string, Record<string, string | undefined>, string]>([
    ['no key', { CURFEW_GUARD_KEY: undefined }, 'CURFEW_GUARD_KEY'],
    ['a key that is none', { CURFEW_GUARD_KEY: `${GUARD_KEY.slice(0, -1)}?` }, 'CURFEW_GUARD_KEY'],
    ['two keys', { CURFEW_GUARD_KEY_FILE: '/run/key' }, 'CURFEW_GUARD_KEY'],
    ['no such file', { CURFEW_GUARD_KEY: undefined, CURFEW_GUARD_KEY_FILE: '/run/other' }, 'CURFEW_GUARD_KEY_FILE'],
    ['an empty file', { CURFEW_GUARD_KEY: undefined, CURFEW_GUARD_KEY_FILE: '/run/empty' }, 'CURFEW_GUARD_KEY_FILE'],
    ['no issuer', { CURFEW_ISSUER: undefined }, 'CURFEW_ISSUER'],
    ['no audience', { CURFEW_AUDIENCE: undefined }, 'CURFEW_AUDIENCE'],
    ['a proof rule that is none', { CURFEW_PROOF: 'no' }, 'CURFEW_PROOF'],
    ['a port that is none', { CURFEW_LISTEN: '127.0.0.1:99999' }, 'CURFEW_LISTEN'],
    ['too long a time', { CURFEW_MAX_STALE: '60s' }, 'CURFEW_MAX_STALE'],
    ['introspection without a name', { CURFEW_WHEN_STALE: 'introspect' }, 'CURFEW_AUDIENCE_NAME'],
  ])('%s: it does not start, and names what is wrong but not its value', (_what, change, field) => {
    let told: unknown
    try {
      read(change)
    } catch (error) {
      told = error
    }
    expect(told).toMatchObject({ code: 'malformed', facts: { field } })
    expect(String(told)).not.toContain(GUARD_KEY.slice(0, 30))
  })
})
