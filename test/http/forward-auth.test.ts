/** Forward-auth in every dialect, as the proxies' documentation sends it: who passes, who does not, and what nobody can forge. */
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, type Held } from '../caller.js'
import { type House, makeHouse, ORDERS } from '../house.js'

let house: House
let ci: Caller
let held: Held
let token: string
let credential: string
const ORIGIN = new URL(ORDERS).origin

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
})
afterAll(() => house.close())

async function fresh() {
  held = await ci.opened({ capabilities: ['demo/orders-ro', 'demo/orders-bearer'] })
  const { body } = await ci.credential(held, 'demo/orders-ro')
  token = body.secret.token
  credential = body.credential.id
}

/** A proof of the request at the resource server, not of the one to us. */
const proofOf = (method: string, path: string, of = token) => ci.proof(method, '', of, { htu: ORIGIN + path })

const ask = async (headers: Record<string, string>, path = '/v1/forward-auth?audience=orders&scope=orders:read', method: 'get' | 'head' | 'post' = 'get') =>
  supertest(house.http)[method](path).set(headers)

const DIALECTS: [string, (method: string, uri: string) => Record<string, string>][] = [
  ['nginx', (method, uri) => ({ 'X-Original-Method': method, 'X-Original-URI': uri })],
  ['Traefik', (method, uri) => ({ 'X-Forwarded-Method': method, 'X-Forwarded-Proto': 'https', 'X-Forwarded-Host': 'evil.example', 'X-Forwarded-Uri': uri })],
  ['Caddy', (method, uri) => ({ 'X-Forwarded-Method': method, 'X-Forwarded-Uri': uri, 'X-Forwarded-For': '203.0.113.9' })],
]

describe.each(DIALECTS)('%s', (_name, headersOf) => {
  beforeAll(fresh)
  it('a live token with its proof passes, with who it is; the query of the request is no part of the proof', async () => {
    const answer = await ask({ ...headersOf('GET', '/orders/1?full=yes'), Authorization: `DPoP ${token}`, DPoP: await proofOf('GET', '/orders/1') })
    expect(answer.status).toBe(200)
    expect(answer.headers).toMatchObject({
      'x-curfew-credential': credential,
      'x-curfew-subject': 'github:repository_id=456789',
      'x-curfew-task': held.task,
      'x-curfew-scope': 'orders:read',
      'cache-control': 'private, max-age=2',
    })
  })

  it.each([
    ['of another method', 'POST', '/orders/1', 'htm_mismatch'],
    ['of another path', 'GET', '/orders/2', 'htu_mismatch'],
    ['of the broker itself', 'GET', '../v1/forward-auth', 'htu_mismatch'],
  ])('a proof %s does not', async (_what, method, path, reason) => {
    const answer = await ask({ ...headersOf('GET', '/orders/1'), Authorization: `DPoP ${token}`, DPoP: await proofOf(method, path) })
    expect([answer.status, answer.body.reason]).toEqual([401, reason])
    expect(answer.headers['www-authenticate']).toMatch(/^DPoP error="invalid_dpop_proof"/)
  })

  it('a proof is good once', async () => {
    const headers = { ...headersOf('GET', '/orders/1'), Authorization: `DPoP ${token}`, DPoP: await proofOf('GET', '/orders/1') }
    expect((await ask(headers)).status).toBe(200)
    expect((await ask(headers)).body).toMatchObject({ status: 401, reason: 'replayed' })
  })
})

describe('Envoy', () => {
  beforeAll(fresh)
  const envoy = { 'X-Curfew-Audience': 'orders', 'X-Curfew-Scope': 'orders:read' }
  it('asks with the method and under the path of the request', async () => {
    const answer = await ask({ ...envoy, Authorization: `DPoP ${token}`, DPoP: await proofOf('POST', '/orders/1') }, '/v1/forward-auth/envoy/orders/1', 'post')
    expect([answer.status, answer.headers['x-curfew-credential']]).toEqual([200, credential])
    const other = await ask({ ...envoy, Authorization: `DPoP ${token}`, DPoP: await proofOf('GET', '/orders/1') }, '/v1/forward-auth/envoy/orders/1', 'post')
    expect(other.body).toMatchObject({ status: 401, reason: 'htm_mismatch' })
  })
})

