/** Owns which queues a worker serves and how many jobs of each at a time. */
import { producerRedis, watchRedis, workerRedis } from '../src/clients/redis.js'
import type { App } from '../src/compose.js'
import type { Config } from '../src/config-schema.js'
import { destroyQueue, EXPIRE_QUEUE, SIGNAL_QUEUE } from '../src/queue/jobs.js'
import { destroyProcessor } from './destroy.js'
import { expireProcessor } from './expire.js'
import { type Lane, type Pool, startPool } from './pool.js'
import { signalProcessor } from './signal.js'

export type RedisQueue = Extract<Config['queue'], { kind: 'redis' }>

/** Destructions of one engine at a time in one process: enough to be quick, few enough for a sick backend. */
const DESTROYS = 16

export async function workQueues(queue: RedisQueue, app: App): Promise<{ readonly queues: string[]; close: Pool['close'] }> {
  const producer = producerRedis(queue.url, app.log)
  const watch = await watchRedis(producer, app.log)
  const lanes: Lane[] = [
    { queue: EXPIRE_QUEUE, process: expireProcessor(app.broker), concurrency: 2 },
    { queue: SIGNAL_QUEUE, process: signalProcessor(app.broker), concurrency: 4 },
    ...[...app.deps.engines.keys()].map(engine => ({ queue: destroyQueue(engine), process: destroyProcessor(app.broker), concurrency: DESTROYS })),
  ]
  const started = startPool(lanes, { prefix: queue.prefix, connect: () => workerRedis(queue.url, app.log), producer, log: app.log })
  return {
    queues: lanes.map(lane => lane.queue),
    async close(graceMs) {
      watch.stop()
      await started.close(graceMs)
      producer.disconnect()
    },
  }
}
