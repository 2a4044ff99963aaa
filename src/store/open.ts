/** Owns opening the store that the configuration names. */
import { readFile } from 'node:fs/promises'
import { untilLate } from '../domain/deadline.js'
import { CurfewError } from '../domain/errors.js'
import { LISTED_FOR } from '../domain/guard.js'
import type { Secret } from '../domain/secret.js'
import type { Store } from '../ports.js'
import { auditLog } from './audit.js'
import { databaseClock } from './clock.js'
import { credentialStore, oneByOne } from './credentials.js'
import { decisionLog } from './decisions.js'
import { groupCommit } from './group-commit.js'
import { guardStore } from './guards.js'
import { keyStore } from './keys.js'
import type { Log } from './log.js'
import { forgetMarks, replayGuard } from './marks.js'
import { checkMigrations, migrate, readMigrations } from './migrate.js'
import { operatorStore } from './operators.js'
import { pgliteDriver } from './pglite.js'
import { planStore } from './plans.js'
import { postgresDriver } from './postgres.js'
import { quarantineStore } from './quarantines.js'
import { revocationLog } from './revocations.js'
import { runStore } from './runs.js'
import { signalStore } from './signals.js'
import { type Sql, sqlOver } from './sql.js'
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
  readonly readFile?: (path: string) => Promise<string>
}

/** Two ways to one database. */
export interface Connections {
  readonly main: Sql
  /** For revocations: never waits behind issuing for a connection. */
  readonly urgent: Sql
  close(): Promise<void>
}

/** One for a commit that waits for the cut-off lock, one for the next, one for the feed's readers. */
const URGENT_CONNECTIONS = 3
const PING_MS = 2_000

const text = (path: string) => readFile(path, 'utf8')

/** Connects without migrating: for `curfew migrate`, and below. */
export async function connect(config: StoreConfig, log: Log, read = text): Promise<Connections> {
  switch (config.kind) {
    case 'postgres': {
      const server = { url: config.url.reveal().token as string, log, ...(config.caFile === undefined ? {} : { ca: await read(config.caFile) }) }
      const main = sqlOver(postgresDriver({ ...server, maxConnections: config.maxConnections }))
      const urgent = sqlOver(postgresDriver({ ...server, maxConnections: URGENT_CONNECTIONS }))
      return { main, urgent, close: async () => void (await Promise.all([main.close(), urgent.close()])) }
    }
    case 'pglite':
      return alone(sqlOver(await pgliteDriver(config.dir)))
    case 'memory':
      return alone(sqlOver(await pgliteDriver(null)))
    default:
      return config satisfies never
  }
}

const alone = (sql: Sql): Connections => ({ main: sql, urgent: sql, close: () => sql.close() })

/** A server's database is migrated by an operator (`curfew migrate`), an embedded one by whoever opens it. */
export async function openStore(config: StoreConfig, deps: StoreDeps): Promise<Store> {
  const connections = await connect(config, deps.log, deps.readFile)
  try {
    const migrations = await readMigrations(deps.migrationsDir, deps.readFile)
    if (config.kind === 'postgres') await checkMigrations(connections.main, migrations)
    else await migrate(connections.main, migrations)
    return await storeOver(connections, config.kind, deps, () => checkMigrations(connections.main, migrations))
  } catch (error) {
    await connections.close()
    throw error
  }
}

export async function storeOver(
  connections: Connections,
  kind: Store['kind'],
  deps: Pick<StoreDeps, 'sealDigest' | 'log'>,
  check: () => Promise<void>,
): Promise<Store> {
  const { main, urgent } = connections
  const clock = await databaseClock(main, deps.log)
  return {
    kind,
    tasks: taskStore(main),
    // The embedded database has one session and flushes nothing: batches would only wait.
    credentials: credentialStore(main, deps, kind === 'postgres' ? groupCommit : oneByOne),
    revocations: revocationLog(urgent),
    runs: runStore(urgent),
    plans: planStore(main),
    quarantines: quarantineStore(urgent),
    audit: auditLog(main),
    decisions: decisionLog(main),
    signals: signalStore(main),
    operators: operatorStore(main),
    guards: guardStore(main),
    keys: keyStore(main),
    replay: replayGuard(main),
    clock,
    withLock: (name, fn) => main.withLock(name, fn),
    async ping() {
      await pinged(check())
      await pinged(clock.measure())
    },
    async forget(limit) {
      const marks = await forgetMarks(main, limit)
      // Quarantines stay: who was refused when, and who lifted it, is asked long after.
      await main.query(`delete from curfew.plans where valid_until < (select curfew.now()) - interval '1 day' and revocation is null`)
      await main.query('delete from curfew.guard_instances where seen_at < (select curfew.now()) - make_interval(secs => $1::double precision)', [LISTED_FOR])
      await main.query('delete from curfew.tombstones where until < (select curfew.now()) and not ending')
      // A key lives as long as its task; what is left is what open tasks hold.
      await main.query(
        `delete from curfew.idempotency where ctid = any(array(
           select i.ctid from curfew.idempotency i join curfew.tasks t on t.id = i.task where t.state <> 'open' limit $1 for update of i skip locked))`,
        [limit],
      )
      return marks
    },
    async close() {
      clock.stop()
      await connections.close()
    },
  }
}

/** The embedded database knows no deadlines of its own. */
const pinged = <T>(work: Promise<T>) =>
  untilLate(work, PING_MS, () => new CurfewError('unavailable', 'the store does not answer', { reason: 'store_unavailable', retryAfterSeconds: 1 }))
