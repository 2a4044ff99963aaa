/** Owns the connection to a PostgreSQL server: pools, deadlines, and types that both databases agree on. */
import pg from 'pg'
import type { Log } from './log.js'
import { lockNumber, retrying, type Row, type Sql, translate } from './sql.js'

export interface PostgresOptions {
  readonly url: string
  readonly maxConnections: number
  readonly ca?: string
  readonly log: Log
}

/** No statement of ours needs longer; a database that hangs is a database that is down. */
const STATEMENT_MS = 5_000
const CONNECT_MS = 2_000

const INT8 = 20
/** Local to our pools: the global parsers are everybody's. Our bigints are counters that fit a double for longer than the hardware lasts. */
const types = { getTypeParser: (oid: number, format?: unknown) => (oid === INT8 ? (v: string) => Number(v) : pg.types.getTypeParser(oid, format as 'text')) } as pg.CustomTypesConfig

export function postgresSql(options: PostgresOptions): Sql {
  const pool = new pg.Pool({
    connectionString: options.url,
    max: options.maxConnections,
    connectionTimeoutMillis: CONNECT_MS,
    idleTimeoutMillis: 30_000,
    statement_timeout: STATEMENT_MS,
    query_timeout: STATEMENT_MS + 1_000,
    idle_in_transaction_session_timeout: 15_000,
    application_name: 'curfew',
    types,
    ...(options.ca ? { ssl: { ca: options.ca, rejectUnauthorized: true } } : {}),
  })
  pool.on('error', error => options.log.warn({ err: error }, 'an idle store connection was lost'))

  async function run<R extends Row>(client: pg.Pool | pg.PoolClient, text: string, params: readonly unknown[]): Promise<R[]> {
    return (await client.query<R>(text, params as unknown[])).rows
  }

  return {
    async query(text, params = []) {
      try {
        return await run(pool, text, params)
      } catch (error) {
        throw translate(error)
      }
    },
    tx: fn =>
      retrying(async () => {
        const client = await pool.connect()
        let broken: Error | undefined
        try {
          await client.query('begin')
          const result = await fn({ query: (text, params = []) => run(client, text, params) })
          await client.query('commit')
          return result
        } catch (error) {
          // A connection whose rollback fails is in an unknown state: it is closed, not returned.
          await client.query('rollback').catch((failure: Error) => {
            broken = failure
          })
          throw error
        } finally {
          client.release(broken)
        }
      }),
    async withLock(name, fn) {
      const client = await pool.connect().catch(error => {
        throw translate(error)
      })
      let broken: Error | undefined
      try {
        const [row] = await run<{ held: boolean }>(client, 'select pg_try_advisory_lock($1::bigint) as held', [lockNumber(name)])
        if (!row?.held) return false
        try {
          await fn()
          return true
        } finally {
          await client.query('select pg_advisory_unlock($1::bigint)', [lockNumber(name)]).catch((failure: Error) => {
            broken = failure
          })
        }
      } finally {
        client.release(broken)
      }
    },
    close: () => pool.end(),
  }
}
