/** Owns the exclusive lock on a data directory: two processes that open one embedded database lose rows without an error. */
import { randomUUID } from 'node:crypto'
import { linkSync, mkdirSync, readFileSync, readlinkSync, renameSync, unlinkSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { CurfewError } from '../domain/errors.js'

interface Owner {
  readonly pid: number
  /** The kernel's start time of that process: a pid alone is reused. Null where there is no /proc. */
  readonly started: string | null
  readonly host: string
  readonly boot: string | null
  /** Where that pid means anything: another container's process 1 is not ours. Null where there is no /proc. */
  readonly space: string | null
  readonly nonce: string
}

/** Longer than the few system calls between finding a dead lock and moving it away. */
const SETTLE_MS = 25
const ATTEMPTS = 5

/** @throws CurfewError(unavailable, `store_locked`) when another process holds it. Answers how to give it back. */
export async function lockDirectory(dir: string): Promise<() => void> {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const path = join(dir, 'lock')
  const own: Owner = { pid: process.pid, started: startOf(process.pid), host: hostname(), ...placeOf(), nonce: randomUUID() }
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (create(path, own)) {
      // Somebody who judged an older, dead lock at this path may be about to move what is there now; whoever is there afterwards holds it.
      await sleep(SETTLE_MS)
      if (isOf(read(path), own)) return () => release(path, own)
      continue
    }
    const other = read(path)
    if (other === 'gone') continue
    if (other === null) throw refused('its lock file cannot be read', path)
    // This machine has been started anew since: nothing of then is alive.
    const rebooted = own.host === other.host && own.boot !== other.boot
    if (!rebooted && own.space !== other.space) throw refused(`process ${other.pid} of another container or host has opened it`, path)
    if (!rebooted && alive(other)) throw refused(`process ${other.pid} has opened it`, path)
    bury(path, other)
  }
  throw refused('its lock could not be taken', path)
}

const refused = (why: string, path: string) =>
  new CurfewError('unavailable', `the data directory is in use (${why}): embedded mode is for one process`, {
    reason: 'store_locked',
    next: `stop that process, or use PostgreSQL to run several; if nothing runs, remove ${path}`,
  })

/** As exclusive as O_EXCL, and never seen half-written: the name appears together with its content. */
function create(path: string, own: Owner): boolean {
  const draft = `${path}.${own.nonce}`
  writeFileSync(draft, JSON.stringify(own), { mode: 0o600, flag: 'wx' })
  try {
    linkSync(draft, path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  } finally {
    unlinkSync(draft)
  }
}

/** Moves the dead lock away, and puts it back if in the meantime it has become somebody's live one. */
function bury(path: string, dead: Owner): void {
  const grave = `${path}.${randomUUID()}`
  try {
    renameSync(path, grave)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  const moved = read(grave)
  try {
    if (!isOf(moved, dead)) linkSync(grave, path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    unlinkSync(grave)
  }
}

const isOf = (there: Owner | null | 'gone', owner: Owner): boolean => there !== null && there !== 'gone' && there.nonce === owner.nonce

function release(path: string, own: Owner): void {
  if (isOf(read(path), own)) unlinkSync(path)
}

function read(path: string): Owner | null | 'gone' {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'gone' : null
  }
  try {
    const owner = JSON.parse(text) as Owner
    return Number.isSafeInteger(owner.pid) ? owner : null
  } catch {
    return null
  }
}

function alive(owner: Owner): boolean {
  try {
    process.kill(owner.pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false
  }
  return owner.started === null || startOf(owner.pid) === owner.started
}

function startOf(pid: number): string | null {
  try {
    // Field 22 of /proc/<pid>/stat; the command name before it may hold spaces and parentheses.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null
  } catch {
    return null
  }
}

function placeOf(): { boot: string | null; space: string | null } {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    return { boot, space: `${boot} ${readlinkSync('/proc/self/ns/pid')}` }
  } catch {
    return { boot: null, space: null }
  }
}
