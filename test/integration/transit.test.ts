/** The transit signer over the real Vault, by the shipped policy: the signers' suite, and that the policy opens nothing else. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createVault } from '../../src/clients/vault.js'
import { isAbsent } from '../../src/dev/find.js'
import { prepareOrders } from '../../src/dev/orders-target.js'
import { type Postgres, startPostgres } from '../../src/dev/postgres.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import { Secret } from '../../src/domain/secret.js'
import { transitWrapper } from '../../src/signers/transit.js'
import { memoryStore } from '../../src/store/memory.js'
import { testSigner } from '../conformance/signers.js'
import { sealed } from '../conformance/store/fixtures.js'

const dir = mkdtempSync(join(tmpdir(), 'cf-transit-'))
const vault = await startVault({ dir: join(dir, 'vault'), own: true })
// The script prepares a target as well, and looks whether it is there.
const postgres = await startPostgres({ dir: join(dir, 'target'), database: 'orders' })
const absent = isAbsent(vault) ? vault.absent : isAbsent(postgres) ? postgres.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

describe.skipIf(absent !== null)(`transit in the real Vault${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const asRoot = async (method: string, path: string, body?: object) => {
    const { address, rootToken } = vault as Vault
    const answer = await fetch(`${address}/v1/${path}`, { method, headers: { 'X-Vault-Token': rootToken }, ...(body ? { body: JSON.stringify(body) } : {}) })
    if (!answer.ok) throw new Error(`${method} ${path} answered ${answer.status}`)
    return answer.status === 204 ? null : ((await answer.json()) as { auth?: { client_token: string } })
  }

  const clients: { close(): Promise<void> }[] = []
  beforeAll(async () => {
    await prepareOrders({ vault: vault as Vault, postgres: postgres as Postgres, dir, signer: 'transit' })
  })
  afterAll(async () => {
    await Promise.all(clients.map(c => c.close()))
    if (!isAbsent(vault)) await vault.stop()
    if (!isAbsent(postgres)) await postgres.stop()
    rmSync(dir, { recursive: true, force: true })
  })
  const policy = readFileSync(new URL('../../config/vault/signer.hcl', import.meta.url), 'utf8')
  let deployments = 0

  testSigner(
    'transit over the real Vault, by the shipped policy',
    async () => {
      const key = `curfew-${++deployments}`
      await asRoot('POST', `transit/keys/${key}`, { type: 'aes256-gcm96' })
      await asRoot('PUT', `sys/policies/acl/${key}`, { policy: policy.replaceAll('/curfew', `/${key}`) })
      const made = await asRoot('POST', 'auth/token/create', { policies: [key], no_default_policy: true, no_parent: true, ttl: '10m' })
      const token = Secret.token(made?.auth?.client_token as string)
      const client = createVault(
        { address: (vault as Vault).address, tokenRole: 'curfew', issuer: { method: 'token', token }, revoker: { method: 'token', token } },
        'issuer',
        {
          log: { warn() {} },
        },
      )
      clients.push(client)
      return transitWrapper(client.transit('transit', key))
    },
    async () => {
      let ahead = 0
      const store = memoryStore({ now: () => new Date(Date.now() + ahead), sealDigest: sealed })
      const advance = async (seconds: number) => {
        ahead += seconds * 1000
      }
      return { store, advance }
    },
  )

  it('K4 the issuer that setup.sh makes opens and seals with that key, and may do nothing else with transit', async () => {
    const { address } = vault as Vault
    const secret = readFileSync(join(dir, 'vault-issuer-secret-id'), 'utf8').trim()
    const login = { method: 'approle' as const, mount: 'approle', roleId: 'curfew-issuer', secretId: Secret.token(secret) }
    const client = createVault({ address, tokenRole: 'curfew', issuer: login, revoker: login }, 'issuer', { log: { warn() {} } })
    clients.push(client)
    const wrapper = transitWrapper(client.transit('transit', 'curfew'))
    const wrapped = await wrapper.wrap(Buffer.from('a data key'), 'as this')
    expect((await wrapper.unwrap(wrapped, 'as this')).toString()).toBe('a data key')
    await expect(wrapper.unwrap(wrapped, 'as another')).rejects.toMatchObject({ code: 'unavailable' })
    // Whatever is rotated, a digest that was stored is found again.
    const digests = await wrapper.digestKey()
    await asRoot('POST', 'transit/keys/curfew/rotate', {})
    expect((await wrapper.unwrap(wrapped, 'as this')).toString()).toBe('a data key')
    expect(await wrapper.digestKey()).toEqual(digests)

    const answer = await fetch(`${address}/v1/auth/approle/login`, { method: 'POST', body: JSON.stringify({ role_id: 'curfew-issuer', secret_id: secret }) })
    const { client_token } = ((await answer.json()) as { auth: { client_token: string } }).auth
    const as = async (method: string, path: string, body?: object) =>
      (await fetch(`${address}/v1/${path}`, { method, headers: { 'X-Vault-Token': client_token }, ...(body ? { body: JSON.stringify(body) } : {}) })).status
    const data = { plaintext: Buffer.from('x').toString('base64') }
    expect(await as('POST', 'transit/encrypt/curfew', data)).toBe(200)
    for (const [method, path, body] of [
      ['POST', 'transit/encrypt/other', data],
      ['GET', 'transit/keys/curfew', undefined],
      ['POST', 'transit/keys/curfew', {}],
      ['DELETE', 'transit/keys/curfew', undefined],
      ['POST', 'transit/keys/curfew/rotate', {}],
      ['POST', 'transit/keys/curfew/config', { exportable: true }],
      ['POST', 'transit/keys/curfew/trim', { min_available_version: 2 }],
      ['GET', 'transit/export/encryption-key/curfew', undefined],
      ['GET', 'transit/backup/curfew', undefined],
      ['POST', 'transit/rewrap/curfew', {}],
      ['POST', 'transit/datakey/plaintext/curfew', {}],
      ['POST', 'transit/sign/curfew', {}],
      ['POST', 'transit/hmac/curfew/sha2-512', {}],
      ['LIST', 'transit/keys', undefined],
    ] as const)
      expect({ path: `${method} ${path}`, status: await as(method, path, body) }).toEqual({ path: `${method} ${path}`, status: 403 })
  })
})
