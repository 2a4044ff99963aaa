/** Owns the ready-made embedded store: initialised and migrated once into the cache, and copied from there, since a new one costs seconds. */
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { MIGRATIONS, migrate, readMigrations } from '../store/migrate.js'
import { connect } from '../store/open.js'
import { cacheDir } from './find.js'

/** @param dir becomes a store directory as `openStore` expects it. Answers whether the copy was at hand. */
export async function copyStore(dir: string): Promise<'copied' | 'made'> {
  const migrations = await readMigrations(MIGRATIONS)
  // Another version or migration is another template: an old one must never be opened by newer code.
  const package_ = join(dirname(createRequire(import.meta.url).resolve('@electric-sql/pglite')), '..', 'package.json')
  const { version } = JSON.parse(readFileSync(package_, 'utf8')) as { version: string }
  const key = createHash('sha256')
    .update(JSON.stringify([version, migrations.map(m => m.hash)]))
    .digest('hex')
    .slice(0, 12)
  const template = join(cacheDir(), `store-${key}`)
  const ready = existsSync(template)
  if (!ready) {
    const work = `${template}.${process.pid}`
    rmSync(work, { recursive: true, force: true })
    mkdirSync(cacheDir(), { recursive: true })
    const connections = await connect({ kind: 'pglite', dir: work }, { warn: () => {} })
    try {
      await migrate(connections.main, migrations)
    } finally {
      await connections.close()
    }
    try {
      renameSync(work, template)
    } catch {
      // Another process was quicker with the same thing.
      rmSync(work, { recursive: true, force: true })
    }
  }
  cpSync(template, dir, { recursive: true })
  rmSync(join(dir, 'lock'), { force: true })
  return ready ? 'copied' : 'made'
}
