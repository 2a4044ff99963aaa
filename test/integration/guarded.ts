/** Owns a deployment with guards before it: two `curfew serve` over one PostgreSQL and one Redis, resource servers as processes of their own, and a workload that has tokens for them. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { stringify } from 'yaml'
import { type Absent, inherited, isAbsent, repository } from '../../src/dev/find.js'
import { startIssuer } from '../../src/dev/issuer.js'
import { ciRule, writePolicies } from '../../src/dev/policies.js'
import { freePort } from '../../src/dev/ports.js'
import { startPostgres } from '../../src/dev/postgres.js'
import { type Child, startProcess } from '../../src/dev/process.js'
import { startRedis } from '../../src/dev/redis.js'
import { call, createWorkload, type Workload } from '../../src/dev/workload.js'
import { Secret } from '../../src/domain/secret.js'
import { MIGRATIONS, migrate, readMigrations } from '../../src/store/migrate.js'
import { connect } from '../../src/store/open.js'

export const ORDERS = 'https://orders.guarded/'
const CAPABILITY = 'api/orders'
const run = promisify(execFile)

/** The maxStaleMs of every guard here, which is what it promises; how quick one is on a quiet machine is for bench/ to show. */
export const MAX_STALE_MS = 5_000

export interface Issued {
  readonly id: string
  readonly task: string
  readonly token: string
  readonly kid: string
}

export interface Broker {
  readonly url: string
  readonly port: number
  child: Child
  /** The same again, after its process ended. */
  start(): Promise<void>
  /** By its own account. */
  followers(): Promise<number>
}

export interface Api {
  readonly origin: string
  readonly child: Child
  health(): Promise<{ readonly status: number; readonly body: Record<string, unknown> }>
  /** `200 bounded`, `401 revoked`, `503 stale_feed` … and how stale a yes is told to be. */
  use(issued: Issued): Promise<{ readonly said: string; readonly staleMs: number | null }>
}

export interface Guarded {
  readonly dir: string
  /** `a` has the public address. */
  readonly brokers: { readonly a: Broker; readonly b: Broker }
  readonly guardKey: string
  readonly secret: string
  readonly ci: Workload
  /** examples/orders-api. @param more of its environment */
  api(name: string, more?: Readonly<Record<string, string>>, node?: readonly string[]): Promise<Api>
  /** A credential whose evidence is younger than every cut-off until now. */
  issued(claims?: object): Promise<Issued>
  /** Answers when it was acknowledged, by the clock of performance.now(). */
  revoke(selector: object, at?: Broker): Promise<{ readonly seq: number; readonly receipt: string; readonly at: number }>
  // biome-ignore lint/suspicious/noExplicitAny: a test reads what docs/http-api.md has
  asOperator(method: string, path: string, body?: object): Promise<any>
  /** Shows it every so many milliseconds, and notes each answer. */
  watch(at: Api, issued: Issued, everyMs?: number): { readonly seen: readonly Sample[]; stop(): Promise<void> }
  introspect(issued: Issued, at: Broker): Promise<boolean>
  close(): Promise<void>
}

export async function startGuarded(): Promise<Guarded | Absent> {
  const dir = mkdtempSync(join(tmpdir(), 'cf-guarded-'))
  const closing: (() => Promise<unknown> | unknown)[] = [() => rmSync(dir, { recursive: true, force: true })]
  const close = async () => {
    for (const end of closing.splice(0).reverse()) await end()
  }
  try {
    const store = await startPostgres({ dir: join(dir, 'store'), database: 'curfew' })
    if (!isAbsent(store)) closing.push(() => store.stop())
    const redis = await startRedis({ dir: join(dir, 'redis'), own: true })
    if (!isAbsent(redis)) closing.push(() => redis.stop())
    for (const part of [store, redis]) {
      if (!isAbsent(part)) continue
      await close()
      return part
    }
    return await over({ dir, closing, close }, (store as Exclude<typeof store, Absent>).url, (redis as Exclude<typeof redis, Absent>).url)
  } catch (error) {
    await close()
    throw error
  }
}

