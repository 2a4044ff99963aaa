/** Owns the figures of issuing: ours beside a bare program and beside Vault, in one run on one machine, in turn. */
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { Agent, request } from 'undici'
import { stringify } from 'yaml'
import { inherited, isAbsent, repository } from '../src/dev/find.js'
import { startIssuer } from '../src/dev/issuer.js'
import { prepareOrders } from '../src/dev/orders-target.js'
import { ciRule, writePolicies } from '../src/dev/policies.js'
import { freePort } from '../src/dev/ports.js'
import { startPostgres } from '../src/dev/postgres.js'
import { startProcess } from '../src/dev/process.js'
import { startVault } from '../src/dev/vault.js'
import { call, createWorkload } from '../src/dev/workload.js'
import { Secret } from '../src/domain/secret.js'
import { MIGRATIONS, migrate, readMigrations } from '../src/store/migrate.js'
import { connect } from '../src/store/open.js'
import { type Figures, median, timed } from './measure.js'
import { topOf } from './profile.js'

const ROUNDS = 3
const TOKENS = 1_000
const USERS = 40
const ALONE = 200
const WIDTH = 16
const ORDERS = 'https://orders.example/'
const agent = new Agent({ connections: 64 })
const say = (text: string) => void process.stdout.write(`${text}\n`)

async function post(url: string, body: string, headers: Record<string, string> = {}): Promise<string> {
  const answer = await request(url, { dispatcher: agent, method: 'POST', body, headers })
  const text = await answer.body.text()
  if (answer.statusCode >= 300) throw new Error(`${url} answered ${answer.statusCode}: ${text.slice(0, 300)}`)
  return text
}

interface Contender {
  readonly name: string
  /** Everything the clock must not see: evidence and proofs are made here. */
  prepare(n: number): Promise<readonly (() => Promise<void>)[]>
}

export interface Options {
  /** Where the figures go as JSON. */
  readonly json: string | null
  /** Take a CPU profile of our server: its figures are then a profiled server's. */
  readonly profile: boolean
}

interface Result {
  readonly title: string
  readonly perRound: number
  readonly inFlight: number
  readonly contenders: readonly object[]
}

async function race(title: string, contenders: readonly Contender[], n: number, width: number): Promise<Result> {
  const figures = new Map<string, Figures[]>()
  for (let round = -1; round < ROUNDS; round++) {
    for (const c of contenders) {
      const acts = await c.prepare(n)
      const seen = await timed(acts, width, act => act())
      // The first round warms up compilers, pools and caches.
      if (round >= 0) figures.set(c.name, [...(figures.get(c.name) ?? []), seen])
    }
  }
  say(`\n${title}  (${n} a round, ${width} in flight, median of ${ROUNDS})`)
  const first = median(figures.get(contenders[0]?.name ?? '') ?? [])
  const told = contenders.map(c => ({ name: c.name, ...median(figures.get(c.name) ?? []), rounds: figures.get(c.name) ?? [] }))
  for (const m of told) {
    const ratio = m === told[0] ? '' : `ours is ${(first.perSecond / m.perSecond).toFixed(2)} of it`
    say(`  ${m.name.padEnd(44)} ${m.perSecond.toFixed(0).padStart(6)}/s  (${m.spread})  p50 ${m.p50.toFixed(1)} ms  p99 ${m.p99.toFixed(1)} ms  ${ratio}`)
  }
  return { title, perRound: n, inFlight: width, contenders: told }
}

