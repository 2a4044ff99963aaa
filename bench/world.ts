/** Owns the servers that a bench is run against: PostgreSQL, Redis, two `serve` processes and a worker, or why they cannot be had. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { Agent, request } from 'undici'
import { stringify } from 'yaml'
import { type Absent, inherited, isAbsent, repository } from '../src/dev/find.js'
import { type DevIssuer, startIssuer } from '../src/dev/issuer.js'
import { ciRule, writePolicies } from '../src/dev/policies.js'
import { freePort } from '../src/dev/ports.js'
import { type Postgres, startPostgres } from '../src/dev/postgres.js'
import { startProcess } from '../src/dev/process.js'
import { type Redis, startRedis } from '../src/dev/redis.js'
import { call, createWorkload, type Workload } from '../src/dev/workload.js'
import { newId } from '../src/domain/ids.js'
import { newOperatorToken, operatorTokenDigest } from '../src/domain/operator-token.js'
import { Secret } from '../src/domain/secret.js'
import { masterKeyWrapper, sealDigest } from '../src/signers/sealed.js'
import { MIGRATIONS, migrate, readMigrations } from '../src/store/migrate.js'
import { connect, storeOver } from '../src/store/open.js'

export const ORDERS = 'https://orders.example/'
export const PREFIX = 'curfew'
/** A server beside the one that tokens are for. */
export const BILLING = { name: 'billing', uri: 'https://billing.example/', secret: { env: 'RESOURCE_SECRET' } }
const RESOURCE_SECRET = randomBytes(18).toString('base64url')

export interface Made {
  readonly id: string
  readonly token: string
}

export interface World {
  readonly store: Postgres
  redis: Redis
  readonly db: pg.Pool
  readonly workload: Workload
  /** Where it is issued and revoked. */
  readonly server: string
  /** The other replica. */
  readonly other: string
  /** Of a resource server that holds the feed. */
  readonly guardKey: string
  readonly operatorToken: string
  /** How a resource server shows itself. */
  basic(audience: string): string
  /** A task of this repository's job, by its own token. */
  open(): Promise<Made>
  /** To both serve processes: as if their machines hung, went on or died. */
  signalBrokers(signal: 'SIGSTOP' | 'SIGCONT' | 'SIGKILL'): void
  /** A token of this repository's job, with a task of its own. */
  issue(repositoryId?: string): Promise<Made>
  /** The same with evidence and proof already made: what is left is ours. */
  prepared(repositoryId?: string): Promise<() => Promise<Made>>
  revoke(selector: object): Promise<{ id: string }>
  /** Asked of the other process: it has heard nothing of what the first one did. */
  isActive(token: string): Promise<boolean>
  /** The same Redis with its data, after it was stopped. */
  restartRedis(): Promise<void>
  issuerToken(claims?: object): Promise<string>
  close(): Promise<void>
}

/** More than the rule for the one repository: what is revoked by identity must not be all there is. */
const OTHER = '456790'
const claimsOf = (repositoryId: string | undefined) =>
  repositoryId === undefined
    ? {}
    : { repository_id: repositoryId, repository: `acme/r${repositoryId}`, sub: `repo:acme@123456/r${repositoryId}@${repositoryId}:ref:refs/heads/main` }

export { OTHER as OTHER_REPOSITORY }

interface More {
  readonly vault?: object
  readonly capabilities?: readonly object[]
  readonly audiences?: readonly object[]
  readonly rules?: string
}

export async function startWorld(more: More = {}): Promise<World | Absent> {
  const dir = mkdtempSync(join(tmpdir(), 'cf-bench-'))
  const closing: (() => Promise<unknown> | unknown)[] = [() => rmSync(dir, { recursive: true, force: true })]
  const close = async () => {
    for (const one of closing.splice(0).reverse()) await one()
  }
  try {
    return await startIn(dir, closing, close, more)
  } catch (error) {
    await close()
    throw error
  }
}

