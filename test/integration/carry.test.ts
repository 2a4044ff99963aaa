import { createHmac, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis as Client } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { stringify } from 'yaml'
import { inherited, isAbsent, repository } from '../../src/dev/find.js'
import { type DevIssuer, startIssuer } from '../../src/dev/issuer.js'
import { ciRule, writePolicies } from '../../src/dev/policies.js'
import { freePort } from '../../src/dev/ports.js'
import { type Postgres, startPostgres } from '../../src/dev/postgres.js'
import { type Child, startProcess } from '../../src/dev/process.js'
import { type Redis, startRedis } from '../../src/dev/redis.js'
import { call, createWorkload, type Workload } from '../../src/dev/workload.js'
import { newId } from '../../src/domain/ids.js'
import { newOperatorToken, operatorTokenDigest } from '../../src/domain/operator-token.js'
import { Secret } from '../../src/domain/secret.js'
import { masterKeyWrapper, sealDigest } from '../../src/signers/sealed.js'
import { MIGRATIONS, migrate, readMigrations } from '../../src/store/migrate.js'
import { connect, storeOver } from '../../src/store/open.js'
import { EDR_SECRET } from '../house.js'

const dir = mkdtempSync(join(tmpdir(), 'cf-carry-'))
const redis = await startRedis({ dir: join(dir, 'redis'), own: true })
const postgres = await startPostgres({ dir: join(dir, 'store'), database: 'curfew' })
const absent = isAbsent(redis) ? redis.absent : isAbsent(postgres) ? postgres.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

const HOUR_MS = 3_600_000

