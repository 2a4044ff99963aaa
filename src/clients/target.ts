/** Owns the login by which we end sessions at a target PostgreSQL and look whether a user is really gone (real-parts.md 2.1). */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { CurfewError } from '../domain/errors.js'
import type { Secret } from '../domain/secret.js'

export interface Target {
  oidOf(role: string): Promise<number | null>
  /** Committed by itself, so that nobody can log in again while the rest goes on. */
  noLogin(role: string): Promise<void>
  /** Ends every session of that user until there is none; answers how many were ended. */
  endSessions(oid: number, signal: AbortSignal): Promise<number>
  /**
   * Ends a user that nobody else will: no login, then no session, then gone; fails after the first two when something was granted to it itself.
   * @param graceMs for somebody else to have done it. Milliseconds.
   */
  drop(role: string, signal: AbortSignal, graceMs?: number): Promise<void>
  look(role: string, oid: number | null): Promise<{ role: boolean; sessions: number }>
  /** All whose names begin so. */
  usersOf(prefix: string): Promise<readonly string[]>
  close(): Promise<void>
}

const ROUNDS = 50
const PAUSE_MS = 20

/** A row that was changed under ours ("tuple concurrently updated") has no code of its own. */
function stateOf(error: unknown): 'gone' | 'overtaken' | null {
  const cause = error instanceof CurfewError ? error.cause : null
  if (!(cause instanceof pg.DatabaseError)) return null
  if (cause.code === UNDEFINED_OBJECT) return 'gone'
  return cause.code === INTERNAL_ERROR && cause.routine?.startsWith('simple_heap_') ? 'overtaken' : null
}
const UNDEFINED_OBJECT = '42704'
const INTERNAL_ERROR = 'XX000'

export function createTarget(url: Secret): Target {
  const pool = new pg.Pool({
    connectionString: url.reveal().token as string,
    max: 8,
    connectionTimeoutMillis: 2_000,
    statement_timeout: 5_000,
    query_timeout: 6_000,
    idleTimeoutMillis: 10_000,
    application_name: 'curfew-revoker',
  })
  pool.on('error', () => {})

  /** The target's own words hold hosts, users and statements. */
  async function query<R extends pg.QueryResultRow>(text: string, params: unknown[] = []): Promise<R[]> {
    try {
      return (await pool.query<R>(text, params)).rows
    } catch (cause) {
      throw new CurfewError('engine_failed', 'the target database does not answer as it should', { reason: 'target_failed' }, { cause })
    }
  }

  const oidOf = async (role: string) => {
    const [found] = await query<{ oid: string }>('select oid::int8 as oid from pg_roles where rolname = $1', [role])
    return found ? Number(found.oid) : null
  }
  /** What is not there has been dropped. What Vault changes at the same moment is asked again. @param statement of a quoted name. */
  async function onRole(statement: (user: string) => string, role: string): Promise<void> {
    for (let round = 1; ; round++) {
      try {
        await query(statement(pg.escapeIdentifier(role)))
        return
      } catch (error) {
        const state = stateOf(error)
        if (state === 'gone') return
        if (state !== 'overtaken' || round === ROUNDS) throw error
        await sleep(PAUSE_MS)
      }
    }
  }
  const noLogin = (role: string) => onRole(user => `alter role ${user} nologin`, role)
  async function endSessions(oid: number, signal: AbortSignal): Promise<number> {
    let ended = 0
    for (let round = 0; round < ROUNDS && !signal.aborted; round++) {
      const rows = await query('select pg_terminate_backend(pid) from pg_stat_activity where usesysid = $1::oid', [oid])
      if (rows.length === 0) return ended
      ended += rows.length
      await sleep(PAUSE_MS)
    }
    return ended
  }

  return {
    oidOf,
    noLogin,
    endSessions,
    async drop(role, signal, graceMs = 0) {
      const until = performance.now() + graceMs
      let oid = await oidOf(role)
      for (; oid !== null && performance.now() < until && !signal.aborted; oid = await oidOf(role)) await sleep(PAUSE_MS)
      if (oid === null) return
      await noLogin(role)
      await endSessions(oid, signal)
      await onRole(user => `drop role ${user}`, role)
    },
    async look(role, oid) {
      const [found] = await query<{ role: boolean; sessions: string }>(
        `select exists (select 1 from pg_roles where rolname = $1 or oid = $2::oid) as role,
                (select count(*) from pg_stat_activity where usesysid = $2::oid) as sessions`,
        [role, oid ?? 0],
      )
      return { role: found?.role ?? false, sessions: Number(found?.sessions ?? 0) }
    },
    async usersOf(prefix) {
      return (await query<{ rolname: string }>('select rolname from pg_roles where starts_with(rolname, $1) order by 1', [prefix])).map(r => r.rolname)
    },
    close: () => pool.end(),
  }
}
