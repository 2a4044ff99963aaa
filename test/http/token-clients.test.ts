/** Assertions at the token endpoint: the jwt-bearer grant, private_key_jwt and jwt-spiffe (RFC 7523 and its bis, standards.md 1.2, 1.12, 2.2.2-2.2.4, P29, P68, T40, T69), each attack beside its twin. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { decodeJwt } from 'jose'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, EXCHANGE, JWT_BEARER } from '../caller.js'
import { GITHUB, GITHUB_ISSUER, type House, type KeyedIssuer, keyedIssuer, makeHouse, ORDERS, SERVER } from '../house.js'

const AGENT = 'agents:agent=reporter'
const SVID = 'spiffe://mesh.example/ci'
const PRIVATE_KEY = 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer'
const SPIFFE = 'urn:ietf:params:oauth:client-assertion-type:jwt-spiffe'
const WANTED = { resource: ORDERS, scope: 'orders:read' }
const POLICIES = `
@id("ci") permit (principal, action == Action::"issue", resource == Capability::"demo/orders-ro") when { context.issuer == "github" && context has github && context.github.repository_id == "456789" };
@id("mesh") permit (principal, action == Action::"issue", resource == Capability::"demo/orders-ro") when { context.issuer == "mesh" && context has spiffe && context.spiffe.path == "/ci" };
@id("agents") permit (principal, action == Action::"issue", resource == Capability::"demo/orders-ro") when { context.issuer == "agents" && context has registered && context.registered.agent == "reporter" };
`

const dir = mkdtempSync(join(tmpdir(), 'curfew-clients-'))
let house: House
let ci: Caller
let mesh: KeyedIssuer

const issuers = (kinds: readonly string[]) =>
  [
    GITHUB_ISSUER,
    { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] },
    // Evidence names us in another way here; a client does not.
    { name: 'mesh', kind: 'spiffe', trustDomain: 'mesh.example', audience: 'curfew', bundle: { file: join(dir, 'mesh.json') } },
  ].filter(i => kinds.includes(i.kind))

beforeAll(async () => {
  mesh = await keyedIssuer('ES256', 'mesh-1')
  writeFileSync(join(dir, 'mesh.json'), JSON.stringify({ keys: [{ ...mesh.jwk, alg: undefined, use: 'jwt-svid' }] }))
  house = await makeHouse({ policies: POLICIES, more: { issuers: issuers(['oidc', 'registered', 'spiffe']) } })
  ci = await caller(house)
})
afterAll(async () => {
  await house?.close()
  rmSync(dir, { recursive: true, force: true })
})

const asks = async (form: Record<string, string>, at = house, by = ci) =>
  supertest(at.http)
    .post('/oauth2/token')
    .type('form')
    .set('DPoP', await by.proof('POST', '/oauth2/token'))
    .send({ ...WANTED, ...form })
const word = (answer: { status: number; body: Record<string, unknown> }) =>
  [answer.status, answer.body.error ?? 'granted', ...(answer.body.reason === undefined ? [] : [answer.body.reason])].join(' ')
const svid = (claims: Record<string, unknown> = {}) => mesh.mint({ sub: SVID, aud: SERVER, iat: house.now(), exp: house.now() + 300, ...claims })
const agent = async (claims: Record<string, unknown> = {}, more: Record<string, string> = {}) =>
  asks({ grant_type: 'client_credentials', client_assertion_type: PRIVATE_KEY, client_assertion: await house.agentAssertion(claims), ...more })
const workload = async (claims: Record<string, unknown> = {}, more: Record<string, string> = {}) =>
  asks({ grant_type: 'client_credentials', client_assertion_type: SPIFFE, client_assertion: await svid(claims), ...more })
const reasons = async () => (await house.audits()).map(r => r.reason)

describe('the jwt-bearer grant', () => {
  const grant = async (claims: Record<string, unknown> = {}, more: Record<string, string> = {}) =>
    asks({ grant_type: JWT_BEARER, assertion: await house.evidence(claims), ...more })

  it('is the same pipeline: evidence opens a task and is answered with a token, and no issued_token_type', async () => {
    const answer = await grant()
    expect(word(answer)).toBe('200 granted')
    expect(answer.body).toMatchObject({ token_type: 'DPoP', scope: 'orders:read', authorization_details: [{ capabilities: ['demo/orders-ro'] }] })
    expect(answer.body).not.toHaveProperty('issued_token_type')
    expect(decodeJwt(answer.body.access_token)).toMatchObject({
      sub: 'github:repository_id=456789',
      client_id: 'github:repository_id=456789',
      cnf: { jkt: ci.jkt },
    })
  })
  it('takes a task object as well, and without a resource answers the task token', async () => {
    const task = JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'report', capabilities: ['demo/orders-ro'] }])
    const answer = await asks({ grant_type: JWT_BEARER, assertion: await house.evidence(), authorization_details: task, resource: '', scope: '' })
    expect(decodeJwt(answer.body.access_token)).toMatchObject({ aud: SERVER })
  })
  it.each<readonly [string, Record<string, unknown>, string]>([
    ['expired', { iat: 1, nbf: 1, exp: 2 }, 'expired'],
    ['T25 for another server', { aud: 'https://other.example' }, 'audience_mismatch'],
    ['T28 for the endpoint', { aud: `${SERVER}/oauth2/token` }, 'audience_mismatch'],
    ['T29 of an issuer that nobody registered', { iss: 'https://nobody.example' }, 'issuer_unknown'],
    ['T34 of another tenant', { repository_owner_id: '1' }, 'tenant_refused'],
  ])('%s is invalid_grant', async (_what, claims, reason) => {
    expect(word(await grant(claims))).toBe(`400 invalid_grant ${reason}`)
    expect((await reasons())[0]).toBe(reason)
    expect(word(await grant())).toBe('200 granted')
  })
  it('T40 used twice is invalid_grant, by either name', async () => {
    const evidence = await house.evidence()
    expect(word(await asks({ grant_type: JWT_BEARER, assertion: evidence }))).toBe('200 granted')
    const again = await asks({ grant_type: JWT_BEARER, assertion: evidence })
    expect([word(again), again.body.field]).toEqual(['400 invalid_grant replayed', 'assertion'])
    expect(word(await asks({ grant_type: EXCHANGE, subject_token: evidence, subject_token_type: 'urn:ietf:params:oauth:token-type:jwt' }))).toBe(
      '400 invalid_request replayed',
    )
  })
  it('old evidence is invalid_grant too, a denial by policy is not', async () => {
    const before = house.now() - 1_000
    expect(word(await grant({ iat: before, nbf: before, exp: house.now() + 100 }))).toBe('400 invalid_grant evidence_stale')
    expect(word(await grant({ repository_id: '1' }))).toBe('400 access_denied no_permit')
  })
  it('P68 a client_id that the assertion is not of', async () => {
    expect(word(await grant({}, { client_id: AGENT }))).toBe('401 invalid_client client_mismatch')
    expect(word(await grant({}, { client_id: 'github:repository_id=456789' }))).toBe('200 granted')
  })
  it('no assertion, and those of other grants', async () => {
    expect(word(await asks({ grant_type: JWT_BEARER }))).toBe('400 invalid_request parameter_missing')
    expect(word(await grant({}, { subject_token: 'a.b.c' }))).toBe('400 invalid_request parameter_unexpected')
    expect(word(await grant({}, { client_assertion_type: PRIVATE_KEY }))).toBe('400 invalid_request parameter_unexpected')
  })
})

describe('client credentials by private_key_jwt', () => {
  it('the registered agent is the client: its identity is its client_id, here and in its token', async () => {
    const answer = await agent({}, { client_id: AGENT })
    expect(word(answer)).toBe('200 granted')
    expect(decodeJwt(answer.body.access_token)).toMatchObject({ sub: AGENT, client_id: AGENT, aud: ORDERS, cnf: { jkt: ci.jkt } })
    expect(answer.body).not.toHaveProperty('issued_token_type')
    expect(word(await agent())).toBe('200 granted')
    // RFC 7523bis section 3: an array of one is that one.
    expect(word(await agent({ aud: [SERVER] }))).toBe('200 granted')
  })
  it.each<readonly [string, Record<string, unknown>, string]>([
    ['P29 T26 our name beside others', { aud: [SERVER, 'https://other.example'] }, 'audience_mismatch'],
    ['T28 the endpoint as audience', { aud: `${SERVER}/oauth2/token` }, 'audience_mismatch'],
    ['T27 our name with a slash', { aud: `${SERVER}/` }, 'audience_mismatch'],
    ['iss is not sub', { sub: 'agents:agent=other' }, 'issuer_mismatch'],
    ['T17 no jti: it could be used twice', { jti: undefined }, 'claim_missing'],
    ['too long a life', { exp: 4_000_000_000 }, 'life_too_long'],
    ['expired', { iat: 1, exp: 2 }, 'expired'],
    ['an agent that is not registered', { iss: 'agents:agent=other', sub: 'agents:agent=other' }, 'issuer_unknown'],
  ])('%s: 401 invalid_client', async (_what, claims, reason) => {
    const answer = await agent(claims)
    expect(word(answer)).toBe(`401 invalid_client ${reason}`)
    expect(answer.headers).not.toHaveProperty('www-authenticate')
    expect((await reasons())[0]).toBe(reason)
    expect(word(await agent())).toBe('200 granted')
  })
  it('P68 a client_id that the assertion is not of', async () => {
    for (const client_id of ['agents:agent=other', 'reporter', AGENT.toUpperCase(), SVID])
      expect(word(await agent({}, { client_id }))).toBe('401 invalid_client client_mismatch')
  })
  it('T40 used twice; refused on other grounds it is not used up', async () => {
    const assertion = await house.agentAssertion()
    const form = { grant_type: 'client_credentials', client_assertion_type: PRIVATE_KEY, client_assertion: assertion }
    expect(word(await asks({ ...form, resource: 'https://nobody.example/' }))).toBe('400 invalid_target resource_unknown')
    expect(word(await asks({ ...form, client_id: 'agents:agent=other' }))).toBe('401 invalid_client client_mismatch')
    expect(word(await asks(form))).toBe('200 granted')
    const again = await asks(form)
    expect([word(again), again.body.field]).toEqual(['401 invalid_client replayed', 'client_assertion'])
  })
  it('T10 by another key', async () => {
    const stranger = await keyedIssuer('ES256', 'agent-1')
    const claims = { iss: AGENT, sub: AGENT, aud: SERVER, jti: 'stranger', iat: house.now(), exp: house.now() + 60 }
    const form = { grant_type: 'client_credentials', client_assertion_type: PRIVATE_KEY }
    expect(word(await asks({ ...form, client_assertion: await stranger.mint(claims) }))).toBe('401 invalid_client signature_invalid')
    expect(word(await asks({ ...form, client_assertion: await house.agent.mint(claims) }))).toBe('200 granted')
  })
})

describe('client credentials by jwt-spiffe', () => {
  it('the SPIFFE ID is the client_id, and one SVID serves all processes of its workload', async () => {
    const form = { grant_type: 'client_credentials', client_assertion_type: SPIFFE, client_assertion: await svid() }
    for (const more of [{}, { client_id: SVID }]) {
      const answer = await asks({ ...form, ...more })
      expect(word(answer)).toBe('200 granted')
      expect(decodeJwt(answer.body.access_token)).toMatchObject({ sub: SVID, client_id: SVID, cnf: { jkt: ci.jkt } })
    }
  })
  it.each<readonly [string, Record<string, unknown>, string]>([
    ['P29 our name beside others', { aud: [SERVER, 'https://other.example'] }, 'audience_mismatch'],
    ['the name that evidence has for us', { aud: 'curfew' }, 'audience_mismatch'],
    ['no audience', { aud: undefined }, 'claim_missing'],
    ['T62 another trust domain', { sub: 'spiffe://other.example/ci' }, 'issuer_unknown'],
    ['T62 dots', { sub: 'spiffe://mesh.example/a/../ci' }, 'issuer_unknown'],
    ['T62 a domain alone', { sub: 'spiffe://mesh.example' }, 'claim_invalid'],
    ['T69 it says that it is of GitHub, and is no SVID', { iss: GITHUB, sub: 'repo:acme/orders:ref:refs/heads/main' }, 'issuer_unknown'],
  ])('%s: 401 invalid_client', async (_what, claims, reason) => {
    expect(word(await workload(claims))).toBe(`401 invalid_client ${reason}`)
    expect(word(await workload())).toBe('200 granted')
  })
  it('P68 a client_id that is not its SPIFFE ID', async () => {
    for (const client_id of [`${SVID}/`, 'spiffe://mesh.example/*', 'spiffe://MESH.example/ci', AGENT])
      expect(word(await workload({}, { client_id }))).toBe('401 invalid_client client_mismatch')
  })
  it('as evidence it is for the name that the configuration has for us, as before', async () => {
    const exchange = async (aud: string) =>
      asks({ grant_type: EXCHANGE, subject_token: await svid({ aud }), subject_token_type: 'urn:ietf:params:oauth:token-type:jwt' })
    expect(word(await exchange(SERVER))).toBe('400 invalid_request audience_mismatch')
    expect(word(await exchange('curfew'))).toBe('200 granted')
  })
})

describe('T69 one kind of assertion as another', () => {
  it('evidence of an OpenID issuer is no client, an SVID no private_key_jwt, and an agent no SVID', async () => {
    const as = (client_assertion_type: string, client_assertion: string) => asks({ grant_type: 'client_credentials', client_assertion_type, client_assertion })
    for (const type of [PRIVATE_KEY, SPIFFE]) expect(word(await as(type, await house.evidence()))).toBe('401 invalid_client issuer_unknown')
    expect(word(await as(PRIVATE_KEY, await svid()))).toBe('401 invalid_client issuer_unknown')
    expect(word(await as(SPIFFE, await house.agentAssertion()))).toBe('401 invalid_client issuer_unknown')
    expect(word(await as(SPIFFE, await svid()))).toBe('200 granted')
    expect(word(await as(PRIVATE_KEY, await house.agentAssertion()))).toBe('200 granted')
  })
  it('tokens of ours are neither client nor grant', async () => {
    const { body } = await agent()
    for (const token of [body.access_token, body.task.token, await ci.proof('POST', '/oauth2/token')]) {
      expect(word(await asks({ grant_type: JWT_BEARER, assertion: token }))).toBe('400 invalid_grant issuer_unknown')
      for (const type of [PRIVATE_KEY, SPIFFE])
        expect(word(await asks({ grant_type: 'client_credentials', client_assertion_type: type, client_assertion: token }))).toBe(
          '401 invalid_client issuer_unknown',
        )
    }
  })
  it('T66 without an assertion, without its type, and by a type that nobody knows', async () => {
    const assertion = await house.agentAssertion()
    const form = { grant_type: 'client_credentials' }
    expect(word(await asks(form))).toBe('401 invalid_client client_assertion_missing')
    expect(word(await asks({ ...form, client_id: AGENT }))).toBe('401 invalid_client client_assertion_missing')
    expect(word(await asks({ ...form, client_id: AGENT, client_secret: 'x' }))).toBe('401 invalid_client client_secret_refused')
    expect(word(await asks({ ...form, client_assertion: assertion }))).toBe('400 invalid_request parameter_missing')
    for (const type of [PRIVATE_KEY.toUpperCase(), `${PRIVATE_KEY} `, 'urn:ietf:params:oauth:client-assertion-type:saml2-bearer', 'constructor']) {
      expect(word(await asks({ ...form, client_assertion: assertion, client_assertion_type: type }))).toBe('401 invalid_client client_assertion_type_refused')
      expect((await reasons())[0]).toBe('client_assertion_type_refused')
    }
    expect(word(await asks({ ...form, client_assertion: assertion, client_assertion_type: PRIVATE_KEY }))).toBe('200 granted')
  })
})

describe('what is switched off', () => {
  it('T69 no parameter switches it on again: no agents, no clients at all', async () => {
    const metadata = async (at: House) => (await supertest(at.http).get('/.well-known/oauth-authorization-server')).body
    expect(await metadata(house)).toMatchObject({
      grant_types_supported: [EXCHANGE, JWT_BEARER, 'client_credentials'],
      token_endpoint_auth_methods_supported: ['none', 'private_key_jwt', 'spiffe_jwt'],
      token_endpoint_auth_signing_alg_values_supported: ['ES256', 'ES384', 'EdDSA', 'PS256', 'PS384', 'PS512', 'RS256', 'RS384', 'RS512'],
    })
    const onlySpiffe = await makeHouse({
      policies: POLICIES.replace(/@id\("agents"\).*\n/, ''),
      more: { issuers: issuers(['oidc', 'spiffe']), signals: undefined },
    })
    const onlyJobs = await makeHouse({
      policies: POLICIES.replace(/@id\("(agents|mesh)"\).*\n/g, ''),
      more: { issuers: issuers(['oidc']), signals: undefined },
    })
    try {
      expect(await metadata(onlySpiffe)).toMatchObject({ token_endpoint_auth_methods_supported: ['none', 'spiffe_jwt'] })
      const bare = await metadata(onlyJobs)
      expect(bare).toMatchObject({ grant_types_supported: [EXCHANGE, JWT_BEARER], token_endpoint_auth_methods_supported: ['none'] })
      expect(bare).not.toHaveProperty('token_endpoint_auth_signing_alg_values_supported')

      const form = { grant_type: 'client_credentials', client_assertion_type: PRIVATE_KEY, client_assertion: await house.agentAssertion() }
      expect(word(await asks(form, onlySpiffe, await caller(onlySpiffe)))).toBe('401 invalid_client client_assertion_type_refused')
      expect(word(await asks(form, onlyJobs, await caller(onlyJobs)))).toBe('400 unsupported_grant_type grant_type_unsupported')
      expect(word(await asks(form))).toBe('200 granted')
    } finally {
      await onlySpiffe.close()
      await onlyJobs.close()
    }
  }, 60_000)
})
