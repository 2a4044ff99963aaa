/** Owns Curfew itself over the real parts: its configuration, and `serve` and `worker` as two processes. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { stringify } from 'yaml'
import { type Absent, inherited, isAbsent, repository } from '../../src/dev/find.js'
import { writePrivate } from '../../src/dev/folder.js'
import type { OrdersTarget } from '../../src/dev/orders-target.js'
import { writePolicies } from '../../src/dev/policies.js'
import { freePort } from '../../src/dev/ports.js'
import { startProcess } from '../../src/dev/process.js'
import type { Spire } from '../../src/dev/spire.js'
import { type Parts, type Say, seconds } from './parts.js'

const run = promisify(execFile)

const ORDERS_URI = 'https://orders.example/'
const BEARER_URI = 'https://orders-bearer.example/'

/** For the one workload that `up` registers at SPIRE, and nobody else. */
const POLICIES = `@id("ci-orders")
@max_ttl("15m")
permit (
  principal == Workload::"spiffe://example.org/ci/orders",
  action == Action::"issue",
  resource
)
when { context.issuer == "mesh" };
`

export interface RunningCurfew {
  /** For the env file. */
  readonly values: Readonly<Record<string, string>>
}

export async function startCurfew(parts: Parts, say: Say, signal: AbortSignal): Promise<RunningCurfew | Absent> {
  const { store, redis, spire, orders } = parts
  for (const part of [store, redis, spire, orders]) if (isAbsent(part)) return { absent: `it needs all parts, and ${part.absent}` }
  const since = performance.now()
  const dir = join(parts.dir, 'curfew')
  const [port, internal] = [await freePort([8787]), await freePort([8786])]
  const url = `http://127.0.0.1:${port}`
  const secret = secretsIn(dir)
  const config = join(dir, 'curfew.yaml')
  writePolicies(dir, POLICIES)
  const ordersSecret = randomBytes(18).toString('base64url')
  const signalSecret = randomBytes(18).toString('base64url')
  const apiPort = await freePort([8790])
  writeFileSync(
    config,
    stringify({
      mode: 'dev',
      server: { url, listen: `127.0.0.1:${port}`, internal: `127.0.0.1:${internal}` },
      store: { kind: 'postgres', url: secret('database-url', (store as { url: string }).url) },
      queue: { kind: 'redis', url: secret('redis-url', (redis as { url: string }).url) },
      signer: { kind: 'sealed', masterKey: secret('master-key', randomBytes(32).toString('base64')), publishAheadSeconds: 0 },
      vault: (orders as OrdersTarget).vault,
      issuers: [mesh(spire as Spire)],
      audiences: [
        { name: 'orders', uri: ORDERS_URI, secret: secret('orders-secret', ordersSecret) },
        { name: 'orders-bearer', uri: BEARER_URI, senderConstrained: false, secret: { file: 'orders-secret' } },
      ],
      capabilities: [
        (orders as OrdersTarget).capability('db/orders-ro'),
        { name: 'demo/orders-ro', summary: 'read orders over HTTP', engine: 'jwt', audience: 'orders', scopes: ['orders:read'], intent: 'read' },
        {
          name: 'demo/orders-bearer',
          summary: 'read orders where no proof is checked',
          engine: 'jwt',
          audience: 'orders-bearer',
          scopes: ['orders:read'],
          intent: 'read',
        },
      ],
      policies: { dir: 'policies' },
      signals: {
        sources: [{ name: 'edr', secret: secret('signal-secret', signalSecret), issuers: ['mesh'] }],
        rules: [{ name: 'high-revokes', minSeverity: 'high', act: { kind: 'revoke' } }],
      },
    }),
  )
  const operatorFile = join(dir, 'operator.token')
  const cli = (...args: string[]) => run(process.execPath, [join(repository(), 'bin', 'curfew'), ...args, '--config', config], { env: inherited(), signal })
  await cli('migrate')
  await cli('operator', 'add', 'real', '--role', 'admin', '--token-file', operatorFile)

  // Their entry files and not `curfew serve`, which would be one process more in between.
  const entry = (name: string, file: string, ready: (signal: AbortSignal) => Promise<boolean>, env: Record<string, string> = {}) =>
    startProcess({
      name,
      command: process.execPath,
      args: ['--disable-proto=delete', join(repository(), 'dist', file), config],
      dir,
      env,
      ready,
      stopWithinMs: 20_000,
      keep: true,
      signal,
    }).then(child => parts.state.processes.push(child.mark))
  const both = await Promise.allSettled([
    entry('serve', 'src/main.js', async asked => (await fetch(`${url}/readyz`, { signal: asked })).ok),
    entry('worker', 'workers/main.js', async () => saysWorking(join(dir, 'worker.log'))),
  ])
  // With the audience's secret and without a guard key it asks introspection about every request, so that a refusal is due at once.
  const asking = {
    CURFEW_ISSUER: url,
    CURFEW_AUDIENCE: BEARER_URI,
    CURFEW_CLIENT: 'orders-bearer',
    CURFEW_CLIENT_SECRET: ordersSecret,
    CURFEW_PROOF: 'if-bound',
  }
  const api = `http://127.0.0.1:${apiPort}`
  await entry('orders-api', 'examples/orders-api/main.js', async asked => (await fetch(`${api}/orders-bearer`, { signal: asked })).status === 401, {
    ...asking,
    PORT: String(apiPort),
    ORDERS_PATH: '/orders-bearer',
  })
  for (const one of both) if (one.status === 'rejected') throw one.reason
  say('curfew', `${url}, serve and worker, ${seconds(since)}`)
  return {
    values: {
      CURFEW_URL: url,
      CURFEW_INTERNAL_URL: `http://127.0.0.1:${internal}`,
      CURFEW_CONFIG: config,
      CURFEW_OPERATOR_TOKEN_FILE: operatorFile,
      ORDERS_SECRET: ordersSecret,
      ORDERS_API_URL: api,
      SIGNAL_SECRET_FILE: join(dir, 'signal-secret'),
    },
  }
}

/** Keys over the trust domain's own endpoint, whose certificate is checked against the bundle that came with it. */
function mesh(spire: Spire): object {
  return {
    name: 'mesh',
    kind: 'spiffe',
    trustDomain: spire.trustDomain,
    bundle: {
      endpoint: spire.bundleEndpoint,
      profile: 'https_spiffe',
      serverId: `spiffe://${spire.trustDomain}/spire/server`,
      bootstrapFile: spire.bundleFile,
    },
    paths: ['/ci'],
    internal: true,
  }
}

/** Secrets are named, not written. */
function secretsIn(dir: string): (name: string, text: string) => { file: string } {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  return (name, text) => {
    writePrivate(join(dir, name), text)
    return { file: name }
  }
}

/** A worker listens nowhere; its log is the only place where it says that its queues are open. */
const saysWorking = (log: string): boolean => readFileSync(log, 'utf8').includes('"event":"working"')
