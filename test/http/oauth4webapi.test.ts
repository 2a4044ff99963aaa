/** A client that nobody here wrote (oauth4webapi) does all that a client can, over a socket: discovery, every grant with DPoP and its nonces, introspection as a JWT, giving back, resource metadata. */
import { createServer } from 'node:http'
import { exportJWK } from 'jose'
import * as oauth from 'oauth4webapi'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort } from '../../src/dev/ports.js'
import { EXCHANGE, ID_TOKEN, JWT_BEARER } from '../caller.js'
import { GITHUB_ISSUER, type House, LEGACY, makeHouse, ORDERS, ORDERS_SECRET } from '../house.js'

const INSECURE = { [oauth.allowInsecureRequests]: true }
const JOB = 'github:repository_id=456789'
const AGENT = 'agents:agent=reporter'

let house: House
let issuer: string
let as: oauth.AuthorizationServer
let agentKey: Awaited<ReturnType<typeof oauth.generateKeyPair>>
const door = createServer((req, res) => {
  seen.push(`${req.method} ${req.url}`)
  res.on('finish', () => {
    seen[seen.length - 1] += ` ${res.statusCode}`
  })
  house.http(req, res)
})
const seen: string[] = []

beforeAll(async () => {
  const port = await freePort()
  issuer = `http://127.0.0.1:${port}`
  agentKey = await oauth.generateKeyPair('ES256')
  house = await makeHouse({
    more: {
      server: { url: issuer, listen: '127.0.0.1:0', internal: '127.0.0.1:0', dpopNonce: 'required' },
      issuers: [
        GITHUB_ISSUER,
        { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { jwk: await exportJWK(agentKey.publicKey) } }] },
      ],
    },
  })
  await new Promise<void>(resolve => door.listen(port, '127.0.0.1', resolve))
  const answer = await oauth.discoveryRequest(new URL(issuer), { algorithm: 'oauth2', ...INSECURE })
  as = await oauth.processDiscoveryResponse(new URL(issuer), answer)
})
afterAll(async () => {
  door.closeAllConnections()
  door.close()
  await house.close()
})

const client = (client_id: string): oauth.Client => ({ client_id })
const handle = async (of: oauth.Client) => oauth.DPoP(of, await oauth.generateKeyPair('ES256'))
const evidence = () => house.evidence({ aud: issuer })
const claims = (token: string) => JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString()) as Record<string, unknown>

/** As its documentation has it: once more, when the server wants its nonce. */
async function withNonce<T>(send: () => Promise<Response>, process: (response: Response) => Promise<T>): Promise<{ value: T; sent: number }> {
  for (let sent = 1; ; sent++) {
    try {
      return { value: await process(await send()), sent }
    } catch (error) {
      if (!oauth.isDPoPNonceError(error) || sent > 1) throw error
    }
  }
}
interface Granted extends oauth.TokenEndpointResponse {
  readonly credential: string
  readonly task: { readonly id: string; readonly token: string }
}
async function exchanged(DPoP: oauth.DPoPHandle, of: oauth.Client, form: Record<string, string>): Promise<{ value: Granted; sent: number }> {
  const given = { subject_token: await evidence(), subject_token_type: ID_TOKEN, ...form }
  const { value, sent } = await withNonce(
    () => oauth.genericTokenEndpointRequest(as, of, oauth.None(), EXCHANGE, given, { DPoP, ...INSECURE }),
    response => oauth.processGenericTokenEndpointResponse(as, of, response),
  )
  return { value: value as Granted, sent }
}
async function introspected(token: string, server = 'orders'): Promise<oauth.IntrospectionResponse> {
  const of = client(server)
  const answer = await oauth.introspectionRequest(as, of, oauth.ClientSecretBasic(ORDERS_SECRET), token, { requestJwtResponse: true, ...INSECURE })
  const value = await oauth.processIntrospectionResponse(as, of, answer)
  await oauth.validateApplicationLevelSignature(as, answer, INSECURE)
  return value
}

