/** Owns the one time of the models, and their stores: fresh for every run, two that must be alike. */
import { vi } from 'vitest'
import type { Store } from '../../src/ports.js'
import { memoryStore } from '../../src/store/memory.js'
import { MIGRATIONS, migrate, readMigrations } from '../../src/store/migrate.js'
import { storeOver } from '../../src/store/open.js'
import type { Sql } from '../../src/store/sql.js'
import { sealed } from '../conformance/store/fixtures.js'
import { pgliteInMemory, quiet } from '../conformance/store/houses.js'

export interface Time {
  advance(seconds: number): void
  restore(): void
}

/** The database's, Vault's, and every process's monotonic clock: they move together, as they do for a process that slept. */
export function movableTime(): Time {
  let ahead = 0
  const [wall, monotonic] = [Date.now.bind(Date), performance.now.bind(performance)]
  const spies = [vi.spyOn(Date, 'now').mockImplementation(() => wall() + ahead), vi.spyOn(performance, 'now').mockImplementation(() => monotonic() + ahead)]
  return {
    advance(seconds) {
      ahead += seconds * 1000
    },
    restore() {
      for (const spy of spies) spy.mockRestore()
    },
  }
}

export interface Stores {
  fresh(): Promise<Store>
  close(): Promise<void>
}

/** Plain maps: the conformance suites hold them to be alike, and they cost a tenth. */
export const plainStores = (): Stores => ({
  fresh: async () => memoryStore({ now: () => new Date(Date.now()), sealDigest: sealed }),
  close: async () => {},
})

/** PostgreSQL in this process, emptied. */
export async function pgliteStores(): Promise<Stores & { readonly sql: Sql }> {
  const sql = await pgliteInMemory()
  await migrate(sql, await readMigrations(MIGRATIONS))
  const store = await storeOver({ main: sql, urgent: sql, close: () => sql.close() }, 'pglite', { sealDigest: sealed, log: quiet }, async () => {})
  const tables = await sql.query<{ name: string }>(
    `select quote_ident(tablename) as name from pg_tables where schemaname = 'curfew' and tablename not in ('counters', 'migrations')`,
  )
  return {
    sql,
    async fresh() {
      await sql.query(`truncate ${tables.map(t => `curfew.${t.name}`).join(', ')} restart identity cascade`)
      await sql.query('update curfew.counters set value = 0')
      await store.ping()
      return store
    },
    close: () => store.close(),
  }
}
