/** Owns a deployment whose keys are changed while it is used: two brokers over one PostgreSQL and one Redis, and clients that keep a ledger of their own. */
import { execFile } from 'node:child_process'
import { createHash, type KeyObject, randomBytes, sign } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { calculateJwkThumbprint, createRemoteJWKSet, decodeProtectedHeader, type JWK, jwtVerify } from 'jose'
import { stringify } from 'yaml'
import { inherited, repository } from '../../src/dev/find.js'
import { startIssuer } from '../../src/dev/issuer.js'
import { ciRule, writePolicies } from '../../src/dev/policies.js'
import { freePort } from '../../src/dev/ports.js'
import { startProcess } from '../../src/dev/process.js'
import { call } from '../../src/dev/workload.js'
import { newKeyPair } from '../../src/domain/key-pair.js'
import { Secret } from '../../src/domain/secret.js'
import { createGuard } from '../../src/guard/guard.js'
import { MIGRATIONS, migrate, readMigrations } from '../../src/store/migrate.js'
import { connect } from '../../src/store/open.js'

const run = promisify(execFile)
const AUDIENCE = 'https://orders.rotation/'
const CAPABILITY = 'api/orders'
const SECRET = randomBytes(18).toString('base64url')
/** A verifier of somebody else may keep the key set so long, and asks for no key that it does not know. Milliseconds. */
export const STOCK_CACHE_MS = 2_000

export interface Ledger {
  readonly counts: Record<'issued' | 'introspected' | 'guarded' | 'verified' | 'of a former key', number>
  readonly refused: string[]
  /** By whom each was issued: the key's name, and which broker. */
  readonly issuers: Map<string, Set<number>>
}

export interface Deployment {
  /** `curfew keys rotate`; what it publishes signs so much later. */
  rotate(publishAheadSeconds: number): Promise<void>
  /** Asks at this pace until `during` is over; every answer is in the ledger. */
  load(perSecond: number, during: (ledger: Ledger) => Promise<void>): Promise<{ ledger: Ledger; perSecond: number }>
  close(): Promise<void>
}

