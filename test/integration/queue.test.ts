/** Owns what our use of Redis and BullMQ promises, on a real server: fast when it is there, harmless when it is not. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Queue, Worker } from 'bullmq'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { checkRedis, closeRedis, producerRedis, type Redis, readyWithin, watchRedis, workerRedis } from '../../src/clients/redis.js'
import { isAbsent } from '../../src/dev/find.js'
import { type Redis as RedisServer, startRedis } from '../../src/dev/redis.js'
import { newId } from '../../src/domain/ids.js'
import { Secret } from '../../src/domain/secret.js'
import { DOORBELL_CHANNEL, redisDoorbell } from '../../src/feed/doorbell.js'
import { memoryDoorbell } from '../../src/feed/memory-doorbell.js'
import type { Job, JobQueue } from '../../src/ports.js'
import { bullmqQueue } from '../../src/queue/bullmq.js'
import { destroyQueue, JOB_OPTIONS, jobId, WORKER_OPTIONS } from '../../src/queue/jobs.js'
import { destroyProcessor } from '../../workers/destroy.js'
import { expireProcessor } from '../../workers/expire.js'
import { type Lane, type Pool, startPool } from '../../workers/pool.js'
import { signalProcessor } from '../../workers/signal.js'

const dir = mkdtempSync(join(tmpdir(), 'curfew-queue-'))
const server = await startRedis({ dir: join(dir, 'redis'), own: true })
const skipped = isAbsent(server) ? server.absent : null
if (skipped) console.log(`skipped: queue on a real Redis: ${skipped}`)
const { url, pid } = server as RedisServer

afterAll(async () => {
  if (!isAbsent(server)) await server.stop()
  rmSync(dir, { recursive: true, force: true })
})

type Line = [string, Record<string, unknown>, string]
function ears() {
  const lines: Line[] = []
  const at = (level: string) => (fields: object, message: string) => void lines.push([level, fields as Record<string, unknown>, message])
  return { lines, info: at('info'), warn: at('warn'), error: at('error') }
}
const quiet = ears()
const destroy = (version = 1): Extract<Job, { name: 'destroy' }> => ({ name: 'destroy', engine: 'jwt', credential: newId('credential'), version })
const until = async (what: () => boolean | Promise<boolean>, ms = 8_000) => {
  const end = performance.now() + ms
  while (!(await what())) {
    if (performance.now() > end) throw new Error('did not happen in time')
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

describe.skipIf(skipped !== null)('on a real Redis', () => {
  const closing: (() => Promise<unknown> | unknown)[] = []
  let control: Redis
  let round = 0
  let prefix = ''

  beforeAll(async () => {
    control = workerRedis(url, quiet)
    await readyWithin(control, 5_000)
    return async () => closeRedis(control)
  })
  afterEach(async () => {
    await control.config('SET', 'maxmemory-policy', 'noeviction')
    await control.config('SET', 'appendonly', 'yes')
    for (const close of closing.splice(0).reverse()) await close()
  })

  async function producer(log = quiet): Promise<Redis> {
    const redis = producerRedis(url, log)
    closing.push(() => closeRedis(redis))
    await readyWithin(redis, 5_000)
    return redis
  }
  async function queueOn(redis?: Redis, log = quiet): Promise<JobQueue> {
    prefix = `t${round++}`
    const queue = bullmqQueue(redis ?? (await producer()), { prefix, log })
    closing.push(() => queue.close())
    return queue
  }
  function peek(name: string): Queue {
    const queue = new Queue(name, { connection: control, prefix })
    closing.push(() => queue.close())
    return queue
  }

  describe('the server itself', () => {
    test('a good one is told in one line, and old versions only warn', async () => {
      const report = await checkRedis(control)
      expect(report.ok).toBe(true)
      expect(report.detail).toMatch(/^(redis|valkey) \d+\.\d+\.\d+, master, noeviction, AOF$/)
      expect(report.problems).toEqual([])
    })
    test('F11: one that may evict is refused at start', async () => {
      await control.config('SET', 'maxmemory-policy', 'allkeys-lru')
      await expect(watchRedis(await producer(), quiet)).rejects.toMatchObject({ code: 'malformed', facts: { reason: 'redis_refused', field: 'queue.url' } })
    })
    test('F11: one that is changed later makes us not ready, and alarms', async () => {
      const log = ears()
      const redis = await producer()
      const watch = await watchRedis(redis, log, 40)
      closing.push(() => watch.stop())
      const queue = bullmqQueue(redis, { prefix: 'f11', log, watch })
      expect(await queue.health()).toMatchObject({ ok: true })
      await control.config('SET', 'maxmemory-policy', 'volatile-ttl')
      await until(() => log.lines.some(([level, , message]) => level === 'error' && message.includes('must not carry jobs')))
      expect(await queue.health()).toMatchObject({ ok: false, detail: expect.stringContaining('volatile-ttl') })
      await control.config('SET', 'maxmemory-policy', 'noeviction')
      await until(async () => (await queue.health()).ok)
    })
    test('without an append-only file it warns and goes on', async () => {
      await control.config('SET', 'appendonly', 'no')
      const log = ears()
      const watch = await watchRedis(await producer(), log)
      watch.stop()
      expect(watch.last.ok).toBe(true)
      expect(JSON.stringify(log.lines)).toContain('no append-only file')
    })
    test('a replica is refused: nothing could be written there', async () => {
      await control.call('REPLICAOF', '127.0.0.1', '1')
      try {
        expect((await checkRedis(control)).problems).toEqual(['it is a slave: jobs can only be written to a primary'])
      } finally {
        await control.call('REPLICAOF', 'NO', 'ONE')
      }
    })
    test('F01: one that is down at start is a warning, not the end', async () => {
      const log = ears()
      const redis = producerRedis('redis://127.0.0.1:1', log)
      closing.push(() => redis.disconnect())
      const watch = await watchRedis(redis, log)
      watch.stop()
      expect(watch.last.ok).toBe(false)
      expect(log.lines.filter(([level]) => level === 'warn').length).toBeLessThanOrEqual(2)
    })
    test('K6: a password in the URL is in no log line', async () => {
      const log = ears()
      const redis = producerRedis(Secret.token('redis://:canary-91aa@127.0.0.1:1'), log)
      closing.push(() => redis.disconnect())
      await until(() => log.lines.length > 0)
      expect(JSON.stringify(log.lines, (_, v) => (v instanceof Error ? { ...v, message: v.message } : v))).not.toContain('canary-91aa')
    })
  })

  describe('placing jobs', () => {
    test('a job is placed under its id, and a second one of the same work changes nothing', async () => {
      const queue = await queueOn()
      const job = destroy()
      expect(await queue.enqueue(job)).toBe(true)
      expect(await queue.enqueue(job)).toBe(true)
      const lane = peek(destroyQueue('jwt'))
      expect(await lane.getJobCounts('waiting')).toEqual({ waiting: 1 })
      const placed = await lane.getJob(jobId(job))
      expect(placed?.data).toEqual({ engine: 'jwt', credential: job.credential, version: 1 })
      expect(placed?.opts).toMatchObject({ attempts: 1, removeOnComplete: true, removeOnFail: true })
    })
    test('a later job waits for its time', async () => {
      const queue = await queueOn()
      await queue.enqueue({ name: 'expire', second: 2_000_000_000 }, new Date(Date.now() + 60_000))
      const lane = peek('expire')
      expect(await lane.getJobCounts('delayed', 'waiting')).toEqual({ delayed: 1, waiting: 0 })
      const [job] = await lane.getDelayed()
      expect(job?.delay).toBeGreaterThan(55_000)
      expect(job?.delay).toBeLessThanOrEqual(60_000)
    })
    test('a time that has passed means now', async () => {
      const queue = await queueOn()
      await queue.enqueue({ name: 'expire', second: 1 }, new Date(1_000))
      expect(await peek('expire').getJobCounts('delayed', 'waiting')).toEqual({ delayed: 0, waiting: 1 })
    })
    test('P-facts: what BullMQ refuses as an id, we never make', async () => {
      const lane = peek('facts')
      await expect(lane.add('x', {}, { jobId: 'a:b' })).rejects.toThrow()
      await expect(lane.add('x', {}, { jobId: '123' })).rejects.toThrow()
      await expect(lane.add('x', {}, { jobId: 'x_123' })).resolves.toBeTruthy()
    })

    test('F01: with Redis down nothing is thrown, and the answer is quick', async () => {
      const log = ears()
      const redis = producerRedis('redis://127.0.0.1:1', log)
      const queue = bullmqQueue(redis, { prefix: 'down', log })
      closing.push(() => queue.close())
      const began = performance.now()
      for (let i = 0; i < 200; i++) expect(await queue.enqueue(destroy())).toBe(false)
      expect(performance.now() - began).toBeLessThan(200)
      expect(await queue.health()).toMatchObject({ ok: false })
    })
    test('F02: with Redis half dead each answer comes within half a second, and a thousand do not wait a thousand times', async () => {
      const log = ears()
      const queue = await queueOn(undefined, log)
      expect(await queue.enqueue(destroy())).toBe(true)
      process.kill(pid, 'SIGSTOP')
      try {
        const began = performance.now()
        expect(await queue.enqueue(destroy())).toBe(false)
        expect(performance.now() - began).toBeLessThan(700)
        const then = performance.now()
        for (let i = 0; i < 1_000; i++) expect(await queue.enqueue(destroy())).toBe(false)
        expect(performance.now() - then).toBeLessThan(700)
        expect(log.lines.filter(([level]) => level === 'warn')).toHaveLength(1)
      } finally {
        process.kill(pid, 'SIGCONT')
      }
      await until(() => queue.enqueue(destroy(9)))
    })
    test('F10: a full Redis takes nothing and says so', async () => {
      const queue = await queueOn()
      await queue.enqueue(destroy())
      await control.config('SET', 'maxmemory', '1')
      try {
        expect(await queue.enqueue(destroy())).toBe(false)
      } finally {
        await control.config('SET', 'maxmemory', '0')
      }
      await until(() => queue.enqueue(destroy()))
    })
    test('closed, it takes nothing more and leaves no connection behind', async () => {
      const redis = await producer()
      const queue = bullmqQueue(redis, { prefix: 'closed', log: quiet })
      await queue.enqueue(destroy())
      await queue.close()
      expect(await queue.enqueue(destroy())).toBe(false)
      expect(redis.status).toBe('end')
    })
  })

  describe('working jobs', () => {
    function poolOf(lanes: Lane[], extra: Partial<Parameters<typeof startPool>[1]> = {}): Promise<Pool> {
      return producer().then(redis => {
        const pool = startPool(lanes, { prefix, connect: () => workerRedis(url, quiet), producer: redis, log: quiet, ...extra })
        closing.push(() => pool.close(500))
        return pool
      })
    }

    test('each kind reaches its verb with the ids it carries, and its id is free again', async () => {
      const queue = await queueOn()
      const calls: unknown[] = []
      const broker = {
        expireDue: async () => {
          calls.push('expire')
          return 0
        },
        destroy: async (id: string, version: number | null) => void calls.push([id, version]),
        handleSignal: async (id: string) => void calls.push(id),
      }
      await poolOf([
        { queue: 'expire', process: expireProcessor(broker), concurrency: 1 },
        { queue: destroyQueue('jwt'), process: destroyProcessor(broker), concurrency: 4 },
        { queue: 'signal', process: signalProcessor(broker as never), concurrency: 1 },
      ])
      const job = destroy(5)
      const signal = newId('signal')
      await queue.enqueue({ name: 'expire', second: 1 })
      await queue.enqueue(job)
      await queue.enqueue({ name: 'signal', signal })
      await until(() => calls.length === 3)
      expect(calls).toEqual(expect.arrayContaining(['expire', [job.credential, 5], signal]))
      await until(async () => (await peek(destroyQueue('jwt')).getJob(jobId(job))) === undefined)
      await queue.enqueue(job)
      await until(() => calls.length === 4)
    })
    test('a job that fails is told and leaves its id free for the sweep', async () => {
      const queue = await queueOn()
      const log = ears()
      let tries = 0
      await poolOf(
        [
          {
            queue: destroyQueue('jwt'),
            concurrency: 1,
            process: async () => {
              if (++tries === 1) throw new Error('target down')
            },
          },
        ],
        { log },
      )
      const job = destroy()
      await queue.enqueue(job)
      await until(() => log.lines.some(([, , message]) => message.startsWith('a job failed')))
      await until(async () => (await peek(destroyQueue('jwt')).getJob(jobId(job))) === undefined)
      await queue.enqueue(job)
      await until(() => tries === 2)
    })
    test('a forged payload reaches no verb', async () => {
      await queueOn()
      const log = ears()
      let called = false
      await poolOf(
        [
          {
            queue: destroyQueue('jwt'),
            process: destroyProcessor({
              destroy: async () => {
                called = true
              },
            }),
            concurrency: 1,
          },
        ],
        { log },
      )
      await peek(destroyQueue('jwt')).add('destroy', { engine: 'jwt', credential: '*', version: 1, all: true }, JOB_OPTIONS)
      await until(() => log.lines.some(([, , message]) => message.startsWith('a job failed')))
      expect(called).toBe(false)
    })
    test('F14: a worker that dies twice in a row with the job in hand does not lose it', async () => {
      const queue = await queueOn()
      const name = destroyQueue('jwt')
      await queue.enqueue(destroy())
      const deaths: Promise<void>[] = []
      for (let death = 0; death < 2; death++) {
        let taken: () => void = () => {}
        const inHand = new Promise<void>(resolve => {
          taken = resolve
        })
        // A worker that is cut off while it works: no renewal, no goodbye.
        const connection = workerRedis(url, quiet)
        const doomed = new Worker(
          name,
          () => {
            taken()
            return new Promise<void>(() => {})
          },
          {
            ...WORKER_OPTIONS,
            lockDuration: 200,
            stalledInterval: 100,
            connection,
            prefix,
          },
        )
        doomed.on('error', () => {})
        await inHand
        connection.disconnect()
        deaths.push(doomed.close(true).catch(() => {}))
      }
      let done = 0
      const connection = workerRedis(url, quiet)
      const heir = new Worker(name, async () => void done++, { ...WORKER_OPTIONS, lockDuration: 200, stalledInterval: 100, connection, prefix })
      closing.push(async () => {
        await heir.close(true)
        connection.disconnect()
        await Promise.race([Promise.all(deaths), new Promise(resolve => setTimeout(resolve, 500))])
      })
      await until(() => done === 1)
    })
    test('F08: a deaf worker is found by its heartbeat and replaced, and its job is done; a hearing one is left alone', async () => {
      const queue = await queueOn()
      const done: string[] = []
      let made = 0
      const pool = await poolOf(
        [
          { queue: destroyQueue('jwt'), concurrency: 1, process: async job => void done.push(String(job.id)) },
          { queue: 'expire', concurrency: 1, process: async () => {} },
        ],
        {
          beatMs: 150,
          makeWorker: (lane, process, connection) =>
            // The first one of this lane is connected and never listens.
            new Worker(lane.queue, process, {
              ...WORKER_OPTIONS,
              connection,
              prefix,
              concurrency: 1,
              autorun: !(lane.queue === destroyQueue('jwt') && made++ === 0),
            }),
        },
      )
      const job = destroy()
      await queue.enqueue(job)
      await until(() => done.includes(jobId(job)))
      expect(pool.replaced).toEqual([destroyQueue('jwt')])
      await new Promise(resolve => setTimeout(resolve, 800))
      expect(pool.replaced).toHaveLength(1)
    })
    test('F08: workers hear again after their connections were cut', async () => {
      const queue = await queueOn()
      let done = 0
      await poolOf([{ queue: destroyQueue('jwt'), concurrency: 2, process: async () => void done++ }])
      await queue.enqueue(destroy())
      await until(() => done === 1)
      await control.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
      await until(() => queue.enqueue(destroy()))
      await until(() => done === 2)
    })
    test('a long job is not deafness', async () => {
      const queue = await queueOn()
      let finish: () => void = () => {}
      const pool = await poolOf([{ queue: destroyQueue('jwt'), concurrency: 1, process: () => new Promise<void>(resolve => (finish = resolve)) }], {
        beatMs: 80,
      })
      await queue.enqueue(destroy())
      await new Promise(resolve => setTimeout(resolve, 600))
      expect(pool.replaced).toEqual([])
      finish()
    })
    test('F41: close lets the job in hand end, and does not wait for one that hangs', async () => {
      const queue = await queueOn()
      let ended = 0
      const pool = await poolOf([
        {
          queue: destroyQueue('jwt'),
          concurrency: 2,
          process: async () => {
            await new Promise(resolve => setTimeout(resolve, 300))
            ended++
          },
        },
      ])
      await queue.enqueue(destroy())
      await new Promise(resolve => setTimeout(resolve, 100))
      await pool.close(2_000)
      expect(ended).toBe(1)

      const hanging = await poolOf([{ queue: destroyQueue('jwt'), concurrency: 2, process: () => new Promise<void>(() => {}) }])
      await queue.enqueue(destroy())
      await new Promise(resolve => setTimeout(resolve, 100))
      const began = performance.now()
      await hanging.close(300)
      expect(performance.now() - began).toBeLessThan(2_500)
    })
    test('10,000 jobs are placed and worked without a loss', async () => {
      const queue = await queueOn()
      let done = 0
      await poolOf([{ queue: destroyQueue('jwt'), concurrency: 16, process: async () => void done++ }])
      const began = performance.now()
      for (let i = 0; i < 100; i++) expect((await Promise.all(Array.from({ length: 100 }, () => queue.enqueue(destroy())))).every(Boolean)).toBe(true)
      await until(() => done === 10_000, 60_000)
      console.log(`10,000 jobs placed and worked in ${((performance.now() - began) / 1000).toFixed(1)} s`)
    })
  })

  describe('the doorbell', () => {
    test('rings everyone who listens, with nothing but a hint', async () => {
      const [a, b] = [redisDoorbell(await producer(), { log: quiet }), redisDoorbell(await producer(), { log: quiet })]
      closing.push(
        () => a.close(),
        () => b.close(),
      )
      let rings = 0
      b.listen(() => rings++)
      await until(() => rings === 1)
      await a.publish(42)
      await until(() => rings === 2)
    })
    test('T: what a stranger writes into the channel is only a ring', async () => {
      const bell = redisDoorbell(await producer(), { log: quiet })
      closing.push(() => bell.close())
      const rung: unknown[][] = []
      bell.listen((...all: unknown[]) => rung.push(all))
      await until(() => rung.length === 1)
      await control.publish(DOORBELL_CHANNEL, '{"kind":"all","key":"*"}')
      await until(() => rung.length === 2)
      expect(rung).toEqual([[], []])
    })
    test('rings once after the line was cut, because rings may have been missed', async () => {
      const bell = redisDoorbell(await producer(), { log: quiet })
      closing.push(() => bell.close())
      let rings = 0
      bell.listen(() => rings++)
      await until(() => rings === 1)
      await control.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
      await until(() => rings === 2)
      await bell.publish(1)
      await until(() => rings === 3)
    })
    test('a listener that throws silences nobody', async () => {
      const log = ears()
      const bell = redisDoorbell(await producer(), { log })
      closing.push(() => bell.close())
      let rings = 0
      bell.listen(() => {
        throw new Error('boom')
      })
      bell.listen(() => rings++)
      await until(() => rings >= 1)
      expect(log.lines.some(([level]) => level === 'error')).toBe(true)
    })
    test('F01: with Redis down publish neither throws nor waits', async () => {
      const redis = producerRedis('redis://127.0.0.1:1', quiet)
      const bell = redisDoorbell(redis, { log: quiet })
      const began = performance.now()
      await bell.publish(1)
      expect(performance.now() - began).toBeLessThan(20)
      await bell.close()
    })
  })
})

test('the doorbell in memory rings its listeners, and nobody after close', async () => {
  const bell = memoryDoorbell()
  let rings = 0
  const stop = bell.listen(() => rings++)
  await bell.publish(1)
  expect(rings).toBe(0)
  await new Promise(resolve => setImmediate(resolve))
  expect(rings).toBe(1)
  stop()
  await bell.publish(2)
  await new Promise(resolve => setImmediate(resolve))
  expect(rings).toBe(1)
})