export async function benchIssue(options: Options): Promise<number> {
  const load = loadavg()[0] ?? 0
  const dir = mkdtempSync(join(tmpdir(), 'cf-bench-'))
  const closing: (() => Promise<unknown> | unknown)[] = [() => rmSync(dir, { recursive: true, force: true })]
  try {
    const [vault, store, target] = [
      await startVault({ dir: join(dir, 'vault'), own: true }),
      await startPostgres({ dir: join(dir, 'store'), database: 'curfew', name: 'store' }),
      await startPostgres({ dir: join(dir, 'target'), database: 'orders', name: 'target' }),
    ]
    for (const part of [vault, store, target]) if (!isAbsent(part)) closing.push(() => part.stop())
    if (isAbsent(vault) || isAbsent(store) || isAbsent(target)) {
      say(`cannot run: ${[vault, store, target].flatMap(p => (isAbsent(p) ? [p.absent] : [])).join('; ')}`)
      return 1
    }
    const issuer = await startIssuer()
    closing.push(() => issuer.close())
    const orders = await prepareOrders({ vault, postgres: target, dir })
    const connections = await connect({ kind: 'postgres', url: Secret.token(store.url), maxConnections: 2 }, { warn: () => {} })
    await migrate(connections.main, await readMigrations(MIGRATIONS))
    await connections.close()

    const [port, internal, barePort] = [await freePort(), await freePort(), await freePort()]
    const server = `http://127.0.0.1:${port}`
    const tokens = { name: 'demo/orders-ro', summary: 'read', engine: 'jwt', audience: 'orders', scopes: ['orders:read'], intent: 'read', maxLive: 1_000_000 }
    writePolicies(dir, ciRule('tokens', 'demo/orders-ro') + ciRule('users', 'db/orders-ro'))
    const config = join(dir, 'curfew.yaml')
    writeFileSync(
      config,
      stringify({
        mode: 'dev',
        server: { url: server, listen: `127.0.0.1:${port}`, internal: `127.0.0.1:${internal}` },
        store: { kind: 'postgres', url: { env: 'STORE_URL' } },
        queue: { kind: 'memory' },
        signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 0 },
        vault: orders.vault,
        issuers: [issuer.entry],
        audiences: [{ name: 'orders', uri: ORDERS, secret: { env: 'MASTER_KEY' } }],
        capabilities: [tokens, { ...orders.capability('db/orders-ro'), maxLive: 100_000 }],
        policies: { dir: 'policies' },
        // One address and one identity stand for a whole company here.
        limits: { source: false, identity: false },
        log: { level: 'error' },
      }),
    )
    const env = inherited({ STORE_URL: store.url, MASTER_KEY: randomBytes(32).toString('base64') })
    const ours = await startProcess({
      name: 'curfew',
      dir,
      command: process.execPath,
      args: [...(options.profile ? ['--cpu-prof', `--cpu-prof-dir=${dir}`] : []), join(repository(), 'dist/src/main.js'), config],
      env,
      ready: async () => (await call('GET', `${server}/readyz`)).status === 200,
    })
    closing.push(() => ours.stop())
    const bareFile = join(dir, 'bare.json')
    const capability = {
      ...tokens,
      parameters: {},
      ttlSeconds: 300,
      maxTtlSeconds: 3_600,
      maxEvidenceAgeSeconds: 900,
      sensitivity: 'medium',
      revocation: 'instant',
    }
    writeFileSync(
      bareFile,
      JSON.stringify({
        port: barePort,
        url: store.url,
        issuer: issuer.url,
        audience: server,
        policies: join(dir, 'policies'),
        capability,
        names: ['demo/orders-ro', 'db/orders-ro'],
      }),
    )
    const bare = await startProcess({
      name: 'bare',
      dir,
      command: process.execPath,
      args: [join(repository(), 'dist/bench/bare.js'), bareFile],
      env,
      ready: async () => (await fetch(`http://127.0.0.1:${barePort}/`)).ok,
    })
    closing.push(() => bare.stop())

    const root = { 'X-Vault-Token': vault.rootToken, 'content-type': 'application/json' }
    await post(`${vault.address}/v1/sys/auth/jwt`, JSON.stringify({ type: 'jwt' }), root)
    await post(`${vault.address}/v1/auth/jwt/config`, JSON.stringify({ jwks_url: `${issuer.url}/jwks`, bound_issuer: issuer.url }), root)
    await post(
      `${vault.address}/v1/sys/policies/acl/bench`,
      JSON.stringify({ policy: 'path "auth/token/create" { capabilities = ["create", "update"] }' }),
      root,
    )
    await post(
      `${vault.address}/v1/auth/jwt/role/bench`,
      JSON.stringify({ role_type: 'jwt', bound_audiences: [server], user_claim: 'repository_id', token_policies: ['bench'], token_ttl: '5m' }),
      root,
    )

    const workload = await createWorkload(server)
    const many = <T>(n: number, make: () => Promise<T>): Promise<T[]> => Promise.all(Array.from({ length: n }, make))
    const details = JSON.stringify([{ type: `${server}/rar/task/v1`, purpose: 'bench', capabilities: ['demo/orders-ro'], life_seconds: 600, ttl: 300 }])

    say(
      `Node ${process.version}, ${cpus().length} cores (${cpus()[0]?.model.trim()}), PostgreSQL ${store.version}, Vault ${vault.version}; load generator, servers and databases on the same cores; load average before ${load.toFixed(2)}`,
    )
    const signed: readonly Contender[] = [
      {
        name: 'curfew: token exchange with a new task',
        prepare: n =>
          many(n, async () => {
            const form = new URLSearchParams({
              grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
              subject_token_type: 'urn:ietf:params:oauth:token-type:id_token',
              subject_token: await issuer.githubToken(server),
              resource: ORDERS,
              authorization_details: details,
            }).toString()
            const proof = await workload.proof('POST', `${server}/oauth2/token`)
            return async () => void (await post(`${server}/oauth2/token`, form, { 'content-type': 'application/x-www-form-urlencoded', dpop: proof }))
          }),
      },
      {
        name: 'bare program: verify, decide, sign, commit',
        prepare: n =>
          many(n, async () => {
            const evidence = await issuer.githubToken(server)
            return async () => void (await post(`http://127.0.0.1:${barePort}/issue`, evidence))
          }),
      },
      {
        name: 'Vault: jwt login and a child token',
        prepare: n =>
          many(n, async () => {
            const jwt = await issuer.githubToken(server)
            return async () => {
              const login = JSON.parse(await post(`${vault.address}/v1/auth/jwt/login`, JSON.stringify({ role: 'bench', jwt }))) as {
                auth: { client_token: string }
              }
              await post(`${vault.address}/v1/auth/token/create`, JSON.stringify({ ttl: '5m' }), { 'X-Vault-Token': login.auth.client_token })
            }
          }),
      },
    ]
    const results = []
    const recorded = 'a signed token, DPoP-bound, recorded in PostgreSQL'
    results.push(await race(recorded, signed, ALONE, 1), await race(recorded, signed, TOKENS, WIDTH))

    const opened = await workload.open(await issuer.githubToken(server), ['db/orders-ro'], { life_seconds: 3_600 })
    const held = { task: opened.body.task.id as string, token: opened.body.token as string }
    const path = `/v1/tasks/${held.task}/credentials`
    const users = await race(
      'a PostgreSQL user made by Vault',
      [
        {
          name: 'curfew: one credential of an open task',
          prepare: n =>
            many(n, async () => {
              const headers = {
                authorization: `DPoP ${held.token}`,
                dpop: await workload.proof('POST', server + path, held.token),
                'content-type': 'application/json',
              }
              return async () => void (await post(server + path, JSON.stringify({ capability: 'db/orders-ro', ttl_seconds: 300 }), headers))
            }),
        },
        {
          name: 'the same Vault driven directly: token, creds',
          prepare: n =>
            many(n, async () => async () => {
              const name = `crd-${createHash('sha256').update(randomBytes(8)).digest('hex').slice(0, 26)}`
              const made = JSON.parse(
                await post(
                  `${vault.address}/v1/auth/token/create/curfew`,
                  JSON.stringify({ ttl: '90s', policies: ['curfew-cap-orders-ro'], display_name: name }),
                  root,
                ),
              ) as { auth: { client_token: string } }
              const creds = await request(`${vault.address}/v1/database/creds/orders-ro`, {
                dispatcher: agent,
                headers: { 'X-Vault-Token': made.auth.client_token },
              })
              const text = await creds.body.text()
              if (creds.statusCode !== 200) throw new Error(`vault answered ${creds.statusCode}: ${text.slice(0, 200)}`)
            }),
        },
      ],
      USERS,
      WIDTH,
    )
    results.push(users)
    if (options.profile) {
      await ours.stop()
      say(`\nwhere our server's time went, all rounds together (the profiler was on: do not quote the figures above)`)
      for (const line of topOf(dir)) say(`  ${line}`)
    }
    if (options.json) {
      const machine = { node: process.version, cores: cpus().length, cpu: cpus()[0]?.model.trim(), postgres: store.version, vault: vault.version, load }
      writeFileSync(options.json, JSON.stringify({ machine, isProfiled: options.profile, results }, null, 2))
    }
    return 0
  } finally {
    for (const close of closing.reverse()) await close()
    await agent.close()
  }
}