export async function deploy(dir: string, storeUrl: string, redisUrl: string): Promise<Deployment> {
  const closing: (() => Promise<unknown> | unknown)[] = []
  const connections = await connect({ kind: 'postgres', url: Secret.token(storeUrl), maxConnections: 2 }, { warn: () => {} })
  await migrate(connections.main, await readMigrations(MIGRATIONS))
  await connections.close()
  const issuer = await startIssuer()
  closing.push(() => issuer.close())
  writePolicies(dir, ciRule('ci-api', CAPABILITY))
  const ports = [await freePort(), await freePort()]
  const server = `http://127.0.0.1:${ports[0]}`
  const at = ports.map(port => `http://127.0.0.1:${port}`)
  const env = { STORE_URL: storeUrl, REDIS_URL: redisUrl, MASTER_KEY: randomBytes(32).toString('base64'), ORDERS_SECRET: SECRET }
  const configOf = (name: string, port: number, internal: number, publishAheadSeconds = 600) => {
    const path = join(dir, `${name}.yaml`)
    const settings = {
      mode: 'dev',
      server: { url: server, listen: `127.0.0.1:${port}`, internal: `127.0.0.1:${internal}` },
      store: { kind: 'postgres', url: { env: 'STORE_URL' } },
      queue: { kind: 'redis', url: { env: 'REDIS_URL' } },
      // Of those who rotate alone it matters what stands here.
      signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds },
      issuers: [issuer.entry],
      audiences: [{ name: 'orders', uri: AUDIENCE, secret: { env: 'ORDERS_SECRET' } }],
      capabilities: [{ name: CAPABILITY, summary: 'orders', engine: 'jwt', audience: 'orders', scopes: ['orders:read'], intent: 'read', maxLive: 1_000_000 }],
      policies: { dir: 'policies' },
      // One address and one identity stand for a whole company here.
      limits: { source: false, identity: false },
      log: { level: 'warn' },
    }
    writeFileSync(path, stringify(settings))
    return path
  }
  for (const [i, port] of ports.entries()) {
    const child = await startProcess({
      name: `broker-${i}`,
      dir,
      command: process.execPath,
      args: ['--disable-proto=delete', join(repository(), 'dist', 'src', 'main.js'), configOf(`broker-${i}`, port, await freePort())],
      env: inherited(env),
      ready: async () => (await call('GET', `${at[i]}/readyz`)).status === 200,
    })
    closing.push(() => child.stop())
  }
  const [unused, internal] = [await freePort(), await freePort()]
  const curfew = (config: string, ...words: string[]) =>
    run(process.execPath, [join(repository(), 'bin', 'curfew'), ...words, '--config', config], { env: inherited(env), timeout: 60_000 })
  const tokenFile = join(dir, 'operator.token')
  await curfew(configOf('admin', unused, internal), 'operator', 'add', 'rotation', '--role', 'admin', '--token-file', tokenFile)
  const guardKey = await added(server, readFileSync(tokenFile, 'utf8').trim())

  const guard = createGuard({ issuer: server, audience: AUDIENCE, proof: 'required', guardKey, feedUrls: at })
  closing.push(() => guard.close())
  await guard.ready()
  /** One for each broker, as a verifier that nobody here wrote would do it; it never asks for a key that it does not know. */
  const stock = at.map(url => createRemoteJWKSet(new URL(`${url}/.well-known/jwks.json`), { cacheMaxAge: STOCK_CACHE_MS, cooldownDuration: 3_600_000 }))
  const holders = await Promise.all(Array.from({ length: 8 }, () => holder(server, () => issuer.githubToken(server))))

  return {
    async rotate(ahead) {
      await curfew(configOf(`admin-${ahead}`, unused, internal, ahead), 'keys', 'rotate')
    },
    async load(perSecond, during) {
      const ledger: Ledger = { counts: { issued: 0, introspected: 0, guarded: 0, verified: 0, 'of a former key': 0 }, refused: [], issuers: new Map() }
      const kept: { token: string; holder: Holder }[] = []
      let newest = ''
      /** Notes the answer, and tells a refusal with what it takes to look into it. */
      const note = (what: keyof Ledger['counts'], ok: boolean, why: string) => {
        if (ok) ledger.counts[what]++
        else ledger.refused.push(`${((performance.now() - began) / 1000).toFixed(1)} s: ${what} ${why}`)
      }
      const check = async (token: string, h: Holder, broker: number): Promise<boolean> => {
        const kid = decodeProtectedHeader(token).kid as string
        const told = `at ${broker}, key ${kid.slice(0, 6)}`
        const before = ledger.refused.length
        const [introspected, guarded, verified] = await Promise.all([
          introspect(at[broker] as string, token),
          guard
            .verify(
              { method: 'GET', url: '/orders', headers: { authorization: `DPoP ${token}`, dpop: h.proof('GET', `${AUDIENCE}orders`, token) } },
              { scope: 'orders:read' },
            )
            .then(
              () => 'passes',
              error => String(error.code ?? error),
            ),
          jwtVerify(token, stock[broker] as (typeof stock)[0], { issuer: server, audience: AUDIENCE }).then(
            () => 'passes',
            error => String(error.code ?? error),
          ),
        ])
        note('introspected', introspected === 'active', `${introspected} ${told}`)
        note('guarded', guarded === 'passes', `${guarded} ${told}`)
        note('verified', verified === 'passes', `${verified} ${told}`)
        return ledger.refused.length === before
      }
      const once = async (i: number) => {
        const h = holders[i % holders.length] as Holder
        const broker = (i >> 1) % 2
        // Tasks are opened anew as well: their tokens are signed by keys that change with the others.
        if (i % 50 === 0) await h.open(at[broker] as string)
        const { status, token } = await h.issue(at[broker] as string)
        note('issued', status === 201, `${status} at ${broker}`)
        if (status !== 201) return
        const kid = decodeProtectedHeader(token).kid as string
        newest = kid
        ledger.issuers.set(kid, (ledger.issuers.get(kid) ?? new Set()).add(broker))
        await check(token, h, 1 - broker)
        if (i % 10 === 0) kept.push({ token, holder: h })
        const earlier = kept[Math.floor(Math.random() * kept.length)]
        if (i % 4 === 0 && earlier && (await check(earlier.token, earlier.holder, broker)) && decodeProtectedHeader(earlier.token).kid !== newest)
          ledger.counts['of a former key']++
      }
      const began = performance.now()
      let over = false
      const work = during(ledger).finally(() => {
        over = true
      })
      const flying = new Set<Promise<void>>()
      let sent = 0
      while (!over) {
        const due = Math.floor(((performance.now() - began) / 1000) * perSecond)
        for (; sent < due && flying.size < 64; sent++) {
          const one: Promise<void> = once(sent)
            .catch(error => void ledger.refused.push(`no answer: ${error instanceof Error ? error.message : error}`))
            .finally(() => flying.delete(one))
          flying.add(one)
        }
        // What two busy cores cannot do is not made up for later: the rate is what was reached.
        if (flying.size >= 64) sent = Math.max(sent, due)
        await new Promise(resolve => setTimeout(resolve, 2))
      }
      await Promise.all(flying)
      await work
      return { ledger, perSecond: ledger.counts.issued / ((performance.now() - began) / 1000) }
    },
    async close() {
      for (const close of closing.splice(0).reverse()) await close()
    },
  }
}

