/** Certificates by the real Vault: made, used, revoked and found in the list that their issuer signed; nothing without a lease. */
import { execFileSync } from 'node:child_process'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createVault } from '../../src/clients/vault.js'
import { isAbsent } from '../../src/dev/find.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import { setUpVault } from '../../src/dev/vault-setup.js'
import { newKeyPair } from '../../src/domain/key-pair.js'
import { Secret } from '../../src/domain/secret.js'
import { PKI_PARAMETERS, vaultPkiEngine } from '../../src/engines/vault-pki.js'
import { readRevocationList, serialOf } from '../../src/engines/x509.js'
import { type Caller, caller } from '../caller.js'
import { testEngine } from '../conformance/engines.js'
import { startProxy } from '../faults/proxy.js'
import { type House, makeHouse } from '../house.js'
import { askVault } from '../real/ask-vault.js'

const dir = mkdtempSync(join(tmpdir(), 'cf-pki-'))
const vault = await startVault({ dir: join(dir, 'vault'), own: true })
const absent = isAbsent(vault) ? vault.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

describe.skipIf(absent !== null)(`certificates by the real Vault${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const at = () => vault as Vault
  let configured: Awaited<ReturnType<typeof setUpVault>>
  let house: House
  let ci: Caller

  const capability = (name: string, parameters: Record<string, unknown>) => ({
    name,
    summary: 'a certificate for this task',
    engine: 'vault-pki',
    intent: 'read',
    maxTtlSeconds: 3_600,
    parameters: { role: 'workload', policy: 'curfew-cap-workload', ...parameters },
  })

  beforeAll(async () => {
    if (absent) return
    configured = await setUpVault(at(), dir, { KINDS: 'pki', PKI_DOMAINS: 'orders.example', PKI_URIS: 'urn:orders:*,github:*' })
    const capabilities = [
      capability('tls/orders', { dnsNames: ['orders.example'], uris: ['urn:orders:reader'], identity: true }),
      capability('tls/own-key', { policy: 'curfew-cap-workload-csr', key: 'caller' }),
      capability('tls/no-lease', { role: 'no-lease', policy: 'curfew-cap-no-lease' }),
      capability('tls/csr-names', { role: 'csr-names', policy: 'curfew-cap-csr-names', key: 'caller' }),
    ]
    house = await makeHouse({ capabilities, more: { vault: configured }, alsoAllow: capabilities.map(c => c.name) })
    ci = await caller(house)
    await role('no-lease', { generate_lease: false, allow_any_name: true, cn_validations: 'disabled', key_type: 'ec', key_bits: 256 })
    await role('csr-names', { generate_lease: true, allow_any_name: true, cn_validations: 'disabled', key_type: 'any', use_csr_sans: true })
  })
  afterAll(async () => {
    await house?.close()
    if (!isAbsent(vault)) await vault.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  const root = (method: string, path: string, body?: object) => askVault(at().address, at().rootToken, method, path, body)
  async function role(name: string, settings: object) {
    expect((await root('POST', `pki/roles/${name}`, settings)).status).toBe(200)
    const policy = `path "pki/+/${name}" { capabilities = ["update"] }`
    expect((await root('PUT', `sys/policies/acl/curfew-cap-${name}`, { policy })).status).toBe(204)
  }
  const open = (...names: string[]) => ci.opened({ capabilities: names })
  async function made(name = 'tls/orders', body: Record<string, unknown> = {}) {
    const held = await open(name)
    const answer = await ci.credential(held, name, { ttl_seconds: 600, ...body })
    if (answer.status !== 201) throw new Error(JSON.stringify(answer.body))
    return { held, id: answer.body.credential.id as string, secret: answer.body.secret as Record<string, string>, credential: answer.body.credential }
  }
  const ended = async (held: { task: string; token: string }) => {
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    await house.work()
  }
  const row = async (id: string) => {
    const found = await house.app.store.credentials.get(id as never)
    if (!found) throw new Error('there is no such row')
    return found
  }
  const publicList = async () => {
    const answer = await fetch(`${at().address}/v1/pki/crl/pem`)
    return answer.text()
  }
  const ca = async () => (await fetch(`${at().address}/v1/pki/ca/pem`)).text()
  /** A certificate request by openssl itself, for a key of the caller's own. */
  async function request(subject = '/CN=whatever', more: string[] = []): Promise<string> {
    writeFileSync(join(dir, 'key.pem'), (await newKeyPair('ec', { namedCurve: 'P-256' })).privateKey.export({ format: 'pem', type: 'pkcs8' }))
    return execFileSync('openssl', ['req', '-new', '-key', join(dir, 'key.pem'), '-subj', subject, ...more], { encoding: 'utf8' })
  }
  /** `openssl verify` with the list of the moment: what any verifier that checks revocation does. */
  async function opensslVerify(certificate: string): Promise<string> {
    for (const [name, text] of Object.entries({ 'ca.pem': await ca(), 'crl.pem': await publicList(), 'cert.pem': certificate }))
      writeFileSync(join(dir, name), text)
    const args = ['verify', '-crl_check', '-CAfile', join(dir, 'ca.pem'), '-CRLfile', join(dir, 'crl.pem'), join(dir, 'cert.pem')]
    try {
      return execFileSync('openssl', args, { encoding: 'utf8', stdio: 'pipe' })
    } catch (error) {
      return String((error as { stderr: unknown }).stderr)
    }
  }

  it('is named after its credential, carries what the capability says and the verified identity, and ends with its grant', async () => {
    const { id, secret, credential } = await made()
    const x509 = new X509Certificate(secret.certificate as string)
    expect(x509.subject).toBe(`CN=${id.replace('_', '-')}`)
    expect(x509.subjectAltName?.split(', ').sort()).toEqual(['DNS:orders.example', 'URI:github:repository_id=456789', 'URI:urn:orders:reader'])
    expect(x509.checkPrivateKey(createPrivateKey(secret.private_key as string))).toBe(true)
    const life = (Date.parse(x509.validTo) - house.now() * 1000) / 1000
    expect(life).toBeGreaterThan(580)
    expect(life).toBeLessThanOrEqual(601)
    expect(Date.parse(credential.expires_at)).toBeLessThanOrEqual(Date.parse(x509.validTo) + 1_000)
    expect(secret.ca_chain).toContain('BEGIN CERTIFICATE')
    expect((await row(id)).handle).toMatchObject({ accessor: expect.any(String), leaseId: expect.stringMatching(/^pki\/issue\/workload\//), mount: 'pki' })
  })

  it('openssl accepts it before, and refuses it after its task has completed: the probe looked at the same list', async () => {
    const { held, id, secret } = await made()
    expect(await opensslVerify(secret.certificate as string)).toContain(': OK')
    await ended(held)
    expect(await row(id)).toMatchObject({ state: 'revoked', probe: { outcome: 'dead', looked: ['lease', 'accessor', 'crl'] } })
    expect(await opensslVerify(secret.certificate as string)).toContain('certificate revoked')
    const isListed = await readRevocationList(await publicList(), await ca())
    expect(isListed(serialOf(new X509Certificate(secret.certificate as string).serialNumber))).toBe(true)
  })

  it('a neighbour of the revoked one stays good', async () => {
    const [mine, theirs] = [await made(), await made()]
    await ended(mine.held)
    expect(await opensslVerify(mine.secret.certificate as string)).toContain('certificate revoked')
    expect(await opensslVerify(theirs.secret.certificate as string)).toContain(': OK')
  })

  it('the end of the per-issuance token takes the certificate along, and reconcile closes the row', async () => {
    const { id, secret } = await made()
    await root('POST', 'auth/token/revoke-accessor', { accessor: (await row(id)).handle?.accessor })
    await expect.poll(() => opensslVerify(secret.certificate as string), { timeout: 10_000, interval: 100 }).toContain('certificate revoked')
    await house.advance(61)
    await house.app.broker.reconcile(AbortSignal.timeout(30_000))
    await house.work()
    expect(await row(id)).toMatchObject({ state: 'revoked', reason: 'lost_upstream' })
  })

  it.each(['issue', 'sign'])('a certificate that no row knows (%s) is found by its lease, and revoked', async act => {
    const { config, log } = house.app
    if (!config.vault) throw new Error('no vault')
    const issuer = createVault(config.vault, 'issuer', { log })
    const signal = AbortSignal.timeout(30_000)
    const policy = act === 'issue' ? 'curfew-cap-workload' : 'curfew-cap-workload-csr'
    // Not as we make them: a token without our marks, as an accident or another's script would leave it.
    const { body } = await root('POST', 'auth/token/create', { policies: [policy], ttl: '900s', no_parent: true })
    const token = Secret.token(body.auth.client_token as string)
    const ask = {
      mount: 'pki',
      role: 'workload',
      csr: act === 'sign' ? await request() : null,
      commonName: 'crd-stray',
      dnsNames: [],
      uris: [],
      ttlSeconds: 600,
    }
    const { certificate } = await issuer.issueCertificate(ask, token, signal)
    await issuer.close()
    expect(await opensslVerify(certificate)).toContain(': OK')
    await house.advance(61)
    await house.app.broker.reconcile(signal)
    expect(await opensslVerify(certificate)).toContain('certificate revoked')
    expect(await house.audits('reconcile.finding')).toContainEqual(expect.objectContaining({ reason: 'orphan', data: { upstream: 'vault', thing: 'lease' } }))
  })

  it('the key stays with the caller who sends a certificate request, and its names are not taken over', async () => {
    const csr = await request('/CN=admin.orders.example/O=Admins', ['-addext', 'subjectAltName=DNS:admin.orders.example'])
    const { id, secret, held } = await made('tls/own-key', { params: { csr } })
    expect(Object.keys(secret).sort()).toEqual(['ca_chain', 'certificate'])
    const x509 = new X509Certificate(secret.certificate as string)
    expect(x509.subject).toBe(`CN=${id.replace('_', '-')}`)
    expect(x509.subjectAltName).toBeUndefined()
    await ended(held)
    expect(await opensslVerify(secret.certificate as string)).toContain('certificate revoked')
  })

  it('T67 a request that is none, is signed by another key, or is more than one is refused before anything is made', async () => {
    const csr = await request()
    const other = await request()
    const bytes = Buffer.from(csr.replace(/-----[^-]+-----|\n/g, ''), 'base64')
    bytes[bytes.length - 5] = (bytes[bytes.length - 5] as number) ^ 1
    const pem = (der: Buffer) => `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`
    const held = await open('tls/own-key')
    for (const params of [
      { csr: 'no request' },
      { csr: pem(bytes) },
      { csr: csr + other },
      { csr: pem(Buffer.alloc(300, 0x30)) },
      { csr: pem(bytes.subarray(0, 60)) },
    ])
      expect(await ci.credential(held, 'tls/own-key', { params })).toMatchObject({ status: 400, body: { code: 'malformed', field: 'params.csr' } })
    expect((await ci.credential(held, 'tls/own-key', {})).body).toMatchObject({ field: 'params.csr', reason: 'parameter_missing' })
    expect((await ci.credential(await open('tls/orders'), 'tls/orders', { params: { csr } })).body).toMatchObject({
      field: 'params.csr',
      reason: 'unknown_field',
    })
    expect(await house.app.store.credentials.list({ task: held.task as never, limit: 10 })).toEqual([])
    expect((await ci.credential(held, 'tls/own-key', { params: { csr } })).status).toBe(201)
  })

  it('a role without leases makes nothing that is handed over, and what it made is revoked', async () => {
    const held = await open('tls/no-lease')
    const answer = await ci.credential(held, 'tls/no-lease', {})
    expect(answer).toMatchObject({ status: 502, body: { code: 'engine_failed', reason: 'lease_missing' } })
    await expectNothingLeft('tls/no-lease')
  })

  it('a role that takes over the names of a request is found out, and what it made is revoked', async () => {
    const held = await open('tls/csr-names')
    const csr = await request('/CN=x', ['-addext', 'subjectAltName=DNS:admin.example'])
    const answer = await ci.credential(held, 'tls/csr-names', { params: { csr } })
    expect(answer).toMatchObject({ status: 502, body: { code: 'engine_failed', reason: 'names_differ' } })
    await expectNothingLeft('tls/csr-names')
  })

  /** No certificate of the mount is neither revoked nor known to a live row; no token of ours is left. */
  async function expectNothingLeft(name: string): Promise<void> {
    await house.work()
    const rows = await house.app.store.credentials.list({ capability: name, limit: 50 })
    expect(rows.filter(c => c.state === 'active' || c.state === 'pending')).toEqual([])
    const live = new Set((await house.app.store.credentials.list({ state: 'live', limit: 200 })).map(c => serialOf(String(c.handle?.serial ?? ''))))
    const own = serialOf(new X509Certificate(await ca()).serialNumber)
    const left = async () => {
      const listed = await readRevocationList(await publicList(), await ca())
      const { keys } = (await root('GET', 'pki/certs?list=1')).body.data as { keys: string[] }
      return keys.map(serialOf).filter(s => s !== own && !listed(s) && !live.has(s))
    }
    await expect.poll(left, { timeout: 5_000 }).toEqual([])
    const tokens = (await root('GET', 'auth/token/accessors?list=1')).body.data.keys as string[]
    const known = new Set((await house.app.store.credentials.list({ state: 'live', limit: 200 })).map(c => c.handle?.accessor))
    for (const accessor of tokens) {
      const { data } = (await root('POST', 'auth/token/lookup-accessor', { accessor })).body
      if (data?.meta?.curfew === '1') expect(known.has(accessor)).toBe(true)
    }
  }

  it.each(['ed25519', 'rsa'])('a list that an %s issuer of the real Vault signed is verified', async kind => {
    await root('POST', `sys/mounts/pki-${kind}`, { type: 'pki' })
    const made = await root('POST', `pki-${kind}/root/generate/internal`, { common_name: kind, key_type: kind, ttl: '1h' })
    const { body } = await root('GET', `pki-${kind}/issuer/default/crl`)
    const isListed = await readRevocationList(body.data.crl, made.body.data.certificate)
    expect(isListed('01')).toBe(false)
    await expect(readRevocationList(body.data.crl, await ca())).rejects.toThrow('signed')
  })

  it('a role that makes no leases is told at the start, where our identity may look', async () => {
    const told: object[] = []
    const log = { debug: () => {}, info: () => {}, warn: () => {}, error: (fields: object, message: string) => told.push({ ...fields, message }) }
    const { composeEngines } = await import('../../src/compose-engines.js')
    const engines = await composeEngines(house.app.config, {
      ...house.app,
      ...house.app.store,
      isLive: async () => false,
      liveAmong: async () => new Set(),
      leaseOwners: async () => new Map(),
      log,
    })
    await expect
      .poll(() => told, { timeout: 10_000 })
      .toContainEqual({ capability: 'tls/no-lease', fix: 'generate_lease=true', message: expect.stringContaining('without a lease') })
    await expect.poll(() => told, { timeout: 10_000 }).toContainEqual(expect.objectContaining({ capability: 'tls/csr-names', fix: 'use_csr_sans=false' }))
    expect(told.filter(t => (t as { capability: string }).capability === 'tls/orders')).toEqual([])
    await engines.close()
  })

  testEngine('vault-pki over the real Vault', 'backend', async () => {
    const proxy = await startProxy({ host: '127.0.0.1', port: at().port })
    const secretId = (name: string) => readFileSync(join(dir, `vault-${name}-secret-id`), 'utf8').trim()
    const identity = (name: string) => ({ method: 'approle' as const, mount: 'approle', roleId: `curfew-${name}`, secretId: Secret.token(secretId(name)) })
    const config = { address: proxy.address, tokenRole: 'curfew', issuer: identity('issuer'), revoker: identity('revoker') }
    const [issuer, revoker] = [createVault(config, 'issuer', { log: { warn: () => {} } }), createVault(config, 'revoker', { log: { warn: () => {} } })]
    const now = () => new Date()
    const parameters = { role: 'workload', policy: 'curfew-cap-workload' }
    return {
      engine: vaultPkiEngine({
        issuer,
        revoker,
        clock: { now },
        parametersOf: () => PKI_PARAMETERS.parse(parameters),
        issuanceTokenSeconds: 90,
        clearSince: () => null,
      }),
      parameters,
      now,
      usable: async fields => (await opensslVerify(fields.certificate as string)).includes(': OK'),
      attribution: fields => new X509Certificate(fields.certificate as string).subject,
      secrets: fields => [fields.private_key as string],
      break: async () => proxy.refuse(true),
      heal: async () => proxy.refuse(false),
      async close() {
        await Promise.all([issuer.close(), revoker.close()])
        await proxy.close()
      },
    }
  })
})
