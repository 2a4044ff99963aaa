/** The guard in a process of its own, as examples/orders-api brings it, before two `curfew serve`: everything that a revocation can name is refused within what it promises, what runs is cut, and silence is no pass. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isAbsent } from '../../src/dev/find.js'
import { startPostgres } from '../../src/dev/postgres.js'
import { type Api, type Guarded, type Issued, MAX_STALE_MS, startGuarded, until } from './guarded.js'

const started = await startGuarded()
const absent = isAbsent(started) ? started.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

describe.skipIf(absent !== null)(`a guard before two brokers${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const g = started as Guarded
  let api: Api
  beforeAll(async () => {
    // It follows the one that commits nothing: what it hears came over the doorbell.
    api = await g.api('api', { CURFEW_FEED_URLS: g.brokers.b.url })
    await until(async () => (await api.health()).status === 200, 10_000)
  })
  afterAll(() => g.close())

  const said = async (of: Issued) => (await api.use(of)).said

  describe('what is revoked is refused within what it promises, and its download is cut', () => {
    test.each<[string, (of: Issued) => object, object?]>([
      ['credential', of => ({ credential: of.id })],
      ['task', of => ({ task: of.task })],
      ['attributes', () => ({ run_id: '4711', repository_id: '456789' }), { run_id: '4711' }],
      ['capability', () => ({ capability: 'api/orders' })],
      ['identity', () => ({ identity: 'github:repository_id=456789' })],
      ['issuer', () => ({ issuer: 'github' })],
      ['all', () => ({ all: true })],
      ['key', of => ({ key: of.kid })],
    ])('I1 by %s', async (kind, selector, claims) => {
      // The twin of what stands alone is untouched by it.
      const other = ['credential', 'task', 'attributes'].includes(kind) ? await g.issued({ run_id: '4712' }) : null
      const one = await g.issued(claims)
      expect(await said(one)).toBe('200 bounded')
      const running = await g.ci.download(`${api.origin}/orders/export`, one.token)
      expect(running.status).toBe(200)
      expect(running.bytes()).toBeGreaterThan(0)
      let cutAt = Number.POSITIVE_INFINITY
      const ended = running.ended.then(how => {
        cutAt = performance.now()
        return how
      })

      const { at } = await g.revoke(selector(one))
      await until(async () => (await said(one)) === '401 revoked', MAX_STALE_MS, 5)
      expect(await Promise.race([ended, sleep(MAX_STALE_MS, 'runs on')])).toBe('cut')
      expect(cutAt - at).toBeLessThan(MAX_STALE_MS)
      if (other) expect(await said(other)).toBe('200 bounded')
    })
  })

  test('I9 with its broker gone it answers 503 after maxStaleMs, lets run what runs, and hears what came meanwhile', async () => {
    // The key was revoked above: tokens of it that are younger than the cut-off are good.
    const [one, other] = [await g.issued(), await g.issued()]
    const [cut, whole] = await Promise.all([one, other].map(of => g.ci.download(`${api.origin}/orders/export`, of.token)))
    expect(await said(one)).toBe('200 bounded')

    process.kill(g.brokers.b.child.mark.pid, 'SIGKILL')
    const since = performance.now()
    expect(await said(other)).toBe('200 bounded')
    await until(async () => (await said(other)) === '503 stale_feed', MAX_STALE_MS + 10_000)
    expect(performance.now() - since).toBeGreaterThan(MAX_STALE_MS - 2_500)
    const refusal = await fetch(`${api.origin}/orders`, {
      headers: { authorization: `DPoP ${other.token}`, dpop: await g.ci.proof('GET', `${api.origin}/orders`, other.token) },
    })
    expect([refusal.status, refusal.headers.get('retry-after')]).toEqual([503, '1'])
    expect((await api.health()).status).toBe(503)

    await g.revoke({ credential: one.id })
    const before = whole?.bytes() ?? 0
    expect(await Promise.race([cut?.ended, sleep(500, 'runs on')])).toBe('runs on')
    expect(whole?.bytes()).toBeGreaterThan(before)

    await g.brokers.b.start()
    await until(async () => (await said(other)) === '200 bounded', 15_000)
    expect(await said(one)).toBe('401 revoked')
    expect(await Promise.race([cut?.ended, sleep(MAX_STALE_MS, 'runs on')])).toBe('cut')
    expect(await Promise.race([whole?.ended, sleep(100, 'runs on')])).toBe('runs on')
  })

  test('the orders come from PostgreSQL where PG* names it', async () => {
    const target = await startPostgres({ dir: join(g.dir, 'target'), database: 'orders' })
    if (isAbsent(target)) throw new Error(target.absent)
    try {
      const admin = new pg.Client({ connectionString: target.url })
      await admin.connect()
      await admin.query("create table orders (id int primary key, item text not null); insert into orders values (17, 'desk'), (18, 'bed'), (19, 'sofa')")
      await admin.end()
      const { hostname, port, username, password, pathname } = new URL(target.url)
      const env = { PGHOST: hostname, PGPORT: port, PGUSER: username, PGPASSWORD: decodeURIComponent(password), PGDATABASE: pathname.slice(1) }
      const other = await g.api('api-postgres', env)
      const { token } = await g.issued()
      await until(async () => (await other.health()).status === 200, 10_000)
      expect((await g.ci.use(`${other.origin}/orders`, token)).body.orders).toHaveLength(3)
      expect(await g.ci.use(`${other.origin}/orders/17`, token)).toMatchObject({ status: 200, body: { order: { id: 17, item: 'desk' } } })
      expect((await g.ci.use(`${other.origin}/orders/99`, token)).status).toBe(404)
      await other.child.stop()
    } finally {
      await target.stop()
    }
  })
})