async function added(server: string, operator: string): Promise<string> {
  const { status, body } = await call('POST', `${server}/v1/guards`, {
    headers: { authorization: `Bearer ${operator}`, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'orders' }),
  })
  if (status !== 201) throw new Error(`no guard was added: ${status}`)
  return body.key
}

async function introspect(at: string, token: string): Promise<string> {
  const { status, body } = await call('POST', `${at}/oauth2/introspect`, {
    headers: { authorization: `Basic ${Buffer.from(`orders:${SECRET}`).toString('base64')}`, 'content-type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({ token }).toString(),
  })
  return status === 200 ? (body.active ? 'active' : 'inactive') : String(status)
}

interface Holder {
  open(at: string): Promise<void>
  issue(at: string): Promise<{ status: number; token: string }>
  proof(method: string, url: string, token?: string): string
}

/** A task's holder, who signs with node's own functions: the load must not be what limits it. */
async function holder(server: string, evidence: () => Promise<string>): Promise<Holder> {
  const { privateKey, publicKey } = await newKeyPair('ec', { namedCurve: 'P-256' })
  const jwk = publicKey.export({ format: 'jwk' }) as JWK
  await calculateJwkThumbprint(jwk)
  const proof: Holder['proof'] = (method, url, token) => proofBy(privateKey, jwk, method, url, token)
  const json = { 'content-type': 'application/json' }
  let held = { task: '', token: '' }
  const self: Holder = {
    proof,
    async open(at) {
      const { status, body } = await call('POST', `${at}/v1/tasks`, {
        headers: { ...json, dpop: proof('POST', `${server}/v1/tasks`) },
        body: JSON.stringify({ subject_token: await evidence(), purpose: 'rotation', capabilities: [CAPABILITY] }),
      })
      if (status !== 201) throw new Error(`no task was opened: ${status} ${JSON.stringify(body)}`)
      held = { task: body.task.id, token: body.token }
    },
    async issue(at) {
      const { task, token } = held
      const path = `/v1/tasks/${task}/credentials`
      const { status, body } = await call('POST', at + path, {
        headers: { ...json, authorization: `DPoP ${token}`, dpop: proof('POST', server + path, token) },
        body: JSON.stringify({ capability: CAPABILITY, ttl_seconds: 300 }),
      })
      return { status, token: status === 201 ? body.secret.token : '' }
    },
  }
  await self.open(server)
  return self
}

function proofBy(key: KeyObject, jwk: JWK, method: string, url: string, token?: string): string {
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const ath = token === undefined ? {} : { ath: createHash('sha256').update(token).digest('base64url') }
  const claims = { jti: randomBytes(12).toString('base64url'), htm: method, htu: url, iat: Math.floor(Date.now() / 1000), ...ath }
  const input = `${encode({ alg: 'ES256', typ: 'dpop+jwt', jwk })}.${encode(claims)}`
  return `${input}.${sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
}
