/** Owns what a client says of itself in headers and cookies that proxies set (H27): on every route the answer and the audit rows are those of the same request without them. */
import { createServer, type RequestListener, request, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.js'
import { newGuardKey, operatorTokenDigest } from '../../src/domain/operator-token.js'
import { declared } from '../../src/http/declaration.js'
import { describe as describeApi } from '../../src/http/openapi.js'
import { type Caller, caller } from '../caller.js'
import { type House, makeHouse, ORDERS, ORDERS_SECRET, SERVER } from '../house.js'

type Headers = Record<string, string>
interface Heard {
  readonly status: number
  readonly told: string
  readonly identity: Headers
  readonly rows: readonly object[]
}
interface Operation {
  readonly method: string
  readonly path: string
  readonly type: string | undefined
  readonly security: readonly string[]
}

let house: House
let ci: Caller
let server: Server
let admin: string
let guardKey: string

const started = async (app: RequestListener): Promise<Server> => {
  const one = createServer(app)
  await new Promise<void>(resolve => one.listen(0, '127.0.0.1', resolve))
  return one
}

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
  server = await started(house.http)
  admin = await house.operator('admin')
  guardKey = newGuardKey().reveal().token as string
  const by = { requestId: null, actor: { kind: 'broker', id: 'test' } } as const
  await house.app.store.guards.add({ id: newId('guard'), name: 'orders-1' }, house.app.sealDigest(operatorTokenDigest(guardKey)), by)
})
afterAll(async () => {
  server?.close()
  await house?.close()
})

const CANARY = 'mallory'
const EVIL = 'evil.example'
/** Everything by which proxies, gateways and their plug-ins tell who asks, from where and for what; worth most to whoever believed them. */
const claimed = (): Headers => ({
  ...Object.fromEntries(['Subject', 'Identity', 'Operator', 'Actor', 'User', 'Owner', 'Client', 'Guard'].map(name => [`X-Curfew-${name}`, `github:${CANARY}`])),
  'X-Curfew-Role': 'admin',
  'X-Curfew-Credential': 'crd_00000000000000000000000000',
  'X-Curfew-Task': 'tsk_00000000000000000000000000',
  'X-Curfew-Token': admin,
  'X-Api-Key': admin,
  'X-Auth-Token': admin,
  'Proxy-Authorization': `Bearer ${admin}`,
  'X-Authorization': `Bearer ${admin}`,
  'X-Forwarded-Authorization': `Bearer ${admin}`,
  Cookie: `curfew_operator=${admin}; __Host-curfew=${admin}; session=${CANARY}; a=%ff; =; b; "`,
  ...Object.fromEntries(
    ['Remote-User', 'X-Remote-User', 'X-Forwarded-User', 'X-Forwarded-Email', 'X-Forwarded-Preferred-Username', 'X-Auth-Request-User', 'X-WebAuth-User'].map(
      name => [name, CANARY],
    ),
  ),
  'X-Goog-Authenticated-User-Email': `accounts.google.com:${CANARY}@${EVIL}`,
  'X-Amzn-Oidc-Identity': CANARY,
  'X-Forwarded-Client-Cert': `By=spiffe://${EVIL}/a;URI=spiffe://${EVIL}/${CANARY}`,
  'X-SSL-Client-Verify': 'SUCCESS',
  'X-SSL-Client-S-DN': `CN=${CANARY}`,
  'X-Forwarded-For': '203.0.113.66, 127.0.0.1',
  'X-Real-IP': '203.0.113.66',
  'X-Client-IP': '203.0.113.66',
  'True-Client-IP': '203.0.113.66',
  'CF-Connecting-IP': '203.0.113.66',
  'X-Forwarded-Host': EVIL,
  'X-Forwarded-Proto': 'http',
  'X-Forwarded-Port': '1',
  'X-Forwarded-Prefix': '/evil',
  Forwarded: `for=203.0.113.66;host=${EVIL};proto=http`,
  'X-Original-URL': '/livez',
  'X-Original-Host': EVIL,
  'X-Rewrite-URL': '/livez',
  'X-HTTP-Method-Override': 'GET',
  'X-HTTP-Method': 'DELETE',
  'X-Method-Override': 'DELETE',
})
/** A proxy tells forward-auth by these what it asks about, and must overwrite a client's own (docs/forward-auth.md): there they are the question itself. */
const ofTheQuestion: Headers = {
  'X-Original-Method': 'DELETE',
  'X-Original-URI': '/evil',
  'X-Forwarded-Method': 'DELETE',
  'X-Forwarded-Uri': '/evil',
  'X-Curfew-Audience': 'legacy',
  'X-Curfew-Scope': 'evil',
}

