/** Owns the house that tests live in: the real composition over a store in memory, with hands on time, jobs and the target. */

import { createHmac, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Express } from 'express'
import { exportJWK, generateKeyPair, type JWK, type JWTPayload, SignJWT } from 'jose'
import { stringify } from 'yaml'
import { type App, compose } from '../src/compose.js'
import { load } from '../src/config.js'
import { ciRule, writePolicies } from '../src/dev/policies.js'
import { newId } from '../src/domain/ids.js'
import type { Role } from '../src/domain/operator.js'
import { newOperatorToken, operatorTokenDigest } from '../src/domain/operator-token.js'
import type { MemoryEngine } from '../src/engines/memory.js'
import type { Replica } from '../src/feed/replica.js'
import { createApp } from '../src/http/app.js'
import { createLog } from '../src/log.js'
import type { MemoryQueue } from '../src/queue/memory.js'
import { doorsOf, feedOf } from '../src/serve.js'
import { checkMigrations, MIGRATIONS, migrate, readMigrations } from '../src/store/migrate.js'
import { connect, storeOver } from '../src/store/open.js'
import { witnessed } from './witness.js'

export const SERVER = 'https://curfew.example'
export const ORDERS = 'https://orders.example/'
export const LEGACY = 'https://legacy.example/'
export const GITHUB = 'https://token.actions.githubusercontent.com'
export const EDR_SECRET = 'a-shared-secret-of-the-edr-source'
export const ORDERS_SECRET = 'the-secret-of-the-orders-server'

const POLICIES = `
${ciRule('ci-orders-main', 'demo/orders-ro')}
${ciRule('ci-orders-bearer', 'demo/orders-bearer')}
${ciRule('ci-orders-db', 'demo/orders-db')}

@id("agents-short")
@max_ttl("60")
@require_proof("true")
permit(principal, action == Action::"issue", resource == Capability::"demo/orders-ro")
when { context.issuer == "agents" && context has registered && context.registered.agent == "reporter" };
`

export interface KeyedIssuer {
  readonly kid: string
  mint(claims: JWTPayload, header?: Record<string, unknown>): Promise<string>
  readonly jwk: JWK
}

export async function keyedIssuer(alg: 'ES256' | 'RS256' | 'EdDSA', kid: string): Promise<KeyedIssuer> {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true })
  return {
    kid,
    jwk: { ...(await exportJWK(publicKey)), kid, alg, use: 'sig' },
    mint: (claims, header = {}) => new SignJWT(claims).setProtectedHeader({ alg, kid, typ: 'JWT', ...header }).sign(privateKey),
  }
}

export interface House {
  readonly app: App
  readonly http: Express
  readonly feed: Replica
  readonly queue: MemoryQueue
  readonly database: MemoryEngine
  readonly github: KeyedIssuer
  readonly agent: KeyedIssuer
  /** Seconds since the epoch by the store's clock. */
  now(): number
  /** A push to main of the repository that the policy knows, with what a test changes. */
  evidence(claims?: JWTPayload): Promise<string>
  agentAssertion(claims?: JWTPayload): Promise<string>
  operator(role: Role): Promise<string>
  signal(body: unknown, options?: { at?: number; secret?: string }): { headers: Record<string, string>; text: string }
  /** Works everything that waits now: expiry, destruction, signals. */
  work(): Promise<void>
  sweep(): Promise<void>
  /** Moves the store's time, by which everything is decided. */
  advance(seconds: number): Promise<void>
  audits(kind?: string): Promise<readonly { id: string; kind: string; reason: string | null; data: Readonly<Record<string, unknown>> }[]>
  close(): Promise<void>
}

