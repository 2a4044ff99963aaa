/** Owns what the worker process promises as a process: it starts, works its queues, ends politely and in time. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Queue } from 'bullmq'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { closeRedis, workerRedis } from '../../src/clients/redis.js'
import { isAbsent } from '../../src/dev/find.js'
import { writePolicies } from '../../src/dev/policies.js'
import { startRedis } from '../../src/dev/redis.js'
import { newId } from '../../src/domain/ids.js'
import { bullmqQueue } from '../../src/queue/bullmq.js'
import { destroyQueue } from '../../src/queue/jobs.js'

const ROOT = join(import.meta.dirname, '..', '..')
const ENTRY = join(ROOT, 'dist', 'workers', 'main.js')
const dir = mkdtempSync(join(tmpdir(), 'curfew-worker-'))
const redis = await startRedis({ dir: join(dir, 'redis'), own: true })
const reason = isAbsent(redis) ? redis.absent : existsSync(ENTRY) ? null : 'nothing is compiled: npm run setup'
if (reason) console.log(`skipped: the worker process: ${reason}`)

const quiet = { info() {}, warn() {}, error() {} }
const canary = randomBytes(32).toString('base64')

describe.skipIf(reason !== null)('the worker process', () => {
  let child: ChildProcess
  const lines: Record<string, unknown>[] = []
  let raw = ''

  const until = async (what: () => boolean | Promise<boolean>, ms = 60_000) => {
    const end = performance.now() + ms
    while (!(await what())) {
      if (performance.now() > end || child.exitCode !== null) throw new Error(`did not happen in time:\n${raw}`)
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
  const url = isAbsent(redis) ? '' : redis.url

  beforeAll(async () => {
    const config = join(dir, 'curfew.yaml')
    writeFileSync(
      config,
      stringify({
        mode: 'dev',
        server: { url: 'http://127.0.0.1:8787' },
        store: { kind: 'pglite', dir: 'store' },
        queue: { kind: 'redis', url: { env: 'TEST_REDIS_URL' }, prefix: 'w' },
        signer: { kind: 'sealed', masterKey: { env: 'TEST_MASTER_KEY' } },
        issuers: [{ name: 'github', kind: 'oidc', profile: 'github', issuer: 'https://ci.example', pin: { repository_owner_id: ['1'] } }],
        audiences: [{ name: 'orders', uri: 'https://orders.example/' }],
        capabilities: [{ name: 'demo/orders-ro', summary: 'x', engine: 'jwt', audience: 'orders', intent: 'read' }],
        policies: { dir: 'policies' },
      }),
    )
    writePolicies(dir, '@id("nobody")\nforbid (principal, action, resource);\n')
    child = spawn(process.execPath, ['--disable-proto=delete', ENTRY, config], {
      env: { PATH: process.env.PATH, HOME: dir, TEST_REDIS_URL: url, TEST_MASTER_KEY: canary },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const hear = (chunk: Buffer) => {
      raw += chunk
      lines.length = 0
      for (const line of raw.split('\n')) if (line.startsWith('{')) lines.push(JSON.parse(line))
    }
    child.stdout?.on('data', hear)
    child.stderr?.on('data', hear)
    await until(() => lines.some(l => l.event === 'working'))
  })
  afterAll(async () => {
    if (child?.exitCode === null) child.kill('SIGKILL')
    if (!isAbsent(redis)) await redis.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  test('serves one queue a kind, and one an engine', () => {
    expect(lines.find(l => l.event === 'working')).toMatchObject({ queues: ['expire', 'signal', 'destroy-jwt'], store: 'pglite' })
  })

  test('works what is placed; for an id that no row knows there is nothing to do', async () => {
    const connection = workerRedis(url, quiet)
    const queue = bullmqQueue(workerRedis(url, quiet), { prefix: 'w', log: quiet })
    await until(() => queue.enqueue({ name: 'destroy', engine: 'jwt', credential: newId('credential'), version: 1 }))
    await queue.enqueue({ name: 'expire', second: 1_800_000_000 })
    await queue.enqueue({ name: 'signal', signal: newId('signal') })
    for (const name of ['expire', 'signal', destroyQueue('jwt')]) {
      const lane = new Queue(name, { connection, prefix: 'w' })
      await until(async () => Object.values(await lane.getJobCounts('waiting', 'active', 'delayed', 'failed', 'completed')).every(n => n === 0))
      await lane.close()
    }
    await queue.close()
    await closeRedis(connection)
  })

  test('a job of somebody else fails, is told, and stops nothing', async () => {
    const connection = workerRedis(url, quiet)
    const lane = new Queue(destroyQueue('jwt'), { connection, prefix: 'w' })
    await lane.add('destroy', { credential: '*', version: 'all' }, { jobId: 'forged_1', attempts: 1, removeOnFail: true })
    await until(() => lines.some(l => l.job === 'forged_1'))
    expect(lines.find(l => l.job === 'forged_1')).toMatchObject({ level: 'warn', queue: 'destroy-jwt' })
    await lane.close()
    await closeRedis(connection)
  })

  test('F41: SIGTERM ends it with 0, in time, and it took no job along', async () => {
    const began = performance.now()
    const ended = new Promise<number | null>(resolve => {
      child.once('exit', code => resolve(code))
    })
    child.kill('SIGTERM')
    expect(await ended).toBe(0)
    expect(performance.now() - began).toBeLessThan(10_000)
  })

  test('K6: neither its master key nor a stack of a caller’s fault is in what it said', () => {
    expect(raw).not.toContain(canary)
    for (const line of lines) expect(JSON.stringify(line)).not.toContain('\\n')
  })
})
