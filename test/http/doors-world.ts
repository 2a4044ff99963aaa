/** Owns one broker with all its doors open, and hands on its time: the token endpoint, AuthZEN, introspection, forward-auth and a guard for each server, over one store in memory. */
import { createHash, type KeyObject, randomBytes, sign } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { exportJWK, generateKeyPair, type JWK, type JWTPayload, SignJWT } from 'jose'
import { stringify } from 'yaml'
import { identify } from '../../src/broker/identify.js'
import { type App, compose } from '../../src/compose.js'
import { load } from '../../src/config.js'
import { writePolicies } from '../../src/dev/policies.js'
import { until } from '../../src/dev/process.js'
import { type Answer, call } from '../../src/dev/workload.js'
import { newId } from '../../src/domain/ids.js'
import { newKeyPair } from '../../src/domain/key-pair.js'
import { newGuardKey, newOperatorToken, operatorTokenDigest } from '../../src/domain/operator-token.js'
import { createGuard, type Guard } from '../../src/guard/guard.js'
import { createApp } from '../../src/http/app.js'
import { createLog } from '../../src/log.js'
import { doorsOf, feedOf } from '../../src/serve.js'
import { memoryStore } from '../../src/store/memory.js'

const SERVER = 'https://curfew.example'
const GITHUB = 'https://ci.example'
const SECRET = 'the-secret-of-every-server'
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
const JWT = 'urn:ietf:params:oauth:token-type:jwt'

export const AUDIENCES = {
  orders: { uri: 'https://orders.example/', senderConstrained: true },
  billing: { uri: 'https://billing.example/', senderConstrained: true },
  legacy: { uri: 'https://legacy.example/', senderConstrained: false },
} as const
export type AudienceName = keyof typeof AUDIENCES

export const CAPABILITIES = {
  'orders/ro': { audience: 'orders', scopes: ['orders:read'], intent: 'read' },
  'orders/rw': { audience: 'orders', scopes: ['orders:read', 'orders:write'], intent: 'write', maxEvidenceAgeSeconds: 60 },
  'billing/ro': { audience: 'billing', scopes: ['bill:read'], intent: 'read', sensitivity: 'high' },
  'legacy/ro': { audience: 'legacy', scopes: ['orders:read'], intent: 'read' },
} as const
export type CapabilityName = keyof typeof CAPABILITIES
export const SCOPES = ['orders:read', 'orders:write', 'bill:read'] as const

const main = 'context.issuer == "github" && context has github && context.github.repository_id == "1"'
const RULES = `
@id("push") permit (principal, action, resource) when { ${main} && context.github.event_name == "push" && context.github.ref_prefixes.contains("refs/heads") };
@id("second") permit (principal, action, resource == Capability::"orders/ro") when { context.issuer == "github" && context has github && context.github.repository_id == "2" && context.ttl <= 120 };
@id("teams") @max_ttl("60") permit (principal, action, resource == Capability::"orders/rw")
when { context.issuer == "agents" && context has registered && context.registered.labels.contains("team=data") && context has owner && context.owner == "ada" };
@id("proven") @require_proof("true") permit (principal, action, resource)
when { context.issuer == "agents" && context has registered && context.registered.agent == "triage" && context.labels.contains("ticket=open") };
@id("was-trusted") permit (principal, action, resource) when { context.issuer == "former" && context has github && context.github.repository_id == "1" };
@id("no-old") forbid (principal, action, resource) when { context.capability.sensitivity == "high" && context.evidence_age > 30 };
@id("no-night") forbid (principal, action, resource) when { context.purpose == "nightly" && context.capability.intent == "write" };
@id("no-self-hosted") forbid (principal, action, resource) when { context has github && context.github has runner_environment && context.github.runner_environment == "self-hosted" };
`
/** Takes one thing away and gives another. */
const OTHER_RULES = RULES.replace('== "push"', '== "schedule"').replace('"team=data"', '"team=ops"')

export interface Evidence {
  readonly from: 'github' | 'former' | 'reporter' | 'triage'
  readonly repository: string
  readonly ref: string
  readonly event: string
  readonly runner: string | null
  readonly actor: string
  readonly run: string
  readonly ageSeconds: number
}

