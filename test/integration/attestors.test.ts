import { mkdtempSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { AttestorDeps } from '../../src/attestors/deps.js'
import { oidcAttestor } from '../../src/attestors/oidc.js'
import { spiffeAttestor } from '../../src/attestors/spiffe.js'
import { createOutbound } from '../../src/clients/outbound.js'
import type { OidcIssuerConfig } from '../../src/config-schema.js'
import { isAbsent } from '../../src/dev/find.js'
import { until } from '../../src/dev/process.js'
import { type Spire, startSpire } from '../../src/dev/spire.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import type { CurfewError } from '../../src/domain/errors.js'
import { askVault } from '../real/ask-vault.js'
import { oidcIssuer } from '../trust-issuer.js'

const dir = mkdtempSync(join(tmpdir(), 'cf-att-'))
const vault = await startVault({ dir: join(dir, 'vault'), own: true })
const spire = await startSpire({ dir: join(dir, 'spire'), oidc: true })
const absent = isAbsent(vault) ? vault.absent : isAbsent(spire) ? spire.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

const SERVER = 'https://curfew.example'
const deps: AttestorDeps = {
  serverUrl: SERVER,
  clock: { now: () => new Date() },
  outbound: createOutbound(),
  readFile: path => readFile(path, 'utf8'),
  log: { warn: () => {}, error: () => {} },
}

const generic = (name: string, issuer: string, more: Partial<OidcIssuerConfig> = {}): OidcIssuerConfig =>
  oidcIssuer(issuer, { name, algs: ['RS256', 'ES256'], typ: ['JWT', ''], maxLifeSeconds: 86_400, internal: true, ...more })

/** Evidence that nobody here wrote: real issuers, their own keys, their own endpoints. */
describe.skipIf(absent !== null)(`attestation of real issuers' tokens${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const signal = AbortSignal.timeout(100_000)
  let svid: string

  beforeAll(async () => {
    svid = await (spire as Spire).fetchJwt(SERVER)
  })
  afterAll(async () => {
    if (!isAbsent(spire)) await spire.stop()
    if (!isAbsent(vault)) await vault.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  const mesh = (serverId: string) => {
    const { bundleEndpoint, bundleFile } = spire as Spire
    return spiffeAttestor(
      [
        {
          name: 'mesh',
          kind: 'spiffe',
          trustDomain: 'example.org',
          bundle: { endpoint: bundleEndpoint, profile: 'https_spiffe', serverId, bootstrapFile: bundleFile },
          paths: [],
          maxLifeSeconds: 3_600,
          maxTtlSeconds: 3_600,
          internal: true,
          owner: null,
          enabled: true,
        },
      ],
      deps,
    )
  }

  it('a JWT-SVID, its keys from the bundle endpoint that shows the expected SPIFFE ID', async () => {
    const seen = await mesh('spiffe://example.org/spire/server').attest({ type: 'jwt', token: svid }, signal)
    expect(seen).toMatchObject({ identity: 'spiffe://example.org/ci/orders', profile: 'spiffe', strength: 3, replay: 'reusable', mark: null })
    await expect(mesh('spiffe://example.org/other/server').attest({ type: 'jwt', token: svid }, signal)).rejects.toMatchObject({ code: 'unavailable' })
  })

  it("the same workload's token by SPIRE's OIDC discovery provider, through the generic attestor", async () => {
    const { oidcIssuer } = spire as Spire
    const attestor = oidcAttestor([generic('spire-oidc', oidcIssuer as string)], deps)
    expect(attestor.recognizes({ type: 'jwt', token: svid })).toBe(true)
    const seen = await attestor.attest({ type: 'jwt', token: svid }, signal)
    expect(seen.identity).toBe('spire-oidc:sub=spiffe://example.org/ci/orders')
    const narrow = oidcAttestor([generic('spire-oidc', oidcIssuer as string, { pin: { sub: ['spiffe://example.org/other'] } })], deps)
    await expect(narrow.attest({ type: 'jwt', token: svid }, signal)).rejects.toMatchObject({ facts: { reason: 'tenant_refused' } })
  })

  it("a token of Vault's own identity/oidc, through the generic attestor", async () => {
    const { address, rootToken } = vault as Vault
    const ask = async (method: string, path: string, body?: object, token = rootToken) => (await askVault(address, token, method, path, body)).body
    await ask('POST', 'identity/oidc/config', { issuer: address })
    await ask('POST', 'identity/oidc/key/curfew', { allowed_client_ids: ['*'], algorithm: 'RS256' })
    await ask('POST', 'identity/oidc/role/curfew', { key: 'curfew', client_id: SERVER, ttl: '5m' })
    await ask('POST', 'sys/auth/userpass', { type: 'userpass' })
    await ask('POST', 'sys/policies/acl/oidc', { policy: 'path "identity/oidc/token/curfew" { capabilities = ["read"] }' })
    await ask('POST', 'auth/userpass/users/job', { password: 'a-password-of-a-test', token_policies: ['oidc'] })
    const login = await ask('POST', 'auth/userpass/login/job', { password: 'a-password-of-a-test' })
    const { data } = await ask('GET', 'identity/oidc/token/curfew', undefined, login.auth.client_token)

    const attestor = oidcAttestor([generic('vault', `${address}/v1/identity/oidc`)], deps)
    const seen = await attestor.attest({ type: 'jwt', token: data.token }, signal)
    expect(seen.identity).toBe(`vault:sub=${login.auth.entity_id}`)
    const other = oidcAttestor([generic('vault', `${address}/v1/identity/oidc`, { audience: 'https://other.example' })], deps)
    await expect(other.attest({ type: 'jwt', token: data.token }, signal)).rejects.toMatchObject({ facts: { reason: 'audience_mismatch' } })
  })

  it('P42 H15 after rotation the new JWT key is believed; revoked, the old one is found no more and its tokens are refused', async () => {
    const { admin, fetchJwt } = spire as Spire
    const authority = async (verb: string, ...more: string[]) =>
      JSON.parse(await admin(['localauthority', 'jwt', verb, ...more, '-output', 'json'])) as Record<string, { authority_id?: string } | undefined>
    const kidOf = (token: string) => (JSON.parse(Buffer.from(token.split('.')[0] as string, 'base64url').toString()) as { kid: string }).kid
    const outcome = async (token: string) =>
      mesh('spiffe://example.org/spire/server')
        .attest({ type: 'jwt', token }, signal)
        .then(
          seen => seen.identity,
          error => (error as CurfewError).facts.reason ?? '?',
        )
    const old = kidOf(svid)
    expect((await authority('show')).active?.authority_id).toBe(old)
    expect(await outcome(svid)).toBe('spiffe://example.org/ci/orders')

    const next = (await authority('prepare')).prepared_authority?.authority_id as string
    await authority('activate', '-authorityID', next)
    // Both are published: what was signed before the rotation is good until it ends.
    expect(await outcome(svid)).toBe('spiffe://example.org/ci/orders')
    await authority('taint', '-authorityID', old)
    let fresh = svid
    await until(
      async () => {
        fresh = await fetchJwt(SERVER)
        return kidOf(fresh) === next
      },
      { what: 'a JWT-SVID by the new key', deadlineMs: 60_000, everyMs: 250, signal },
    )
    await authority('revoke', '-authorityID', old)
    await until(async () => (await outcome(svid)) === 'key_unknown', { what: 'a bundle without the revoked key', deadlineMs: 60_000, everyMs: 250, signal })
    expect(await outcome(fresh)).toBe('spiffe://example.org/ci/orders')
  })
})
