/** Owns the producer's side of BullMQ: jobs placed within half a second or not at all, which the sweep then finds. */
import { Queue } from 'bullmq'
import { closeRedis, type Redis, type RedisLog, type RedisWatch } from '../clients/redis.js'
import { untilLate } from '../domain/deadline.js'
import type { JobQueue } from '../ports.js'
import { ENQUEUE_DEADLINE_MS, JOB_OPTIONS, jobId, payloadOf, queueOf } from './jobs.js'

export interface BullmqOptions {
  /** Of every key; no `:`. */
  readonly prefix: string
  readonly log: RedisLog
  /** For the delay of later jobs; default is this process's clock. An early job finds nothing due, a late one was the sweep's (F13). */
  readonly now?: () => Date
  /** Its last answer is part of our health. */
  readonly watch?: RedisWatch
}

/** After a failure nobody waits again for so long: a thousand revocations must not wait half a second each for a dead Redis. Milliseconds. */
const REST_MS = 1_000

/** Takes over the connection and closes it. */
export function bullmqQueue(redis: Redis, options: BullmqOptions): JobQueue {
  const queues = new Map<string, Queue>()
  const now = options.now ?? (() => new Date())
  let restUntil = 0
  let closed = false

  function queueFor(name: string): Queue {
    const known = queues.get(name)
    if (known) return known
    const queue = new Queue(name, { connection: redis, prefix: options.prefix, skipWaitingForReady: true })
    // The connection tells its own troubles; without a listener this would end the process.
    queue.on('error', () => {})
    queues.set(name, queue)
    return queue
  }

  return {
    async enqueue(job, at) {
      if (closed || redis.status !== 'ready' || performance.now() < restUntil) return false
      try {
        const delay = at ? Math.max(0, at.getTime() - now().getTime()) : 0
        const added = queueFor(queueOf(job)).add(job.name, payloadOf(job), { ...JOB_OPTIONS, jobId: jobId(job), ...(delay > 0 ? { delay } : {}) })
        // A timeout is ambiguous, never "did not happen" (F03): the id makes a second add harmless, and so is a job without work.
        await within(added, ENQUEUE_DEADLINE_MS)
        return true
      } catch (err) {
        if (performance.now() >= restUntil && !closed) options.log.warn({ err, job: job.name }, 'a job was not placed: the sweep will find its row')
        restUntil = performance.now() + REST_MS
        return false
      }
    },
    async health() {
      if (closed) return { ok: false, detail: 'closed' }
      if (redis.status !== 'ready') return { ok: false, detail: `redis is ${redis.status}` }
      try {
        await within(redis.ping(), ENQUEUE_DEADLINE_MS)
      } catch {
        return { ok: false, detail: 'redis does not answer' }
      }
      const last = options.watch?.last
      return last ? { ok: last.ok, detail: last.detail } : { ok: true, detail: 'redis answers' }
    },
    async close() {
      closed = true
      options.watch?.stop()
      await within(Promise.all([...queues.values()].map(queue => queue.close())), 1_000).catch(() => {})
      await closeRedis(redis)
    },
  }
}

/** The loser of the race ends by its own command limit. */
const within = <T>(work: Promise<T>, ms: number) => untilLate(work, ms, () => new Error(`no answer within ${ms} ms`))