export interface Ask {
  readonly evidence: Evidence
  readonly capability: CapabilityName
  readonly purpose: string
  readonly labels: Readonly<Record<string, string>>
  readonly ttl: number | null
  /** One of the proof keys. */
  readonly key: number
}

/** A token and what its holder knows. */
export interface Held {
  readonly credential: string
  readonly task: string
  readonly taskToken: string
  readonly token: string
  readonly bearer: boolean
  readonly ask: Ask
}

/** What a door says: yes, no, or no with a word for people. */
export type Word = { readonly yes: boolean; readonly why: string }

/** The doors, so that a test can put a broken one in the place of one. */
export interface AllDoors {
  /** Is this workload issued one, at the token endpoint; and what does AuthZEN say to the same facts. */
  tokenEndpoint(ask: Ask, evidence: string): Promise<Word & { readonly held: Held | null }>
  authzenOfWorkload(ask: Ask, evidence: string): Promise<Word>
  /** Is this task given another one, by its own door; and what does AuthZEN say. */
  taskEndpoint(held: Held, capability: CapabilityName, ttl: number | null): Promise<Word>
  authzenOfTask(held: Held, capability: CapabilityName, ttl: number | null): Promise<Word>
  /** May this credential be used so. */
  guard(held: Held, scope: string): Promise<Word>
  forwardAuth(held: Held, scope: string): Promise<Word>
  introspection(held: Held, scope: string): Promise<Word>
  authzenOfCredential(held: Held, scope: string): Promise<Word>
}

export interface DoorsWorld {
  readonly app: App
  readonly doors: AllDoors
  evidence(of: Evidence): Promise<string>
  advance(seconds: number): void
  /** By the store's time, since the epoch. */
  seconds(): number
  operator(method: 'POST' | 'DELETE', path: string, body: object): Promise<Answer>
  complete(held: Held): Promise<void>
  /** Lets time go on, until every guard has heard of everything that is committed and knows that it has. From then on time stands still. */
  settled(): Promise<void>
  otherRules(on: boolean): Promise<void>
  close(): Promise<void>
}

