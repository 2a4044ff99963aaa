/** Parties of OAuth that nobody here wrote, over a socket: a JWT-SVID of a real SPIRE as a client (jwt-spiffe), and a real Vault that takes our tokens by discovery, set up as docs/oauth.md says. */
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { decodeJwt } from 'jose'
import * as oauth from 'oauth4webapi'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { findVault, isAbsent } from '../../src/dev/find.js'
import { freePort } from '../../src/dev/ports.js'
import { type Spire, startSpire } from '../../src/dev/spire.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import { EXCHANGE, ID_TOKEN } from '../caller.js'
import { GITHUB_ISSUER, type House, makeHouse, ORDERS } from '../house.js'
import { blocksOf } from '../pages.js'
import { askVault } from '../real/ask-vault.js'

const dir = mkdtempSync(join(tmpdir(), 'cf-parties-'))
const vault = await startVault({ dir: join(dir, 'vault'), own: true })
const spire = await startSpire({ dir: join(dir, 'spire'), workloads: ['/ci/orders', '/ci/other'] })
const absent = isAbsent(vault) ? vault.absent : isAbsent(spire) ? spire.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

const VAULT = 'https://vault.example/'
const INSECURE = { [oauth.allowInsecureRequests]: true }
const SVID = 'spiffe://example.org/ci/orders'

