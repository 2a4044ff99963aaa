/** Owns having a Redis: the one that REDIS_URL names, or a private one on a free port. */
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { type Absent, type Found, isAbsent, isOffline, onPath, setting, unpackedRedis } from './find.js'
import { lastingSecret, writePrivate } from './folder.js'
import { freePort } from './ports.js'
import { type ProcessMark, startProcess } from './process.js'
import { libraryPath, unpackRedis, versionOf } from './redis-unpack.js'

export interface Redis {
  readonly url: string
  /** 0 when it is not ours, as is `pid`. */
  readonly port: number
  readonly pid: number
  readonly version: string
  /** For people: "REDIS_URL", "PATH", a folder of the cache. */
  readonly origin: string
  /** Undefined when it is not ours. */
  readonly mark?: ProcessMark
  /** Ends it when it is ours; start it again with the same folder and port to see it come back with its data. */
  stop(): Promise<void>
}

export interface RedisOptions {
  readonly dir: string
  /** Private in any case, even when REDIS_URL is set: for tests that stop or empty it. */
  readonly own?: boolean
  readonly port?: number
  readonly keep?: boolean
  readonly signal?: AbortSignal | undefined
}

export async function startRedis(options: RedisOptions): Promise<Redis | Absent> {
  const url = setting('REDIS_URL')
  if (url && !options.own) return { url, port: 0, pid: 0, version: '', origin: 'REDIS_URL', stop: async () => {} }

  const found = await findRedis(options.signal)
  if (isAbsent(found)) return found
  const env = libraryPath(found)
  const version = await versionOf(found.command, env)
  const port = options.port ?? (await freePort())
  const password = lastingSecret(options.dir, 'password')
  const config = join(options.dir, 'redis.conf')
  // In a file, because arguments can be read by every user of the machine.
  writePrivate(
    config,
    [
      'bind 127.0.0.1',
      `port ${port}`,
      `dir "${options.dir}"`,
      `requirepass ${password}`,
      'appendonly yes',
      'save ""',
      'maxmemory-policy noeviction', // BullMQ's demand: an evicted key is a lost job
      'daemonize no',
    ].join('\n'),
  )
  const child = await startProcess({
    name: 'redis',
    command: found.command,
    args: [config],
    dir: options.dir,
    env,
    ready: signal => answersPing(port, password, signal),
    deadlineMs: 20_000,
    keep: options.keep,
    signal: options.signal,
  })
  return { url: `redis://:${password}@127.0.0.1:${port}`, port, pid: child.mark.pid, version, origin: found.origin, mark: child.mark, stop: child.stop }
}

/** In the order of ux.md 4, up to fetching it. */
export async function findRedis(signal?: AbortSignal): Promise<Found | Absent> {
  const installed = onPath('redis-server', 'valkey-server')
  if (installed) return installed
  const unpacked = unpackedRedis()
  if (unpacked) return { command: join(unpacked, 'usr/bin/redis-server'), origin: unpacked }
  if (isOffline()) return { absent: 'redis-server is not on the PATH nor in the cache, and CURFEW_OFFLINE=1 forbids to fetch it' }
  return unpackRedis(signal)
}

/** Spoken by hand, so that waiting needs no client that reconnects. `-LOADING` while it reads its file is a "not yet". */
function answersPing(port: number, password: string, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ port, host: '127.0.0.1' }, () => socket.write(`AUTH ${password}\r\nPING\r\n`))
    signal.addEventListener('abort', () => socket.destroy(new Error('no answer')), { once: true })
    let answer = ''
    socket.setEncoding('utf8').on('data', (text: string) => {
      answer += text
      if (answer.split('\r\n').length < 3) return
      socket.destroy()
      resolve(answer === '+OK\r\n+PONG\r\n')
    })
    socket.once('error', reject).once('close', () => resolve(false))
  })
}
