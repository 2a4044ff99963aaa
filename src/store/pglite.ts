/** Owns the embedded database: one process, one directory, an exclusive lock taken before it is opened. */
import { closeSync, mkdirSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Transaction } from '@electric-sql/pglite'
import { CurfewError } from '../domain/errors.js'
import { retrying, type Row, type Sql, translate } from './sql.js'

/**
 * Two processes open one directory without an error and lose rows (real-parts.md 5), so the lock is taken first. It survives the
 * death of a process, and promises nothing across a loss of power.
 * @param dir the data directory, or null for one in memory.
 */
export async function pgliteSql(dir: string | null): Promise<Sql> {
  const lock = dir === null ? null : lockDirectory(dir)
  try {
    // Loaded here: 27 MB that a server with a PostgreSQL never needs.
    const { PGlite, types } = await import('@electric-sql/pglite')
    const db = new PGlite({
      ...(dir === null ? {} : { dataDir: join(dir, 'data') }),
      parsers: { [types.INT8]: (v: string) => Number(v), [types.TIMESTAMPTZ]: (v: string) => new Date(v) },
    })
    await db.waitReady
    const held = new Set<string>()

    const over = (tx: Transaction | typeof db) => ({
      async query<R extends Row>(text: string, params: readonly unknown[] = []): Promise<R[]> {
        return (await tx.query<R>(text, params.map(bindable))).rows
      },
    })
    return {
      async query(text, params) {
        try {
          return await over(db).query(text, params)
        } catch (error) {
          throw translate(error)
        }
      },
      tx: <T>(fn: (tx: Pick<Sql, 'query'>) => Promise<T>) => retrying(() => db.transaction(tx => fn(over(tx))) as Promise<T>),
      async withLock(name, fn) {
        // One session: advisory locks within it never conflict, so the process keeps count itself.
        if (held.has(name)) return false
        held.add(name)
        try {
          await fn()
          return true
        } finally {
          held.delete(name)
        }
      },
      async close() {
        await db.close()
        lock?.()
      },
    }
  } catch (error) {
    lock?.()
    throw error
  }
}

/** PGlite binds objects as JSON text and arrays by their own serializer; dates travel as ISO text, which both databases read alike. */
function bindable(value: unknown): unknown {
  return value instanceof Date ? value.toISOString() : value
}

interface Owner {
  readonly pid: number
  /** The kernel's start time of that process: a pid alone is reused. Null where there is no /proc. */
  readonly started: string | null
}

function lockDirectory(dir: string): () => void {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const path = join(dir, 'lock')
  const owner: Owner = { pid: process.pid, started: startOf(process.pid) }
  for (let attempt = 0; attempt < 3; attempt++) {
    try {
      const fd = openSync(path, 'wx', 0o600)
      writeSync(fd, JSON.stringify(owner))
      closeSync(fd)
      return () => {
        if (readOwner(path)?.pid === process.pid) unlinkSync(path)
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      const other = readOwner(path)
      if (other === null || alive(other)) {
        throw new CurfewError('unavailable', `the data directory is in use by process ${other?.pid ?? 'unknown'}: embedded mode is for one process`, {
          reason: 'store_locked',
          next: 'stop that process, or use PostgreSQL to run several',
        })
      }
      unlinkSync(path)
    }
  }
  throw new CurfewError('unavailable', 'the lock of the data directory could not be taken', { reason: 'store_locked' })
}

function readOwner(path: string): Owner | null {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Owner
  } catch {
    // Half-written: its writer is between two system calls, or died there; a person must decide.
    return null
  }
}

function alive(owner: Owner): boolean {
  if (owner.pid === process.pid) return true
  try {
    process.kill(owner.pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
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
