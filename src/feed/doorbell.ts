/** Owns the doorbell: it tells replicas that a new `seq` exists and nothing else; whoever hears it reads Postgres. */
import { closeRedis, type Redis, type RedisLog } from '../clients/redis.js'
import type { RevocationPublisher } from '../ports.js'

/** The channel holds no key and no entry: a writer of Redis can ring for nothing, and cannot forge a revocation (architecture.md rule 9). */
export const DOORBELL_CHANNEL = 'curfew:seq'

export interface Doorbell extends RevocationPublisher {
  /** Calls `onRing` after every ring, and once whenever the line was cut and is back, because rings may have been missed. Answers how to stop. */
  listen(onRing: () => void): () => void
}

/** Takes over the connection (a producer's) and closes it. Listening has a connection of its own, because a subscriber can do nothing else. */
export function redisDoorbell(redis: Redis, { log }: { readonly log: RedisLog }): Doorbell {
  const hearers = new Set<() => void>()
  let subscriber: Redis | null = null

  function ring(): void {
    for (const hear of hearers) {
      try {
        hear()
      } catch (err) {
        log.error({ err }, 'a listener of the doorbell failed')
      }
    }
  }

  function subscribe(): Redis {
    const line = redis.duplicate({ enableOfflineQueue: true, maxRetriesPerRequest: null, autoResubscribe: false })
    line.on('error', () => {})
    // Subscribed anew at every connect, by hand, so that each one is followed by a ring for what was missed.
    const connect = () => {
      line.subscribe(DOORBELL_CHANNEL).then(ring, (err: unknown) => log.warn({ err }, 'the doorbell is not connected: replicas poll'))
    }
    line.on('ready', connect)
    // What is said is not read: the hint is for people who watch the channel.
    line.on('message', ring)
    return line
  }

  return {
    async publish(seq) {
      if (redis.status === 'ready') redis.publish(DOORBELL_CHANNEL, String(seq)).catch(() => {})
    },
    listen(onRing) {
      hearers.add(onRing)
      subscriber ??= subscribe()
      return () => void hearers.delete(onRing)
    },
    async close() {
      hearers.clear()
      await Promise.all([subscriber ? closeRedis(subscriber) : null, closeRedis(redis)])
    },
  }
}
