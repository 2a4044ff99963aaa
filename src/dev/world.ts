/** Owns the local world: what is found is used, what is not is said, and everything that was started is ended. */
import { randomBytes, randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { stringify } from 'yaml'
import { newOperatorToken } from '../domain/operator-token.js'
import { type Absent, inherited, isAbsent, repository } from './find.js'
import { type DevIssuer, startIssuer } from './issuer.js'
import { type OrdersApi, startOrdersApi } from './orders-api.js'
import { type OrdersTarget, prepareOrders } from './orders-target.js'
import { ciRule, writePolicies } from './policies.js'
import { freePort } from './ports.js'
import { startPostgres } from './postgres.js'
import { type Child, startProcess } from './process.js'
import { type Redis, startRedis } from './redis.js'
import { copyStore } from './store-template.js'
import { startVault } from './vault.js'
import { call } from './workload.js'

export interface World {
  readonly server: string
  readonly api: OrdersApi
  readonly issuer: DevIssuer
  readonly redis: Redis | null
  readonly operatorToken: string
  readonly signalSecret: string
  /** Whether the database user is a real one. */
  readonly realDatabase: boolean
  assertion(): Promise<string>
  close(): Promise<void>
}

export const ORDERS_URI = 'https://orders.demo/'
export const BEARER_URI = 'https://orders-bearer.demo/'

const POLICIES = `// The rules of the demo. The shipped examples are in config/policies.
${ciRule('ci-orders-main', 'demo/orders-ro')}
${ciRule('ci-orders-bearer', 'demo/orders-bearer')}
${ciRule('ci-orders-db', 'demo/orders-db')}
@id("agent-reporter")
@max_ttl("60")
permit (principal, action == Action::"issue", resource == Capability::"demo/orders-ro")
when { context.issuer == "agents" && context has registered && context.registered.agent == "reporter" };
`

/** What a real Vault can make beside a database user: to try, the story does without. */
const BY_VAULT = [
  {
    name: 'demo/tls',
    summary: 'a client certificate for this task',
    engine: 'vault-pki',
    intent: 'read',
    parameters: { role: 'workload', policy: 'curfew-cap-workload', identity: true },
  },
  {
    name: 'demo/ssh',
    summary: 'an SSH certificate for this task, for an account that is called deploy',
    engine: 'vault-ssh',
    intent: 'write',
    parameters: { role: 'login', policy: 'curfew-cap-login', principals: ['deploy'] },
  },
]

export async function buildWorld(say: (name: string, text: string) => void, signal: AbortSignal): Promise<World> {
  const dir = mkdtempSync(join(tmpdir(), 'curfew-'))
  const closing: (() => Promise<void> | void)[] = [() => rmSync(dir, { recursive: true, force: true })]
  const close = async () => {
    for (const end of closing.splice(0).reverse()) await end()
  }
  try {
    const redis = await startRedis({ dir: join(dir, 'redis'), own: true, signal })
    if (isAbsent(redis)) say('redis', `${redis.absent}: in-memory queue, revocations ride on the sweep`)
    else {
      closing.push(() => redis.stop())
      say('redis', `${redis.version} from ${redis.origin}`)
    }
    const orders = await findOrders(dir, say, signal, closing)
    const issuer = await startIssuer()
    closing.push(() => issuer.close())
    const agent = await generateKeyPair('ES256', { extractable: true })
    const [port, internal] = [await freePort([8787]), await freePort([8786])]
    const server = `http://127.0.0.1:${port}`
    const secrets = {
      MASTER_KEY: randomBytes(32).toString('base64'),
      ORDERS_SECRET: randomBytes(18).toString('base64url'),
      EDR_SECRET: randomBytes(18).toString('base64url'),
    }

    writePolicies(dir, POLICIES + (orders ? BY_VAULT.map(c => ciRule(`ci-${c.name.replace('/', '-')}`, c.name)).join('') : ''))
    writeFileSync(join(dir, 'agent.jwk'), JSON.stringify({ ...(await exportJWK(agent.publicKey)), kid: 'agent-1', alg: 'ES256' }))
    const file = join(dir, 'curfew.yaml')
    writeFileSync(file, stringify(configOf({ server, port, internal, issuer: issuer.url, redis: !isAbsent(redis), orders })))

    const operatorToken = newOperatorToken().reveal().token as string
    const operatorFile = join(dir, 'operator')
    writeFileSync(operatorFile, operatorToken, { mode: 0o600 })
    const store = await copyStore(join(dir, 'store'))
    const broker: Child = await startProcess({
      name: 'broker',
      command: process.execPath,
      args: ['--disable-proto=delete', join(repository(), 'dist', 'workers', 'all.js'), file, operatorFile],
      dir,
      env: inherited({ ...secrets, ...(isAbsent(redis) ? {} : { REDIS_URL: redis.url }) }),
      ready: async () => (await call('GET', `${server}/readyz`)).status === 200,
      signal,
    })
    closing.push(() => broker.stop())
    say('store', `PGlite, new directory (${store === 'copied' ? 'copied from the cache' : 'made, and kept in the cache for the next time'})`)
    say('broker', `${server}, worker in the same process`)
    const api = await startOrdersApi({ dir, issuer: server, operatorToken, audience: ORDERS_URI, bearerAudience: BEARER_URI, signal })
    closing.push(() => api.close())
    say('api', `${api.url} and ${new URL(api.bearerUrl).host}: examples/orders-api behind a guard that holds the feed`)
    return {
      server,
      api,
      issuer,
      redis: isAbsent(redis) ? null : redis,
      operatorToken,
      signalSecret: secrets.EDR_SECRET,
      realDatabase: orders !== null,
      assertion: () =>
        new SignJWT({ jti: randomUUID() })
          .setProtectedHeader({ alg: 'ES256', typ: 'client-authentication+jwt', kid: 'agent-1' })
          .setIssuer('agents:agent=reporter')
          .setSubject('agents:agent=reporter')
          .setAudience(server)
          .setIssuedAt()
          .setExpirationTime('60s')
          .sign(agent.privateKey),
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** A real database user needs a Vault and a PostgreSQL server of our own; without them the engine in memory, and the output says which. */
async function findOrders(
  dir: string,
  say: (name: string, text: string) => void,
  signal: AbortSignal,
  closing: (() => Promise<void> | void)[],
): Promise<OrdersTarget | null> {
  const [vault, postgres] = await Promise.all([
    startVault({ dir: join(dir, 'vault'), own: true, signal }),
    startPostgres({ dir: join(dir, 'target'), database: 'orders', signal }),
  ])
  for (const part of [vault, postgres]) if (!isAbsent(part)) closing.push(() => part.stop())
  if (isAbsent(vault) || isAbsent(postgres)) {
    say('vault', `${isAbsent(vault) ? vault.absent : (postgres as Absent).absent}: in-memory engine (npm run real builds a Vault)`)
    return null
  }
  const orders = await prepareOrders({ vault, postgres, dir, also: { KINDS: 'database pki ssh', PKI_URIS: 'github:*', SSH_USERS: 'deploy' } })
  say('vault', `${vault.version} from ${vault.origin}, with PostgreSQL ${postgres.version} as its target`)
  return orders
}

function configOf(at: { server: string; port: number; internal: number; issuer: string; redis: boolean; orders: OrdersTarget | null }): object {
  return {
    mode: 'dev',
    server: { url: at.server, listen: `127.0.0.1:${at.port}`, internal: `127.0.0.1:${at.internal}` },
    store: { kind: 'pglite', dir: 'store' },
    queue: at.redis ? { kind: 'redis', url: { env: 'REDIS_URL' } } : { kind: 'memory' },
    signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 0 },
    issuers: [
      {
        name: 'github',
        kind: 'oidc',
        profile: 'github',
        issuer: at.issuer,
        internal: true,
        algs: ['RS256'],
        pin: { repository_owner_id: ['123456'] },
        strength: 3,
        owner: '@orders-team',
      },
      { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] },
    ],
    audiences: [
      { name: 'orders', uri: ORDERS_URI, secret: { env: 'ORDERS_SECRET' } },
      { name: 'orders-bearer', uri: BEARER_URI, senderConstrained: false, secret: { env: 'ORDERS_SECRET' } },
    ],
    capabilities: [
      {
        name: 'demo/orders-ro',
        summary: 'read the orders over HTTP, with a token bound to your key',
        engine: 'jwt',
        audience: 'orders',
        scopes: ['orders:read'],
        intent: 'read',
      },
      {
        name: 'demo/orders-bearer',
        summary: 'read the orders at a server that cannot check a key',
        engine: 'jwt',
        audience: 'orders-bearer',
        scopes: ['orders:read'],
        intent: 'read',
      },
      at.orders?.capability('demo/orders-db') ?? { name: 'demo/orders-db', summary: 'a database user that reads the orders', engine: 'memory', intent: 'read' },
      ...(at.orders ? BY_VAULT : []),
    ],
    ...(at.orders ? { vault: at.orders.vault } : {}),
    policies: { dir: 'policies' },
    signals: {
      sources: [{ name: 'demo-edr', secret: { env: 'EDR_SECRET' }, issuers: ['github', 'agents'] }],
      rules: [{ name: 'high-revokes', minSeverity: 'high', act: { kind: 'revoke' } }],
    },
    timers: { sweepMs: 5_000 },
    log: { level: 'warn' },
  }
}
