/** A Vault token for one path, by the real Vault: it reads that and nothing else, for as long as its task. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createVault } from '../../src/clients/vault.js'
import { isAbsent } from '../../src/dev/find.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import { setUpVault } from '../../src/dev/vault-setup.js'
import { Secret } from '../../src/domain/secret.js'
import { vaultTokenEngine } from '../../src/engines/vault-token.js'
import { type Caller, caller } from '../caller.js'
import { testEngine } from '../conformance/engines.js'
import { startProxy } from '../faults/proxy.js'
import { type House, makeHouse } from '../house.js'
import { askVault } from '../real/ask-vault.js'

const dir = mkdtempSync(join(tmpdir(), 'cf-token-'))
const vault = await startVault({ dir: join(dir, 'vault'), own: true })
const absent = isAbsent(vault) ? vault.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

const NAME = 'kv/orders'
const PATH = 'secret/data/orders'

describe.skipIf(absent !== null)(`Vault tokens by the real Vault${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const at = () => vault as Vault
  let house: House
  let ci: Caller

  beforeAll(async () => {
    if (absent) return
    const configured = await setUpVault(at(), dir, { KINDS: '' })
    expect((await as(at().rootToken, 'POST', PATH, { data: { price: '7' } })).status).toBe(200)
    const policy = `path "${PATH}" { capabilities = ["read"] }`
    expect((await as(at().rootToken, 'PUT', 'sys/policies/acl/curfew-cap-orders', { policy })).status).toBe(204)
    const capabilities = [
      { name: NAME, summary: 'one path of Vault', engine: 'vault-token', intent: 'read', maxTtlSeconds: 900, parameters: { policy: 'curfew-cap-orders' } },
      { name: 'kv/none', summary: 'a policy outside our glob', engine: 'vault-token', intent: 'read', parameters: { policy: 'curfew-cap-none' } },
    ]
    house = await makeHouse({ capabilities, more: { vault: configured }, alsoAllow: capabilities.map(c => c.name) })
    ci = await caller(house)
  })
  afterAll(async () => {
    await house?.close()
    if (!isAbsent(vault)) await vault.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  const as = (token: string, method: string, path: string, body?: object) => askVault(at().address, token, method, path, body)
  async function made(ttl = 600) {
    const held = await ci.opened({ capabilities: [NAME] })
    const { status, body } = await ci.credential(held, NAME, { ttl_seconds: ttl })
    expect(status).toBe(201)
    return { held, id: body.credential.id as string, secret: body.secret as { VAULT_TOKEN: string; VAULT_ADDR: string } }
  }
  const row = async (id: string) => {
    const found = await house.app.store.credentials.get(id as never)
    if (!found) throw new Error('there is no such row')
    return found
  }

  it('reads its one path, lives as long as its grant, and is refused when its task completes', async () => {
    const { held, id, secret } = await made()
    expect(secret.VAULT_ADDR).toBe(at().address)
    expect((await as(secret.VAULT_TOKEN, 'GET', PATH)).body.data.data).toEqual({ price: '7' })
    for (const beyond of ['secret/data/other', 'auth/token/lookup-self', 'sys/mounts']) expect((await as(secret.VAULT_TOKEN, 'GET', beyond)).status).toBe(403)
    expect((await as(secret.VAULT_TOKEN, 'POST', 'auth/token/renew-self', {})).status).toBe(403)
    const { data } = (await as(at().rootToken, 'POST', 'auth/token/lookup-accessor', { accessor: (await row(id)).handle?.accessor })).body
    expect(data).toMatchObject({ policies: ['curfew-cap-orders'], meta: { credential_id: id }, display_name: `token-${id.replace('_', '-')}` })
    // Lifted from its 90 seconds to the grant's.
    expect(data.ttl).toBeGreaterThan(580)
    expect(data.ttl).toBeLessThanOrEqual(600)
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    await house.work()
    expect((await as(secret.VAULT_TOKEN, 'GET', PATH)).status).toBe(403)
    expect(await row(id)).toMatchObject({ state: 'revoked', probe: { outcome: 'dead', looked: ['token'] } })
  })

  it('a receipt counts it as probed: the token is the credential, not a record of it', async () => {
    const { id } = await made()
    const { id: act } = await house.app.broker.revoke({ kind: 'credential', key: id as never }, 'requested', {
      actor: { kind: 'operator', id: 'opr_x' } as never,
    })
    // A busy Vault may answer for a token that it is about to forget: what was seen alive is looked at again.
    const worked = async () => {
      await house.work()
      await house.advance(1)
      return house.app.store.revocations.outcome(act)
    }
    await expect.poll(worked, { timeout: 15_000, interval: 200 }).toMatchObject({ revoked: 1, notProbed: 0, looked: { token: 1 } })
  })

  it('one that no row knows is an orphan, and is ended', async () => {
    const { config, log } = house.app
    if (!config.vault) throw new Error('no vault')
    const issuer = createVault(config.vault, 'issuer', { log })
    const ask = { credential: 'crd_00000000000000000000000000' as never, displayName: 'crd-x', policy: 'curfew-cap-orders', ttlSeconds: 90, maxTtlSeconds: 900 }
    const { token } = await issuer.createIssuanceToken(ask, AbortSignal.timeout(5_000))
    const stray = token.reveal().token as string
    expect((await as(stray, 'GET', PATH)).status).toBe(200)
    await house.app.broker.reconcile(AbortSignal.timeout(30_000))
    // It may belong to an issue in flight.
    expect((await as(stray, 'GET', PATH)).status).toBe(200)
    await house.advance(61)
    await house.app.broker.reconcile(AbortSignal.timeout(30_000))
    expect((await as(stray, 'GET', PATH)).status).toBe(403)
    await issuer.close()
  })

  it('ended at Vault by somebody else, it is closed as lost', async () => {
    const { id, secret } = await made()
    await as(at().rootToken, 'POST', 'auth/token/revoke-accessor', { accessor: (await row(id)).handle?.accessor })
    expect((await as(secret.VAULT_TOKEN, 'GET', PATH)).status).toBe(403)
    await house.advance(61)
    await house.app.broker.reconcile(AbortSignal.timeout(30_000))
    await house.work()
    expect(await row(id)).toMatchObject({ state: 'revoked', reason: 'lost_upstream' })
  })

  it('a policy that is not there gives a token that reads nothing', async () => {
    const held = await ci.opened({ capabilities: ['kv/none'] })
    const { body } = await ci.credential(held, 'kv/none', {})
    expect((await as(body.secret.VAULT_TOKEN, 'GET', PATH)).status).toBe(403)
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    await house.work()
  })

  /** What Vault calls each token, as it was first seen. */
  const names = new Map<string, string>()
  testEngine('vault-token over the real Vault', 'backend', async () => {
    const proxy = await startProxy({ host: '127.0.0.1', port: at().port })
    const secretId = (name: string) => readFileSync(join(dir, `vault-${name}-secret-id`), 'utf8').trim()
    const identity = (name: string) => ({ method: 'approle' as const, mount: 'approle', roleId: `curfew-${name}`, secretId: Secret.token(secretId(name)) })
    const config = { address: proxy.address, tokenRole: 'curfew', issuer: identity('issuer'), revoker: identity('revoker') }
    const [issuer, revoker] = [createVault(config, 'issuer', { log: { warn: () => {} } }), createVault(config, 'revoker', { log: { warn: () => {} } })]
    const now = () => new Date()
    const parameters = { policy: 'curfew-cap-orders' }
    return {
      engine: vaultTokenEngine({
        issuer,
        revoker,
        clock: { now },
        address: at().address,
        namespace: null,
        parametersOf: () => parameters,
        issuanceTokenSeconds: 90,
      }),
      parameters,
      now,
      async usable(fields) {
        const token = fields.VAULT_TOKEN as string
        const seen = await as(at().rootToken, 'POST', 'auth/token/lookup', { token })
        if (seen.status === 200) names.set(token, seen.body.data.display_name)
        return (await as(token, 'GET', PATH)).status === 200
      },
      attribution: fields => names.get(fields.VAULT_TOKEN as string) ?? 'not yet used',
      secrets: fields => [fields.VAULT_TOKEN as string],
      break: async () => proxy.refuse(true),
      heal: async () => proxy.refuse(false),
      async close() {
        await Promise.all([issuer.close(), revoker.close()])
        await proxy.close()
      },
    }
  })
})
