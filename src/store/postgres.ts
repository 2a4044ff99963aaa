/** Owns the connections to a PostgreSQL server: pools, deadlines, prepared statements, and types that both databases agree on. */
import pg from 'pg'
import type { Log } from './log.js'
import { statementNames } from './prepared.js'
import { type Driver, lockNumber, OUTDATED, type Row, sqlState, type Tx, translate } from './sql.js'

export interface PostgresOptions {
  readonly url: string
  readonly maxConnections: number
  /** CA bundle (PEM): then the server must show a certificate of it, whatever the URL says. */
  readonly ca?: string
  readonly log: Log
}

/** No statement of ours needs longer; a database that hangs is a database that is down. */
const STATEMENT_MS = 5_000
const CONNECT_MS = 2_000
/** Killed by the server: a process that was stopped inside a transaction must not hold the cut-off lock for as long as a revocation's own statement may wait. */
const IDLE_IN_TRANSACTION_MS = 2_000
/** For migrations, which may rewrite a table. */
const SCRIPT_MS = 3_600_000

const INT8 = 20
/** Local to our pools: the global parsers are everybody's. Our bigints are counters that fit a double for longer than the hardware lasts. */
const types = {
  getTypeParser: (oid: number, format?: unknown) => (oid === INT8 ? (v: string) => Number(v) : pg.types.getTypeParser(oid, format as 'text')),
} as pg.CustomTypesConfig

export function postgresDriver(options: PostgresOptions): Driver {
  const pool = new pg.Pool({ ...connection(options), max: options.maxConnections, idleTimeoutMillis: 30_000 })
  /** One session that holds this process's named locks; when it dies, the server frees them. */
  const locks = new pg.Pool({ ...connection(options), max: 1, idleTimeoutMillis: 0 })
  for (const p of [pool, locks]) {
    p.on('error', error => options.log.warn({ err: error }, 'an idle store connection was lost'))
    // A client that is in use when its server dies says so by an event as well; unheard, it would end this process.
    p.on('connect', client => client.on('error', () => {}))
  }
  const held = new Set<string>()

  return {
    query: (text, params) => run(pool, text, params),
    async transaction(fn, first) {
      const client = await pool.connect()
      let broken = false
      /** What the server refused leaves a sound connection; after a deadline or a reset nobody knows, and it is closed, which rolls back. */
      const noticing = async <T>(answer: Promise<T>): Promise<T> => {
        try {
          return await answer
        } catch (error) {
          broken ||= sqlState(error) === null
          throw error
        }
      }
      const tx: Tx = {
        query: (text, params = []) => noticing(run(client, text, params)),
        async script(text) {
          await noticing(client.query(`set local statement_timeout = ${SCRIPT_MS}`))
          await noticing(client.query({ text, query_timeout: SCRIPT_MS } as pg.QueryConfig))
        },
      }
      try {
        await noticing(client.query(`begin isolation level read committed${first === undefined ? '' : `; ${first}`}`))
        const result = await fn(tx)
        const end = await noticing(client.query('commit'))
        // PostgreSQL answers the commit of a failed transaction with ROLLBACK and no error.
        if (end.command !== 'COMMIT') throw new Error('the transaction was rolled back')
        return result
      } catch (error) {
        if (!broken) await noticing(client.query('rollback')).catch(failure => options.log.warn({ err: failure }, 'a transaction ended with its connection'))
        throw error
      } finally {
        client.release(broken)
      }
    },
    async withLock(name, fn) {
      if (held.has(name)) return false
      held.add(name)
      try {
        const [row] = await run<{ held: boolean }>(locks, 'select pg_try_advisory_lock($1::bigint) as held', [lockNumber(name)]).catch(error => {
          throw translate(error)
        })
        if (!row?.held) return false
        try {
          await fn()
          return true
        } finally {
          await run(locks, 'select pg_advisory_unlock($1::bigint)', [lockNumber(name)]).catch(error =>
            options.log.warn({ err: error }, 'a named lock was lost with its connection'),
          )
        }
      } finally {
        held.delete(name)
      }
    },
    async close() {
      await Promise.all([pool.end(), locks.end()])
    },
  }
}

/** One for all pools: what is outdated on one connection is so on every other. */
const names = statementNames()

/** Outside a transaction a statement that a migration outdated is asked again; a transaction is repeated as a whole. */
async function run<R extends Row>(client: pg.Pool | pg.PoolClient, text: string, params: readonly unknown[]): Promise<R[]> {
  try {
    return await ask<R>(client, text, params)
  } catch (error) {
    if (sqlState(error) !== OUTDATED || !(client instanceof pg.Pool)) throw error
    return ask<R>(client, text, params)
  }
}

async function ask<R extends Row>(client: pg.Pool | pg.PoolClient, text: string, params: readonly unknown[]): Promise<R[]> {
  const name = names.of(text)
  try {
    return (await client.query<R>({ text, values: params as unknown[], ...(name !== null && { name }) })).rows
  } catch (error) {
    if (name !== null && sqlState(error) === OUTDATED) names.renew(text, name)
    throw error
  }
}

function connection({ url, ca }: PostgresOptions): pg.PoolConfig {
  return {
    connectionString: ca === undefined ? url : withoutTls(url),
    connectionTimeoutMillis: CONNECT_MS,
    statement_timeout: STATEMENT_MS,
    // Ours, when the server is too dead to keep its own.
    query_timeout: STATEMENT_MS + 1_000,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS,
    // An acknowledged revocation is on disk, whatever the server's default says (I4, F38).
    options: '-c synchronous_commit=on',
    keepAlive: true,
    application_name: 'curfew',
    types,
    ...(ca === undefined ? {} : { ssl: { ca, rejectUnauthorized: true } }),
  }
}

/** What a URL says about TLS would replace our own settings, and with them the CA. */
function withoutTls(url: string): string {
  const parsed = new URL(url)
  for (const name of [...parsed.searchParams.keys()]) if (name.startsWith('ssl')) parsed.searchParams.delete(name)
  return parsed.toString()
}