export async function openDoors(): Promise<DoorsWorld> {
  const dir = mkdtempSync(join(tmpdir(), 'cf-doors-'))
  const clock = { at: Date.now(), ahead: 0 }
  const seconds = () => Math.floor(clock.at / 1000)
  const issuers = { github: await signerOf(), former: await signerOf(), reporter: await signerOf(), triage: await signerOf() }
  writePolicies(dir, RULES, 'doors')
  writeFileSync(join(dir, 'curfew.yaml'), stringify(configOf(dir, issuers)))
  const env = { MASTER_KEY: randomBytes(32).toString('base64'), SECRET }
  const { config } = load({ path: join(dir, 'curfew.yaml'), env, readFile: path => readFileSync(path, 'utf8') })
  const app = await compose(config, {
    log: createLog({ level: 'silent' }),
    store: async sealDigest => memoryStore({ now: () => new Date(clock.at), sealDigest }),
  })
  const feed = feedOf(app)
  const http = createApp(doorsOf(app, feed))
  const server = createServer((req, res) => http(req, res))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`

  const by = { requestId: null, actor: { kind: 'broker', id: 'test' } } as const
  const operatorToken = newOperatorToken().reveal().token as string
  await app.store.operators.add({ id: newId('operator'), name: 'doors', role: 'admin' }, app.sealDigest(operatorTokenDigest(operatorToken)), by)
  const guards = new Map<AudienceName, Guard>()
  for (const [name, { uri }] of Object.entries(AUDIENCES)) {
    const key = newGuardKey().reveal().token as string
    await app.store.guards.add({ id: newId('guard'), name }, app.sealDigest(operatorTokenDigest(key)), by)
    const guard = createGuard({
      issuer: SERVER,
      audience: uri,
      proof: 'if-bound',
      guardKey: key,
      revocation: { maxStaleMs: 10_000 },
      clock: () => new Date(clock.at),
      fetch: (to, init) => globalThis.fetch(to.replace(SERVER, url), init),
    })
    guards.set(name as AudienceName, guard)
  }

  const running = setInterval(() => {
    clock.at = Date.now()
  }, 100)
  for (const guard of guards.values()) await guard.ready({ timeoutMs: 60_000 })
  clearInterval(running)

  const keys = await Promise.all(Array.from({ length: 4 }, () => holderKey(seconds)))
  const keyOf = (ask: Ask) => keys[ask.key] as Awaited<ReturnType<typeof holderKey>>
  const audienceOf = (held: Held) => CAPABILITIES[held.ask.capability].audience
  const word = ({ status, body }: Answer): Word => ({ yes: status < 300, why: `${status} ${body?.reason ?? ''}` })
  const shown = (held: Held, method: string, htu: string): Record<string, string> =>
    held.bearer ? { authorization: `Bearer ${held.token}` } : { authorization: `DPoP ${held.token}`, dpop: keyOf(held.ask).proof(method, htu, held.token) }
  const json = { 'content-type': 'application/json' }
  /** Every other time by the resource server itself. */
  let asked = 0
  async function authzen(audience: AudienceName, body: object): Promise<Word> {
    const authorization = asked++ % 2 === 0 ? `Bearer ${operatorToken}` : `Basic ${Buffer.from(`${audience}:${SECRET}`).toString('base64')}`
    const answer = await call('POST', `${url}/access/v1/evaluation`, { headers: { ...json, authorization }, body: JSON.stringify(body) })
    if (answer.status !== 200) throw new Error(`AuthZEN answered ${answer.status}`)
    const decision = await app.store.decisions.get(answer.body.context.id)
    return { yes: answer.body.decision, why: decision?.reason ?? 'not recorded' }
  }
  const resource = (capability: CapabilityName) => ({ type: 'capability', id: capability })
  const issuing = { name: 'issue:access_token:token_exchange' }

  const doors: AllDoors = {
    async tokenEndpoint(ask, evidence) {
      const { audience } = CAPABILITIES[ask.capability]
      const task = {
        type: `${SERVER}/rar/task/v1`,
        purpose: ask.purpose,
        capabilities: [ask.capability],
        labels: ask.labels,
        ...(ask.ttl === null ? {} : { ttl: ask.ttl }),
      }
      const answer = await call('POST', `${url}/oauth2/token`, {
        headers: { 'content-type': 'application/x-www-form-urlencoded', dpop: keyOf(ask).proof('POST', `${SERVER}/oauth2/token`) },
        body: new URLSearchParams({
          grant_type: EXCHANGE,
          subject_token: evidence,
          subject_token_type: JWT,
          resource: AUDIENCES[audience].uri,
          authorization_details: JSON.stringify([task]),
        }).toString(),
      })
      const { body } = answer
      const held = (): Held => ({
        credential: body.credential,
        task: body.task.id,
        taskToken: body.task.token,
        token: body.access_token,
        bearer: body.token_type === 'Bearer',
        ask,
      })
      return { ...word(answer), held: answer.status === 200 ? held() : null }
    },
    async authzenOfWorkload(ask, evidence) {
      const attested = () => identify(app.deps, { type: 'jwt', token: evidence }, AbortSignal.timeout(5_000))
      const { identity, issuer, attributes, owner, run } = ask.evidence.from === 'former' ? formerOf(ask.evidence) : await attested()
      const properties = { issuer, attributes, evidence_age: ask.evidence.ageSeconds, ...(run === null ? {} : { run }), ...(owner === null ? {} : { owner }) }
      return authzen(CAPABILITIES[ask.capability].audience, {
        subject: { type: 'workload', id: identity, properties },
        action: issuing,
        resource: resource(ask.capability),
        context: { purpose: ask.purpose, labels: ask.labels, ...(ask.ttl === null ? {} : { ttl_seconds: ask.ttl }) },
      })
    },
    async taskEndpoint(held, capability, ttl) {
      const path = `/v1/tasks/${held.task}/credentials`
      const headers = { ...json, authorization: `DPoP ${held.taskToken}`, dpop: keyOf(held.ask).proof('POST', SERVER + path, held.taskToken) }
      return word(await call('POST', url + path, { headers, body: JSON.stringify({ capability, ...(ttl === null ? {} : { ttl_seconds: ttl }) }) }))
    },
    authzenOfTask: (held, capability, ttl) =>
      authzen(CAPABILITIES[capability].audience, {
        subject: { type: 'task', id: held.task },
        action: issuing,
        resource: resource(capability),
        context: ttl === null ? {} : { ttl_seconds: ttl },
      }),
    async guard(held, scope) {
      const { uri } = AUDIENCES[audienceOf(held)]
      const guard = guards.get(audienceOf(held)) as Guard
      const request = { method: 'GET', url: '/things', headers: shown(held, 'GET', `${uri}things`) }
      return guard.verify(request, { scope }).then(
        () => ({ yes: true, why: 'passes' }),
        error => ({ yes: false, why: String(error.code ?? error) }),
      )
    },
    async forwardAuth(held, scope) {
      const audience = audienceOf(held)
      const headers = { ...shown(held, 'GET', `${AUDIENCES[audience].uri}things`), 'x-original-method': 'GET', 'x-original-uri': '/things' }
      return word(await call('GET', `${url}/v1/forward-auth?audience=${audience}&scope=${encodeURIComponent(scope)}`, { headers }))
    },
    async introspection(held, scope) {
      const answer = await call('POST', `${url}/oauth2/introspect`, {
        headers: {
          'content-type': 'application/x-www-form-urlencoded',
          authorization: `Basic ${Buffer.from(`${audienceOf(held)}:${SECRET}`).toString('base64')}`,
        },
        body: new URLSearchParams({ token: held.token }).toString(),
      })
      const scopes = String(answer.body.scope ?? '').split(' ')
      return { yes: answer.body.active === true && scopes.includes(scope), why: answer.body.active ? `active, ${scopes}` : 'inactive' }
    },
    authzenOfCredential: (held, scope) =>
      authzen(audienceOf(held), {
        subject: { type: 'credential', id: held.credential },
        action: { name: scope },
        resource: { type: 'audience', id: AUDIENCES[audienceOf(held)].uri },
      }),
  }

  return {
    app,
    doors,
    seconds,
    evidence: of => issuers[of.from].mint(claimsOf(of, seconds() - of.ageSeconds), of.from),
    advance(by) {
      clock.ahead += by * 1000
    },
    operator: (method, path, body) => call(method, url + path, { headers: { ...json, authorization: `Bearer ${operatorToken}` }, body: JSON.stringify(body) }),
    async complete(held) {
      const path = `/v1/tasks/${held.task}/complete`
      const headers = { ...json, authorization: `DPoP ${held.taskToken}`, dpop: keyOf(held.ask).proof('POST', SERVER + path, held.taskToken) }
      await call('POST', url + path, { headers, body: '{}' })
    },
    async settled() {
      const seq = await app.store.revocations.seq()
      const all = async () => {
        clock.at = Date.now() + clock.ahead
        return [...guards.values()].every(g => g.health().ok && g.health().seq >= seq)
      }
      await until(all, { what: 'the guards', deadlineMs: 60_000, everyMs: 1 })
    },
    async otherRules(on) {
      writePolicies(dir, on ? OTHER_RULES : RULES, 'doors')
      await app.deps.policy.reload()
    },
    async close() {
      for (const guard of guards.values()) guard.close()
      server.closeAllConnections()
      server.close()
      await feed.stop()
      await app.close()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

interface Minting {
  readonly jwk: JWK
  mint(claims: JWTPayload, from: Evidence['from']): Promise<string>
}

async function signerOf(): Promise<Minting> {
  const { publicKey, privateKey } = await generateKeyPair('ES256', { extractable: true })
  const jwk = { ...(await exportJWK(publicKey)), kid: 'k', alg: 'ES256', use: 'sig' }
  return {
    jwk,
    mint: (claims, from) =>
      new SignJWT(claims)
        .setProtectedHeader({ alg: 'ES256', kid: 'k', typ: from === 'github' || from === 'former' ? 'JWT' : 'client-authentication+jwt' })
        .sign(privateKey),
  }
}

function claimsOf(of: Evidence, issuedAt: number): JWTPayload {
  const common = { aud: SERVER, jti: randomBytes(12).toString('hex'), iat: issuedAt, exp: issuedAt + 250 }
  if (of.from === 'reporter' || of.from === 'triage') return { ...common, iss: `agents:agent=${of.from}`, sub: `agents:agent=${of.from}` }
  return {
    ...common,
    iss: of.from === 'github' ? GITHUB : `${GITHUB}/former`,
    sub: `repo:acme/${of.repository}`,
    repository_id: of.repository,
    repository_owner_id: '9',
    ref: of.ref,
    event_name: of.event,
    ...(of.runner === null ? {} : { runner_environment: of.runner }),
    actor: of.actor,
    run_id: of.run,
    run_attempt: '1',
    check_run_id: '1',
  }
}

/** What nobody attests any more. */
const formerOf = ({ repository, ref, event }: Evidence) => ({
  identity: `former:repository_id=${repository}`,
  issuer: 'former',
  attributes: { repository_id: repository, repository_owner_id: '9', ref, event_name: event },
  owner: null,
  run: null,
})

/** A proof key; RFC 9449 by node's own functions. */
async function holderKey(seconds: () => number) {
  const { privateKey, publicKey }: { privateKey: KeyObject; publicKey: KeyObject } = await newKeyPair('ec', { namedCurve: 'P-256' })
  const jwk = publicKey.export({ format: 'jwk' })
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  return {
    proof(method: string, url: string, token?: string): string {
      const ath = token === undefined ? {} : { ath: createHash('sha256').update(token).digest('base64url') }
      const input = `${encode({ alg: 'ES256', typ: 'dpop+jwt', jwk })}.${encode({ jti: randomBytes(12).toString('hex'), htm: method, htu: url, iat: seconds(), ...ath })}`
      return `${input}.${sign('sha256', Buffer.from(input), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
    },
  }
}

