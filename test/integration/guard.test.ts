/** The guard in a process of its own, as examples/orders-api brings it, before the broker over a socket: everything that a revocation can name is refused within a second, what runs is cut, and silence is no pass. */
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { findPostgres, isAbsent, repository } from '../../src/dev/find.js'
import { freePort } from '../../src/dev/ports.js'
import { startPostgres } from '../../src/dev/postgres.js'
import { startProcess } from '../../src/dev/process.js'
import { call, createWorkload, type Workload } from '../../src/dev/workload.js'
import { type House, makeHouse, ORDERS } from '../house.js'

/** What the guard promises. Milliseconds. */
const REFUSED_MS = 1_000
const MAX_STALE_MS = 5_000

const dir = mkdtempSync(join(tmpdir(), 'curfew-guarded-'))
let house: House
let broker: Server
let issuer: string
let api: string
let guardKey: string
let ci: Workload
let responder: string
const ending: (() => Promise<void> | void)[] = []

async function listen(port = 0): Promise<Server> {
  const server = createServer((req, res) => house.http(req, res))
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve))
  return server
}
const stop = (server: Server) =>
  new Promise<void>(resolve => {
    server.close(() => resolve())
    server.closeAllConnections()
  })

/** The example as a process; its port is its address. */
async function startApi(name: string, env: Record<string, string> = {}): Promise<string> {
  const port = await freePort()
  const origin = `http://127.0.0.1:${port}`
  const child = await startProcess({
    name,
    command: process.execPath,
    args: [join(repository(), 'dist', 'examples', 'orders-api', 'main.js')],
    dir,
    env: { CURFEW_ISSUER: issuer, CURFEW_AUDIENCE: ORDERS, CURFEW_GUARD_KEY: guardKey, PUBLIC_URL: origin, PORT: String(port), ...env },
    ready: async () => (await call('GET', `${origin}/healthz`)).status === 200,
  })
  ending.push(() => child.stop())
  return origin
}

beforeAll(async () => {
  const port = await freePort()
  issuer = `http://127.0.0.1:${port}`
  house = await makeHouse({ more: { server: { url: issuer, listen: '127.0.0.1:0', internal: '127.0.0.1:0' } } })
  broker = await listen(port)
  responder = await house.operator('responder')
  const added = await supertest(house.http)
    .post('/v1/guards')
    .set('Authorization', `Bearer ${await house.operator('admin')}`)
    .send({ name: 'orders' })
  guardKey = added.body.key
  ci = await createWorkload(issuer)
  api = await startApi('api')
})
afterAll(async () => {
  for (const end of ending) await end()
  await stop(broker)
  await house.close()
  rmSync(dir, { recursive: true, force: true })
})

interface Issued {
  readonly id: string
  readonly task: string
  readonly token: string
  readonly kid: string
}

/** A credential whose evidence is younger than every cut-off until now. */
async function issued(claims = {}): Promise<Issued> {
  await sleep(1_100)
  const opened = await ci.open(await house.evidence({ aud: issuer, ...claims }), ['demo/orders-ro'])
  expect(opened).toMatchObject({ status: 201 })
  const task = opened.body.task.id as string
  const made = await ci.credential({ task, token: opened.body.token }, 'demo/orders-ro')
  expect(made).toMatchObject({ status: 201 })
  const token = made.body.secret.token as string
  const { kid } = JSON.parse(Buffer.from(token.split('.')[0] as string, 'base64url').toString()) as { kid: string }
  return { id: made.body.credential.id, task, token, kid }
}
async function used({ token }: Issued, at = api): Promise<string> {
  const { status, body } = await ci.use(`${at}/orders`, token)
  return status === 200 ? `200 ${body.mode}` : `${status} ${body.code}`
}
async function revoke(selector: object): Promise<void> {
  const answer = await supertest(house.http).post('/v1/revocations').set('Authorization', `Bearer ${responder}`).send({ selector })
  expect(answer).toMatchObject({ status: 202 })
}
/** Milliseconds since then until it is answered so. */
async function until(wanted: string, of: Issued, since: number, boundMs: number): Promise<number> {
  for (;;) {
    const seen = await used(of)
    const ms = performance.now() - since
    if (seen === wanted) return ms
    if (ms > boundMs) throw new Error(`after ${Math.round(ms)} ms still ${seen}, not ${wanted}`)
    await sleep(5)
  }
}

