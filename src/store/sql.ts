/** Owns the small interface that the store speaks to a database by, and what both databases make of it. */
import { setTimeout as sleep } from 'node:timers/promises'
import { CurfewError } from '../domain/errors.js'

export type Row = Record<string, unknown>

export interface Tx {
  query<R extends Row = Row>(text: string, params?: readonly unknown[]): Promise<R[]>
  /** Statements without parameters, one after the other: migrations. */
  script(text: string): Promise<void>
}

/**
 * What a driver gives: PostgreSQL by `pg`, or PGlite. Both answer int8 as number, timestamptz as Date, bytea as Buffer and jsonb as a
 * value. Errors pass as the database threw them, with their SQLSTATE in `code`.
 */
export interface Driver {
  query<R extends Row = Row>(text: string, params: readonly unknown[]): Promise<R[]>
  /**
   * READ COMMITTED. Rolls back when `fn` throws, and throws when the commit did not happen.
   * @param first a statement without parameters that travels with the begin.
   */
  transaction<T>(fn: (tx: Tx) => Promise<T>, first?: string): Promise<T>
  /** Runs `fn` while this process holds the named lock, or answers false at once. */
  withLock(name: string, fn: () => Promise<void>): Promise<boolean>
  close(): Promise<void>
}

export interface Sql {
  query<R extends Row = Row>(text: string, params?: readonly unknown[]): Promise<R[]>
  /**
   * One transaction. Repeated, at most RETRIES times, when the database says that it collided with another: `fn` must only touch the database.
   * @param cutoffs the cut-off lock, taken before anything else.
   */
  tx<T>(fn: (tx: Tx) => Promise<T>, cutoffs?: CutoffLock): Promise<T>
  withLock(name: string, fn: () => Promise<void>): Promise<boolean>
  close(): Promise<void>
}

/** Issuing holds it shared and a revocation's commit exclusively: without it, row locks do not order an issue against the cut-off of an identity (security.md 3.3). */
export type CutoffLock = 'shared' | 'exclusive'
/** With the begin: nothing is read before it, and the one way less to the database is a part of how fast a revocation is. */
const lockStatement = (cutoffs: CutoffLock) => `select pg_advisory_xact_lock${cutoffs === 'shared' ? '_shared' : ''}(${CUTOFF_LOCK})`

export const RETRIES = 5
/** feature_not_supported: of our statements only one that was prepared before a migration is told so. */
export const OUTDATED = '0A000'
/** serialization_failure, deadlock_detected. The database rolled everything back: to repeat is safe. A lost connection is not repeated: nobody knows. */
const COLLIDED = new Set(['40001', '40P01', OUTDATED])
/** character_not_in_repertoire, untranslatable_character: text that PostgreSQL cannot hold (NUL) is the caller's fault, not an outage. */
const UNSTORABLE = new Set(['22021', '22P05'])

export function sqlOver(driver: Driver): Sql {
  return {
    async query(text, params = []) {
      try {
        return await driver.query(text, params)
      } catch (error) {
        throw translate(error)
      }
    },
    tx: (fn, cutoffs) => retrying(() => driver.transaction(fn, cutoffs && lockStatement(cutoffs))),
    withLock: (name, fn) => driver.withLock(name, fn),
    close: () => driver.close(),
  }
}

async function retrying<T>(act: () => Promise<T>): Promise<T> {
  for (let retried = 0; ; retried++) {
    try {
      return await act()
    } catch (error) {
      if (!collided(error) || retried === RETRIES) throw translate(error)
      // Spread, so that those who collided do not meet again.
      await sleep(Math.random() * 2 ** retried * 4)
    }
  }
}

export const sqlState = (error: unknown): string | null => {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : null
}

export const collided = (error: unknown): boolean => COLLIDED.has(sqlState(error) ?? '')

/** Nothing of a database's own text travels on: it names tables, values and hosts (H22). */
export function translate(error: unknown): unknown {
  if (error instanceof CurfewError || error instanceof TypeError) return error
  if (UNSTORABLE.has(sqlState(error) ?? ''))
    return new CurfewError('malformed', 'the request holds a character that cannot be stored', { reason: 'character_refused' }, { cause: error })
  return new CurfewError('unavailable', 'the store does not answer', { reason: 'store_unavailable', retryAfterSeconds: 1 }, { cause: error })
}

/** Advisory locks are numbered; ours are spread from one base so that they meet nobody else's by chance. */
export const CUTOFF_LOCK = 7_263_001
export const MIGRATE_LOCK = 7_263_002

export function lockNumber(name: string): number {
  let hash = 0
  for (const char of name) hash = (hash * 31 + char.charCodeAt(0)) % 1_000_000
  return 7_264_000_000 + hash
}

/**
 * A condition on the state of rows that are found by something else, by their id above all. Told so that no index of a state answers
 * it: the planner takes such an index for as small as it was when it last looked, and would read the hundred thousand rows that an
 * incident has put there since, to find one.
 */
export const inState = (column: string, ...states: readonly string[]): string => `(${column} || '') in (${states.map(s => `'${s}'`).join(', ')})`

/** The JSON of rows for `jsonb_populate_recordset`: one parameter, however many rows, the same for both databases. */
export const rowsJson = (rows: readonly object[]): string => JSON.stringify(rows)

/**
 * JSON of evidence, which must be writable whatever a stranger sent: PostgreSQL refuses NUL and lone surrogates, and an audit row that
 * cannot be written would stop the refusal that it records.
 */
export function evidenceJson(value: unknown): string {
  return JSON.stringify(value, (_key, v) => (typeof v === 'string' ? v.replace(UNWRITABLE, '\uFFFD') : v))
}
const UNWRITABLE = /\0|\p{Surrogate}/gu