async function startIn(dir: string, closing: (() => Promise<unknown> | unknown)[], close: () => Promise<void>, more: More): Promise<World | Absent> {
  const store = await startPostgres({ dir: join(dir, 'store'), database: 'curfew', settings: { shared_buffers: '256MB', max_wal_size: '4GB' } })
  const redisDir = join(dir, 'redis')
  const redis = await startRedis({ dir: redisDir, own: true })
  if (!isAbsent(store)) closing.push(() => store.stop())
  if (!isAbsent(redis)) closing.push(() => world.redis.stop())
  if (isAbsent(store) || isAbsent(redis)) {
    const absent = [store, redis].flatMap(part => (isAbsent(part) ? [part.absent] : [])).join('; ')
    if (!isAbsent(redis)) closing.splice(closing.length - 1, 1, () => redis.stop())
    await close()
    return { absent }
  }
  const issuer: DevIssuer = await startIssuer()
  closing.push(() => issuer.close())
  const masterKey = randomBytes(32).toString('base64')
  const operator = newOperatorToken().reveal().token as string
  await prepareStore(store.url, masterKey, operator)

  const ports = [await freePort(), await freePort()]
  const server = `http://127.0.0.1:${ports[0]}`
  const other = `http://127.0.0.1:${ports[1]}`
  writePolicies(
    dir,
    ciRule('ci', 'demo/orders-ro') + ciRule('other', 'demo/orders-ro').replace('456789', OTHER).replace('@id("ci")', '@id("other")') + (more.rules ?? ''),
  )
  const env = inherited({ DATABASE_URL: store.url, REDIS_URL: redis.url, MASTER_KEY: masterKey, RESOURCE_SECRET })
  const start = async (name: string, entry: string, port: number, ready: (log: string) => Promise<boolean>) => {
    const file = join(dir, `${name}.yaml`)
    const tokens = { name: 'demo/orders-ro', summary: 'read', engine: 'jwt', audience: 'orders', scopes: ['orders:read'], intent: 'read', maxLive: 1_000_000 }
    writeFileSync(
      file,
      stringify({
        mode: 'dev',
        server: { url: server, listen: `127.0.0.1:${port}`, internal: `127.0.0.1:${await freePort()}` },
        store: { kind: 'postgres', url: { env: 'DATABASE_URL' } },
        queue: { kind: 'redis', url: { env: 'REDIS_URL' }, prefix: PREFIX },
        signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 0 },
        issuers: [issuer.entry],
        audiences: [{ name: 'orders', uri: ORDERS, secret: { env: 'RESOURCE_SECRET' } }, ...(more.audiences ?? [])],
        capabilities: [tokens, ...(more.capabilities ?? [])],
        policies: { dir: 'policies' },
        // One address and one identity stand for a whole company here.
        limits: { source: false, identity: false },
        log: { level: 'info' },
        ...(more.vault ? { vault: more.vault } : {}),
      }),
    )
    const log = join(dir, `${name}.log`)
    const args = ['--disable-proto=delete', join(repository(), 'dist', entry), file]
    const child = await startProcess({ name, dir, command: process.execPath, args, env, ready: () => ready(log), deadlineMs: 60_000, stopWithinMs: 20_000 })
    closing.push(() => child.stop())
    return child
  }
  const answers = (url: string) => async () => (await call('GET', `${url}/readyz`)).status === 200
  const brokers = [
    await start('serve-a', 'src/main.js', ports[0] as number, answers(server)),
    await start('serve-b', 'src/main.js', ports[1] as number, answers(other)),
  ]
  await start('worker', 'workers/main.js', await freePort(), async log => readFileSync(log, 'utf8').includes('working'))

  const db = new pg.Pool({ connectionString: store.url, max: 4 })
  db.on('error', () => {})
  closing.push(() => db.end())
  const agent = new Agent({ connections: 32 })
  closing.push(() => agent.close())
  const post = async (url: string, body: string, headers: Record<string, string>) => {
    const answer = await request(url, { dispatcher: agent, method: 'POST', body, headers })
    const text = await answer.body.text()
    if (answer.statusCode >= 300) throw new Error(`${url} answered ${answer.statusCode}: ${text.slice(0, 300)}`)
    return text === '' ? {} : JSON.parse(text)
  }
  const form = { 'content-type': 'application/x-www-form-urlencoded' }
  const basicOf = (audience: string) => `Basic ${Buffer.from(`${audience}:${RESOURCE_SECRET}`).toString('base64')}`
  const basic = basicOf('orders')
  const workload = await createWorkload(server)
  const details = JSON.stringify([{ type: `${server}/rar/task/v1`, purpose: 'bench', capabilities: ['demo/orders-ro'], life_seconds: 3_600, ttl: 900 }])
  const issuerToken = (claims = {}) => issuer.githubToken(server, claims)

  const byOperator = { authorization: `Bearer ${operator}`, 'content-type': 'application/json' }
  const guard = await post(`${server}/v1/guards`, JSON.stringify({ name: 'bench' }), byOperator)
  const world: World = {
    store,
    redis,
    db,
    workload,
    server,
    other,
    guardKey: guard.key,
    operatorToken: operator,
    basic: basicOf,
    async open() {
      const answer = await workload.open(await issuerToken(), ['demo/orders-ro'])
      if (answer.status !== 201) throw new Error(`the task was not opened: ${answer.status}`)
      return { id: answer.body.task.id, token: answer.body.token }
    },
    signalBrokers: signal => {
      for (const broker of brokers) if (!broker.hasEnded()) process.kill(broker.mark.pid, signal)
    },
    issuerToken,
    issue: async repositoryId => (await world.prepared(repositoryId))(),
    async prepared(repositoryId) {
      const body = new URLSearchParams({
        grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
        subject_token_type: 'urn:ietf:params:oauth:token-type:id_token',
        subject_token: await issuerToken(claimsOf(repositoryId)),
        resource: ORDERS,
        authorization_details: details,
      }).toString()
      const headers = { ...form, dpop: await workload.proof('POST', `${server}/oauth2/token`) }
      return async () => {
        const { access_token: token } = await post(`${server}/oauth2/token`, body, headers)
        return { id: JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString()).jti, token }
      }
    },
    async revoke(selector) {
      return (await post(`${server}/v1/revocations`, JSON.stringify({ selector, reason: 'bench' }), byOperator)).revocation
    },
    isActive: async token => (await post(`${other}/oauth2/introspect`, new URLSearchParams({ token }).toString(), { ...form, authorization: basic })).active,
    async restartRedis() {
      const again = await startRedis({ dir: redisDir, own: true, port: redis.port })
      if (isAbsent(again)) throw new Error(again.absent)
      world.redis = again
    },
    close,
  }
  return world
}

async function prepareStore(url: string, masterKey: string, operator: string): Promise<void> {
  const log = { warn: () => {} }
  const connections = await connect({ kind: 'postgres', url: Secret.token(url), maxConnections: 2 }, log)
  await migrate(connections.main, await readMigrations(MIGRATIONS))
  const seal = await sealDigest(masterKeyWrapper(Secret.token(masterKey)))
  const store = await storeOver(connections, 'postgres', { sealDigest: seal, log }, async () => {})
  const context = { requestId: null, actor: { kind: 'broker', id: 'bench' } } as const
  await store.operators.add({ id: newId('operator'), name: 'bench', role: 'admin' }, seal(operatorTokenDigest(operator)), context)
  await store.close()
}
