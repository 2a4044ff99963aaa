/** docs/operators.md, line by line: a real PostgreSQL, a real Redis, the processes started, ended, restored and started again as the page says. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { stringify } from 'yaml'
import { inherited, isAbsent } from '../../src/dev/find.js'
import { startIssuer } from '../../src/dev/issuer.js'
import { ciRule, writePolicies } from '../../src/dev/policies.js'
import { freePort } from '../../src/dev/ports.js'
import { startPostgres } from '../../src/dev/postgres.js'
import { startRedis } from '../../src/dev/redis.js'
import { call, createWorkload } from '../../src/dev/workload.js'
import { blocksOf } from '../pages.js'
import { play } from '../played.js'

const ROOT = new URL('../../', import.meta.url).pathname
const CAPABILITY = 'api/orders'
const dir = mkdtempSync(join(tmpdir(), 'cf-operators-'))
const closing: (() => unknown)[] = [() => rmSync(dir, { recursive: true, force: true })]
afterAll(async () => {
  for (const close of closing.reverse()) await close()
})

const store = await startPostgres({ dir: join(dir, 'store'), database: 'curfew' })
if (!isAbsent(store)) closing.push(() => store.stop())
const redis = isAbsent(store) ? store : await startRedis({ dir: join(dir, 'redis'), own: true })
if (!isAbsent(redis)) closing.push(() => redis.stop())
const missing = isAbsent(store) ? store.absent : isAbsent(redis) ? redis.absent : null
if (missing && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${missing}`)

describe.skipIf(missing !== null)(`docs/operators.md${missing ? ` (skipped: ${missing})` : ''}`, () => {
  it('first start, watching, backup and restore', async () => {
    const [port, internal] = [await freePort(), await freePort()]
    const server = `http://127.0.0.1:${port}`
    const issuer = await startIssuer()
    closing.push(() => issuer.close())
    writePolicies(dir, ciRule('ci-api', CAPABILITY))
    const config = join(dir, 'curfew.yaml')
    writeFileSync(
      config,
      stringify({
        mode: 'dev',
        server: { url: server, listen: `127.0.0.1:${port}`, internal: `127.0.0.1:${internal}` },
        store: { kind: 'postgres', url: { env: 'CURFEW_DATABASE' } },
        queue: { kind: 'redis', url: { env: 'REDIS_URL' } },
        signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 0 },
        issuers: [issuer.entry],
        audiences: [{ name: 'orders', uri: 'https://orders.example/', secret: { env: 'ORDERS_SECRET' } }],
        capabilities: [{ name: CAPABILITY, summary: 'orders', engine: 'jwt', audience: 'orders', scopes: ['orders:read'], intent: 'read' }],
        policies: { dir: 'policies' },
        log: { level: 'warn' },
      }),
    )
    const env = inherited({
      CURFEW_CONFIG: config,
      CURFEW_URL: server,
      CURFEW_OPERATOR_TOKEN_FILE: join(dir, 'alice.token'),
      CURFEW_DATABASE: (store as { url: string }).url,
      REDIS_URL: (redis as { url: string }).url,
      MASTER_KEY: randomBytes(32).toString('base64'),
      ORDERS_SECRET: randomBytes(18).toString('base64url'),
      PATH: `${ROOT}bin:/usr/lib/postgresql/15/bin:${process.env.PATH}`,
    })
    const page = readFileSync(join(ROOT, 'docs/operators.md'), 'utf8').replaceAll('127.0.0.1:8786', `127.0.0.1:${internal}`)
    const blocks = blocksOf(page, 'sh')
    const restoring = blocks.findIndex(block => block.includes('pg_restore'))
    expect(restoring).toBeGreaterThan(3)

    // A task that was granted before the backup, and ended after it: the backup holds it for live.
    const ci = await createWorkload(server)
    let token = ''
    const operator = () => ({ authorization: `Bearer ${readFileSync(join(dir, 'alice.token'), 'utf8').trim()}`, 'content-type': 'application/json' })
    const states = async () => (await call('GET', `${server}/v1/credentials`, { headers: operator() })).body.credentials.map((c: { state: string }) => c.state)
    const isActive = async () => {
      const basic = `Basic ${Buffer.from(`orders:${env.ORDERS_SECRET}`).toString('base64')}`
      const headers = { authorization: basic, 'content-type': 'application/x-www-form-urlencoded' }
      return (await call('POST', `${server}/oauth2/introspect`, { headers, body: new URLSearchParams({ token }).toString() })).body.active
    }
    const heard: string[] = []
    const seen: boolean[] = []
    await play(blocks, env, dir, {
      async before(command) {
        if (command.startsWith('pg_dump')) {
          const opened = await ci.open(await issuer.githubToken(server), [CAPABILITY])
          const made = await ci.credential({ task: opened.body.task.id, token: opened.body.token }, CAPABILITY)
          token = made.body.secret.token
          seen.push(await isActive())
        }
        if (command.startsWith('kill')) {
          const headers = { ...operator(), 'idempotency-key': 'after-the-backup' }
          expect((await call('POST', `${server}/v1/revocations`, { headers, body: JSON.stringify({ selector: { capability: CAPABILITY } }) })).status).toBe(202)
          seen.push(await isActive())
        }
        // It was in the backup as active: the act on the restored store is what refuses it now.
        if (command.startsWith('curfew list --state live')) {
          seen.push(await isActive())
          await expect.poll(states, { timeout: 20_000 }).toEqual(['revoked'])
        }
      },
      after: told => void heard.push(told),
    })
    expect(heard.join('')).toContain('everything that this store holds is revoked (seq 1000000000)')
    expect(seen).toEqual([true, false, false])
  }, 240_000)
})