describe('discovery', () => {
  test('by RFC 8414 and by OpenID, each at its place', async () => {
    expect(as).toMatchObject({
      issuer,
      grant_types_supported: [EXCHANGE, JWT_BEARER, 'client_credentials'],
      token_endpoint_auth_methods_supported: ['none', 'private_key_jwt'],
      token_endpoint_auth_signing_alg_values_supported: ['ES256', 'EdDSA', 'RS256'],
      introspection_endpoint_auth_methods_supported: ['client_secret_basic'],
      introspection_signing_alg_values_supported: ['ES256', 'RS256'],
      revocation_endpoint_auth_methods_supported: ['none'],
      dpop_signing_alg_values_supported: ['ES256', 'RS256'],
      authorization_details_types_supported: [`${issuer}/rar/task/v1`],
      scopes_supported: ['orders:read'],
      protected_resources: [issuer, `${issuer}/v1`, ORDERS, LEGACY],
      response_types_supported: ['none'],
    })
    for (const [name, value] of Object.entries(as)) if (Array.isArray(value)) expect(value, name).not.toEqual([])
    const openid = await oauth.discoveryRequest(new URL(issuer), { algorithm: 'oidc', ...INSECURE })
    expect(await oauth.processDiscoveryResponse(new URL(issuer), openid)).toMatchObject({
      issuer,
      jwks_uri: as.jwks_uri,
      response_types_supported: ['id_token'],
    })
  })
  test('of our API as a resource, and of the whole server', async () => {
    for (const resource of [issuer, `${issuer}/v1`]) {
      const answer = await oauth.resourceDiscoveryRequest(new URL(resource), INSECURE)
      expect(await oauth.processResourceDiscoveryResponse(new URL(resource), answer)).toMatchObject({
        resource,
        authorization_servers: [issuer],
        bearer_methods_supported: ['header'],
        dpop_bound_access_tokens_required: true,
      })
    }
  })
})

describe('token exchange', () => {
  test('with DPoP: sent back once for the nonce, granted with the same evidence, and the next needs no second try', async () => {
    const of = client(JOB)
    const DPoP = await handle(of)
    seen.length = 0
    const first = await exchanged(DPoP, of, { resource: ORDERS, scope: 'orders:read' })
    expect(first.sent).toBe(2)
    expect(seen).toEqual(['POST /oauth2/token 400', 'POST /oauth2/token 200'])
    expect(first.value).toMatchObject({ token_type: 'dpop', scope: 'orders:read', issued_token_type: 'urn:ietf:params:oauth:token-type:access_token' })
    expect(claims(first.value.access_token)).toMatchObject({ client_id: JOB, cnf: { jkt: await DPoP.calculateThumbprint() } })
    expect((await exchanged(DPoP, of, { audience: 'orders', scope: 'orders:read' })).sent).toBe(1)
  })
  test('rich authorization is told as it was granted', async () => {
    const of = client(JOB)
    const authorization_details = JSON.stringify([{ type: `${issuer}/rar/task/v1`, purpose: 'report', capabilities: ['demo/orders-ro'], ttl: 120 }])
    const { value } = await exchanged(await handle(of), of, { resource: ORDERS, authorization_details })
    expect(value.authorization_details).toMatchObject([{ type: `${issuer}/rar/task/v1`, capabilities: ['demo/orders-ro'], locations: [ORDERS] }])
    expect((await introspected(value.access_token)).authorization_details).toEqual(claims(value.access_token).authorization_details)
  })
  test('what the server refuses, the client reads: the word, and the reason at the start of its description', async () => {
    const of = client(JOB)
    for (const [form, error, reason] of [
      [{ resource: 'https://nobody.example/', scope: 'orders:read' }, 'invalid_target', 'resource_unknown'],
      [{ resource: ORDERS, scope: 'orders:write' }, 'invalid_scope', 'scope_unknown'],
      [{ resource: ORDERS, authorization_details: '[]' }, 'invalid_authorization_details', 'one_task_object'],
      [{ resource: ORDERS, scope: 'orders:read', subject_token: 'a.b.c' }, 'invalid_request', 'issuer_unknown'],
    ] as const) {
      const failed = await exchanged(await handle(of), of, form).catch(e => e)
      expect(failed).toBeInstanceOf(oauth.ResponseBodyError)
      expect(failed).toMatchObject({ status: 400, error, error_description: expect.stringMatching(new RegExp(`^${reason}: `)) })
    }
  })
})

test('the jwt-bearer grant', async () => {
  const of = client(JOB)
  const DPoP = await handle(of)
  const assertion = await evidence()
  const send = () =>
    oauth.genericTokenEndpointRequest(as, of, oauth.None(), JWT_BEARER, { assertion, resource: ORDERS, scope: 'orders:read' }, { DPoP, ...INSECURE })
  const { value, sent } = await withNonce(send, response => oauth.processGenericTokenEndpointResponse(as, of, response))
  expect(sent).toBe(2)
  expect(claims(value.access_token)).toMatchObject({ sub: JOB, aud: ORDERS })
  await expect(send().then(response => oauth.processGenericTokenEndpointResponse(as, of, response))).rejects.toMatchObject({
    error: 'invalid_grant',
    status: 400,
  })
})