describe.skipIf(absent !== null)(`API and worker as two processes over a real PostgreSQL and Redis${absent ? ` (skipped: ${absent})` : ''}`, () => {
  let issuer: DevIssuer
  let server: string
  let ci: Workload
  const running: Child[] = []
  const operator = newOperatorToken().reveal().token as string
  const masterKey = randomBytes(32).toString('base64')
  const headers = { authorization: `Bearer ${operator}`, 'content-type': 'application/json' }

  beforeAll(async () => {
    issuer = await startIssuer()
    const port = await freePort()
    server = `http://127.0.0.1:${port}`
    const log = { warn: () => {} }
    const connections = await connect({ kind: 'postgres', url: Secret.token((postgres as Postgres).url), maxConnections: 4 }, log)
    await migrate(connections.main, await readMigrations(MIGRATIONS))
    const seal = await sealDigest(masterKeyWrapper(Secret.token(masterKey)))
    const store = await storeOver(connections, 'postgres', { sealDigest: seal, log }, async () => {})
    await store.operators.add({ id: newId('operator'), name: 'test', role: 'admin' }, seal(operatorTokenDigest(operator)), {
      requestId: null,
      actor: { kind: 'broker', id: 'test' },
    })
    await store.close()
    ci = await createWorkload(server)
  })
  afterAll(async () => {
    await stopAll()
    await issuer?.close()
    if (!isAbsent(redis)) await redis.stop()
    if (!isAbsent(postgres)) await postgres.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  async function stopAll(): Promise<void> {
    for (const child of running.splice(0).reverse()) await child.stop()
  }

  async function startBoth(sweepMs: number): Promise<void> {
    await stopAll()
    const port = new URL(server).port
    const internal = await freePort()
    const file = join(dir, 'curfew.yaml')
    writeFileSync(
      file,
      stringify({
        mode: 'dev',
        server: { url: server, listen: `127.0.0.1:${port}`, internal: `127.0.0.1:${internal}` },
        store: { kind: 'postgres', url: { env: 'DATABASE_URL' } },
        queue: { kind: 'redis', url: { env: 'REDIS_URL' } },
        signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 0 },
        issuers: [issuer.entry],
        audiences: [{ name: 'orders', uri: 'https://orders.example/', secret: { env: 'EDR_SECRET' } }],
        capabilities: [{ name: 'demo/orders-ro', summary: 'read', engine: 'jwt', audience: 'orders', scopes: ['orders:read'], intent: 'read' }],
        policies: { dir: 'policies' },
        signals: { sources: [{ name: 'edr', secret: { env: 'EDR_SECRET' }, issuers: ['github'] }], rules: [{ name: 'revokes', act: { kind: 'revoke' } }] },
        timers: { sweepMs },
        log: { level: 'warn' },
      }),
    )
    writePolicies(dir, ciRule('ci', 'demo/orders-ro'))
    const env = inherited({ DATABASE_URL: (postgres as Postgres).url, REDIS_URL: (redis as Redis).url, MASTER_KEY: masterKey, EDR_SECRET })
    const process_ = (name: string, entry: string, ready: () => Promise<boolean>) =>
      startProcess({ name, dir, command: process.execPath, args: [join(repository(), 'dist', entry), file], env, ready, deadlineMs: 60_000 })
    running.push(await process_('serve', 'src/main.js', async () => (await call('GET', `${server}/readyz`)).status === 200))
    // The worker has no door: it is there when it has registered with Redis.
    const client = new Client((redis as Redis).url)
    running.push(
      await process_(
        'worker',
        'workers/main.js',
        async () => ((await client.client('LIST')) as string).split('\n').filter(l => /name=curfew:|bull|blpop|bzpopmin/i.test(l)).length >= 3,
      ),
    )
    client.disconnect()
  }

  async function granted(more = {}) {
    const opened = await ci.open(await issuer.githubToken(server, { run_id: randomBytes(4).readUInt32BE().toString() }), ['demo/orders-ro'])
    if (opened.status !== 201) throw new Error(JSON.stringify(opened.body))
    const held = { task: opened.body.task.id as string, token: opened.body.token as string }
    const made = await ci.credential(held, 'demo/orders-ro', more)
    if (made.status !== 201) throw new Error(JSON.stringify(made.body))
    return { held, id: made.body.credential.id as string }
  }

  async function revokedWithin(id: string, ms: number): Promise<{ reason: string; took: number }> {
    const since = performance.now()
    for (;;) {
      const { body } = await call('GET', `${server}/v1/credentials/${id}`, { headers })
      if (body.credential.state === 'revoked') return { reason: body.credential.reason, took: performance.now() - since }
      if (performance.now() - since > ms) throw new Error(`still ${body.credential.state} after ${ms} ms`)
      await sleep(25)
    }
  }

  async function signal(credential: string): Promise<number> {
    const body = JSON.stringify({ id: credential, type: 'token.leaked', severity: 'high', subject: { credential }, occurred_at: new Date().toISOString() })
    const at = Math.floor(Date.now() / 1000)
    const mac = createHmac('sha256', EDR_SECRET).update(`${at}.${body}`).digest('hex')
    return (
      await call('POST', `${server}/v1/signals`, {
        headers: { 'content-type': 'application/json', 'curfew-source': 'edr', 'curfew-signature': `t=${at},v1=${mac}` },
        body,
      })
    ).status
  }

  it('BullMQ carries it: with the sweep set to an hour, completion, expiry and a signal reach `revoked` within 2 s', async () => {
    await startBoth(HOUR_MS)
    const done = await granted()
    await ci.complete(done.held)
    expect((await revokedWithin(done.id, 2_000)).reason).toBe('completed')

    const told = await granted()
    expect(await signal(told.id)).toBe(202)
    expect((await revokedWithin(told.id, 2_000)).reason).toBe('risk_signal')

    const short = await granted({ ttl_seconds: 5 })
    await sleep(5_000)
    expect((await revokedWithin(short.id, 2_500)).reason).toBe('expired')
  })

  it('F07 FLUSHALL in between loses nothing: the sweep finds the rows', async () => {
    await startBoth(1_000)
    const [done, short] = [await granted(), await granted({ ttl_seconds: 5 })]
    const client = new Client((redis as Redis).url)
    await client.flushall()
    await ci.complete(done.held)
    await client.flushall()
    client.disconnect()
    expect((await revokedWithin(done.id, 10_000)).reason).toBe('completed')
    expect((await revokedWithin(short.id, 15_000)).reason).toBe('expired')
  })

  it('F01 Postgres guarantees it: with Redis stopped and the sweep at 5 s, `revoked` within 10 s', async () => {
    await startBoth(5_000)
    const done = await granted()
    await (redis as Redis).stop()
    const since = performance.now()
    expect((await ci.complete(done.held)).status).toBe(200)
    expect(performance.now() - since).toBeLessThan(2_000)
    expect((await revokedWithin(done.id, 10_000)).reason).toBe('completed')
    expect((await call('GET', `${server}/readyz`)).status).toBe(200)
  })
})