describe('what is revoked is refused by another process within a second, and its download is cut', () => {
  test.each<[string, (of: Issued) => object, object?]>([
    ['credential', of => ({ credential: of.id })],
    ['task', of => ({ task: of.task })],
    ['attributes', () => ({ run_id: '4711', repository_id: '456789' }), { run_id: '4711' }],
    ['capability', () => ({ capability: 'demo/orders-ro' })],
    ['identity', () => ({ identity: 'github:repository_id=456789' })],
    ['issuer', () => ({ issuer: 'github' })],
    ['all', () => ({ all: true })],
    ['key', of => ({ key: of.kid })],
  ])('I1 by %s', async (kind, selector, claims) => {
    // The twin of what stands alone is untouched by it.
    const other = ['credential', 'task', 'attributes'].includes(kind) ? await issued({ run_id: '4712' }) : null
    const one = await issued(claims)
    expect(await used(one)).toBe('200 bounded')
    const running = await ci.download(`${api}/orders/export`, one.token)
    expect(running.status).toBe(200)
    expect(running.bytes()).toBeGreaterThan(0)
    let cutAt = Number.POSITIVE_INFINITY
    const ended = running.ended.then(how => {
      cutAt = performance.now()
      return how
    })

    const since = performance.now()
    const refusing = until('401 revoked', one, since, REFUSED_MS)
    await revoke(selector(one))
    expect(await refusing).toBeLessThan(REFUSED_MS)
    expect(await Promise.race([ended, sleep(REFUSED_MS, 'runs on')])).toBe('cut')
    expect(cutAt - since).toBeLessThan(REFUSED_MS)
    if (other) expect(await used(other)).toBe('200 bounded')
  })
})

test('I9 with the broker gone it answers 503 after maxStaleMs, lets run what runs, and hears what came meanwhile', async () => {
  // The key was revoked above: tokens of it that are younger than the cut-off are good.
  const [one, other] = [await issued(), await issued()]
  const [cut, whole] = await Promise.all([one, other].map(of => ci.download(`${api}/orders/export`, of.token)))
  expect(await used(one)).toBe('200 bounded')

  const { port } = broker.address() as AddressInfo
  await stop(broker)
  const since = performance.now()
  expect(await used(other)).toBe('200 bounded')
  const silentMs = await until('503 stale_feed', other, since, MAX_STALE_MS + 1_500)
  expect(silentMs).toBeGreaterThan(MAX_STALE_MS - 2_500)
  const refusal = await fetch(`${api}/orders`, {
    headers: { authorization: `DPoP ${other.token}`, dpop: await ci.proof('GET', `${api}/orders`, other.token) },
  })
  expect([refusal.status, refusal.headers.get('retry-after')]).toEqual([503, '1'])
  expect((await call('GET', `${api}/healthz`)).status).toBe(503)

  await revoke({ credential: one.id })
  const before = whole?.bytes() ?? 0
  expect(await Promise.race([cut?.ended, sleep(500, 'runs on')])).toBe('runs on')
  expect(whole?.bytes()).toBeGreaterThan(before)

  broker = await listen(port)
  await until('200 bounded', other, performance.now(), 10_000)
  expect(await used(one)).toBe('401 revoked')
  expect(await Promise.race([cut?.ended, sleep(REFUSED_MS, 'runs on')])).toBe('cut')
  expect(await Promise.race([whole?.ended, sleep(100, 'runs on')])).toBe('runs on')
})

const postgres = findPostgres()
test.skipIf(isAbsent(postgres))(`the orders come from PostgreSQL where PG* names it${isAbsent(postgres) ? ` (skipped: ${postgres.absent})` : ''}`, async () => {
  const target = await startPostgres({ dir: join(dir, 'target'), database: 'orders' })
  if (isAbsent(target)) throw new Error(target.absent)
  ending.push(() => target.stop())
  const admin = new pg.Client({ connectionString: target.url })
  await admin.connect()
  await admin.query("create table orders (id int primary key, item text not null); insert into orders values (17, 'desk'), (18, 'bed'), (19, 'sofa')")
  await admin.end()
  const { hostname, port, username, password, pathname } = new URL(target.url)
  const env = { PGHOST: hostname, PGPORT: port, PGUSER: username, PGPASSWORD: decodeURIComponent(password), PGDATABASE: pathname.slice(1) }
  const other = await startApi('api-postgres', env)
  const one = await issued()
  expect((await ci.use(`${other}/orders`, one.token)).body.orders).toHaveLength(3)
  expect(await ci.use(`${other}/orders/17`, one.token)).toMatchObject({ status: 200, body: { order: { id: 17, item: 'desk' } } })
  expect((await ci.use(`${other}/orders/99`, one.token)).status).toBe(404)
})
