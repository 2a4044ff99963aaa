/** Owns the small interface that the store speaks to a database by, and what both databases make of it. */
import { CurfewError } from '../domain/errors.js'

export type Row = Record<string, unknown>

export interface Sql {
  query<R extends Row = Row>(text: string, params?: readonly unknown[]): Promise<R[]>
  /** One transaction. Repeated, at most RETRIES times, when the database says that it collided with another: `fn` must only touch the database. */
  tx<T>(fn: (tx: Tx) => Promise<T>): Promise<T>
  /** Runs `fn` while this process holds the named lock, or answers false at once. */
  withLock(name: string, fn: () => Promise<void>): Promise<boolean>
  close(): Promise<void>
}

export type Tx = Pick<Sql, 'query'>

const RETRIES = 5
/** serialization_failure, deadlock_detected. */
const COLLIDED = new Set(['40001', '40P01'])

export async function retrying<T>(act: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await act()
    } catch (error) {
      const code = (error as { code?: unknown }).code
      if (typeof code === 'string' && COLLIDED.has(code) && attempt < RETRIES) continue
      throw translate(error)
    }
  }
}

/** Nothing of a database's own text travels on: it names tables, values and hosts (H22). */
export function translate(error: unknown): unknown {
  if (error instanceof CurfewError || error instanceof TypeError) return error
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
