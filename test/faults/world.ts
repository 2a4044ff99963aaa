/** Owns the world of a fault run: Vault behind a proxy, two PostgreSQL servers, Redis, the clients' issuer, and brokers and workers over them. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { stringify } from 'yaml'
import { producerRedis } from '../../src/clients/redis.js'
import { type Absent, inherited, isAbsent, repository } from '../../src/dev/find.js'
import { type DevIssuer, startIssuer } from '../../src/dev/issuer.js'
import { type OrdersTarget, prepareOrders } from '../../src/dev/orders-target.js'
import { ciRule, writePolicies } from '../../src/dev/policies.js'
import { freePort } from '../../src/dev/ports.js'
import { type Postgres, startPostgres } from '../../src/dev/postgres.js'
import { type Child, startProcess, until } from '../../src/dev/process.js'
import { type Redis, startRedis } from '../../src/dev/redis.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import { setUpVault } from '../../src/dev/vault-setup.js'
import { call } from '../../src/dev/workload.js'
import { Secret } from '../../src/domain/secret.js'
import { MIGRATIONS, migrate, readMigrations } from '../../src/store/migrate.js'
import { connect } from '../../src/store/open.js'
import { startProxy, type TcpProxy } from './proxy.js'

/** Shrunk, and said so beside the figures: in production 90 s, 5 s and 60 s. */
export const TIMERS = { issuanceTokenSeconds: 5, sweepMs: 250, reconcileMs: 1_000 }
/** So long a round never comes within a run. */
export const NEVER_MS = 3_600_000
export const DB = 'db/orders-ro'
export const JWT = 'api/orders'
export const TLS = 'tls/orders'
/** Its Vault role does not exist: it can be asked for and never made. */
export const NEVER_MADE = 'tls/none'
export const SIGNAL_SOURCE = 'edr'
export const AUDIENCE = 'https://orders.faults/'

export interface Endpoint {
  /** The public one: several brokers may go by it, as replicas do. */
  readonly url: string
  /** Where this one listens. */
  readonly door: string
  readonly port: number
  readonly internal: number
}

export interface Start {
  /** The same place as an earlier one: its tokens are good there. */
  readonly at?: Endpoint
  /** `issue.4b=kill` */
  readonly failpoint?: string
  readonly queue?: 'redis' | 'memory'
  readonly timers?: Partial<typeof TIMERS>
  readonly broken?: string
  /** Another Redis than the world's. */
  readonly redisUrl?: string
  /** How far its clock is ahead of everybody else's. */
  readonly aheadMs?: number
  /** How long it goes on serving after SIGTERM. */
  readonly drainMs?: number
}

/** Without a goodbye: a polite end waits 5 s for connections that clients keep open, and is a case of its own (F41). */
export async function kill(child: Child): Promise<void> {
  if (!child.hasEnded()) process.kill(child.mark.pid, 'SIGKILL')
  await child.stop()
}

export interface Broker extends Endpoint {
  readonly child: Child
}

export interface World {
  readonly dir: string
  readonly issuer: DevIssuer
  readonly vault: Vault
  readonly proxy: TcpProxy
  readonly redis: Redis
  readonly operatorToken: string
  readonly secrets: { readonly signal: string; readonly audience: string }
  /** Those that brokers and workers are started with. */
  readonly ownSecrets: readonly string[]
  /** The most memory that any broker or worker was seen with, in MB. */
  peakMb(): number
  /** @param of whose public URL it has; its own, when left out. */
  endpoint(of?: Endpoint): Promise<Endpoint>
  broker(start?: Start): Promise<Broker>
  worker(start?: Start): Promise<Child>
  rows<R extends pg.QueryResultRow>(of: 'store' | 'target', text: string, params?: unknown[]): Promise<R[]>
  /** Nobody else writes to that table meanwhile. */
  whileLocked(table: string, act: () => Promise<void>): Promise<void>
  /** `immediate`: open connections are cut, nothing is written down. */
  stopPostgres(which: 'store' | 'target', how: 'immediate' | 'fast'): Promise<void>
  startPostgres(which: 'store' | 'target'): Promise<void>
  /** Killed, and back with what it had written down. */
  restartVault(): Promise<void>
  stopRedis(): Promise<void>
  startRedis(): Promise<void>
  redisCommand(...words: readonly string[]): Promise<unknown>
  redisCommand(at: { readonly url: string }, ...words: readonly string[]): Promise<unknown>
  close(): Promise<void>
}

