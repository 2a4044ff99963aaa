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
  /** Ends a user that nobody else will: no login, then no session, then gone; fails after the first two when something was granted to it itself. */
  drop(role: string, signal: AbortSignal): Promise<void>
  look(role: string, oid: number | null): Promise<{ role: boolean; sessions: number }>
  close(): Promise<void>
}

const ROUNDS = 50
const PAUSE_MS = 20

/** The user was dropped between our two statements, or its row was changed under ours ("tuple concurrently updated", which has no code of its own). */
function isOvertaken(error: unknown): boolean {
  const cause = error instanceof CurfewError ? error.cause : null
  if (!(cause instanceof pg.DatabaseError)) return false
  return cause.code === '42704' || (cause.code === 'XX000' && cause.routine?.startsWith('simple_heap_') === true)
}

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
  const sessions = async (oid: number) =>
    Number((await query<{ n: string }>('select count(*) as n from pg_stat_activity where usesysid = $1::oid', [oid]))[0]?.n ?? 0)

  const oidOf = async (role: string) => {
    const [found] = await query<{ oid: string }>('select oid::int8 as oid from pg_roles where rolname = $1', [role])
    return found ? Number(found.oid) : null
  }
  /**
   * A name cannot be a parameter; quoting is the database's own. What Vault changes or drops at the same moment is looked at again.
   * @param format of PostgreSQL, its first argument the user.
   */
  async function onRole(format: string, role: string): Promise<void> {
    for (let round = 1; ; round++) {
      const [made] = await query<{ statement: string }>('select format($2, rolname) as statement from pg_roles where rolname = $1', [role, format])
      if (!made) return
      try {
        await query(made.statement)
        return
      } catch (error) {
        if (round === ROUNDS || !isOvertaken(error)) throw error
        await sleep(PAUSE_MS)
      }
    }
  }
  const noLogin = (role: string) => onRole('alter role %1$I nologin', role)
  async function endSessions(oid: number, signal: AbortSignal): Promise<number> {
    let ended = 0
    for (let round = 0; round < ROUNDS && !signal.aborted; round++) {
      const rows = await query<{ ok: boolean }>('select pg_terminate_backend(pid) as ok from pg_stat_activity where usesysid = $1::oid', [oid])
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
    async drop(role, signal) {
      const oid = await oidOf(role)
      if (oid === null) return
      await noLogin(role)
      await endSessions(oid, signal)
      await onRole('drop role %1$I', role)
    },
    async look(role, oid) {
      const [found] = await query<{ there: boolean }>('select exists (select 1 from pg_roles where rolname = $1 or oid = $2::oid) as there', [role, oid ?? 0])
      return { role: found?.there ?? false, sessions: oid === null ? 0 : await sessions(oid) }
    },
    close: () => pool.end(),
  }
}