/** What differs between two equal requests: names and times that are made anew, and what is signed over them. */
const plain = (text: string) =>
  text
    .replace(/eyJ[\w-]+\.[\w-]+\.[\w-]*/g, 'TOKEN')
    .replace(/\b(?:[a-z]{3})_[0-9a-z]{26}\b/g, 'ID')
    .replace(/\b(?:plain|named)-\d{5}\b/g, 'REQUEST')
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
    .replace(/"(seq|expires_in|stale_ms|size)":\d+/g, '"$1":0')
    .replace(/[\w-]{43}/g, 'DIGEST')

let asks = 0
async function ask(at: Server, method: string, path: string, prefix: 'plain' | 'named', headers: Headers, body: string | null): Promise<Heard> {
  const id = `${prefix}-${String(++asks).padStart(5, '0')}`
  const { port } = at.address() as AddressInfo
  const heard = await new Promise<Omit<Heard, 'rows'>>((resolve, reject) => {
    request({ port, host: '127.0.0.1', method, path, headers: { ...headers, 'X-Request-ID': id }, agent: false }, res => {
      let told = ''
      res.setEncoding('utf8').on('data', part => {
        told += part
      })
      const identity = Object.fromEntries(Object.entries(res.headers).filter(([name]) => /^x-curfew|^set-cookie|^location/.test(name))) as Headers
      res.on('end', () => resolve({ status: res.statusCode ?? 0, told: plain(told), identity: JSON.parse(plain(JSON.stringify(identity))) }))
    })
      .on('error', reject)
      .end(body ?? undefined)
  })
  const rows = (await house.app.store.audit.list({ limit: 50 }))
    .filter(r => r.requestId === id)
    .map(({ kind, actor, reason, data }) => JSON.parse(plain(JSON.stringify({ kind, actor, reason, data }))))
  return { ...heard, rows }
}

function operations(): Operation[] {
  const { paths } = describeApi(declared(house.http), { serverUrl: SERVER, version: 'test' })
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, o]) => ({
      method: method.toUpperCase(),
      path,
      type: Object.keys((o as { requestBody?: { content: object } }).requestBody?.content ?? {})[0],
      security: [...new Set(['nobody', ...o.security.flatMap(set => (Object.keys(set).includes('taskToken') ? ['holder'] : Object.keys(set)))])],
    })),
  )
}

/** As the caller that a route is for, anew for each request: a proof is good once, and an act of the holder ends what it is about. */
async function asCaller(who: string, { method, path, type }: Operation): Promise<{ path: string; headers: Headers; body: string | null }> {
  const held = path.includes('{task}') || path === '/v1/credentials/{id}' || who === 'holder' ? await ci.opened() : null
  const credential = held && path === '/v1/credentials/{id}' ? (await ci.credential(held, 'demo/orders-ro')).body.credential.id : null
  const filled = path
    .replace('{task}', held?.task ?? 'x')
    .replace('{id}', credential ?? 'x')
    .replace('{source}', 'edr')
    .replace('{code}', 'malformed')
    .replace('{rest}', 'x')
  const auth: Headers =
    who === 'holder' && held
      ? { Authorization: `DPoP ${held.token}`, DPoP: await ci.proof(method, filled, held.token) }
      : who === 'operator'
        ? { Authorization: `Bearer ${admin}` }
        : who === 'guard'
          ? { Authorization: `Bearer ${guardKey}` }
          : who === 'resourceServer'
            ? { Authorization: `Basic ${Buffer.from(`orders:${ORDERS_SECRET}`).toString('base64')}` }
            : who === 'proof'
              ? { DPoP: await ci.proof(method, filled) }
              : {}
  const isForm = type === 'application/x-www-form-urlencoded'
  return { path: filled, headers: { ...auth, ...(type ? { 'Content-Type': type } : {}) }, body: type ? (isForm ? 'token=x' : '{}') : null }
}