interface Place {
  readonly dir: string
  readonly closing: (() => Promise<unknown> | unknown)[]
  readonly close: () => Promise<void>
}

async function over({ dir, closing, close }: Place, storeUrl: string, redisUrl: string): Promise<Guarded> {
  const connections = await connect({ kind: 'postgres', url: Secret.token(storeUrl), maxConnections: 2 }, { warn: () => {} })
  await migrate(connections.main, await readMigrations(MIGRATIONS))
  await connections.close()
  const issuer = await startIssuer()
  closing.push(() => issuer.close())
  writePolicies(dir, ciRule('ci-api', CAPABILITY))
  const secret = randomBytes(18).toString('base64url')
  const env = { STORE_URL: storeUrl, REDIS_URL: redisUrl, MASTER_KEY: randomBytes(32).toString('base64'), ORDERS_SECRET: secret }
  const ports = { a: await freePort(), b: await freePort() }
  const server = `http://127.0.0.1:${ports.a}`

  async function broker(name: 'a' | 'b'): Promise<Broker> {
    const [port, internal] = [ports[name], await freePort()]
    const config = join(dir, `${name}.yaml`)
    const settings = {
      mode: 'dev',
      server: { url: server, listen: `127.0.0.1:${port}`, internal: `127.0.0.1:${internal}` },
      store: { kind: 'postgres', url: { env: 'STORE_URL' } },
      queue: { kind: 'redis', url: { env: 'REDIS_URL' } },
      signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 0 },
      issuers: [issuer.entry],
      audiences: [{ name: 'orders', uri: ORDERS, secret: { env: 'ORDERS_SECRET' } }],
      capabilities: [{ name: CAPABILITY, summary: 'orders', engine: 'jwt', audience: 'orders', scopes: ['orders:read'], intent: 'read', maxLive: 1_000_000 }],
      policies: { dir: 'policies' },
      // One address and one identity stand for a whole company here.
      limits: { source: false, identity: false },
      log: { level: 'warn' },
    }
    writeFileSync(config, stringify(settings))
    const url = `http://127.0.0.1:${port}`
    const start = () =>
      startProcess({
        name,
        dir,
        command: process.execPath,
        args: ['--disable-proto=delete', join(repository(), 'dist', 'src', 'main.js'), config],
        env: inherited(env),
        ready: async () => (await call('GET', `${url}/readyz`)).status === 200,
        deadlineMs: 60_000,
        stopWithinMs: 20_000,
      })
    const one: Broker = {
      url,
      port,
      child: await start(),
      async start() {
        await one.child.stop()
        one.child = await start()
      },
      async followers() {
        const text = await (await fetch(`http://127.0.0.1:${internal}/metrics`)).text()
        return Number(/^curfew_feed_followers (\d+)$/m.exec(text)?.[1])
      },
    }
    closing.push(() => one.child.stop())
    return one
  }
  const brokers = { a: await broker('a'), b: await broker('b') }

  const curfew = (...words: string[]) => run(process.execPath, [join(repository(), 'bin', 'curfew'), ...words], { env: inherited(env), timeout: 60_000 })
  const [tokenFile, keyFile] = [join(dir, 'operator.token'), join(dir, 'guard.key')]
  await curfew('operator', 'add', 'guarded', '--role', 'admin', '--token-file', tokenFile, '--config', join(dir, 'a.yaml'))
  await curfew('guard', 'add', 'orders', '--key-file', keyFile, '--server', server, '--operator-token-file', tokenFile)
  const operator = { authorization: `Bearer ${readFileSync(tokenFile, 'utf8').trim()}`, 'content-type': 'application/json' }
  const guardKey = readFileSync(keyFile, 'utf8').trim()
  const ci = await createWorkload(server)
  const basic = `Basic ${Buffer.from(`orders:${secret}`).toString('base64')}`

  return {
    dir,
    brokers,
    guardKey,
    secret,
    ci,
    async api(name, more = {}, node = []) {
      const port = await freePort()
      const origin = `http://127.0.0.1:${port}`
      const child = await startProcess({
        name,
        command: process.execPath,
        args: [...node, join(repository(), 'dist', 'examples', 'orders-api', 'main.js')],
        dir,
        env: { CURFEW_ISSUER: server, CURFEW_AUDIENCE: ORDERS, CURFEW_GUARD_KEY: guardKey, PUBLIC_URL: origin, PORT: String(port), ...more },
        // It listens at once; whether it could say yes is for the test to see.
        ready: async () => [200, 503].includes((await call('GET', `${origin}/healthz`)).status),
      })
      closing.push(() => child.stop())
      return {
        origin,
        child,
        health: () => call('GET', `${origin}/healthz`),
        async use({ token }) {
          const { status, body } = await ci.use(`${origin}/orders`, token)
          return { said: `${status} ${status === 200 ? body.mode : body.code}`, staleMs: body.staleMs ?? null }
        },
      }
    },
    async issued(claims = {}) {
      await sleep(1_100)
      const opened = await ci.open(await issuer.githubToken(server, claims as never), [CAPABILITY])
      if (opened.status !== 201) throw new Error(`the task was not opened: ${opened.status} ${opened.body?.reason}`)
      const task = opened.body.task.id as string
      const made = await ci.credential({ task, token: opened.body.token }, CAPABILITY)
      if (made.status !== 201) throw new Error(`nothing was issued: ${made.status} ${made.body?.reason}`)
      const token = made.body.secret.token as string
      const { kid } = JSON.parse(Buffer.from(token.split('.')[0] as string, 'base64url').toString()) as { kid: string }
      return { id: made.body.credential.id, task, token, kid }
    },
    async revoke(selector, at = brokers.a) {
      const { status, body } = await call('POST', `${at.url}/v1/revocations`, { headers: operator, body: JSON.stringify({ selector }) })
      if (status !== 202) throw new Error(`not revoked: ${status} ${JSON.stringify(body)}`)
      return { ...body.revocation, at: performance.now() }
    },
    async asOperator(method, path, body) {
      const answer = await call(method, `${server}${path}`, { headers: operator, ...(body ? { body: JSON.stringify(body) } : {}) })
      if (answer.status >= 300) throw new Error(`${method} ${path} answered ${answer.status}: ${JSON.stringify(answer.body)}`)
      return answer.body
    },
    watch(at, issued, everyMs = 50) {
      const seen: Sample[] = []
      let isStopped = false
      const watching = (async () => {
        while (!isStopped) {
          const [next, askedAt] = [sleep(everyMs), performance.now()]
          seen.push({ askedAt, ...(await at.use(issued)) })
          await next
        }
      })()
      return {
        seen,
        async stop() {
          isStopped = true
          await watching
        },
      }
    },
    async introspect({ token }, at) {
      const { status, body } = await call('POST', `${at.url}/oauth2/introspect`, {
        headers: { authorization: basic, 'content-type': 'application/x-www-form-urlencoded' },
        body: new URLSearchParams({ token }).toString(),
      })
      if (status !== 200) throw new Error(`introspection answered ${status}`)
      return body.active
    },
    close,
  }
}

export interface Sample {
  readonly askedAt: number
  readonly said: string
  readonly staleMs: number | null
}

/** I9: what was said yes to after its revocation was known to be committed, and is not covered by how stale the yes was told to be. @param slackMs of the clocks of two processes that were both busy */
export const unsaid = (samples: readonly Sample[], revokedAt: number, slackMs = 300): readonly Sample[] =>
  samples.filter(s => s.said.startsWith('200') && s.askedAt - revokedAt > (s.staleMs ?? 0) + slackMs)

/** Until it holds. Milliseconds. */
export async function until(what: () => boolean | Promise<boolean>, boundMs: number, everyMs = 20): Promise<number> {
  const since = performance.now()
  for (;;) {
    if (await what()) return performance.now() - since
    if (performance.now() - since > boundMs) throw new Error(`does not hold after ${boundMs} ms: ${what}`)
    await sleep(everyMs)
  }
}
