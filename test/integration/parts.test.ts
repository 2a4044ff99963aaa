/** The parts that nobody here wrote really start, stop and come back, and behave as our code relies on (one or two facts of each). */
import { execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { request } from 'node:https'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis as Client } from 'ioredis'
import { createLocalJWKSet, createRemoteJWKSet, decodeJwt, type JSONWebKeySet, jwtVerify } from 'jose'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { findPostgres, findSpire, findVault, isAbsent } from '../../src/dev/find.js'
import { type Postgres, startPostgres } from '../../src/dev/postgres.js'
import { isRunning, pause, startProcess } from '../../src/dev/process.js'
import { findRedis, type Redis, startRedis } from '../../src/dev/redis.js'
import { type Spire, startSpire } from '../../src/dev/spire.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import { end, envPath, writeEnv, writeState } from '../real/state.js'

const dir = mkdtempSync(join(tmpdir(), 'curfew-parts-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** Prints why, since a skip without a reason looks like a pass. */
function lacks(part: object): boolean {
  if (!isAbsent(part)) return false
  if (process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${part.absent}`)
  console.warn(`skipped: ${part.absent}`)
  return true
}

function present<T extends object>(part: T): Exclude<T, { readonly absent: string }> {
  if (isAbsent(part)) throw new Error(part.absent)
  return part as Exclude<T, { readonly absent: string }>
}

describe('a child process', () => {
  it('that never gets ready: the error holds the end of its log, and it is gone', async () => {
    const args = ['-e', 'console.log("I am here"); setInterval(() => {}, 1000)']
    const start = startProcess({ name: 'idle', command: process.execPath, args, dir, ready: async () => false, deadlineMs: 700 })
    await expect(start).rejects.toThrow(/idle was not ready within 0.7 s[\s\S]*I am here/)
  })

  it('that ends at once is told as that, without waiting for the deadline', async () => {
    const before = performance.now()
    const start = startProcess({ name: 'short', command: process.execPath, args: ['-e', 'process.exit(3)'], dir, ready: async () => false })
    await expect(start).rejects.toThrow(/ended with 3/)
    expect(performance.now() - before).toBeLessThan(10_000)
  })

  it('that ignores the polite signal is killed', async () => {
    const args = ['-e', 'process.on("SIGTERM", () => {}); console.log("up"); setInterval(() => {}, 1000)']
    const ready = async () => readFileSync(join(dir, 'deaf.log'), 'utf8').includes('up')
    const child = await startProcess({ name: 'deaf', command: process.execPath, args, dir, ready, stopWithinMs: 300 })
    expect(isRunning(child.mark)).toBe(true)
    await child.stop()
    expect(isRunning(child.mark)).toBe(false)
  })

  it('another process with the same number is not taken for it', () => {
    expect(isRunning({ name: 'other', pid: process.pid, started: '1', signal: 'SIGTERM' })).toBe(false)
  })
})

describe('what `npm run real -- up` leaves behind', () => {
  it('is ended by `down` only if it is still the same process', async () => {
    const args = ['-e', 'setInterval(() => {}, 1000)']
    const child = await startProcess({ name: 'ours', command: process.execPath, args, dir, ready: async () => true })
    const stranger = { ...child.mark, name: 'stranger', started: '1' }
    writeState(dir, { processes: [stranger], folders: [] })
    expect(await end(dir, () => {})).toBe(true)
    expect(isRunning(child.mark)).toBe(true)
    writeState(dir, { processes: [child.mark], folders: [] })
    expect(await end(dir, () => {})).toBe(true)
    expect(isRunning(child.mark)).toBe(false)
    expect(existsSync(join(dir, 'pids.json'))).toBe(false)
  })

  it('has an env file that a shell reads back as it was meant', async () => {
    const odd = `it's "$HOME" \\ $(id)`
    writeEnv(dir, { ODD: odd }, ['/a folder/bin'])
    const read = execFileSync('sh', ['-c', `. '${envPath(dir)}'; printf '%s\\n%s' "$ODD" "$PATH"`], { encoding: 'utf8' })
    expect(read.split('\n')[0]).toBe(odd)
    expect(read.split('\n')[1]).toMatch(/^\/a folder\/bin:\//)
  })
})

describe.skipIf(lacks(await findRedis()))('Redis', () => {
  let redis: Redis
  beforeAll(async () => {
    redis = present(await startRedis({ dir: join(dir, 'redis'), own: true }))
  })
  afterAll(() => redis?.stop())

  it('evicts nothing, asks for a password, and has its data after a restart on the same port', async () => {
    const client = new Client(redis.url, { lazyConnect: true })
    await client.connect()
    expect(await client.config('GET', 'maxmemory-policy')).toEqual(['maxmemory-policy', 'noeviction'])
    await client.set('kept', 'yes')
    client.disconnect()
    const stranger = connect(redis.port, '127.0.0.1', () => stranger.write('GET kept\r\n'))
    const [answer] = await once(stranger.setEncoding('utf8'), 'data')
    stranger.destroy()
    expect(answer).toMatch(/^-NOAUTH/)

    await redis.stop()
    redis = present(await startRedis({ dir: join(dir, 'redis'), own: true, port: redis.port }))
    const again = new Client(redis.url)
    expect(await again.get('kept')).toBe('yes')
    again.disconnect()
  })
})

describe.skipIf(lacks(findPostgres()))('PostgreSQL', () => {
  let postgres: Postgres
  beforeAll(async () => {
    postgres = present(await startPostgres({ dir: join(dir, 'postgres'), database: 'curfew' }))
  })
  afterAll(() => postgres?.stop())

  async function ask(url: string, sql: string): Promise<unknown> {
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    try {
      return Object.values((await client.query(sql)).rows[0] ?? {})[0]
    } finally {
      await client.end()
    }
  }

  it('answers over TCP with its password only, also after a restart on the same port', async () => {
    expect(await ask(postgres.url, 'SELECT current_database()')).toBe('curfew')
    await expect(ask(postgres.urlFor('postgres', 'wrong'), 'SELECT 1')).rejects.toThrow(/password authentication failed/)
    await ask(postgres.url, 'CREATE TABLE kept AS SELECT 42 AS n')
    await postgres.stop()
    await expect(ask(postgres.url, 'SELECT 1')).rejects.toThrow(/ECONNREFUSED/)
    postgres = present(await startPostgres({ dir: join(dir, 'postgres'), database: 'curfew', port: postgres.port }))
    expect(await ask(postgres.url, 'SELECT n FROM kept')).toBe(42)
  })
})

async function api(vault: Vault, method: string, path: string, body?: object) {
  const answer = await fetch(`${vault.address}/v1/${path}`, {
    method,
    headers: { 'X-Vault-Token': vault.rootToken },
    ...(body && { body: JSON.stringify(body) }),
  })
  const text = await answer.text()
  return { status: answer.status, text, json: text ? JSON.parse(text) : {} }
}

describe.skipIf(lacks(findVault()))('Vault', () => {
  let vault: Vault
  beforeAll(async () => {
    vault = present(await startVault({ dir: join(dir, 'vault'), own: true }))
  })
  afterAll(() => vault?.stop())

  it('says of a dead accessor 400 `invalid accessor`, of a dead lease 400 `invalid lease`', async () => {
    const made = await api(vault, 'POST', 'auth/token/create', { ttl: '60s' })
    const accessor = made.json.auth.accessor
    expect((await api(vault, 'POST', 'auth/token/lookup-accessor', { accessor })).status).toBe(200)
    expect((await api(vault, 'POST', 'auth/token/revoke-accessor', { accessor })).status).toBe(204)
    const dead = await api(vault, 'POST', 'auth/token/lookup-accessor', { accessor })
    expect([dead.status, dead.text]).toEqual([400, expect.stringContaining('invalid accessor')])
    const lease = await api(vault, 'PUT', 'sys/leases/lookup', { lease_id: `database/creds/x/${randomUUID()}` })
    expect([lease.status, lease.text]).toEqual([400, expect.stringContaining('invalid lease')])
  })

  it('makes a database user and ends it with its lease', async ctx => {
    const started = await startPostgres({ dir: join(dir, 'vault-target'), name: 'target' })
    if (lacks(started)) return ctx.skip()
    const target = present(started)
    try {
      await api(vault, 'POST', 'sys/mounts/database', { type: 'database' })
      const connection = target.url.replace(/\/\/.*@/, '//{{username}}:{{password}}@')
      const login = new URL(target.url)
      const config = await api(vault, 'POST', 'database/config/target', {
        plugin_name: 'postgresql-database-plugin',
        connection_url: connection,
        username: login.username,
        password: login.password,
        allowed_roles: '*',
      })
      expect(config.status, config.text).toBeLessThan(300)
      const creation = [`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`]
      await api(vault, 'POST', 'database/roles/reader', { db_name: 'target', creation_statements: creation, default_ttl: '60s' })
      const made = await api(vault, 'GET', 'database/creds/reader')
      const { username, password } = made.json.data
      const client = new pg.Client({ connectionString: target.urlFor(username, password, 'postgres') })
      await client.connect()
      await client.end()
      const ended = await api(vault, 'PUT', 'sys/leases/revoke', { lease_id: made.json.lease_id, sync: true })
      expect(ended.status).toBe(204)
      const late = new pg.Client({ connectionString: target.urlFor(username, password, 'postgres') })
      await expect(late.connect()).rejects.toThrow(/password authentication failed/)
    } finally {
      await target.stop()
    }
  })

  it('with storage on disk: sealed it answers 503, and it keeps its data over unseal and restart', async () => {
    const options = { dir: join(dir, 'vault-disk'), own: true, storage: 'disk' as const }
    let lasting = present(await startVault(options))
    try {
      await api(lasting, 'POST', 'sys/mounts/kept', { type: 'kv' })
      await api(lasting, 'POST', 'kept/one', { n: 42 })
      await lasting.seal()
      expect((await api(lasting, 'GET', 'kept/one')).status).toBe(503)
      await lasting.unseal()
      expect((await api(lasting, 'GET', 'kept/one')).json.data.n).toBe(42)
      await lasting.stop()
      lasting = present(await startVault({ ...options, port: lasting.port }))
      expect((await api(lasting, 'GET', 'kept/one')).json.data.n).toBe(42)
    } finally {
      await lasting.stop()
    }
  })
})

describe.skipIf(lacks(findSpire()))('SPIRE', () => {
  let spire: Spire
  beforeAll(async () => {
    spire = present(await startSpire({ dir: join(dir, 'spire'), workloads: ['/ci/orders'], oidc: true }))
  })
  afterAll(() => spire?.stop())

  /** Asks the bundle endpoint as the https_spiffe profile wants it: no host name, but exactly this one URI in the certificate. `agent: false`, because the
   * shared agent hands a kept connection to a caller with another `checkServerIdentity`, who then checks nothing. */
  function fetchBundle(wanted = `spiffe://${spire.trustDomain}/spire/server`): Promise<JSONWebKeySet & { spiffe_refresh_hint?: number }> {
    const checkServerIdentity = (_host: string, cert: { subjectaltname?: string }) =>
      cert.subjectaltname === `URI:${wanted}` ? undefined : new Error(`a certificate of ${cert.subjectaltname}`)
    return new Promise((resolve, reject) => {
      const asked = request(spire.bundleEndpoint, { ca: readFileSync(spire.bundlePem), checkServerIdentity, agent: false }, answer => {
        let text = ''
        answer.setEncoding('utf8').on('data', part => {
          text += part
        })
        answer.on('end', () => resolve(JSON.parse(text)))
      })
      asked.on('error', reject).end()
    })
  }

  /** `use: jwt-svid` and no `alg`: jose finds no key unless `use` is dropped. */
  const jwtKeys = (bundle: JSONWebKeySet) =>
    createLocalJWKSet({ keys: bundle.keys.filter(key => (key.use as string) === 'jwt-svid').map(({ use: _, ...key }) => key) })

  it('a JWT-SVID verifies against the bundle of the file and of the endpoint', async () => {
    const svid = await spire.fetchJwt('curfew')
    for (const bundle of [JSON.parse(readFileSync(spire.bundleFile, 'utf8')), await fetchBundle()]) {
      const { payload, protectedHeader } = await jwtVerify(svid, jwtKeys(bundle), { audience: 'curfew', subject: 'spiffe://example.org/ci/orders' })
      expect(protectedHeader).toMatchObject({ alg: 'ES256', typ: 'JWT' })
      expect(payload.aud).toEqual(['curfew'])
      expect([payload.jti, payload.nbf]).toEqual([undefined, undefined])
    }
    expect((await fetchBundle()).spiffe_refresh_hint).toBe(300)
  })

  it('the bundle endpoint is refused under another name', async () => {
    await expect(fetchBundle('spiffe://example.org/another')).rejects.toThrow(/a certificate of URI:spiffe:\/\/example.org\/spire\/server/)
  })

  it('the same token is handed out again, and verifies through the OIDC discovery provider', async () => {
    const svid = await spire.fetchJwt('curfew')
    expect(await spire.fetchJwt('curfew')).toBe(svid)
    const discovery = (await (await fetch(`${spire.oidcIssuer}/.well-known/openid-configuration`)).json()) as { issuer: string; jwks_uri: string }
    expect(discovery.issuer).toBe(spire.oidcIssuer)
    const { payload } = await jwtVerify(svid, createRemoteJWKSet(new URL(discovery.jwks_uri)), { issuer: discovery.issuer, audience: 'curfew' })
    expect(payload.sub).toBe('spiffe://example.org/ci/orders')
  })

  it('an identity that is registered later is there within seconds, and gone after its entry is', async () => {
    const entry = await spire.register('/agent/reporter', process.getuid?.() ?? 0)
    const svid = await spire.fetchJwt('curfew', { path: '/agent/reporter' })
    expect(decodeJwt(svid).sub).toBe('spiffe://example.org/agent/reporter')
    await spire.unregister(entry)
    let refused = false
    for (let tries = 0; tries < 40 && !refused; tries += 1) {
      await pause(200)
      refused = await spire.fetchJwt('curfew', { path: '/agent/reporter', signal: AbortSignal.timeout(150) }).then(
        () => false,
        () => true,
      )
    }
    expect(refused).toBe(true)
  })

  it('stopped, it leaves neither process nor socket', async () => {
    await spire.stop()
    expect(spire.marks.filter(isRunning)).toEqual([])
    expect(existsSync(spire.socketFolder)).toBe(false)
  })
})