async function pair(o: Operation, who: string, at = server): Promise<{ without: Heard; with: Heard }> {
  const more = { ...claimed(), ...(o.path.startsWith('/v1/forward-auth') ? {} : ofTheQuestion) }
  const one = await asCaller(who, o)
  const without = await ask(at, o.method, one.path, 'plain', one.headers, one.body)
  const other = await asCaller(who, o)
  return { without, with: await ask(at, o.method, other.path, 'named', { ...more, ...other.headers }, other.body) }
}

describe('H27 headers and cookies that speak for a client', () => {
  it('change no answer and no audit row of any route, for any caller; who has nothing else is nobody', async () => {
    const all = operations()
    expect(all.length).toBeGreaterThan(70)
    const served: Record<string, number> = {}
    for (const o of all)
      for (const who of o.security) {
        const heard = await pair(o, who)
        const name = `${o.method} ${o.path} as ${who}`
        expect([name, heard.with]).toEqual([name, heard.without])
        expect(JSON.stringify(heard.with), name).not.toMatch(/mallory|evil|203\.0\.113/)
        if (heard.with.status < 300) served[who] = (served[who] ?? 0) + 1
        // Without what the route demands there is no success, whatever else is said.
        if (who === 'nobody' && heard.with.status < 300) expect([name, PUBLIC.test(o.path)]).toEqual([name, true])
      }
    // The twin: those who are somebody are served as before.
    expect(served.nobody).toBeGreaterThan(10)
    expect(served.operator).toBeGreaterThan(5)
    expect(served.holder).toBeGreaterThan(5)
    expect(served.resourceServer).toBeGreaterThan(0)
  }, 120_000)

  it('nobody of them stands in the audit log, and whoever acted does', async () => {
    const held = await ci.opened()
    const answer = await ci.credential(held, 'demo/orders-ro', {}, { ...claimed(), 'X-Request-ID': 'issued-with-claims' })
    expect(answer.status).toBe(201)
    const rows = (await house.app.store.audit.list({ limit: 20 })).filter(r => r.requestId === 'issued-with-claims')
    expect(rows.length).toBeGreaterThan(0)
    for (const row of rows) expect(row.actor).toEqual({ kind: 'workload', id: 'github:repository_id=456789' })
    expect(JSON.stringify(await house.app.store.audit.list({ limit: 500 }))).not.toMatch(/mallory|evil|203\.0\.113/)
  })

  it('forward-auth says who the token is, and not who the client says it is; the twin without the claims hears the same', async () => {
    const held = await ci.opened()
    const { token } = (await ci.credential(held, 'demo/orders-ro')).body.secret
    const path = '/v1/forward-auth?audience=orders'
    const send = async (headers: Headers, prefix: 'plain' | 'named') =>
      ask(
        server,
        'GET',
        path,
        prefix,
        {
          ...headers,
          Authorization: `DPoP ${token}`,
          DPoP: await ci.proof('GET', '/things', token, { htu: `${ORDERS}things` }),
          'X-Original-Method': 'GET',
          'X-Original-URI': '/things',
        },
        null,
      )
    const without = await send({}, 'plain')
    expect(without).toMatchObject({ status: 200, identity: { 'x-curfew-subject': 'github:repository_id=456789' } })
    expect(await send(claimed(), 'named')).toEqual(without)
  })

  it('would be found: an application behind something that believes them answers otherwise', async () => {
    const believing = await started((req, res) => {
      if (req.headers['x-api-key']) req.headers.authorization = `Bearer ${req.headers['x-api-key']}`
      if (req.headersDistinct.authorization === undefined && req.headers.authorization) req.headersDistinct.authorization = [req.headers.authorization]
      house.http(req, res)
    })
    try {
      const heard = await pair({ method: 'GET', path: '/v1/guards', type: undefined, security: [] }, 'nobody', believing)
      expect([heard.without.status, heard.with.status]).toEqual([401, 200])
    } finally {
      believing.close()
    }
  })
})

/** Routes that serve anybody, or answer whoever gives back or shows a token that is none of ours (RFC 7009 section 2.2). */
const PUBLIC =
  /^\/(?:\.well-known\/|docs$|e$|e\/|livez$|openapi\.json$|readyz$|v1\/receipt-keys$|v1\/ssh\/krl$|oauth2\/revoke$|v1\/(?:decisions|evidence):explain$)/
