/** Owns the schema's way forward: numbered files, each once, under a lock; never back. */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { CurfewError } from '../domain/errors.js'
import { MIGRATE_LOCK, type Sql } from './sql.js'

export interface Migration {
  readonly name: string
  readonly hash: string
  readonly text: string
}

export async function readMigrations(dir: string): Promise<Migration[]> {
  const names = (await readdir(dir)).filter(n => /^\d{4}_[a-z0-9_]+\.sql$/.test(n)).sort()
  return Promise.all(
    names.map(async name => {
      const text = await readFile(join(dir, name), 'utf8')
      return { name, text, hash: createHash('sha256').update(text).digest('hex') }
    }),
  )
}

/** Applies what is missing, each file in its own transaction together with its own row. Answers the names applied. */
export async function migrate(sql: Sql, migrations: readonly Migration[]): Promise<string[]> {
  await sql.tx(async tx => {
    await tx.query('select pg_advisory_xact_lock($1::bigint)', [MIGRATE_LOCK])
    await tx.query('create schema if not exists curfew')
    await tx.query('create table if not exists curfew.migrations (name text primary key, hash text not null, applied_at timestamptz not null default clock_timestamp())')
  })
  const applied: string[] = []
  for (const migration of migrations) {
    const fresh = await sql.tx(async tx => {
      await tx.query('select pg_advisory_xact_lock($1::bigint)', [MIGRATE_LOCK])
      const rows = await tx.query('insert into curfew.migrations (name, hash) values ($1, $2) on conflict (name) do nothing returning name', [migration.name, migration.hash])
      if (rows.length === 0) return false
      for (const statement of statements(migration.text)) await tx.query(statement)
      return true
    })
    if (fresh) applied.push(migration.name)
  }
  await checkMigrations(sql, migrations)
  return applied
}

/** Refuses a database that is behind us, ahead of us, or was migrated by a file that has been changed since. */
export async function checkMigrations(sql: Sql, migrations: readonly Migration[]): Promise<void> {
  const rows = await sql.query<{ name: string; hash: string }>('select name, hash from curfew.migrations order by name')
  const recorded = new Map(rows.map(r => [r.name, r.hash]))
  const refuse = (message: string, reason: string, next: string) => new CurfewError('unavailable', message, { reason, next })
  for (const m of migrations) {
    const hash = recorded.get(m.name)
    if (hash === undefined) throw refuse(`the store lacks migration ${m.name}`, 'migrations_missing', 'run: curfew migrate')
    if (hash !== m.hash) throw refuse(`migration ${m.name} was changed after it had been applied`, 'migrations_changed', 'restore the file: a change is a new migration')
    recorded.delete(m.name)
  }
  const [newer] = recorded.keys()
  if (newer !== undefined) throw refuse(`the store was migrated by a newer release (${newer})`, 'migrations_newer', 'run that release or a later one')
}

/** Statement by statement: a prepared query takes one. Our files hold no semicolon inside a string or body. */
function statements(text: string): string[] {
  return text
    .split('\n')
    .filter(line => !line.trimStart().startsWith('--'))
    .join('\n')
    .split(';')
    .map(s => s.trim())
    .filter(s => s !== '')
}
