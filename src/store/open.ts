/** Owns opening the store that the configuration names. */
import { readFile } from 'node:fs/promises'
import type { Secret } from '../domain/secret.js'
import type { Store } from '../ports.js'
import { auditLog } from './audit.js'
import { databaseClock } from './clock.js'
import { credentialStore } from './credentials.js'
import { decisionLog } from './decisions.js'
import { keyStore } from './keys.js'
import type { Log } from './log.js'
import { replayGuard } from './marks.js'
import { checkMigrations, migrate, readMigrations } from './migrate.js'
import { operatorStore } from './operators.js'
import { pgliteSql } from './pglite.js'
import { postgresSql } from './postgres.js'
import { revocationLog } from './revocations.js'
import { signalStore } from './signals.js'
import type { Sql } from './sql.js'
import { taskStore } from './tasks.js'

export type StoreConfig =
  | { readonly kind: 'postgres'; readonly url: Secret; readonly maxConnections: number; readonly caFile?: string | undefined }
  | { readonly kind: 'pglite'; readonly dir: string }
  /** PostgreSQL in this process's memory: the same statements, gone at exit. */
  | { readonly kind: 'memory' }

export interface StoreDeps {
  readonly migrationsDir: string
  readonly sealDigest: (digest: string) => string
  readonly log: Log
}

/** Connects without migrating: for `curfew migrate`, and below. */
export async function connect(config: StoreConfig, log: Log): Promise<Sql> {
  switch (config.kind) {
    case 'postgres':
      return postgresSql({
        url: config.url.reveal().token as string,
        maxConnections: config.maxConnections,
        log,
        ...(config.caFile === undefined ? {} : { ca: await readFile(config.caFile, 'utf8') }),
      })
    case 'pglite':
      return pgliteSql(config.dir)
    case 'memory':
      return pgliteSql(null)
    default:
      return config satisfies never
  }
}

/** A server's database is migrated by an operator (`curfew migrate`), an embedded one by whoever opens it. */
export async function openStore(config: StoreConfig, deps: StoreDeps): Promise<Store> {
  const sql = await connect(config, deps.log)
  try {
    const migrations = await readMigrations(deps.migrationsDir)
    if (config.kind === 'postgres') await checkMigrations(sql, migrations)
    else await migrate(sql, migrations)
    return await storeOver(sql, config.kind, deps, () => checkMigrations(sql, migrations))
  } catch (error) {
    await sql.close()
    throw error
  }
}

export async function storeOver(sql: Sql, kind: Store['kind'], deps: Pick<StoreDeps, 'sealDigest' | 'log'>, check: () => Promise<void>): Promise<Store> {
  const clock = await databaseClock(sql, deps.log)
  return {
    kind,
    tasks: taskStore(sql),
    credentials: credentialStore(sql, deps),
    revocations: revocationLog(sql),
    audit: auditLog(sql),
    decisions: decisionLog(sql),
    signals: signalStore(sql),
    operators: operatorStore(sql),
    keys: keyStore(sql),
    replay: replayGuard(sql),
    clock,
    withLock: (name, fn) => sql.withLock(name, fn),
    ping: check,
    async forget(limit) {
      const marks = await sql.query(
        'delete from curfew.marks where (namespace, id) in (select namespace, id from curfew.marks where until < curfew.now() limit $1) returning id',
        [limit],
      )
      await sql.query('delete from curfew.deny_markers where until < curfew.now()')
      await sql.query('delete from curfew.tombstones where until < curfew.now()')
      return marks.length
    },
    async close() {
      clock.stop()
      await sql.close()
    },
  }
}