export async function buildWorld(): Promise<World | Absent> {
  const dir = mkdtempSync(join(tmpdir(), 'cf-faults-'))
  const closing: (() => Promise<unknown> | unknown)[] = [() => rmSync(dir, { recursive: true, force: true })]
  const close = async () => {
    for (const end of closing.splice(0).reverse()) await end()
  }
  try {
    const [vault, store, target, redis] = await Promise.all([
      startVault({ dir: join(dir, 'vault'), own: true, storage: 'disk', raw: true }),
      startPostgres({ dir: join(dir, 'store'), database: 'curfew', name: 'store' }),
      startPostgres({ dir: join(dir, 'target'), database: 'orders', name: 'target' }),
      startRedis({ dir: join(dir, 'redis'), own: true }),
    ])
    const servers = { store: store as Postgres, target: target as Postgres }
    const live = { redis: redis as Redis, vault: vault as Vault }
    if (!isAbsent(vault)) closing.push(() => live.vault.stop())
    if (!isAbsent(store)) closing.push(() => servers.store.stop())
    if (!isAbsent(target)) closing.push(() => servers.target.stop())
    if (!isAbsent(redis)) closing.push(() => live.redis.stop())
    for (const part of [vault, store, target, redis]) {
      if (!isAbsent(part)) continue
      await close()
      return part
    }
    const orders = await prepareOrders({ vault: vault as Vault, postgres: servers.target, dir })
    await setUpVault(vault as Vault, dir, { KINDS: 'pki' })
    const proxy = await startProxy({ host: '127.0.0.1', port: (vault as Vault).port })
    closing.push(() => proxy.close())
    const connections = await connect({ kind: 'postgres', url: Secret.token(servers.store.url), maxConnections: 2 }, { warn: () => {} })
    await migrate(connections.main, await readMigrations(MIGRATIONS))
    await connections.close()
    const issuer = await startIssuer()
    const pools = { store: poolOf(servers.store.url), target: poolOf(servers.target.url) }
    closing.push(
      () => issuer.close(),
      () => pools.store.end(),
      () => pools.target.end(),
    )
    writePolicies(dir, ciRule('ci-db', DB) + ciRule('ci-jwt', JWT) + ciRule('ci-tls', TLS) + ciRule('ci-never', NEVER_MADE))
    const secrets = { signal: randomBytes(18).toString('base64url'), audience: randomBytes(18).toString('base64url') }
    const starters = await startersOf({ dir, issuer, orders, proxy, secrets, storeUrl: servers.store.url, redisUrl: live.redis.url })
    return {
      dir,
      issuer,
      get vault() {
        return live.vault
      },
      proxy,
      get redis() {
        return live.redis
      },
      secrets,
      ...starters,
      rows: async (of, text, params = []) => (await pools[of].query(text, params)).rows,
      async whileLocked(table, act) {
        const client = await pools.store.connect()
        try {
          await client.query('begin')
          await client.query(`lock table ${table} in share mode`)
          await act()
        } finally {
          await client.query('rollback')
          client.release()
        }
      },
      async stopPostgres(which, how) {
        const { mark } = servers[which]
        if (how === 'immediate') process.kill(mark.pid, 'SIGQUIT')
        await servers[which].stop()
      },
      async startPostgres(which) {
        const again = await startPostgres({ dir: join(dir, which), database: which === 'store' ? 'curfew' : 'orders', name: which, port: servers[which].port })
        if (isAbsent(again)) throw new Error(again.absent)
        servers[which] = again
      },
      async restartVault() {
        const { mark, port } = live.vault
        if (mark) process.kill(mark.pid, 'SIGKILL')
        await live.vault.stop()
        const again = await startVault({ dir: join(dir, 'vault'), own: true, storage: 'disk', raw: true, port })
        if (isAbsent(again)) throw new Error(again.absent)
        live.vault = again
      },
      stopRedis: () => live.redis.stop(),
      async startRedis() {
        const again = await startRedis({ dir: join(dir, 'redis'), own: true, port: live.redis.port })
        if (isAbsent(again)) throw new Error(again.absent)
        live.redis = again
      },
      async redisCommand(...given: readonly (string | { readonly url: string })[]) {
        const [command = '', ...words] = given.filter(w => typeof w === 'string')
        const { url } = given.find(w => typeof w === 'object') ?? live.redis
        const client = producerRedis(url, { info: () => {}, warn: () => {}, error: () => {} })
        try {
          await until(async () => client.status === 'ready', { what: 'redis', deadlineMs: 5_000, everyMs: 5 })
          return await client.call(command, ...words)
        } finally {
          client.disconnect()
        }
      },
      close,
    }
  } catch (cause) {
    await close()
    throw cause
  }
}

function poolOf(url: string): pg.Pool {
  const pool = new pg.Pool({ connectionString: url, max: 4, connectionTimeoutMillis: 3_000, application_name: 'faults' })
  pool.on('error', () => {})
  pool.on('connect', client => client.on('error', () => {}))
  return pool
}

interface Place {
  readonly dir: string
  readonly issuer: DevIssuer
  readonly orders: OrdersTarget
  readonly proxy: TcpProxy
  readonly secrets: World['secrets']
  readonly storeUrl: string
  readonly redisUrl: string
}

