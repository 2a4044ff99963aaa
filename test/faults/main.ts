/** Owns `npm run test:faults -- issue`: the broker killed at every step of the issue walk, and what is left at Vault and at the target. */
import { randomBytes } from 'node:crypto'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { stringify } from 'yaml'
import { MIGRATIONS } from '../../src/compose.js'
import { inherited, isAbsent, repository } from '../../src/dev/find.js'
import { type DevIssuer, startIssuer } from '../../src/dev/issuer.js'
import { type OrdersTarget, prepareOrders } from '../../src/dev/orders-target.js'
import { freePort } from '../../src/dev/ports.js'
import { startPostgres } from '../../src/dev/postgres.js'
import { type Child, startProcess } from '../../src/dev/process.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import { call, createWorkload } from '../../src/dev/workload.js'
import { Secret } from '../../src/domain/secret.js'
import { FAILPOINTS, type Failpoint } from '../../src/failpoint.js'
import { migrate, readMigrations } from '../../src/store/migrate.js'
import { connect } from '../../src/store/open.js'

/** Shrunk, and said so beside the figures: in production 90 s, 5 s and 60 s. */
const TIMERS = { issuanceTokenSeconds: 5, sweepMs: 250, reconcileMs: 1_000 }
const BOUND_MS = 180_000

const [which, ...words] = process.argv.slice(2)
const report = words[words.indexOf('--report') + 1]
const say = (text: string) => void process.stdout.write(`${text}\n`)

function tell(counts: { passed: number; failed: number; pending: number }): void {
  if (words.includes('--report') && report) {
    writeFileSync(report, JSON.stringify({ numPassedTests: counts.passed, numFailedTests: counts.failed, numPendingTests: counts.pending }))
  }
}

const STEPS = FAILPOINTS.filter(f => f.startsWith('issue.'))

interface World {
  readonly server: string
  readonly issuer: DevIssuer
  readonly vault: Vault
  readonly store: pg.Client
  readonly target: pg.Client
  broker(failpoint: Failpoint | null): Promise<Child>
}

/** What exists upstream, by the credential it names; a lease is named by the user it made. */
async function upstream(world: World): Promise<{ leases: string[]; tokens: string[]; roles: string[] }> {
  const ask = async (method: string, path: string, body?: object) => {
    const answer = await fetch(`${world.vault.address}/v1/${path}`, {
      method,
      headers: { 'X-Vault-Token': world.vault.rootToken },
      ...(body ? { body: JSON.stringify(body) } : {}),
    })
    return answer.status === 200 ? ((await answer.json()) as { data: { keys?: string[]; meta?: Record<string, string> | null } }) : null
  }
  const leases = ((await ask('LIST', 'sys/leases/lookup/database/creds/orders-ro'))?.data.keys ?? []).map(k => `database/creds/orders-ro/${k}`)
  const tokens: string[] = []
  for (const accessor of (await ask('LIST', 'auth/token/accessors'))?.data.keys ?? []) {
    const credential = (await ask('POST', 'auth/token/lookup-accessor', { accessor }))?.data.meta?.credential_id
    if (credential) tokens.push(credential)
  }
  const { rows } = await world.target.query<{ rolname: string }>(`select rolname from pg_roles where rolname like 'curfew\\_crd%'`)
  return { leases, tokens, roles: rows.map(r => r.rolname) }
}

/** Everything upstream that no `active` row answers for. */
async function orphans(world: World): Promise<string[]> {
  const { rows } = await world.store.query<{ id: string; handle: { leaseId?: string; role?: string } | null }>(
    `select id, handle from curfew.credentials where state = 'active'`,
  )
  const known = { ids: new Set(rows.map(r => r.id)), leases: new Set(rows.map(r => r.handle?.leaseId)), roles: new Set(rows.map(r => r.handle?.role)) }
  const seen = await upstream(world)
  return [
    ...seen.leases.filter(l => !known.leases.has(l)).map(() => 'a lease'),
    ...seen.tokens.filter(t => !known.ids.has(t)).map(t => `a token of ${t}`),
    ...seen.roles.filter(r => !known.roles.has(r)).map(r => `the role ${r}`),
  ]
}

