/** Owns looking into a queue from outside, and what a case does to it: a Redis of its own, so that no other case's worker takes its jobs. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Job, Queue } from 'bullmq'
import { producerRedis } from '../../src/clients/redis.js'
import { isAbsent } from '../../src/dev/find.js'
import { type Redis, startRedis } from '../../src/dev/redis.js'
import { destroyQueue } from '../../src/queue/jobs.js'
import type { World } from './world.js'

export const DESTROY_QUEUE = destroyQueue('vault-database')
/** What the configuration of these worlds leaves at its default. */
export const PREFIX = 'curfew'

export async function redisOf(world: World, name: string): Promise<Redis> {
  const redis = await startRedis({ dir: join(world.dir, `redis-${name}`), own: true })
  if (isAbsent(redis)) throw new Error(redis.absent)
  return redis
}

export interface Hand {
  readonly queue: Queue
  readonly job: (id: string) => Promise<Job | undefined>
  /** Nothing waits, nothing is in hand, nothing is kept. */
  readonly isEmpty: () => Promise<boolean>
  close(): Promise<void>
}

export async function handOn(url: string, name: string): Promise<Hand> {
  const connection = producerRedis(url, { info: () => {}, warn: () => {}, error: () => {} })
  // A queue keeps the failure of its first command, and this connection keeps none waiting.
  await when('the queue can be looked into', () => connection.status === 'ready')
  const queue = new Queue(name, { connection, prefix: PREFIX, skipWaitingForReady: true })
  queue.on('error', () => {})
  return {
    queue,
    job: id => queue.getJob(id) as Promise<Job | undefined>,
    // A heartbeat of the worker may lie there; it is no work.
    isEmpty: async () => (await queue.getJobs(['active', 'waiting', 'delayed', 'failed', 'completed'])).every(job => !job || job.name === 'beat'),
    async close() {
      await queue.close().catch(() => {})
      connection.disconnect()
    },
  }
}

/** Asks until it is so, or fails by the name of what it waited for. */
export async function when(what: string, isSo: () => Promise<boolean> | boolean, ms = 15_000): Promise<void> {
  for (const since = performance.now(); !(await isSo()); await sleep(20)) if (performance.now() - since > ms) throw new Error(`it never came to this: ${what}`)
}

/**
 * What earlier cases left waiting for a listing is looked at every 5 s, by whoever sweeps: not by the workers of a case that stop or die at the first row.
 * @param but this row.
 */
export async function putOff(world: World, but = ''): Promise<void> {
  // Also of a worker that was killed over it, whose claim runs out meanwhile.
  await world.rows(
    'store',
    `update curfew.credentials
     set next_attempt_at = greatest(next_attempt_at, curfew.now() + interval '90 s'), version = version + case when claimed_until is null then 1 else 0 end
     where state in ('revoking', 'stuck') and id <> $1`,
    [but],
  )
}

/** A worker's first sweep comes at its start, and would do the work of a case's job. */
export const FIRST_SWEEP_MS = 1_000

export interface Row {
  readonly id: string
  readonly state: string
  readonly version: number
  readonly claimed: boolean
  readonly attempts: number
  /** Epoch milliseconds. */
  readonly revokingAt: number | null
  readonly revokedAt: number | null
  readonly expiresAt: number
  /** Audit rows that tell of its death. */
  readonly successes: number
}

export async function rowOf(world: World, task: string): Promise<Row> {
  const ms = (column: string, as: string) => `extract(epoch from ${column})::float8 * 1000 as "${as}"`
  const [row] = await world.rows<Row & { revokingAt: number }>(
    'store',
    `select id, state, version, claimed_until is not null as claimed, attempts,
            ${ms('revoking_at', 'revokingAt')}, ${ms('revoked_at', 'revokedAt')}, ${ms('expires_at', 'expiresAt')},
            (select count(*)::int from curfew.audit a where a.subject = c.id and a.kind = 'credential.revoked') as successes
     from curfew.credentials c where task = $1`,
    [task],
  )
  if (!row) throw new Error(`${task} has no credential`)
  return row
}