async function startersOf(place: Place): Promise<Pick<World, 'endpoint' | 'broker' | 'worker' | 'operatorToken' | 'ownSecrets' | 'peakMb'>> {
  const { dir } = place
  const env = {
    STORE_URL: place.storeUrl,
    REDIS_URL: place.redisUrl,
    MASTER_KEY: randomBytes(32).toString('base64'),
    EDR_SECRET: place.secrets.signal,
    ORDERS_SECRET: place.secrets.audience,
  }
  let started = 0
  let peak = 0
  const children: Child[] = []
  const watch = setInterval(() => {
    for (const child of children) if (!child.hasEnded()) peak = Math.max(peak, residentMb(child.mark.pid))
  }, 500)
  watch.unref()
  const endpoint = async (of?: Endpoint): Promise<Endpoint> => {
    const port = await freePort()
    const door = `http://127.0.0.1:${port}`
    return { url: of?.url ?? door, door, port, internal: await freePort() }
  }
  const configOf = (name: string, at: Endpoint, start: Start, level: string): string => {
    const path = join(dir, `${name}.yaml`)
    writeFileSync(path, stringify(settings(place, at, start, level)))
    return path
  }
  const dist = (file: string) => join(repository(), 'dist', file)
  const node = (file: string, config: string, { aheadMs }: Start) => [
    ...['--conditions=curfew-faults', '--disable-proto=delete', ...(aheadMs ? ['--import', dist('test/faults/clock.js')] : [])],
    ...[dist(file), config],
  ]
  const armed = ({ failpoint, broken, redisUrl, aheadMs }: Start) =>
    inherited({
      ...env,
      ...(redisUrl ? { REDIS_URL: redisUrl } : {}),
      ...(failpoint ? { CURFEW_FAILPOINT: failpoint } : {}),
      ...(broken ? { CURFEW_BREAK: broken } : {}),
      ...(aheadMs ? { CURFEW_AHEAD_MS: String(aheadMs) } : {}),
    })

  const operatorFile = join(dir, 'operator.token')
  const config = configOf('operator', await endpoint(), {}, 'warn')
  const add = ['operator', 'add', 'faults', '--role', 'admin', '--token-file', operatorFile, '--config', config]
  await promisify(execFile)(process.execPath, [join(repository(), 'bin', 'curfew'), ...add], { env: inherited(env), timeout: 60_000 })
  return {
    operatorToken: readFileSync(operatorFile, 'utf8').trim(),
    ownSecrets: [env.MASTER_KEY, env.EDR_SECRET, env.ORDERS_SECRET],
    peakMb: () => Math.round(peak),
    endpoint,
    async broker(start = {}) {
      const at = start.at ?? (await endpoint())
      const name = `broker-${++started}`
      const child = await startProcess({
        name,
        dir,
        command: process.execPath,
        args: node('src/main.js', configOf(name, at, start, 'warn'), start),
        env: armed(start),
        ready: async () => (await call('GET', `${at.door}/readyz`)).status === 200,
      })
      children.push(child)
      return { ...at, child }
    },
    async worker(start = {}) {
      const name = `worker-${++started}`
      const child = await startProcess({
        name,
        dir,
        command: process.execPath,
        args: node('workers/main.js', configOf(name, await endpoint(), start, 'info'), start),
        env: armed(start),
        // It listens nowhere; its log is the only place where it says that its queues are open.
        ready: async () => readFileSync(join(dir, `${name}.log`), 'utf8').includes('"event":"working"'),
        stopWithinMs: 20_000,
      })
      children.push(child)
      return child
    },
  }
}

/** Zero when it is gone, or where nobody tells. */
function residentMb(pid: number): number {
  try {
    return (Number(readFileSync(`/proc/${pid}/statm`, 'latin1').split(' ')[1]) * 4_096) / 1e6
  } catch {
    return 0
  }
}

const certificate = (name: string, role: string): object => ({
  ...{ name, summary: 'a certificate for this task', engine: 'vault-pki', intent: 'read', maxTtlSeconds: 900 },
  parameters: { role, policy: 'curfew-cap-workload' },
})

function settings(place: Place, at: Endpoint, start: Start, level: string): object {
  return {
    mode: 'dev',
    server: { url: at.url, listen: `127.0.0.1:${at.port}`, internal: `127.0.0.1:${at.internal}`, drainMs: start.drainMs ?? 0 },
    store: { kind: 'postgres', url: { env: 'STORE_URL' } },
    queue: start.queue === 'memory' ? { kind: 'memory' } : { kind: 'redis', url: { env: 'REDIS_URL' } },
    signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 0 },
    vault: { ...place.orders.vault, address: place.proxy.address },
    issuers: [place.issuer.entry],
    audiences: [{ name: 'orders', uri: AUDIENCE, secret: { env: 'ORDERS_SECRET' } }],
    capabilities: [
      place.orders.capability(DB),
      certificate(TLS, 'workload'),
      certificate(NEVER_MADE, 'none'),
      { name: JWT, summary: 'read orders over HTTP', engine: 'jwt', audience: 'orders', scopes: ['orders:read'], intent: 'read' },
    ],
    policies: { dir: 'policies' },
    // One address and one identity stand for a whole company here.
    limits: { source: false, identity: false },
    signals: {
      sources: [{ name: SIGNAL_SOURCE, secret: { env: 'EDR_SECRET' }, issuers: ['github'] }],
      rules: [{ name: 'high-revokes', minSeverity: 'high', act: { kind: 'revoke' } }],
    },
    timers: { ...TIMERS, ...start.timers },
    log: { level },
  }
}