async function clearedWithin(world: World, ms: number): Promise<{ left: string[]; took: number }> {
  const since = performance.now()
  for (;;) {
    const left = await orphans(world)
    const took = performance.now() - since
    if (left.length === 0 || took > ms) return { left, took }
    await sleep(250)
  }
}

/** One request whose broker dies in the middle of it; true when the caller was told nothing good. */
async function killedAt(world: World, step: Failpoint): Promise<boolean> {
  const broker = await world.broker(step)
  const workload = await createWorkload(world.server)
  const opened = await workload.open(await world.issuer.githubToken(world.server), ['db/orders-ro'])
  if (opened.status !== 201) throw new Error(`the task was not opened: ${JSON.stringify(opened.body)}`)
  const answer = await workload.credential({ task: opened.body.task.id, token: opened.body.token }, 'db/orders-ro', { ttl_seconds: 120 }).catch(() => null)
  for (let i = 0; i < 100 && !broker.hasEnded(); i++) await sleep(20)
  if (!broker.hasEnded()) throw new Error(`the broker was not killed at ${step}`)
  return answer === null
}

async function issueFaults(): Promise<number> {
  const dir = mkdtempSync(join(tmpdir(), 'cf-faults-'))
  const closing: (() => Promise<unknown> | unknown)[] = [() => rmSync(dir, { recursive: true, force: true })]
  try {
    const vault = await startVault({ dir: join(dir, 'vault'), own: true })
    const storeServer = await startPostgres({ dir: join(dir, 'store'), database: 'curfew', name: 'store' })
    const targetServer = await startPostgres({ dir: join(dir, 'target'), database: 'orders', name: 'target' })
    for (const part of [vault, storeServer, targetServer]) if (!isAbsent(part)) closing.push(() => part.stop())
    if (isAbsent(vault) || isAbsent(storeServer) || isAbsent(targetServer)) {
      const why = [vault, storeServer, targetServer].flatMap(p => (isAbsent(p) ? [p.absent] : [])).join('; ')
      say(`skipped: ${why}`)
      tell({ passed: 0, failed: process.env.CURFEW_REQUIRE_REAL ? 1 : 0, pending: STEPS.length * 2 })
      return process.env.CURFEW_REQUIRE_REAL ? 1 : 0
    }
    const orders = await prepareOrders({ vault, postgres: targetServer, dir })
    const connections = await connect({ kind: 'postgres', url: Secret.token(storeServer.url), maxConnections: 2 }, { warn: () => {} })
    await migrate(connections.main, await readMigrations(MIGRATIONS))
    await connections.close()
    const issuer = await startIssuer()
    const clients = [new pg.Client({ connectionString: storeServer.url }), new pg.Client({ connectionString: targetServer.url })] as const
    closing.push(() => issuer.close(), ...clients.map(c => () => c.end()))
    for (const client of clients) await client.connect()
    const { server, broker } = await brokerOf({ dir, issuer, orders, storeUrl: storeServer.url })
    return await runCases({ server, issuer, vault, store: clients[0], target: clients[1], broker })
  } finally {
    for (const close of closing.reverse()) await close()
  }
}

async function runCases(world: World): Promise<number> {
  say(
    `timers shrunk: dead man's switch ${TIMERS.issuanceTokenSeconds} s (90), sweep ${TIMERS.sweepMs} ms (5 s), reconcile ${TIMERS.reconcileMs} ms (60 s); bound ${BOUND_MS / 1000} s`,
  )
  const found: string[] = []
  let violations = 0
  const judge = (name: string, untold: boolean, cleared: { left: string[]; took: number }) => {
    if (!untold) violations++
    found.push(...cleared.left)
    say(
      `${name.padEnd(34)} ${untold ? 'nothing delivered' : 'DELIVERED'}, ${cleared.left.length === 0 ? `nothing left after ${(cleared.took / 1000).toFixed(1)} s` : `LEFT: ${cleared.left.join(', ')}`}`,
    )
  }
  // Nobody of ours lives: Vault alone must clean up, but for what has an active row.
  for (const step of STEPS) judge(`${step} killed, not restarted`, await killedAt(world, step), await clearedWithin(world, BOUND_MS))
  for (const step of STEPS) {
    const untold = await killedAt(world, step)
    const healthy = await world.broker(null)
    judge(`${step} killed, restarted`, untold, await clearedWithin(world, BOUND_MS))
    await healthy.stop()
  }
  violations += await settled(world)
  say(`cases ${STEPS.length * 2}, violations ${violations}, orphans ${found.length}`)
  const failed = violations + found.length
  tell({ passed: failed === 0 ? STEPS.length * 2 + 1 : 0, failed, pending: 0 })
  return failed === 0 ? 0 : 1
}