export async function makeHouse(
  options: {
    capabilities?: Record<string, unknown>[]
    policies?: string
    more?: Record<string, unknown>
    alsoAllow?: string[]
    secrets?: Record<string, string>
    /** Milliseconds: the time of the limits on requests. */
    monotonic?: () => number
  } = {},
): Promise<House> {
  const dir = mkdtempSync(join(tmpdir(), 'curfew-house-'))
  const github = await keyedIssuer('RS256', 'gh-1')
  const agent = await keyedIssuer('ES256', 'agent-1')
  writePolicies(dir, (options.policies ?? POLICIES) + (options.alsoAllow ?? []).map((c, i) => ciRule(`also-${i}`, c)).join(''), 'house')
  writeFileSync(join(dir, 'github.jwks'), JSON.stringify({ keys: [github.jwk] }))
  writeFileSync(join(dir, 'agent.jwk'), JSON.stringify(agent.jwk))
  writeFileSync(join(dir, 'curfew.yaml'), stringify({ ...configOf(options.capabilities ?? []), ...options.more }))
  const env = { MASTER_KEY: randomBytes(32).toString('base64'), EDR_SECRET, ORDERS_SECRET, ...options.secrets }
  const { readFileSync } = await import('node:fs')
  const { config } = load({ path: join(dir, 'curfew.yaml'), env, readFile: path => readFileSync(path, 'utf8') })
  const log = createLog({ level: 'silent' })
  const connections = await connect({ kind: 'memory' }, log)
  const migrations = await readMigrations(MIGRATIONS)
  await migrate(connections.main, migrations)
  const app = await compose(config, {
    log,
    ...(options.monotonic ? { monotonic: options.monotonic } : {}),
    store: sealDigest => storeOver(connections, 'memory', { sealDigest, log }, () => checkMigrations(connections.main, migrations)),
  })
  const queue = app.queue as MemoryQueue
  const handlers = {
    expire: async () => void (await app.broker.expireDue(AbortSignal.timeout(10_000))),
    destroy: (job: { credential: Parameters<typeof app.broker.destroy>[0]; version: number }) =>
      app.broker.destroy(job.credential, job.version, AbortSignal.timeout(10_000)),
    signal: async (job: { signal: Parameters<typeof app.broker.handleSignal>[0] }) => void (await app.broker.handleSignal(job.signal)),
  }
  const feed = feedOf(app)
  let ahead = 0
  const now = () => Math.floor(app.store.clock.now().getTime() / 1000)

  return {
    app,
    http: witnessed(createApp(doorsOf(app, feed)), SERVER),
    feed,
    queue,
    database: app.deps.engines.get('memory') as MemoryEngine,
    github,
    agent,
    now,
    evidence: (claims = {}) =>
      github.mint({
        iss: GITHUB,
        aud: SERVER,
        sub: 'repo:acme/orders:ref:refs/heads/main',
        jti: randomBytes(12).toString('hex'),
        iat: now(),
        nbf: now(),
        exp: now() + 300,
        repository: 'acme/orders',
        repository_id: '456789',
        repository_owner: 'acme',
        repository_owner_id: '123456',
        ref: 'refs/heads/main',
        ref_type: 'branch',
        event_name: 'push',
        workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main',
        job_workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main',
        runner_environment: 'github-hosted',
        actor: 'dana',
        actor_id: '7',
        run_id: randomBytes(4).readUInt32BE().toString(),
        run_attempt: '1',
        check_run_id: '1',
        ...claims,
      }),
    agentAssertion: (claims = {}) =>
      agent.mint(
        {
          iss: 'agents:agent=reporter',
          sub: 'agents:agent=reporter',
          aud: SERVER,
          jti: randomBytes(12).toString('hex'),
          iat: now(),
          exp: now() + 60,
          ...claims,
        },
        { typ: 'client-authentication+jwt' },
      ),
    async operator(role) {
      const token = newOperatorToken()
      const text = token.reveal().token as string
      await app.store.operators.add(
        { id: newId('operator'), name: `${role}-${randomBytes(3).toString('hex')}`, role },
        app.sealDigest(operatorTokenDigest(text)),
        {
          requestId: null,
          actor: { kind: 'broker', id: 'test' },
        },
      )
      return text
    },
    signal(body, { at = now(), secret = EDR_SECRET } = {}) {
      const text = JSON.stringify(body)
      const mac = createHmac('sha256', secret).update(`${at}.`).update(text).digest('hex')
      return { text, headers: { 'Content-Type': 'application/json', 'Curfew-Source': 'edr', 'Curfew-Signature': `t=${at},v1=${mac}` } }
    },
    async work() {
      await queue.run(handlers as Parameters<typeof queue.run>[0], { until: app.store.clock.now(), limit: 1_000 })
    },
    sweep: () => app.broker.sweep(AbortSignal.timeout(30_000)),
    async advance(seconds) {
      ahead += seconds
      await connections.main.query(
        `create or replace function curfew.now() returns timestamptz language sql volatile as 'select clock_timestamp() + make_interval(secs => ${ahead})'`,
      )
      await app.store.ping()
    },
    audits: kind => app.store.audit.list({ limit: 200, ...(kind ? { kind: kind as 'request.refused' } : {}) }),
    async close() {
      await feed.stop()
      await app.close()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

/** GitHub as the configuration names it, with the keys that a house signs its jobs' tokens with. */
export const GITHUB_ISSUER = {
  name: 'github',
  kind: 'oidc',
  profile: 'github',
  issuer: GITHUB,
  keys: { file: 'github.jwks' },
  algs: ['RS256'],
  pin: { repository_owner_id: ['123456'] },
}

function configOf(more: Record<string, unknown>[]): Record<string, unknown> {
  return {
    mode: 'dev',
    server: { url: SERVER, listen: '127.0.0.1:0', internal: '127.0.0.1:0' },
    store: { kind: 'memory' },
    queue: { kind: 'memory' },
    signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 0 },
    issuers: [
      { ...GITHUB_ISSUER, strength: 3, owner: '@orders-team' },
      { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] },
    ],
    audiences: [
      { name: 'orders', uri: ORDERS, secret: { env: 'ORDERS_SECRET' } },
      { name: 'legacy', uri: LEGACY, senderConstrained: false, alg: 'RS256', secret: { env: 'ORDERS_SECRET' } },
    ],
    capabilities: [
      { name: 'demo/orders-ro', summary: 'Read the orders', engine: 'jwt', audience: 'orders', scopes: ['orders:read'], intent: 'read' },
      {
        name: 'demo/orders-bearer',
        summary: 'Read the orders at a server that checks no proof',
        engine: 'jwt',
        audience: 'legacy',
        scopes: ['orders:read'],
        intent: 'read',
      },
      { name: 'demo/orders-db', summary: 'A database user that reads the orders', engine: 'memory', intent: 'read', maxLive: 5 },
      ...more,
    ],
    policies: { dir: 'policies' },
    signals: {
      sources: [
        { name: 'edr', secret: { env: 'EDR_SECRET' }, issuers: ['github', 'agents'] },
        { name: 'narrow', secret: { env: 'EDR_SECRET' }, issuers: ['agents'] },
      ],
      rules: [
        { name: 'high-revokes', source: 'edr', minSeverity: 'high', act: { kind: 'revoke' } },
        { name: 'medium-denies', source: 'edr', minSeverity: 'medium', act: { kind: 'quarantine', seconds: 600 } },
      ],
    },
  }
}
