/** Owns stores for tests: how each kind is opened once, emptied between tests, and its clock moved. */
import type { Store } from '../../../src/ports.js'
import { MIGRATIONS, migrate, readMigrations } from '../../../src/store/migrate.js'
import { type Connections, storeOver } from '../../../src/store/open.js'
import { driverOver } from '../../../src/store/pglite.js'
import { type Sql, sqlOver } from '../../../src/store/sql.js'
import { type MakeStore, sealed } from './fixtures.js'

export { MIGRATIONS }
export const quiet = { warn: () => {} }

const TABLES = [
  'tasks',
  'decisions',
  'credentials',
  'revocations',
  'plans',
  'quarantines',
  'guards',
  'guard_instances',
  'tombstones',
  'marks',
  'idempotency',
  'audit',
  'signals',
  'operators',
  'signing_keys',
]

export async function emptied(sql: Sql): Promise<void> {
  await sql.query(`truncate ${TABLES.map(t => `curfew.${t}`).join(', ')} restart identity cascade`)
  await sql.query(`update curfew.counters set value = 0`)
  await setTime(sql, 0)
}

/** Replaces the one function by which rows are decided. */
export async function setTime(sql: Sql, aheadSeconds: number): Promise<void> {
  await sql.query(
    `create or replace function curfew.now() returns timestamptz language sql volatile as 'select clock_timestamp() + make_interval(secs => ${aheadSeconds})'`,
  )
}

export interface SqlHouse {
  readonly make: MakeStore
  readonly sql: Sql
  close(): Promise<void>
}

export async function houseOver(connections: Connections, kind: Store['kind']): Promise<SqlHouse> {
  const { main } = connections
  const migrations = await readMigrations(MIGRATIONS)
  await migrate(main, migrations)
  const store = await storeOver(connections, kind, { sealDigest: sealed, log: quiet }, async () => {})
  return {
    sql: main,
    async make() {
      await emptied(main)
      await store.ping()
      let ahead = 0
      return {
        store,
        async advance(seconds) {
          ahead += seconds
          await setTime(main, ahead)
          await store.ping()
        },
      }
    },
    close: () => store.close(),
  }
}

export async function pgliteInMemory(): Promise<Sql> {
  const { PGlite, types } = await import('@electric-sql/pglite')
  return sqlOver(driverOver(await PGlite.create({ parsers: { [types.INT8]: (v: string) => Number(v) } })))
}

export async function pgliteHouse(): Promise<SqlHouse> {
  const sql = await pgliteInMemory()
  return houseOver({ main: sql, urgent: sql, close: () => sql.close() }, 'pglite')
}
