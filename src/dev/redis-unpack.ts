/** Owns Redis without root on Debian and Ubuntu: fetched by apt (which checks the signatures), unpacked into the cache, not installed. */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Absent, cacheDir, type Found, inherited, onPath } from './find.js'

const run = promisify(execFile)
const PACKAGES = ['redis-server', 'redis-tools']
const SERVER = 'usr/bin/redis-server'

/** An unpacked copy finds its libraries beside it; an installed one needs nothing. */
export function libraryPath(redis: Found): Record<string, string> {
  if (!redis.command.startsWith(cacheDir())) return {}
  const lib = join(redis.command, '../../lib')
  const folders = existsSync(lib) ? readdirSync(lib).filter(name => name.endsWith('-linux-gnu')) : []
  return { LD_LIBRARY_PATH: [...folders.map(name => join(lib, name)), lib].join(':') }
}

export async function versionOf(command: string, env: Record<string, string>): Promise<string> {
  const { stdout } = await run(command, ['--version'], { env: inherited(env) })
  return /v=([\w.]+)/.exec(stdout)?.[1] ?? 'unknown'
}

export async function unpackRedis(signal?: AbortSignal): Promise<Found | Absent> {
  if (!onPath('apt-get') || !onPath('dpkg-deb'))
    return { absent: 'redis-server is not on the PATH, and without apt there is no fetching it: install Redis or Valkey' }
  mkdirSync(cacheDir(), { recursive: true })
  const work = mkdtempSync(join(cacheDir(), '.redis-'))
  try {
    const version = await unpackInto(work, signal)
    const target = join(cacheDir(), `redis-${version}`)
    try {
      renameSync(join(work, 'root'), target)
    } catch (cause) {
      if (!existsSync(join(target, SERVER))) throw cause // else another process was quicker, with the same packages
    }
    return { command: join(target, SERVER), origin: target }
  } catch (cause) {
    signal?.throwIfAborted()
    return { absent: `redis-server is not on the PATH, and fetching it by apt-get failed: ${firstLine(cause)}` }
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

async function unpackInto(work: string, signal?: AbortSignal): Promise<string> {
  const root = join(work, 'root')
  mkdirSync(root)
  const apt = await packageLists(work, signal)
  await fetch(apt, PACKAGES, work, root, signal)
  const lacking = await missingLibraries(join(root, SERVER))
  if (lacking.length > 0) {
    await fetch(apt, await packagesFor(lacking, apt), work, root, signal)
    const still = await missingLibraries(join(root, SERVER), libraryPath({ command: join(root, SERVER), origin: '' }))
    if (still.length > 0) throw new Error(`no package for ${still.join(', ')}`)
  }
  const name = readdirSync(work).find(file => file.startsWith('redis-tools_')) ?? ''
  return (name.split('_')[1] ?? 'unknown').replace(/^\d+%3a/, '').replace(/[^\w.-]/g, '-')
}

/** Slim images come without package lists: then we keep lists of our own for the moment. */
async function packageLists(work: string, signal?: AbortSignal): Promise<readonly string[]> {
  const { stdout } = await run('apt-cache', ['policy', 'redis-tools'])
  if (/Candidate: [^(\s]/.test(stdout)) return []
  const lists = join(work, 'lists')
  const cache = join(work, 'cache')
  mkdirSync(join(lists, 'partial'), { recursive: true })
  mkdirSync(join(cache, 'archives/partial'), { recursive: true })
  const own = ['-o', `Dir::State::lists=${lists}`, '-o', `Dir::Cache=${cache}`]
  await run('apt-get', [...own, '-q', 'update'], { timeout: 120_000, ...(signal && { signal }) })
  return own
}

async function fetch(apt: readonly string[], packages: readonly string[], work: string, root: string, signal?: AbortSignal): Promise<void> {
  const before = new Set(readdirSync(work))
  await run('apt-get', [...apt, '-q', 'download', ...packages], { cwd: work, timeout: 120_000, ...(signal && { signal }) })
  for (const file of readdirSync(work)) {
    if (file.endsWith('.deb') && !before.has(file)) await run('dpkg-deb', ['-x', file, root], { cwd: work })
  }
}

async function missingLibraries(binary: string, env: Record<string, string> = {}): Promise<string[]> {
  const { stdout } = await run('ldd', [binary], { env: inherited(env) })
  return [...stdout.matchAll(/^[ \t]*(\S+) => not found/gm)].map(match => match[1] ?? '')
}

/** The dependencies whose names begin like the library: libjemalloc.so.2 is in libjemalloc2, whatever the release calls it. */
async function packagesFor(libraries: readonly string[], apt: readonly string[]): Promise<string[]> {
  const { stdout } = await run('apt-cache', [...apt, 'depends', ...PACKAGES])
  const offered = [...stdout.matchAll(/Depends: (lib[\w.+-]+)/g)].map(match => match[1] ?? '')
  const stems = libraries.map(library => library.replace(/\.so.*/s, ''))
  return [...new Set(offered.filter(name => stems.some(stem => name.startsWith(stem))))]
}

function firstLine(cause: unknown): string {
  const text = cause instanceof Error ? ((cause as { stderr?: string }).stderr || cause.message).trim() : String(cause)
  return text.split('\n').find(line => /^E:/.test(line)) ?? text.split('\n')[0] ?? ''
}