test('client credentials with private_key_jwt', async () => {
  const of = client(AGENT)
  const DPoP = await handle(of)
  const send = (auth: oauth.ClientAuth) => oauth.clientCredentialsGrantRequest(as, of, auth, { resource: ORDERS, scope: 'orders:read' }, { DPoP, ...INSECURE })
  const { value } = await withNonce(
    () => send(oauth.PrivateKeyJwt(agentKey.privateKey)),
    response => oauth.processClientCredentialsResponse(as, of, response),
  )
  expect(claims(value.access_token)).toMatchObject({ sub: AGENT, client_id: AGENT })
  const stranger = oauth.PrivateKeyJwt((await oauth.generateKeyPair('ES256')).privateKey)
  for (const auth of [stranger, oauth.ClientSecretPost('secret'), oauth.None()])
    await expect(send(auth).then(response => oauth.processClientCredentialsResponse(as, of, response))).rejects.toMatchObject({
      error: 'invalid_client',
      status: 401,
    })
  // By a header it is answered by a challenge, which this client tells before the body.
  await expect(send(oauth.ClientSecretBasic('secret')).then(response => oauth.processClientCredentialsResponse(as, of, response))).rejects.toMatchObject({
    status: 401,
    cause: [{ scheme: 'basic' }],
  })
})

test('introspection as a JWT, live and not, and giving back', async () => {
  const of = client(JOB)
  const DPoP = await handle(of)
  const bound = (await exchanged(DPoP, of, { resource: ORDERS, scope: 'orders:read' })).value
  const bearer = (await exchanged(DPoP, of, { resource: LEGACY, scope: 'orders:read' })).value
  expect(await introspected(bound.access_token)).toMatchObject({ active: true, jti: bound.credential, token_type: 'DPoP' })
  expect(await introspected(bearer.access_token, 'legacy')).toMatchObject({ active: true, jti: bearer.credential, token_type: 'Bearer' })
  expect(await introspected(bearer.access_token)).toEqual({ active: false })

  const give = (token: string, options: object = {}) => oauth.revocationRequest(as, of, oauth.None(), token, { ...INSECURE, ...options })
  await oauth.processRevocationResponse(await give(bearer.access_token))
  expect(await introspected(bearer.access_token, 'legacy')).toEqual({ active: false })
  await expect(give(bound.access_token).then(oauth.processRevocationResponse)).rejects.toMatchObject({ error: 'invalid_dpop_proof' })
  // This client has no DPoP of its own at this endpoint: the proofs that it makes for others go along as a header.
  const proofs = DPoP as unknown as {
    addProof(url: URL, headers: Headers, method: string, token: string): Promise<void>
    cacheNonce(response: Response, url: URL): void
  }
  const proven = async () => {
    const headers = new Headers()
    const url = new URL(as.revocation_endpoint as string)
    await proofs.addProof(url, headers, 'POST', bound.access_token)
    const response = await give(bound.access_token, { headers })
    proofs.cacheNonce(response, url)
    return response
  }
  await withNonce(proven, oauth.processRevocationResponse)
  expect(await introspected(bound.access_token)).toEqual({ active: false })
})

test('our API: the challenge leads to the metadata, that to the token endpoint, and its token opens the API, with a nonce of its own', async () => {
  const of = client(JOB)
  const DPoP = await handle(of)
  const task = (await exchanged(DPoP, of, { resource: ORDERS, scope: 'orders:read' })).value.task
  const url = new URL(`${issuer}/v1/tasks/${task.id}`)
  const bare = await oauth.protectedResourceRequest('none', 'GET', url, undefined, undefined, INSECURE).catch(e => e)
  expect(bare).toBeInstanceOf(oauth.WWWAuthenticateChallengeError)
  const [challenge] = bare.cause as oauth.WWWAuthenticateChallenge[]
  expect(challenge).toMatchObject({
    scheme: 'dpop',
    parameters: { algs: 'ES256 RS256', resource_metadata: `${issuer}/.well-known/oauth-protected-resource/v1` },
  })
  const metadata = (await (await fetch(challenge?.parameters.resource_metadata as string)).json()) as oauth.ResourceServer
  expect(metadata.authorization_servers).toEqual([issuer])

  const authorization_details = JSON.stringify([{ type: `${issuer}/rar/task/v1`, purpose: 'report', capabilities: ['demo/orders-ro'] }])
  const { value } = await exchanged(DPoP, of, { resource: metadata.resource, authorization_details })
  const own = new URL(`${issuer}/v1/tasks/${value.task.id}`)
  seen.length = 0
  const looked = await withNonce(
    () => oauth.protectedResourceRequest(value.access_token, 'GET', own, undefined, undefined, { DPoP, ...INSECURE }),
    async response => (await response.json()) as { task: { id: string; state: string } },
  )
  expect(looked.value.task).toMatchObject({ id: value.task.id, state: 'open' })
  expect(seen.map(line => line.slice(-3))).toEqual(['401', '200'])
})
