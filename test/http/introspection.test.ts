/** Introspection, plain and signed (RFC 7662, RFC 9701; standards.md 1.6, 2.2.6, T69): exactly what is for the caller, and an answer that can be nothing else. */
import { createLocalJWKSet, decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose'
import supertest, { type Response } from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, EXCHANGE, type Held, JWT_BEARER } from '../caller.js'
import { type House, LEGACY, makeHouse, ORDERS, ORDERS_SECRET, SERVER } from '../house.js'

const SIGNED = 'application/token-introspection+jwt'
let house: House
let ci: Caller
let held: Held
let token: string
let credential: string

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
  held = await ci.opened({ capabilities: ['demo/orders-ro', 'demo/orders-bearer'] })
  const made = (await ci.credential(held, 'demo/orders-ro')).body
  token = made.secret.token
  credential = made.credential.id
})
afterAll(() => house?.close())

const ask = (of: string, accept?: string, server = 'orders', form: Record<string, string> = {}): Promise<Response> => {
  const request = supertest(house.http).post('/oauth2/introspect').auth(server, ORDERS_SECRET).type('form')
  if (accept !== undefined) request.set('Accept', accept)
  return request.send({ token: of, ...form }) as unknown as Promise<Response>
}
const verified = async (text: string, audience: string) => {
  const { body } = await supertest(house.http).get('/.well-known/jwks.json')
  return jwtVerify(text, createLocalJWKSet(body), { issuer: SERVER, audience, typ: 'token-introspection+jwt' })
}

describe('a signed answer', () => {
  it('is what the plain one says, to the server that asked, by a published key, and has nothing of an access token at its top', async () => {
    const plain = (await ask(token)).body
    const answer = await ask(token, SIGNED)
    expect([answer.status, answer.headers['content-type'], answer.headers['cache-control']]).toEqual([200, SIGNED, 'no-store'])
    const { payload, protectedHeader } = await verified(answer.text, 'orders')
    expect(protectedHeader).toEqual({ alg: 'ES256', typ: 'token-introspection+jwt', kid: expect.any(String) })
    expect(payload).toEqual({ iss: SERVER, aud: 'orders', iat: expect.any(Number), token_introspection: plain })
    expect(Math.abs((payload.iat as number) - house.now())).toBeLessThan(5)
  })
  it('an inactive one as well, by the algorithm that the server was registered with', async () => {
    for (const of of ['nothing', token]) {
      const answer = await ask(of, SIGNED, 'legacy')
      expect(decodeProtectedHeader(answer.text)).toMatchObject({ alg: 'RS256', typ: 'token-introspection+jwt' })
      expect((await verified(answer.text, 'legacy')).payload).toEqual({
        iss: SERVER,
        aud: 'legacy',
        iat: expect.any(Number),
        token_introspection: { active: false },
      })
    }
  })
  it.each([
    [undefined, 'application/json'],
    ['*/*', 'application/json'],
    ['application/json', 'application/json'],
    ['application/*', 'application/json'],
    ['text/html', 'application/json'],
    [`${SIGNED};q=0`, 'application/json'],
    [`application/json, ${SIGNED};q=0.5`, 'application/json'],
    [SIGNED, SIGNED],
    [SIGNED.toUpperCase(), SIGNED],
    [`${SIGNED}, application/json;q=0.9`, SIGNED],
    [`text/html, ${SIGNED};q=0.1`, SIGNED],
  ])('Accept: %s gets %s', async (accept, type) => {
    const answer = await ask(token, accept)
    expect(answer.headers['content-type']?.split(';')[0]).toBe(type)
    expect(type === SIGNED ? decodeJwt(answer.text).token_introspection : answer.body).toMatchObject({ active: true })
  })
  it('a refusal stays plain: the client must authenticate', async () => {
    const answer = await supertest(house.http).post('/oauth2/introspect').set('Accept', SIGNED).type('form').send({ token })
    expect([answer.status, answer.body.error, answer.headers['www-authenticate']]).toEqual([401, 'invalid_client', 'Basic realm="curfew"'])
  })
})

