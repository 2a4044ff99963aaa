/** What anyone may read of this server (RFC 8414, RFC 9728, OpenID discovery; standards.md 1.7): at its place, complete, only what is switched on, and where a refusal of the API leads to it. */
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller } from '../caller.js'
import { type House, LEGACY, makeHouse, ORDERS, SERVER } from '../house.js'

let house: House
let ci: Caller
beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
})
afterAll(() => house?.close())

const get = async (path: string, at = house) => supertest(at.http).get(path)

describe('the authorization server', () => {
  it('RFC 8414: all that is on, no empty list, and every endpoint is one', async () => {
    const { body, headers } = await get('/.well-known/oauth-authorization-server')
    expect(headers['cache-control']).toBe('public, max-age=300')
    expect(body).toEqual({
      issuer: SERVER,
      token_endpoint: `${SERVER}/oauth2/token`,
      token_endpoint_auth_methods_supported: ['none', 'private_key_jwt'],
      token_endpoint_auth_signing_alg_values_supported: ['ES256', 'EdDSA', 'RS256'],
      jwks_uri: `${SERVER}/.well-known/jwks.json`,
      introspection_endpoint: `${SERVER}/oauth2/introspect`,
      introspection_endpoint_auth_methods_supported: ['client_secret_basic'],
      introspection_signing_alg_values_supported: ['ES256', 'RS256'],
      revocation_endpoint: `${SERVER}/oauth2/revoke`,
      revocation_endpoint_auth_methods_supported: ['none'],
      response_types_supported: ['none'],
      grant_types_supported: ['urn:ietf:params:oauth:grant-type:token-exchange', 'urn:ietf:params:oauth:grant-type:jwt-bearer', 'client_credentials'],
      dpop_signing_alg_values_supported: ['ES256', 'RS256'],
      authorization_details_types_supported: [`${SERVER}/rar/task/v1`],
      scopes_supported: ['orders:read'],
      protected_resources: [SERVER, `${SERVER}/v1`, ORDERS, LEGACY],
    })
    for (const [name, url] of Object.entries(body as Record<string, string>)) {
      if (!/_(endpoint|uri)$/.test(name)) continue
      const path = url.slice(SERVER.length)
      const answer = name === 'jwks_uri' ? await get(path) : await supertest(house.http).post(path).type('form').send({ x: '1' })
      expect([name, answer.status]).toEqual([name, name === 'jwks_uri' ? 200 : 400])
    }
  })
  it('without what is not there: no server that asks, no scope', async () => {
    const bare = await makeHouse({
      policies:
        '@id("none") permit (principal, action == Action::"issue", resource == Capability::"demo/db") when { context.issuer == "github" && context has github && context.github.repository_id == "456789" };',
      more: {
        audiences: [{ name: 'silent', uri: 'https://silent.example/' }],
        capabilities: [{ name: 'demo/db', summary: 'A database user', engine: 'memory', intent: 'read' }],
      },
    })
    try {
      const { body } = await get('/.well-known/oauth-authorization-server', bare)
      for (const name of [
        'introspection_endpoint',
        'introspection_endpoint_auth_methods_supported',
        'introspection_signing_alg_values_supported',
        'scopes_supported',
      ])
        expect(body).not.toHaveProperty(name)
      expect(body).toMatchObject({ issuer: SERVER, protected_resources: [SERVER, `${SERVER}/v1`, 'https://silent.example/'] })
    } finally {
      await bare.close()
    }
  }, 60_000)
  it('OpenID discovery: what relying parties of signed tokens fetch, and no more', async () => {
    expect((await get('/.well-known/openid-configuration')).body).toEqual({
      issuer: SERVER,
      jwks_uri: `${SERVER}/.well-known/jwks.json`,
      response_types_supported: ['id_token'],
      subject_types_supported: ['public'],
      id_token_signing_alg_values_supported: ['ES256', 'RS256'],
    })
  })
})

describe('our API as a protected resource', () => {
  it.each([
    ['/.well-known/oauth-protected-resource', SERVER],
    ['/.well-known/oauth-protected-resource/v1', `${SERVER}/v1`],
  ])('RFC 9728: %s is of %s', async (path, resource) => {
    const { body, headers } = await get(path)
    expect(headers['cache-control']).toBe('public, max-age=300')
    expect(body).toEqual({
      resource,
      authorization_servers: [SERVER],
      jwks_uri: `${SERVER}/v1/receipt-keys`,
      bearer_methods_supported: ['header'],
      dpop_signing_alg_values_supported: ['ES256', 'RS256'],
      dpop_bound_access_tokens_required: true,
      authorization_details_types_supported: [`${SERVER}/rar/task/v1`],
    })
    expect((await get(body.jwks_uri.slice(SERVER.length))).body.keys).toEqual([expect.objectContaining({ use: 'sig' })])
  })
  it('of nothing else: another path is no resource', async () => {
    for (const path of ['/v2', '/oauth2', '/v1/tasks', '/']) expect((await get(`/.well-known/oauth-protected-resource${path}`)).status).toBe(404)
  })
  it('every 401 leads there, and says what was wrong with the token or the proof; bad evidence in a body is neither', async () => {
    const leads = `algs="ES256 RS256", resource_metadata="${SERVER}/.well-known/oauth-protected-resource/v1"`
    const held = await ci.opened()
    const path = `/v1/tasks/${held.task}/heartbeat`
    const beat = async (token: string, proof: string) =>
      supertest(house.http)
        .post(path)
        .set({ Authorization: `DPoP ${token}`, DPoP: proof })
        .send({})
    const challenge = async (answer: PromiseLike<supertest.Response>) => {
      const { status, headers } = await answer
      return [status, headers['www-authenticate']]
    }
    expect(await challenge(supertest(house.http).post(path).send({}))).toEqual([401, `DPoP ${leads}`])
    expect(await challenge(beat('a.b.c', await ci.proof('POST', path, 'a.b.c')))).toEqual([401, `DPoP error="invalid_token", ${leads}`])
    expect(await challenge(beat(held.token, await ci.proof('POST', path)))).toEqual([401, `DPoP error="invalid_dpop_proof", ${leads}`])
    expect(await challenge(supertest(house.http).get('/v1/credentials').set('Authorization', 'Bearer nobody'))).toEqual([
      401,
      `DPoP error="invalid_token", ${leads}`,
    ])
    expect(await challenge(ci.open({ subject_token: 'a.b.c' }))).toEqual([401, `DPoP ${leads}`])
    expect((await beat(held.token, await ci.proof('POST', path, held.token))).status).toBe(200)
  })
})