/** With a broker back, no row stays `pending`, and what is not delivered ends; a read in flight may wait for a listing (security.md 3.4). */
async function settled(world: World): Promise<number> {
  const healthy = await world.broker(null)
  const since = performance.now()
  const open = async () =>
    (
      await world.store.query<{ state: string; n: number }>(
        `select state, count(*)::int as n from curfew.credentials where state not in ('revoked', 'active') group by state`,
      )
    ).rows
  while ((await open()).length > 0 && performance.now() - since < BOUND_MS) await sleep(500)
  const left = await open()
  const [active] = (await world.store.query<{ n: number }>(`select count(*)::int as n from curfew.credentials where state = 'active'`)).rows
  await healthy.stop()
  say(
    `rows settled after ${((performance.now() - since) / 1000).toFixed(1)} s: ${active?.n ?? 0} active and undelivered until their end (killed at issue.5b or issue.6), ${left.map(r => `${r.n} ${r.state}`).join(', ') || 'all others revoked'}`,
  )
  return left.length
}

async function brokerOf(at: { dir: string; issuer: DevIssuer; orders: OrdersTarget; storeUrl: string }): Promise<Pick<World, 'server' | 'broker'>> {
  const [port, internal] = [await freePort(), await freePort()]
  const server = `http://127.0.0.1:${port}`
  mkdirSync(join(at.dir, 'policies'))
  copyFileSync(join(repository(), 'config', 'policies', 'schema.cedarschema'), join(at.dir, 'policies', 'schema.cedarschema'))
  writeFileSync(
    join(at.dir, 'policies', 'faults.cedar'),
    `@id("ci") permit(principal, action == Action::"issue", resource == Capability::"db/orders-ro")
     when { context.issuer == "github" && context has github && context.github.repository_id == "456789" };`,
  )
  const config = join(at.dir, 'curfew.yaml')
  writeFileSync(
    config,
    stringify({
      mode: 'dev',
      server: { url: server, listen: `127.0.0.1:${port}`, internal: `127.0.0.1:${internal}` },
      store: { kind: 'postgres', url: { env: 'STORE_URL' } },
      queue: { kind: 'memory' },
      signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 0 },
      vault: at.orders.vault,
      issuers: [{ name: 'github', kind: 'oidc', profile: 'github', issuer: at.issuer.url, internal: true, pin: { repository_owner_id: ['123456'] } }],
      capabilities: [at.orders.capability('db/orders-ro')],
      policies: { dir: 'policies' },
      timers: TIMERS,
      log: { level: 'warn' },
    }),
  )
  const secrets = { STORE_URL: at.storeUrl, MASTER_KEY: randomBytes(32).toString('base64') }
  return {
    server,
    broker: failpoint =>
      startProcess({
        name: 'broker',
        dir: at.dir,
        command: process.execPath,
        args: ['--conditions=curfew-faults', join(repository(), 'dist', 'src', 'main.js'), config],
        env: inherited({ ...secrets, ...(failpoint ? { CURFEW_FAILPOINT: `${failpoint}=kill` } : {}) }),
        ready: async () => (await call('GET', `${server}/readyz`)).status === 200,
      }),
  }
}

if (which !== 'issue') {
  process.stderr.write('usage: npm run test:faults -- issue [--report FILE]\n')
  process.exitCode = 2
} else process.exitCode = await issueFaults()
