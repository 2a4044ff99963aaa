/** What verifiers of other people know of a revocation, beside introspection and the guard: the table of docs/guard.md, one verifier a line. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createRemoteJWKSet, customFetch, jwtVerify } from 'jose'
import * as oauth from 'oauth4webapi'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createGuard, type Guard } from '../../src/guard/guard.js'
import { type Caller, caller, introspect } from '../caller.js'
import { type House, LEGACY, makeHouse, ORDERS, ORDERS_SECRET, SERVER } from '../house.js'

let house: House
let ci: Caller
let responder: string
let url: string
let as: oauth.AuthorizationServer
const guards: Guard[] = []
const server = createServer((req, res) => house.http(req, res))

/** The public name of the house leads to its socket. */
const fetched = (to: string, init?: object) => globalThis.fetch(String(to).replace(SERVER, url), init)

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
  responder = await house.operator('responder')
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const found = await oauth.discoveryRequest(new URL(SERVER), { algorithm: 'oauth2', [oauth.customFetch]: fetched as never })
  as = await oauth.processDiscoveryResponse(new URL(SERVER), found)
})
afterAll(async () => {
  for (const guard of guards) guard.close()
  server.closeAllConnections()
  server.close()
  await house.close()
})

interface Kind {
  readonly capability: string
  readonly audience: string
  readonly name: string
  readonly bound: boolean
}
const KINDS: readonly Kind[] = [
  { capability: 'demo/orders-ro', audience: ORDERS, name: 'orders', bound: true },
  { capability: 'demo/orders-bearer', audience: LEGACY, name: 'legacy', bound: false },
]

describe.each(KINDS)('a token for $audience, bound to a key: $bound', ({ capability, audience, name, bound }) => {
  let id: string
  let token: string
  let exp: number
  let guard: Guard

  async function asked(): Promise<Request> {
    const at = `${audience}orders`
    const dpop = bound ? { dpop: await ci.proof('GET', '', token, { htu: at, iat: Math.floor(Date.now() / 1000) }) } : {}
    return new Request(at, { headers: { authorization: `${bound ? 'DPoP' : 'Bearer'} ${token}`, ...dpop } })
  }

  const verifiers: Record<string, () => Promise<unknown>> = {
    'oauth4webapi validateJwtAccessToken': async () =>
      oauth.validateJwtAccessToken(as, await asked(), audience, { [oauth.customFetch]: fetched as never, signingAlgorithms: ['ES256', 'RS256'] } as never),
    'jose jwtVerify': () => verified(),
    'oauth4webapi introspection': async () => {
      const client: oauth.Client = { client_id: name }
      const answer = await oauth.introspectionRequest(as, client, oauth.ClientSecretBasic(ORDERS_SECRET), token, { [oauth.customFetch]: fetched as never })
      const { active } = await oauth.processIntrospectionResponse(as, client, answer)
      if (!active) throw new Error('not active')
    },
    'the guard': async () => guard.verify(await asked(), { scope: 'orders:read' }),
  }
  const verified = (at = new Date()) =>
    jwtVerify(token, createRemoteJWKSet(new URL(as.jwks_uri as string), { [customFetch]: fetched as never }), {
      issuer: as.issuer,
      audience,
      typ: 'at+jwt',
      currentDate: at,
    })
  const says = (verifier: string) =>
    (verifiers[verifier] as () => Promise<unknown>)().then(
      () => 'accepts',
      (error: Error & { code?: string }) => `refuses: ${error.code ?? error.message}`,
    )

  beforeAll(async () => {
    const held = await ci.opened({ capabilities: [capability] })
    const { credential, secret } = (await ci.credential(held, capability)).body
    id = credential.id
    token = secret.token
    exp = Math.floor(Date.parse(credential.expires_at) / 1000)
    const added = await supertest(house.http)
      .post('/v1/guards')
      .set('Authorization', `Bearer ${await house.operator('admin')}`)
      .send({ name: `stock-${name}` })
    guard = createGuard({ issuer: SERVER, audience, proof: 'if-bound', guardKey: added.body.key, fetch: fetched })
    guards.push(guard)
    await guard.ready()
  })

  test.each(Object.keys(verifiers))('%s accepts it before its end', async verifier => {
    expect(await says(verifier)).toBe('accepts')
  })

  test('once revoked, who asks or is told refuses; who verifies alone accepts until `exp`', async () => {
    const revoked = await supertest(house.http)
      .post('/v1/revocations')
      .set('Authorization', `Bearer ${responder}`)
      .send({ selector: { credential: id } })
    expect(revoked.status).toBe(202)
    expect((await introspect(house, token, name)).body).toEqual({ active: false })
    await expect.poll(() => says('the guard'), { timeout: 10_000, interval: 10 }).toBe('refuses: revoked')
    expect(Object.fromEntries(await Promise.all(Object.keys(verifiers).map(async v => [v, await says(v)])))).toEqual({
      'oauth4webapi validateJwtAccessToken': 'accepts',
      'jose jwtVerify': 'accepts',
      'oauth4webapi introspection': 'refuses: not active',
      'the guard': 'refuses: revoked',
    })
    // And so on until its last second.
    await expect(verified(new Date((exp - 1) * 1000))).resolves.toBeDefined()
    await expect(verified(new Date(exp * 1000))).rejects.toThrow(/"exp"/)
  })
})

test('of a bound token: bare jwtVerify misses the proof, oauth4webapi asks for it but takes one twice, the guard neither', async () => {
  const held = await ci.opened()
  const token = (await ci.credential(held, 'demo/orders-ro')).body.secret.token as string
  const keys = createRemoteJWKSet(new URL(as.jwks_uri as string), { [customFetch]: fetched as never })
  await expect(jwtVerify(token, keys, { issuer: as.issuer, audience: ORDERS, typ: 'at+jwt' })).resolves.toBeDefined()

  const at = `${ORDERS}orders`
  const [guard] = guards as [Guard]
  const checked = (request: Request) =>
    oauth.validateJwtAccessToken(as, request, ORDERS, { [oauth.customFetch]: fetched as never, signingAlgorithms: ['ES256'] } as never)
  const bare = new Request(at, { headers: { authorization: `Bearer ${token}` } })
  await expect(checked(bare)).rejects.toThrow()
  await expect(guard.verify(bare)).rejects.toMatchObject({ code: 'bearer_downgrade' })

  const dpop = await ci.proof('GET', '', token, { htu: at })
  const proven = () => new Request(at, { headers: { authorization: `DPoP ${token}`, dpop } })
  await expect(checked(proven())).resolves.toBeDefined()
  await expect(checked(proven())).resolves.toBeDefined()
  await expect(guard.verify(proven())).resolves.toBeDefined()
  await expect(guard.verify(proven())).rejects.toMatchObject({ code: 'proof_replayed' })
})
