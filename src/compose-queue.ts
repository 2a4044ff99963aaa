/** Owns the choice of what hurries: Redis with BullMQ and a doorbell, or this process's memory. */
import type { Log } from './broker/deps.js'
import type { Config } from './config-schema.js'
import type { Doorbell } from './feed/doorbell.js'
import { memoryDoorbell } from './feed/memory-doorbell.js'
import type { JobQueue } from './ports.js'
import { memoryQueue } from './queue/memory.js'

export interface Hurrying {
  readonly queue: JobQueue
  readonly doorbell: Doorbell
  close(): Promise<void>
}

/** Throws when a Redis that answers must not carry jobs (an eviction policy that forgets them); one that is down is no reason not to serve. */
export async function composeQueue(config: Config, log: Log): Promise<Hurrying> {
  switch (config.queue.kind) {
    case 'memory': {
      const queue = memoryQueue()
      const doorbell = memoryDoorbell()
      return { queue, doorbell, close: () => queue.close() }
    }
    case 'redis':
      return overRedis(config.queue, log)
    default:
      return config.queue satisfies never
  }
}

async function overRedis(config: Extract<Config['queue'], { kind: 'redis' }>, log: Log): Promise<Hurrying> {
  // Half a second of imports that a house without Redis never needs.
  const [{ closeRedis, producerRedis, watchRedis }, { redisDoorbell }, { bullmqQueue }] = await Promise.all([
    import('./clients/redis.js'),
    import('./feed/doorbell.js'),
    import('./queue/bullmq.js'),
  ])
  const producer = producerRedis(config.url, log)
  const watch = await watchRedis(producer, log).catch(async error => {
    await closeRedis(producer)
    throw error
  })
  const queue = bullmqQueue(producer, { prefix: config.prefix, log, watch })
  const doorbell = redisDoorbell(producerRedis(config.url, log), { log })
  return {
    queue,
    doorbell,
    async close() {
      watch.stop()
      await Promise.all([queue.close(), doorbell.close()])
    },
  }
}
