/** Owns how we connect to Redis, how that fails, and whether this Redis may carry our jobs: two constructors, because producer and worker want opposite manners. */
import { Redis } from 'ioredis'
import { CurfewError } from '../domain/errors.js'
import { Secret } from '../domain/secret.js'

export type { Redis } from 'ioredis'

export interface RedisLog {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** For what a request waits for: answers or fails within half a second, queues nothing in memory, and sends only what may run twice. */
export function producerRedis(url: Secret | string, log: RedisLog): Redis {
  return told(
    new Redis(textOf(url), {
      enableOfflineQueue: false,
      maxRetriesPerRequest: 1,
      commandTimeout: 500,
      connectTimeout: 1_000,
      // `false` leaves the promise of a command in flight pending for ever (ioredis 6.0.0): hence idempotent commands only (F06).
      autoResendUnfulfilledCommands: true,
    }),
    log,
    'producer',
  )
}

/** For workers and listeners: waits for Redis as long as it takes. No command limit, because a blocking read is one command. */
export function workerRedis(url: Secret | string, log: RedisLog): Redis {
  return told(new Redis(textOf(url), { maxRetriesPerRequest: null }), log, 'worker')
}

/** The URL holds our own password: it is revealed to the client library and nowhere else. */
const textOf = (url: Secret | string) => (url instanceof Secret ? (url.reveal().token ?? '') : url)

/** One line when a connection is lost and one when it is back, not one an attempt. Without a listener ioredis would write to the console itself. */
function told(redis: Redis, log: RedisLog, role: string): Redis {
  let lost = false
  redis.on('error', (err: Error) => {
    if (!lost) log.warn({ err, role }, 'redis is not reachable: revocations ride on the sweep')
    lost = true
  })
  redis.on('close', () => {
    lost = true
  })
  redis.on('ready', () => {
    if (lost) log.info({ role }, 'redis is reachable')
    lost = false
  })
  return redis
}

export interface RedisReport {
  readonly ok: boolean
  /** One line for people. */
  readonly detail: string
  /** Reasons not to use this Redis at all. */
  readonly problems: readonly string[]
  readonly warnings: readonly string[]
}

/** The oldest upstream release with the fixes for CVE-2025-49844 and CVE-2026-23479. Distributions patch older ones, so this only warns. */
const VERSION_FLOOR = [8, 6, 3]
/** BullMQ's scripts and our pub/sub need no more; below it nothing was ever run. */
const OLDEST = [6, 2, 0]

/** Asks the server about itself. Throws what the connection throws. */
export async function checkRedis(redis: Redis): Promise<RedisReport> {
  // One INFO answers everything and needs no right to CONFIG.
  const info = new Map(
    (await redis.info())
      .split('\r\n')
      .filter(line => line.includes(':'))
      .map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]),
  )
  const policy = info.get('maxmemory_policy') ?? 'unknown'
  const version = info.get('redis_version') ?? info.get('valkey_version') ?? 'unknown'
  const role = info.get('role') ?? 'unknown'
  const server = info.get('server_name') === 'valkey' ? 'valkey' : 'redis'
  const problems: string[] = []
  const warnings: string[] = []
  // An evicting Redis acknowledges jobs and forgets them without an error (security.md 3.1).
  if (policy !== 'noeviction') problems.push(`maxmemory-policy is ${policy}, must be noeviction: this server may drop jobs without an error`)
  if (role !== 'master') problems.push(`it is a ${role}: jobs can only be written to a primary`)
  if (isOlder(version, OLDEST)) problems.push(`version ${version} is older than ${OLDEST.join('.')}`)
  else if (server === 'redis' && isOlder(version, VERSION_FLOOR))
    warnings.push(`version ${version}: make sure that this package has the fixes for CVE-2025-49844 and CVE-2026-23479 (upstream ${VERSION_FLOOR.join('.')})`)
  if (info.get('aof_enabled') !== '1') warnings.push('no append-only file: a restart forgets the waiting jobs, and the sweep works them late')
  if (info.get('loading') === '1') warnings.push('still loading its data')
  const detail = `${server} ${version}, ${role}, ${policy}, ${info.get('aof_enabled') === '1' ? 'AOF' : 'no AOF'}`
  return { ok: problems.length === 0, detail: problems.length === 0 ? detail : problems.join('; '), problems, warnings }
}

function isOlder(version: string, floor: readonly number[]): boolean {
  const parts = version.split('.').map(Number)
  for (const [i, least] of floor.entries()) {
    const part = parts[i] ?? 0
    if (!(part >= least)) return true
    if (part > least) return false
  }
  return false
}

export interface RedisWatch {
  /** The last answer; asked again each minute. */
  readonly last: RedisReport
  stop(): void
}

/** How long the first answer is awaited: a Redis that is down at start is no reason to stay down with it (F01). Milliseconds. */
const FIRST_ANSWER_MS = 2_000

/**
 * Looks at start and each minute (F11).
 * @throws CurfewError(malformed) when a server that answers must not be used; one that does not answer is only a warning.
 */
export async function watchRedis(redis: Redis, log: RedisLog, everyMs = 60_000): Promise<RedisWatch> {
  let last = await look(FIRST_ANSWER_MS)
  if (last.problems.length > 0) {
    throw new CurfewError('malformed', `this Redis must not carry jobs: ${last.problems.join('; ')}`, { reason: 'redis_refused', field: 'queue.url' })
  }
  for (const warning of last.warnings) log.warn({ warning }, 'redis')
  const timer = setInterval(async () => {
    const before = last
    last = await look(FIRST_ANSWER_MS)
    if (last.problems.length > 0) log.error({ problems: last.problems }, 'this redis must not carry jobs any more')
    else if (before.problems.length > 0) log.info({}, 'this redis may carry jobs again')
  }, everyMs).unref()

  async function look(waitMs: number): Promise<RedisReport> {
    try {
      await readyWithin(redis, waitMs)
      return await checkRedis(redis)
    } catch {
      return { ok: false, detail: 'does not answer', problems: [], warnings: ['does not answer'] }
    }
  }

  return {
    get last() {
      return redis.status === 'ready' ? last : { ...last, ok: false, detail: 'not connected' }
    },
    stop: () => clearInterval(timer),
  }
}

/** Resolves when the connection is usable, rejects when it is not within the time. */
export async function readyWithin(redis: Redis, ms: number): Promise<void> {
  if (redis.status === 'ready') return
  await new Promise<void>((resolve, reject) => {
    const done = (end: () => void) => {
      clearTimeout(timer)
      redis.off('ready', isReady)
      redis.off('end', ended)
      end()
    }
    const isReady = () => done(resolve)
    const ended = () => done(() => reject(new Error('the connection was closed')))
    const timer = setTimeout(() => done(() => reject(new Error('redis does not answer'))), ms)
    redis.on('ready', isReady)
    redis.on('end', ended)
  })
}

/** Ends a connection: politely when it answers, by force when it does not; resolves when it is gone. Never throws, never longer than about a second. */
export async function closeRedis(redis: Redis): Promise<void> {
  if (redis.status === 'end') return
  const gone = new Promise<void>(resolve => {
    redis.once('end', resolve)
  })
  const force = setTimeout(() => redis.disconnect(), 1_000)
  if (redis.status === 'ready') await redis.quit().catch(() => {})
  redis.disconnect()
  let late: NodeJS.Timeout | undefined
  await Promise.race([
    gone,
    new Promise<void>(resolve => {
      late = setTimeout(resolve, 1_200)
    }),
  ])
  clearTimeout(force)
  clearTimeout(late)
}