function configOf(dir: string, issuers: Record<'github' | 'former' | 'reporter' | 'triage', Minting>): object {
  const oidc = (name: string, issuer: string, jwk: JWK, more: object = {}) => {
    const path = join(dir, `${name}.jwks`)
    writeFileSync(path, JSON.stringify({ keys: [jwk] }))
    return {
      name,
      kind: 'oidc',
      profile: 'github',
      issuer,
      keys: { file: path },
      algs: ['ES256'],
      pin: { repository_owner_id: ['9'] },
      maxLifeSeconds: 600,
      ...more,
    }
  }
  return {
    mode: 'dev',
    server: { url: SERVER, listen: '127.0.0.1:0', internal: '127.0.0.1:0' },
    store: { kind: 'memory' },
    queue: { kind: 'memory' },
    signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 0 },
    issuers: [
      oidc('github', GITHUB, issuers.github.jwk, { owner: '@ci' }),
      // Its registration was taken back; the rules still speak of it.
      oidc('former', `${GITHUB}/former`, issuers.former.jwk, { enabled: false }),
      {
        name: 'agents',
        kind: 'registered',
        maxTtlSeconds: 300,
        agents: [
          { name: 'reporter', owner: 'ada', key: { jwk: issuers.reporter.jwk }, labels: { team: 'data' } },
          { name: 'triage', owner: 'bob', key: { jwk: issuers.triage.jwk }, labels: { team: 'ops' } },
        ],
      },
    ],
    audiences: Object.entries(AUDIENCES).map(([name, a], i) => ({ name, ...a, alg: i === 1 ? 'RS256' : 'ES256', secret: { env: 'SECRET' } })),
    capabilities: Object.entries(CAPABILITIES).map(([name, c]) => ({ name, summary: name, engine: 'jwt', maxTtlSeconds: 900, maxLive: 100_000, ...c })),
    policies: { dir: 'policies' },
    // One address and one identity stand for a whole company here.
    limits: { source: false, identity: false },
  }
}
