/** Owns getting a Redis: a named one, an installed one, the cached one, or Debian's packages unpacked without root. */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Absent, cacheDir, environment, findProgram, setting } from './find.js'
import { freePort, start } from './process.js'

const run = promisify(execFile)

export interface Redis {
  readonly url: string
  /** Where it came from, for people. */
  readonly from: string
  readonly pid: number | null
  stop(): Promise<void>
}

interface Program {
  readonly path: string
  readonly from: string
  readonly libraries?: string
}

const PACKAGES = ['redis-server', 'redis-tools', 'libjemalloc2', 'liblzf1', 'libatomic1']

/** @param dir a directory of its own, for data and log. */
export async function startRedis(options: { dir: string; detached?: boolean }): Promise<Redis | Absent> {
  const named = setting('REDIS_URL')
  if (named) return { url: named, from: 'REDIS_URL', pid: null, stop: async () => {} }
  const program = await findRedis()
  if ('absent' in program) return program
  mkdirSync(options.dir, { recursive: true, mode: 0o700 })
  const port = await freePort()
  const started = await start({
    command: program.path,
    args: ['--port', String(port), '--bind', '127.0.0.1', '--dir', options.dir, '--maxmemory-policy', 'noeviction', '--appendonly', 'yes', '--save', '', '--daemonize', 'no'],
    log: join(options.dir, 'redis.log'),
    env: { ...environment(), ...(program.libraries ? { LD_LIBRARY_PATH: program.libraries } : {}) },
    ready: () => answersPing(port),
    ...(options.detached ? { detached: true } : {}),
  })
  return { url: `redis://127.0.0.1:${port}`, from: program.from, pid: started.pid, stop: started.stop }
}

async function findRedis(): Promise<Program | Absent> {
  const installed = findProgram('redis-server', 'valkey-server')
  if (installed) return { path: installed, from: installed }
  const root = join(cacheDir(), 'redis-debian')
  const cached = inside(root)
  if (cached) return cached
  if (setting('CURFEW_OFFLINE')) return { absent: 'no redis-server on the PATH or in the cache, and CURFEW_OFFLINE forbids fetching it' }
  const apt = findProgram('apt-get')
  const dpkg = findProgram('dpkg-deb')
  if (!apt || !dpkg) return { absent: 'no redis-server on the PATH, and no apt-get to fetch one with' }
  try {
    await unpack(apt, dpkg, root)
  } catch {
    return { absent: 'no redis-server on the PATH, and the Debian package could not be fetched' }
  }
  return inside(root) ?? { absent: 'the Debian package holds no redis-server' }
}

function inside(root: string): Program | null {
  const path = ['usr/bin/redis-server', 'usr/bin/redis-check-rdb'].map(p => join(root, p)).find(existsSync)
  if (!path) return null
  const lib = join(root, 'usr/lib')
  const triplets = existsSync(lib) ? readdirSync(lib).map(d => join(lib, d)) : []
  return { path: join(root, 'usr/bin/redis-server'), from: `${root} (unpacked, not installed)`, libraries: triplets.join(':') }
}

/** Debian's own packages, their signatures checked by apt, laid out in the cache; nothing is installed. Atomic: unpacked aside, then named. */
async function unpack(apt: string, dpkg: string, root: string): Promise<void> {
  const work = `${root}.${process.pid}`
  rmSync(work, { recursive: true, force: true })
  mkdirSync(join(work, 'out'), { recursive: true })
  try {
    await run(apt, ['-q', 'download', ...PACKAGES], { cwd: work, timeout: 60_000 }).catch(() => downloadWithOwnLists(apt, work))
    for (const name of readdirSync(work).filter(n => n.endsWith('.deb'))) await run(dpkg, ['-x', join(work, name), join(work, 'out')])
    renameSync(join(work, 'out'), root)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

/** A bare image has no package lists, and an ordinary user may not fetch them where they belong. */
async function downloadWithOwnLists(apt: string, work: string): Promise<void> {
  const lists = join(work, 'lists')
  const cache = join(work, 'cache')
  mkdirSync(join(lists, 'partial'), { recursive: true })
  mkdirSync(join(cache, 'archives', 'partial'), { recursive: true })
  const own = ['-o', `Dir::State::lists=${lists}`, '-o', `Dir::Cache=${cache}`]
  await run(apt, [...own, '-q', 'update'], { cwd: work, timeout: 120_000 })
  await run(apt, [...own, '-q', 'download', ...PACKAGES], { cwd: work, timeout: 120_000 })
}

function answersPing(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1', () => socket.write('PING\r\n'))
    socket.once('data', data => {
      socket.destroy()
      resolve(data.toString().startsWith('+PONG'))
    })
    socket.once('error', () => resolve(false))
  })
}