describe.skipIf(absent !== null)(`parties that nobody here wrote${absent ? ` (skipped: ${absent})` : ''}`, () => {
  let house: House
  let door: Server
  let issuer: string
  let as: oauth.AuthorizationServer

  beforeAll(async () => {
    const port = await freePort()
    issuer = `http://127.0.0.1:${port}`
    const { bundleEndpoint, bundleFile } = spire as Spire
    house = await makeHouse({
      policies: `
@id("mesh") permit (principal, action == Action::"issue", resource == Capability::"demo/orders-ro") when { context.issuer == "mesh" && context has spiffe && context.spiffe.path == "/ci/orders" };
@id("ci") permit (principal, action == Action::"issue", resource == Capability::"vault/kv") when { context.issuer == "github" && context has github && context.github.repository_id == "456789" };
`,
      capabilities: [
        { name: 'vault/kv', summary: 'Read secrets of Vault', engine: 'jwt', audience: 'vault', scopes: ['kv:read'], intent: 'read', ttlSeconds: 6 },
      ],
      more: {
        server: { url: issuer, listen: '127.0.0.1:0', internal: '127.0.0.1:0' },
        issuers: [
          GITHUB_ISSUER,
          {
            name: 'mesh',
            kind: 'spiffe',
            trustDomain: 'example.org',
            internal: true,
            bundle: { endpoint: bundleEndpoint, profile: 'https_spiffe', serverId: 'spiffe://example.org/spire/server', bootstrapFile: bundleFile },
          },
        ],
        audiences: [
          { name: 'orders', uri: ORDERS },
          { name: 'legacy', uri: 'https://legacy.example/', senderConstrained: false, alg: 'RS256' },
          { name: 'vault', uri: VAULT, senderConstrained: false, alg: 'RS256' },
        ],
        signals: { sources: [], rules: [] },
      },
    })
    door = createServer((req, res) => house.http(req, res))
    await new Promise<void>(resolve => door.listen(port, '127.0.0.1', resolve))
    const answer = await oauth.discoveryRequest(new URL(issuer), { algorithm: 'oauth2', ...INSECURE })
    as = await oauth.processDiscoveryResponse(new URL(issuer), answer)
  })
  afterAll(async () => {
    door?.closeAllConnections()
    door?.close()
    await house?.close()
    if (!isAbsent(spire)) await spire.stop()
    if (!isAbsent(vault)) await vault.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  describe('SPIRE: client credentials by jwt-spiffe', () => {
    const as_ =
      (svid: string, type = 'urn:ietf:params:oauth:client-assertion-type:jwt-spiffe'): oauth.ClientAuth =>
      (_as, client, body) => {
        body.set('client_id', client.client_id)
        body.set('client_assertion_type', type)
        body.set('client_assertion', svid)
      }
    const granted = async (client_id: string, auth: oauth.ClientAuth) => {
      const client: oauth.Client = { client_id }
      const DPoP = oauth.DPoP(client, await oauth.generateKeyPair('ES256'))
      const answer = await oauth.clientCredentialsGrantRequest(as, client, auth, { resource: ORDERS, scope: 'orders:read' }, { DPoP, ...INSECURE })
      return oauth.processClientCredentialsResponse(as, client, answer)
    }
    const svid = (audience = issuer, path = '/ci/orders') => (spire as Spire).fetchJwt(audience, { path })

    it('the SVID of its agent is all that a workload needs, for each of its processes', async () => {
      expect(as).toMatchObject({
        grant_types_supported: expect.arrayContaining(['client_credentials']),
        token_endpoint_auth_methods_supported: ['none', 'spiffe_jwt'],
      })
      const assertion = await svid()
      for (let process = 0; process < 2; process++) {
        const { access_token, token_type } = await granted(SVID, as_(assertion))
        expect(token_type).toBe('dpop')
        expect(decodeJwt(access_token)).toMatchObject({ iss: issuer, sub: SVID, client_id: SVID, aud: ORDERS, cnf: { jkt: expect.any(String) } })
      }
    })
    it('P29 P68 T69 for another audience, of another workload, under another name, as another kind: 401 invalid_client', async () => {
      const good = await svid()
      const refused = { status: 401, error: 'invalid_client' }
      await expect(granted(SVID, as_(await svid('https://other.example')))).rejects.toMatchObject(refused)
      await expect(granted(SVID, as_(await svid(issuer, '/ci/other')))).rejects.toMatchObject(refused)
      await expect(granted('spiffe://example.org/ci/other', as_(good))).rejects.toMatchObject(refused)
      await expect(granted(SVID, as_(good, 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer'))).rejects.toMatchObject(refused)
      // Known, and not permitted: that is policy's word.
      await expect(granted('spiffe://example.org/ci/other', as_(await svid(issuer, '/ci/other')))).rejects.toMatchObject({
        status: 400,
        error: 'access_denied',
      })
      expect((await granted(SVID, as_(good))).access_token).toEqual(expect.any(String))
    })
  })

  describe('Vault: its jwt auth method takes our token by discovery', () => {
    const ask = (method: string, path: string, body?: object, token: string | null = null) => askVault((vault as Vault).address, token, method, path, body)
    const root = (method: string, path: string, body?: object) => ask(method, path, body, (vault as Vault).rootToken)
    const login = async (jwt: string, role = 'orders') => ask('POST', 'auth/jwt/login', { role, jwt })
    const token = async (resource = VAULT, scope = 'kv:read') => {
      const client: oauth.Client = { client_id: 'github:repository_id=456789' }
      const DPoP = oauth.DPoP(client, await oauth.generateKeyPair('ES256'))
      const form = { subject_token: await house.evidence({ aud: issuer }), subject_token_type: ID_TOKEN, resource, scope }
      const answer = await oauth.genericTokenEndpointRequest(as, client, oauth.None(), EXCHANGE, form, { DPoP, ...INSECURE })
      const { access_token } = await oauth.processGenericTokenEndpointResponse(as, client, answer)
      return { jwt: access_token, id: decodeJwt(access_token).jti as string, exp: decodeJwt(access_token).exp as number }
    }
    const until = (seconds: number) => sleep(Math.max(0, seconds * 1000 - Date.now()))

    beforeAll(async () => {
      const found = findVault()
      if (isAbsent(found)) throw new Error(found.absent)
      // As the page says, by the program that the page names.
      const [block] = blocksOf(readFileSync(new URL('../../docs/oauth.md', import.meta.url), 'utf8'), 'sh')
      const { address, rootToken } = vault as Vault
      const env = { PATH: `${dirname(found.command)}:${process.env.PATH}`, HOME: dir, VAULT_ADDR: address, VAULT_TOKEN: rootToken, CURFEW_URL: issuer }
      // Not synchronously: it asks this process for its metadata.
      await promisify(execFile)('bash', ['-euc', block as string], { env })
      await root('PUT', 'sys/policies/acl/orders-read', { policy: 'path "auth/token/lookup-self" { capabilities = ["read"] }' })
      const role = (await root('GET', 'auth/jwt/role/orders')).body.data
      expect(role).toMatchObject({ clock_skew_leeway: -1, bound_audiences: [VAULT] })
      const base = { role_type: 'jwt', bound_audiences: [VAULT], user_claim: 'sub', token_policies: ['orders-read'] }
      expect((await root('POST', 'auth/jwt/role/default-leeway', base)).status).toBe(204)
      expect((await root('POST', 'auth/jwt/role/two-seconds', { ...base, clock_skew_leeway: 2 })).status).toBe(204)
    })

    it('before its end, as who we say it is; another audience, another scope and an altered token are refused', async () => {
      const { jwt } = await token()
      const { status, body } = await login(jwt)
      expect([status, body.auth?.metadata.role, body.auth?.token_policies, body.auth?.lease_duration]).toEqual([200, 'orders', ['orders-read'], 60])
      expect((await ask('GET', 'auth/token/lookup-self', undefined, body.auth.client_token)).body.data.display_name).toBe('jwt-github:repository_id=456789')
      expect((await login(`${jwt.slice(0, -4)}AAAA`)).status).toBe(400)
      const held = await house.app.store.credentials.list({ limit: 1 })
      expect(held[0]).toMatchObject({ audience: VAULT, jkt: null })
      const role = { role_type: 'jwt', bound_audiences: [ORDERS], user_claim: 'sub', token_policies: ['orders-read'] }
      await root('POST', 'auth/jwt/role/other-audience', role)
      expect((await login(jwt, 'other-audience')).status).toBe(400)
      await root('POST', 'auth/jwt/role/other-scope', { ...role, bound_audiences: [VAULT], bound_claims: { scope: 'kv:write' } })
      expect((await login(jwt, 'other-scope')).status).toBe(400)
    })

    it('after its end by the leeway of the role: none as documented, 60 seconds when nobody said so', async () => {
      const { jwt, exp } = await token()
      await until(exp + 1)
      expect((await login(jwt)).status).toBe(400)
      expect((await login(jwt, 'two-seconds')).status).toBe(200)
      await until(exp + 4)
      expect((await login(jwt, 'two-seconds')).status).toBe(400)
      expect((await login(jwt, 'default-leeway')).status).toBe(200)
    })

    it('after a revocation until its end, for it asks nobody; and what it gave for it lives by its own life', async () => {
      const { jwt, id, exp } = await token()
      const before = (await login(jwt)).body.auth
      await house.app.broker.revoke({ kind: 'credential', key: id as never }, 'requested', { actor: { kind: 'operator', id: 'test' } })
      expect(await house.app.store.credentials.live(id as never)).toBeNull()
      expect((await login(jwt)).status).toBe(200)
      await until(exp + 1)
      expect((await login(jwt)).status).toBe(400)
      const own = () => ask('GET', 'auth/token/lookup-self', undefined, before.client_token)
      expect((await own()).status).toBe(200)
      expect((await root('POST', 'auth/token/revoke-accessor', { accessor: before.accessor })).status).toBe(204)
      expect((await own()).status).toBe(403)
    })
  })
})
