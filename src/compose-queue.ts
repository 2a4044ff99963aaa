/** Owns the choice of what hurries: Redis with BullMQ and a doorbell, or this process's memory. */
import type { Log } from './broker/deps.js'
import type { Config } from './config-schema.js'
import type { JobQueue, RevocationPublisher } from './ports.js'
import { memoryQueue } from './queue/memory.js'

/** Rings nobody: with one process there is no other to tell. */
const silent: RevocationPublisher = { publish: async () => {}, close: async () => {} }

export async function composeQueue(config: Config, log: Log): Promise<{ queue: JobQueue; publisher: RevocationPublisher }> {
  switch (config.queue.kind) {
    case 'memory':
      return { queue: memoryQueue(), publisher: silent }
    case 'redis': {
      // Half a second of imports that a house without Redis never needs.
      const [{ producerRedis }, { redisDoorbell }, { bullmqQueue }] = await Promise.all([import('./clients/redis.js'), import('./feed/doorbell.js'), import('./queue/bullmq.js')])
      const url = config.queue.url.reveal().token as string
      return { queue: bullmqQueue(producerRedis(url, log), { prefix: config.queue.prefix, log }), publisher: redisDoorbell(producerRedis(url, log), { log }) }
    }
    default:
      return config.queue satisfies never
  }
}
