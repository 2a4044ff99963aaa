/** Owns the embedded database: one process, one session, one directory. */
import { join } from 'node:path'
import type { PGlite, Transaction } from '@electric-sql/pglite'
import { lockDirectory } from './directory-lock.js'
import type { Driver, Row, Tx } from './sql.js'

/**
 * Survives the death of its process, and promises nothing across a loss of power.
 * @param dir the data directory, or null for one in memory.
 * @param template a dumped directory to begin with: a copy is five times faster than a new one.
 */
export async function pgliteDriver(dir: string | null, template?: Blob): Promise<Driver> {
  const unlock = dir === null ? () => {} : await lockDirectory(dir)
  try {
    // Loaded here: 27 MB that a server with a PostgreSQL never needs.
    const { PGlite, types } = await import('@electric-sql/pglite')
    const db = await PGlite.create({
      ...(dir === null ? {} : { dataDir: join(dir, 'data') }),
      ...(template ? { loadDataDir: template } : {}),
      parsers: {
        [types.INT8]: (v: string) => Number(v),
        [types.TIMESTAMPTZ]: (v: string) => new Date(v),
        [types.BYTEA]: (v: string) => Buffer.from(v.slice(2), 'hex'),
      },
    })
    return driverOver(db, unlock)
  } catch (error) {
    unlock()
    throw error
  }
}

export function driverOver(db: PGlite, unlock: () => void = () => {}): Driver {
  const held = new Set<string>()
  const rows = async <R extends Row>(on: PGlite | Transaction, text: string, params: readonly unknown[]): Promise<R[]> => {
    try {
      return (await on.query<R>(text, params.map(bindable))).rows
    } catch (error) {
      // PGlite hangs the values on its errors, and errors are logged.
      if (error instanceof Error && 'params' in error) delete error.params
      throw error
    }
  }
  return {
    query: (text, params) => rows(db, text, params),
    // Whatever is asked inside must be asked of `tx`: the one session belongs to it, and a query beside it waits for ever (real-parts.md 5).
    transaction: <T>(fn: (tx: Tx) => Promise<T>, first?: string) =>
      db.transaction(async tx => {
        if (first !== undefined) await tx.exec(first)
        return fn({ query: (text, params = []) => rows(tx, text, params), script: async text => void (await tx.exec(text)) })
      }) as Promise<T>,
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
      unlock()
    },
  }
}

/** Dates travel as ISO text, which both databases read alike. */
const bindable = (value: unknown): unknown => (value instanceof Date ? value.toISOString() : value)