describe('whoever it is', () => {
  beforeAll(fresh)
  const nginx = { 'X-Original-Method': 'GET', 'X-Original-URI': '/orders' }
  const bound = async (more: Record<string, string> = {}) => ({ ...nginx, Authorization: `DPoP ${token}`, DPoP: await proofOf('GET', '/orders'), ...more })

  it('HEAD is answered alike', async () => {
    expect((await ask(await bound(), '/v1/forward-auth?audience=orders', 'head')).headers['x-curfew-credential']).toBe(credential)
  })

  it.each([
    ['a scheme without a token', () => ({ Authorization: 'DPoP' }), 401, 'authorization_malformed'],
    ['a bound token as bearer', () => ({ Authorization: `Bearer ${token}` }), 401, 'bearer_downgrade'],
    ['another scheme', () => ({ Authorization: 'Basic abc' }), 401, 'token_missing'],
    ['a task token', () => ({ Authorization: `DPoP ${held.token}` }), 401, 'inactive'],
    ['a stranger’s token', () => ({ Authorization: 'DPoP a.b.c' }), 401, 'inactive'],
    ['no proof', () => ({ DPoP: '' }), 401, 'malformed_token'],
  ])('%s does not pass', async (_what, change, status, reason) => {
    const answer = await ask({ ...(await bound()), ...change() })
    expect([answer.status, answer.body.reason]).toEqual([status, reason])
    expect(answer.headers['x-curfew-credential']).toBeUndefined()
  })

  it('a scope that was not granted is 403, of another audience 401', async () => {
    const wide = await ask(await bound(), '/v1/forward-auth?audience=orders&scope=orders:write')
    expect([wide.status, wide.body.reason]).toEqual([403, 'scope_missing'])
    expect(wide.headers['www-authenticate']).toContain('insufficient_scope')
    expect((await ask(await bound(), '/v1/forward-auth?audience=legacy')).body).toMatchObject({ status: 401, reason: 'inactive' })
  })

  it.each([
    ['what the proxy asks about is missing', { 'X-Original-URI': '' }, 'X-Original-URI'],
    ['two dialects that differ', { 'X-Forwarded-Uri': '/admin' }, 'x-original-uri'],
    ['two methods that differ', { 'X-Forwarded-Method': 'DELETE' }, 'x-original-method'],
    ['a whole address for a path', { 'X-Original-URI': 'https://evil.example/orders' }, 'X-Original-URI'],
    ['a fragment', { 'X-Original-URI': '/orders#x' }, 'X-Original-URI'],
    ['a method that is none', { 'X-Original-Method': 'get' }, 'X-Original-Method'],
  ])('%s is refused and named', async (_what, headers, field) => {
    expect((await ask(await bound(headers))).body).toMatchObject({ status: 400, code: 'malformed', field })
  })

  it.each([
    ['/v1/forward-auth', 'audience'],
    ['/v1/forward-auth?audience=nobody', 'audience'],
    ['/v1/forward-auth?audience=orders&more=1', 'more'],
  ])('%s is refused', async (path, field) => {
    expect((await ask(await bound(), path)).body).toMatchObject({ status: 400, field })
  })

  it('a bearer token passes at an audience for bearers, and a revoked one nowhere', async () => {
    const { body } = await ci.credential(held, 'demo/orders-bearer')
    const bearer = { ...nginx, Authorization: `Bearer ${body.secret.token}` }
    expect((await ask(bearer, '/v1/forward-auth?audience=legacy')).status).toBe(200)
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    expect((await ask(bearer, '/v1/forward-auth?audience=legacy')).body).toMatchObject({ status: 401, reason: 'inactive' })
    expect((await ask(await bound())).body).toMatchObject({ status: 401, reason: 'inactive' })
  })
})
