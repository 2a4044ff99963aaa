/** A database user, a certificate, a Vault token and a signed token for one task, by the real Vault at the real PostgreSQL: all of them, or nothing at either. */
import { execFileSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { newSshKey } from '../../src/cli/ssh-key.js'
import { isAbsent } from '../../src/dev/find.js'
import { prepareOrders } from '../../src/dev/orders-target.js'
import { type Postgres, startPostgres } from '../../src/dev/postgres.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import { setUpVault } from '../../src/dev/vault-setup.js'
import { CurfewError } from '../../src/domain/errors.js'
import type { Failpoint } from '../../src/failpoint.js'
import type { CredentialEngine } from '../../src/ports.js'
import { type Caller, caller, type Held, introspect } from '../caller.js'
import { type House, makeHouse } from '../house.js'
import { askVault } from '../real/ask-vault.js'

/** Throws when this failpoint is reached for the n-th time. */
const armed = vi.hoisted(() => ({ at: '', left: 0 }))
vi.mock('../../src/failpoint.js', async original => ({
  ...(await original<typeof import('../../src/failpoint.js')>()),
  async fp(here: string) {
    if (here === armed.at && armed.left > 0 && --armed.left === 0) throw new Error(`failpoint ${here}`)
  },
}))

const dir = mkdtempSync(join(tmpdir(), 'cf-bundle-'))
const vault = await startVault({ dir: join(dir, 'vault'), own: true })
const postgres = await startPostgres({ dir: join(dir, 'target'), database: 'orders' })
const absent = isAbsent(vault) ? vault.absent : isAbsent(postgres) ? postgres.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

const DB = 'db/orders'
const TLS = 'tls/orders'
const KV = 'tools/vault'
const TOKEN = 'demo/orders-ro'
const ALL = [DB, TLS, KV, TOKEN]
/** What is signed by it only its own end can end. */
const SSH = 'ssh/login'
/** Their roles do not exist, or make what nothing could end. */
const NO_USER = 'db/none'
const NO_CERTIFICATE = 'tls/none'
const NO_LEASE = 'tls/no-lease'

describe.skipIf(absent !== null)(`a bundle by the real Vault, at the real PostgreSQL${absent ? ` (skipped: ${absent})` : ''}`, () => {
  let house: House
  let ci: Caller
  let held: Held
  let admin: pg.Client
  let before = new Set<string>()

  beforeAll(async () => {
    const orders = await prepareOrders({ vault: vault as Vault, postgres: postgres as Postgres, dir })
    const configured = await setUpVault(vault as Vault, dir, { KINDS: 'pki ssh', PKI_DOMAINS: 'orders.example', SSH_USERS: 'deploy' })
    const user = (name: string, role: string) => {
      const usual = orders.capability(name) as { parameters: object }
      return { ...usual, parameters: { ...usual.parameters, role } }
    }
    const tls = (name: string, role: string, policy: string) => ({
      ...{ name, summary: 'a certificate for this task', engine: 'vault-pki', intent: 'read', maxTtlSeconds: 900 },
      parameters: { role, policy: `curfew-cap-${policy}`, dnsNames: ['orders.example'] },
    })
    const capabilities = [
      user(DB, 'orders-ro'),
      user(NO_USER, 'none'),
      tls(TLS, 'workload', 'workload'),
      tls(NO_CERTIFICATE, 'none', 'workload'),
      tls(NO_LEASE, 'no-lease', 'no-lease'),
      {
        ...{ name: SSH, summary: 'a login', engine: 'vault-ssh', intent: 'write' },
        parameters: { role: 'login', policy: 'curfew-cap-login', principals: ['deploy'] },
      },
      { ...{ name: KV, summary: 'a path of Vault', engine: 'vault-token', intent: 'read' }, parameters: { policy: 'curfew-cap-kv' } },
    ] as Record<string, unknown>[]
    await root('POST', 'secret/data/orders', { data: { seen: true } })
    await root('PUT', 'sys/policies/acl/curfew-cap-kv', { policy: 'path "secret/data/orders" { capabilities = ["read"] }' })
    await root('PUT', 'sys/policies/acl/curfew-cap-no-lease', { policy: 'path "pki/issue/no-lease" { capabilities = ["update"] }' })
    await root('POST', 'pki/roles/no-lease', { generate_lease: false, allow_any_name: true, cn_validations: 'disabled', key_type: 'ec', key_bits: 256 })
    house = await makeHouse({ capabilities, more: { vault: configured }, alsoAllow: capabilities.map(c => String(c.name)) })
    ci = await caller(house)
    admin = new pg.Client({ connectionString: (postgres as Postgres).url })
    await admin.connect()
  })
  beforeEach(async () => {
    // What one case left behind must not be held against the next.
    before = new Set(await everything())
    held = await ci.opened({ capabilities: [...ALL, SSH, NO_USER, NO_CERTIFICATE, NO_LEASE] })
  })
  afterEach(() => {
    armed.at = ''
  })
  afterAll(async () => {
    await admin?.end()
    await house?.close()
    if (!isAbsent(vault)) await vault.stop()
    if (!isAbsent(postgres)) await postgres.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  async function root(method: string, path: string, body?: object) {
    const { status, body: answer } = await askVault((vault as Vault).address, (vault as Vault).rootToken, method, path, body)
    return { status, data: answer?.data ?? {} }
  }
  const listed = async (path: string): Promise<string[]> => (await root('LIST', path)).data.keys ?? []

  /** What came to be during this test. */
  const upstream = async () => (await everything()).filter(thing => !before.has(thing))
  /** All of ours that Vault or the target knows of: users, leases, tokens, and certificates that are good. */
  async function everything(): Promise<string[]> {
    const roles = (await admin.query(`select rolname from pg_roles where rolname like 'curfew\\_crd%'`)).rows.map(r => `user ${r.rolname}`)
    const leases = (await Promise.all(['database/creds/orders-ro', 'pki/issue/workload'].map(p => listed(`sys/leases/lookup/${p}`))))
      .flat()
      .map(l => `lease ${l}`)
    const accessors = await listed('auth/token/accessors')
    const tokens = await Promise.all(accessors.map(async accessor => (await root('POST', 'auth/token/lookup-accessor', { accessor })).data.meta))
    const serials = await Promise.all((await listed('pki/certs')).map(async serial => ({ serial, ...(await root('GET', `pki/cert/${serial}`)).data })))
    const certificates = serials.filter(c => c.revocation_time === 0 && !new X509Certificate(c.certificate).ca).map(c => `certificate ${c.serial}`)
    return [...roles, ...leases, ...tokens.flatMap(meta => (meta?.curfew ? [`token of ${meta.credential_id}`] : [])), ...certificates]
  }

  const bundle = async (...names: readonly string[]) => {
    const { publicKey } = await newSshKey()
    return ci.as(held, 'post', `/v1/tasks/${held.task}/credentials`, {
      capabilities: names.map(capability => ({
        capability,
        ttl_seconds: 600,
        ...(capability === SSH ? { params: { public_key: publicKey } } : {}),
      })),
    })
  }
  const rows = () => house.app.store.credentials.list({ task: held.task as never, limit: 99 })

  /** No sweep and no reconcile, which would clean up for a walk that does not clean up itself. */
  async function expectNothingLeft(parts: number): Promise<void> {
    const left = await rows()
    expect(left.map(r => [r.capability, r.reason])).toEqual(left.map(r => [r.capability, 'issuance_failed']))
    expect(left).toHaveLength(parts)
    await house.work()
    expect(await upstream()).toEqual([])
    // What may have had a read in flight waits for a listing, and what was signed was handed to nobody.
    for (const r of await rows()) expect(['revoked', 'revoking']).toContain(r.state)
  }

  const canLogIn = async (s: Record<string, string>) => {
    const client = new pg.Client({ host: s.PGHOST, port: Number(s.PGPORT), database: s.PGDATABASE, user: s.PGUSER, password: s.PGPASSWORD })
    client.on('error', () => {})
    return client
      .connect()
      .then(() => client.query('select count(*) from orders'))
      .then(
        () => true,
        () => false,
      )
      .finally(() => client.end().catch(() => {}))
  }
  /** `openssl verify` with the list of the moment. */
  async function isGood(certificate: string): Promise<boolean> {
    const [ca, crl] = await Promise.all(['ca', 'crl'].map(async what => (await fetch(`${(vault as Vault).address}/v1/pki/${what}/pem`)).text()))
    for (const [name, text] of Object.entries({ ca, crl, cert: certificate })) writeFileSync(join(dir, `${name}.pem`), text as string)
    try {
      const files = ['-CAfile', join(dir, 'ca.pem'), '-CRLfile', join(dir, 'crl.pem'), join(dir, 'cert.pem')]
      return execFileSync('openssl', ['verify', '-crl_check', ...files], { encoding: 'utf8', stdio: 'pipe' }).includes(': OK')
    } catch {
      return false
    }
  }
  const reads = async (token: string) => (await fetch(`${(vault as Vault).address}/v1/secret/data/orders`, { headers: { 'X-Vault-Token': token } })).ok

  it('all four work until the task completes, and none does afterwards', async () => {
    const made = await bundle(...ALL)
    expect(made.status).toBe(201)
    const [db, tls, kv, token] = made.body.credentials.map((c: { secret: Record<string, string> }) => c.secret)
    expect(new X509Certificate(tls.certificate).subjectAltName).toBe('DNS:orders.example')
    const working = async () => [
      await canLogIn(db),
      await isGood(tls.certificate),
      await reads(kv.VAULT_TOKEN),
      (await introspect(house, token.token)).body.active,
    ]
    expect(await working()).toEqual([true, true, true, true])
    expect((await upstream()).map(t => t.split(' ')[0]).sort()).toEqual(['certificate', 'lease', 'lease', 'token', 'token', 'token', 'user'])
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    await house.work()
    expect(await working()).toEqual([false, false, false, false])
    expect(await upstream()).toEqual([])
    expect((await rows()).map(r => r.state)).toEqual(['revoked', 'revoked', 'revoked', 'revoked'])
  })

  describe('whose last part fails leaves nothing at Vault or at the target, and its answer names the part', () => {
    it.each([
      ['a user that has no role', [TLS, KV, SSH, TOKEN, NO_USER]],
      ['a certificate that has no role', [DB, KV, SSH, TOKEN, NO_CERTIFICATE]],
      ['a certificate that nothing could end', [DB, KV, SSH, TOKEN, NO_LEASE]],
    ])('%s', async (_what, names) => {
      const answer = await bundle(...names)
      expect(answer.status).toBe(502)
      expect(answer.body).toMatchObject({ code: 'engine_failed', field: 'capabilities.4', capability: names[4] })
      await expectNothingLeft(5)
      // It was handed to nobody, and is not said to be exposed.
      expect((await rows()).find(r => r.capability === SSH)?.state).toBe('revoked')
    })

    it('a user while the target is shut', async () => {
      const shut = async (login: string) => {
        await admin.query(`alter role vault_admin ${login}`)
        await admin.query(`select pg_terminate_backend(pid) from pg_stat_activity where usename = 'vault_admin'`)
      }
      await shut('nologin')
      try {
        const answer = await bundle(TLS, KV, TOKEN, DB)
        expect(answer.body).toMatchObject({ code: 'engine_failed', field: 'capabilities.3', capability: DB })
      } finally {
        await shut('login')
      }
      await expectNothingLeft(4)
    })

    it('a token that cannot be signed, when the others have been made', async () => {
      const engines = house.app.deps.engines as Map<string, CredentialEngine>
      const usual = engines.get('jwt') as CredentialEngine
      const seen: string[] = []
      engines.set('jwt', {
        ...usual,
        async mint() {
          seen.push(...(await upstream()))
          throw new CurfewError('unavailable', 'the store does not answer', { reason: 'store_unavailable' })
        },
      })
      const answer = await bundle(...ALL).finally(() => engines.set('jwt', usual))
      expect(answer.body).toMatchObject({ code: 'unavailable', field: 'capabilities.3', capability: TOKEN })
      expect(seen.map(t => t.split(' ')[0]).sort()).toEqual(['certificate', 'lease', 'lease', 'token', 'token', 'token', 'user'])
      await expectNothingLeft(4)
    })
  })

  describe('that fails at a failpoint leaves nothing either', () => {
    const throws = (at: Failpoint, nth: number) => Object.assign(armed, { at, left: nth })
    // Four parts are made by Vault and pass these steps each for itself.
    const EACH = (['issue.4a', 'issue.4b', 'issue.4c'] as const).flatMap(step => [1, 2, 4].map(n => [step, n] as const))
    const ONCE = (['issue.3', 'issue.5a', 'issue.5b', 'issue.6'] as const).map(step => [step, 1] as const)
    it.each([...ONCE, ...EACH].sort())('%s, reached for the %i. time', async (step, nth) => {
      throws(step, nth)
      const answer = await bundle(...ALL, SSH)
      expect(armed.left).toBe(0)
      expect(answer.status).toBe(500)
      await expectNothingLeft(5)
    })

    // The undoing of a bundle whose last part failed is itself cut short.
    it.each((['revoke.1', 'revoke.2'] as const).flatMap(step => [1, 4].map(n => [step, n] as const)))(
      '%s of its undoing, reached for the %i. time',
      async (step, nth) => {
        throws(step, nth)
        const answer = await bundle(DB, TLS, TOKEN, NO_CERTIFICATE)
        expect(armed.left).toBe(0)
        expect(answer.body).toMatchObject({ code: 'engine_failed', field: 'capabilities.3' })
        armed.at = ''
        // What the act could not hurry the sweep does.
        await house.sweep()
        await expectNothingLeft(4)
      },
    )
  })
})
