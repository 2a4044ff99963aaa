/** Owns the obvious way, one BullMQ job per credential, as a worker process of its own; and the placing of our one job per second. */
import { pathToFileURL } from 'node:url'
import { type Job, Queue, Worker } from 'bullmq'
import { Redis } from 'ioredis'
import { byBroker } from '../src/domain/revocation.js'
import { bullmqQueue } from '../src/queue/bullmq.js'
import { closeRows } from '../src/store/closing.js'
import { postgresDriver } from '../src/store/postgres.js'
import { sqlOver } from '../src/store/sql.js'

const QUEUE = 'each'
const KEPT = { attempts: 1, removeOnComplete: true, removeOnFail: true } as const
const silent = { info: () => {}, warn: () => {}, error: () => {} }

/** What issuing does for the second in which something ends. */
export async function hurried(redisUrl: string, second: number): Promise<void> {
  const redis = new Redis(redisUrl)
  await redis.ping()
  const queue = bullmqQueue(redis, { prefix: 'curfew', log: silent })
  if (!(await queue.enqueue({ name: 'expire', second }, new Date(second * 1000)))) throw new Error('the job was not placed')
  await queue.close()
}

/** A delayed job for each; answers how many a second could be added. */
export async function addEach(redisUrl: string, ids: readonly string[], at: number): Promise<number> {
  const connection = new Redis(redisUrl, { maxRetriesPerRequest: null })
  const queue = new Queue(QUEUE, { connection, prefix: 'bench' })
  const began = performance.now()
  for (let i = 0; i < ids.length; i += 1_000)
    await queue.addBulk(
      ids.slice(i, i + 1_000).map(id => ({ name: 'close', data: { id }, opts: { ...KEPT, jobId: `close_${id}`, delay: Math.max(0, at - Date.now()) } })),
    )
  const seconds = (performance.now() - began) / 1000
  await queue.close()
  connection.disconnect()
  return ids.length / seconds
}

/** The same statement and the same evidence as ours, a transaction each. */
function work(redisUrl: string, storeUrl: string): void {
  const sql = sqlOver(postgresDriver({ url: storeUrl, maxConnections: 16, log: silent }))
  const close = async (job: Job<{ id: string }>) => {
    await sql.tx(tx => closeRows(tx, [{ id: job.data.id, reason: 'expired', revocation: null }], byBroker('expire'), null))
  }
  const worker = new Worker(QUEUE, close, { connection: new Redis(redisUrl, { maxRetriesPerRequest: null }), prefix: 'bench', concurrency: 64 })
  worker.on('error', () => {})
  worker.waitUntilReady().then(() => process.stdout.write('working\n'))
}

const [, self, redisUrl, storeUrl] = process.argv
if (self && import.meta.url === pathToFileURL(self).href && redisUrl && storeUrl) work(redisUrl, storeUrl)
