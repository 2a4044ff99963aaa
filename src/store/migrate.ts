/** Owns the schema's way forward: numbered files, each once, under a lock; never back. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { CurfewError } from '../domain/errors.js'
import { MIGRATE_LOCK, type Sql } from './sql.js'

export interface Migration {
  readonly name: string
  readonly hash: string
  readonly text: string
  /** The file begins with `--! breaking-change`: releases that do not know it must not work on this database. */
  readonly breaking: boolean
}

/** The folder beside the program: one step further up from the compiled files than from the sources. */
const [COMPILED, SOURCE] = ['../../../migrations', '../../migrations'].map(path => fileURLToPath(new URL(path, import.meta.url))) as [string, string]
export const MIGRATIONS = existsSync(SOURCE) ? SOURCE : COMPILED

const BREAKING = /^--! breaking-change\s*$/m

export async function readMigrations(dir: string, read: (path: string) => Promise<string> = path => readFile(path, 'utf8')): Promise<Migration[]> {
  const names = (await readdir(dir)).filter(n => /^\d{4}_[a-z0-9_]+\.sql$/.test(n)).sort()
  return Promise.all(names.map(async name => migrationOf(name, await read(join(dir, name)))))
}

export const migrationOf = (name: string, text: string): Migration => ({
  name,
  text,
  hash: createHash('sha256').update(text).digest('hex'),
  breaking: BREAKING.test(text),
})

/** Applies what is missing, each file in its own transaction together with its own row. Answers the names applied. */
export async function migrate(sql: Sql, migrations: readonly Migration[]): Promise<string[]> {
  await sql.tx(async tx => {
    await tx.query('select pg_advisory_xact_lock($1::bigint)', [MIGRATE_LOCK])
    await tx.query('create schema if not exists curfew')
    await tx.query(
      `create table if not exists curfew.migrations (
         name text primary key, hash text not null, breaking boolean not null, applied_at timestamptz not null default clock_timestamp())`,
    )
  })
  // Before the first change: a database that is ahead of us or was changed behind our back is not ours to touch.
  await compare(sql, migrations)
  const applied: string[] = []
  for (const migration of migrations) {
    const fresh = await sql.tx(async tx => {
      await tx.query('select pg_advisory_xact_lock($1::bigint)', [MIGRATE_LOCK])
      // The row first: of two that migrate at once, the second waits for the lock, finds the row and does nothing.
      const rows = await tx.query('insert into curfew.migrations (name, hash, breaking) values ($1, $2, $3) on conflict (name) do nothing returning name', [
        migration.name,
        migration.hash,
        migration.breaking,
      ])
      if (rows.length > 0) await tx.script(migration.text)
      return rows.length > 0
    })
    if (fresh) applied.push(migration.name)
  }
  await checkMigrations(sql, migrations)
  return applied
}

const refusal = (message: string, reason: string, next: string) => new CurfewError('unavailable', message, { reason, next })

/**
 * Refuses a database that is behind us, that was migrated by a file changed since, or that a newer release changed in a way we would
 * not survive. A newer migration that is not marked as breaking passes: two releases run side by side while one is rolled out (F48).
 */
export async function checkMigrations(sql: Sql, migrations: readonly Migration[]): Promise<void> {
  const [missing] = await compare(sql, migrations)
  if (missing !== undefined) throw refusal(`the store lacks migration ${missing}`, 'migrations_missing', 'run: curfew migrate')
}

async function compare(sql: Sql, migrations: readonly Migration[]): Promise<string[]> {
  const [table] = await sql.query<{ found: boolean }>(`select to_regclass('curfew.migrations') is not null as found`)
  if (!table?.found) return migrations.map(m => m.name)
  const recorded = new Map(
    (await sql.query<{ name: string; hash: string; breaking: boolean }>('select name, hash, breaking from curfew.migrations')).map(r => [r.name, r]),
  )
  const missing: string[] = []
  for (const m of migrations) {
    const row = recorded.get(m.name)
    if (row === undefined) missing.push(m.name)
    else if (row.hash !== m.hash)
      throw refusal(`migration ${m.name} was changed after it had been applied`, 'migrations_changed', 'restore the file: a change is a new migration')
    recorded.delete(m.name)
  }
  for (const row of recorded.values()) {
    if (row.breaking) throw refusal(`the store was migrated by a newer release (${row.name})`, 'migrations_newer', 'run that release or a later one')
  }
  return missing
}