describe('T69 a signed answer is nothing else', () => {
  it('neither access token, nor evidence, nor client, nor task token; the token that it is about is one of these', async () => {
    const answer = (await ask(token, SIGNED)).text
    expect((await ask(answer)).body).toEqual({ active: false })
    expect((await ask(token)).body.active).toBe(true)
    const forward = (of: string, proof: string) =>
      supertest(house.http)
        .get('/v1/forward-auth?audience=orders')
        .set({ 'X-Forwarded-Method': 'GET', 'X-Forwarded-Uri': '/orders', Authorization: `DPoP ${of}`, DPoP: proof })
    const proof = (of: string) => ci.proof('GET', '', of, { htu: `${ORDERS}orders` })
    expect((await forward(answer, await proof(answer))).status).toBe(401)
    expect((await forward(token, await proof(token))).status).toBe(200)
    const token_ = async (form: Record<string, string>) =>
      supertest(house.http)
        .post('/oauth2/token')
        .type('form')
        .set('DPoP', await ci.proof('POST', '/oauth2/token'))
        .send({ resource: ORDERS, scope: 'orders:read', ...form })
    const jwt = 'urn:ietf:params:oauth:token-type:jwt'
    expect((await token_({ grant_type: EXCHANGE, subject_token: answer, subject_token_type: jwt })).body).toMatchObject({
      error: 'invalid_request',
      reason: 'issuer_unknown',
    })
    expect((await token_({ grant_type: JWT_BEARER, assertion: answer })).body).toMatchObject({ error: 'invalid_grant', reason: 'issuer_unknown' })
    const client_assertion_type = 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer'
    expect((await token_({ grant_type: 'client_credentials', client_assertion: answer, client_assertion_type })).body).toMatchObject({
      error: 'invalid_client',
      reason: 'issuer_unknown',
    })
    const path = `/v1/tasks/${held.task}/heartbeat`
    expect((await ci.as({ ...held, token: answer }, 'post', path, {})).body).toMatchObject({ code: 'attestation_refused', reason: 'type_refused' })
    expect((await ci.as(held, 'post', path, {})).status).toBe(200)
  })
})

describe('a plain answer', () => {
  it('has every member that RFC 7662 and the token know, and those of this audience only', async () => {
    expect((await ask(token)).body).toMatchObject({
      active: true,
      token_type: 'DPoP',
      scope: 'orders:read',
      client_id: 'github:repository_id=456789',
      sub: 'github:repository_id=456789',
      aud: ORDERS,
      iss: SERVER,
      jti: credential,
      exp: expect.any(Number),
      iat: expect.any(Number),
      nbf: expect.any(Number),
      cnf: { jkt: ci.jkt },
      authorization_details: [{ capabilities: ['demo/orders-ro'], locations: [ORDERS] }],
    })
    const bearer = (await ci.credential(held, 'demo/orders-bearer')).body.secret.token
    expect((await ask(bearer)).body).toEqual({ active: false })
    expect((await ask(bearer, undefined, 'legacy')).body).toMatchObject({ active: true, token_type: 'Bearer', aud: LEGACY })
  })
  it('a hint is a hint: whatever it says, and what is not recognised is ignored', async () => {
    for (const token_type_hint of ['access_token', 'refresh_token', 'urn:nothing', 'x'.repeat(2_000)])
      expect((await ask(token, undefined, 'orders', { token_type_hint, client_id: 'orders', x: '1' })).body.active).toBe(true)
  })
  it('the task token is for ourselves, and so for no resource server', async () => {
    expect((await ask(held.token)).body).toEqual({ active: false })
  })
  it('one word and one question: no token is a fault of the request, a wrong secret one of the client', async () => {
    expect((await ask('')).body).toMatchObject({ error: 'invalid_request', field: 'token' })
    const wrong = await supertest(house.http).post('/oauth2/introspect').auth('orders', 'wrong').type('form').send({ token })
    expect([wrong.status, wrong.body.error, wrong.headers['www-authenticate']]).toEqual([401, 'invalid_client', 'Basic realm="curfew"'])
    const two = await supertest(house.http).post('/oauth2/introspect').auth('orders', ORDERS_SECRET).type('form').send(`token=${token}&token=x`)
    expect(two.body).toMatchObject({ error: 'invalid_request', reason: 'parameter_repeated' })
  })
})
