/** Owns a set of running BullMQ Workers: one a queue, each on a connection of its own, replaced when it is deaf, ended within a bound. */
import { type Processor, Queue, Worker } from 'bullmq'
import { closeRedis, type Redis, type RedisLog } from '../src/clients/redis.js'
import { BEAT_JOB, BEAT_MS, WORKER_OPTIONS } from '../src/queue/jobs.js'
import { beat, endWorker, waitingBeat } from './heartbeat.js'

export interface Lane {
  readonly queue: string
  readonly process: Processor
  readonly concurrency: number
}

export interface PoolOptions {
  readonly prefix: string
  /** A fresh connection with a worker's manners. */
  readonly connect: () => Redis
  /** One with a producer's manners, for beats. */
  readonly producer: Redis
  readonly log: RedisLog
  readonly beatMs?: number
  /** Tests put a deaf one here. */
  readonly makeWorker?: (lane: Lane, process: Processor, connection: Redis) => Worker
}

export interface Pool {
  /** Queues whose worker was replaced since the start. */
  readonly replaced: readonly string[]
  /** Stops taking jobs, waits at most this long for those in hand. */
  close(graceMs: number): Promise<void>
}

interface Running {
  readonly lane: Lane
  readonly queue: Queue
  worker: Worker
  connection: Redis
  inHand: number
  /** The beat that already waited at the last look. */
  waited: number | null
}

export function startPool(lanes: readonly Lane[], options: PoolOptions): Pool {
  const { prefix, log } = options
  const beatMs = options.beatMs ?? BEAT_MS
  const replaced: string[] = []
  let closing = false
  let looking = false

  const makeWorker =
    options.makeWorker ??
    ((lane: Lane, process: Processor, connection: Redis) =>
      new Worker(lane.queue, process, { ...WORKER_OPTIONS, connection, prefix, concurrency: lane.concurrency }))

  function start(running: Running): void {
    const { lane } = running
    const process: Processor = async (job, token, signal) => {
      if (job.name === BEAT_JOB) return
      running.inHand++
      try {
        await lane.process(job, token, signal)
      } finally {
        running.inHand--
      }
    }
    running.connection = options.connect()
    running.worker = makeWorker(lane, process, running.connection)
    // The row keeps its own count of failures and its own next attempt: a failed job is only told.
    running.worker.on('failed', (job, err) => log.warn({ err, queue: lane.queue, job: job?.id }, 'a job failed: its row is still due'))
    running.worker.on('error', () => {})
  }

  const pool = lanes.map(lane => {
    const queue = new Queue(lane.queue, { connection: options.producer, prefix, skipWaitingForReady: true })
    queue.on('error', () => {})
    const running = { lane, queue, inHand: 0, waited: null } as unknown as Running
    start(running)
    return running
  })

  async function look(): Promise<void> {
    for (const running of pool) {
      const { lane, queue } = running
      // A Redis that does not answer makes nobody deaf.
      if (closing || options.producer.status !== 'ready') return
      try {
        const waiting = await waitingBeat(queue, lane.queue)
        // The same beat at two looks, and hands free: nobody listens here, in this process or another.
        const deaf = waiting !== null && waiting === running.waited && running.inHand < lane.concurrency
        running.waited = deaf ? null : waiting
        if (deaf) {
          log.error({ queue: lane.queue }, 'a worker does not hear its queue: replaced')
          replaced.push(lane.queue)
          const { worker, connection } = running
          start(running)
          endWorker(worker, 1_000).finally(() => closeRedis(connection))
        }
        await beat(queue, lane.queue)
      } catch (err) {
        log.warn({ err, queue: lane.queue }, 'a heartbeat was not placed')
      }
    }
  }

  const timer = setInterval(async () => {
    if (looking) return
    looking = true
    await look()
    looking = false
  }, beatMs)

  return {
    replaced,
    async close(graceMs) {
      closing = true
      clearInterval(timer)
      await Promise.all(pool.map(running => endWorker(running.worker, graceMs)))
      await Promise.all(pool.map(running => closeRedis(running.connection)))
      await Promise.race([Promise.all(pool.map(running => running.queue.close())), new Promise(resolve => setTimeout(resolve, 500).unref())]).catch(() => {})
    },
  }
}
