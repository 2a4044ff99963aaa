/** The examples in other languages, run as their README says, before the broker over a real socket. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Caller, caller, type Held } from '../caller.js'
import { type House, LEGACY, makeHouse, ORDERS_SECRET, SERVER } from '../house.js'

const ROOT = join(import.meta.dirname, '..', '..')
const FOLDER = join(ROOT, 'examples', 'orders-python')
const asked = spawnSync('python3', ['-c', 'import sys; print("%d.%d" % sys.version_info[:2])'], { encoding: 'utf8' })
const [major = 0, minor = 0] = asked.status === 0 ? asked.stdout.trim().split('.').map(Number) : []
const absent = asked.status !== 0 ? 'python3 is not on the PATH' : major < 3 || minor < 9 ? `python3 is ${asked.stdout.trim()}, older than 3.9` : null

describe.skipIf(absent !== null)(`examples/orders-python${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const children: ChildProcess[] = []
  const servers: Server[] = []
  let house: House
  let ci: Caller
  let broker: Server
  let orders: string
  let held: Held

  async function listening(answer: Parameters<typeof createServer>[1]): Promise<Server> {
    const server = createServer(answer as never)
    servers.push(server)
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    return server
  }
  const urlOf = (server: Server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`

  /** The example as a process, asking there. */
  async function started(curfew: string): Promise<string> {
    const child = spawn('python3', [join(FOLDER, 'orders.py')], {
      env: {
        PATH: process.env.PATH,
        CURFEW_ISSUER: SERVER,
        CURFEW_URL: curfew,
        CURFEW_AUDIENCE: LEGACY,
        CURFEW_CLIENT: 'legacy',
        CURFEW_CLIENT_SECRET: ORDERS_SECRET,
        PORT: '0',
        PYTHONDONTWRITEBYTECODE: '1',
        // A proxy that is nowhere: what is asked must not go there.
        http_proxy: 'http://127.0.0.1:9',
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    children.push(child)
    return new Promise((resolve, reject) => {
      let said = ''
      const hear = (part: Buffer) => {
        said += part
        const at = /listening on (\S+) /.exec(said)?.[1]
        if (at) resolve(at)
      }
      child.stdout?.on('data', hear)
      child.stderr?.on('data', hear)
      child.once('exit', code => reject(new Error(`ended with ${code}: ${said}`)))
    })
  }
  const get = async (authorization: string | null, at = orders) => {
    const answer = await fetch(at, { headers: authorization === null ? {} : { authorization } })
    return { status: answer.status, challenge: answer.headers.get('www-authenticate'), retry: answer.headers.get('retry-after'), body: await answer.json() }
  }
  const issued = async (capability: string, of = held) => (await ci.credential(of, capability)).body.secret.token as string

  beforeAll(async () => {
    house = await makeHouse()
    ci = await caller(house)
    broker = await listening((req, res) => house.http(req, res))
    orders = await started(urlOf(broker))
    held = await ci.opened({ capabilities: ['demo/orders-bearer', 'demo/orders-ro'] })
  })
  afterAll(async () => {
    for (const child of children) child.kill()
    for (const server of servers) {
      server.closeAllConnections()
      server.close()
    }
    await house.close()
  })

  test('200 for a live token, 401 as soon as its task is complete', async () => {
    const token = await issued('demo/orders-bearer')
    expect(await get(`Bearer ${token}`)).toMatchObject({ status: 200, body: { for: 'github:repository_id=456789', orders: [{ id: 1 }, { id: 2 }] } })
    expect((await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})).status).toBe(200)
    expect(await get(`Bearer ${token}`)).toMatchObject({ status: 401, challenge: expect.stringContaining('error="invalid_token"') })
    held = await ci.opened({ capabilities: ['demo/orders-bearer', 'demo/orders-ro'] })
  })

  test('401 for a token that is bound to a key, under either scheme', async () => {
    const token = await issued('demo/orders-ro')
    expect(await get(`Bearer ${token}`)).toMatchObject({ status: 401, challenge: expect.stringContaining('invalid_token') })
    expect(await get(`DPoP ${token}`)).toMatchObject({ status: 401, challenge: 'Bearer' })
  })

  test('401 without a token, and for what is none', async () => {
    expect(await get(null)).toMatchObject({ status: 401, challenge: 'Bearer', body: { error: 'token_missing' } })
    expect((await get('Bearer nonsense')).status).toBe(401)
    expect((await get(`Bearer ${'x'.repeat(9_000)}`)).status).toBe(401)
    expect((await fetch(orders.replace('/orders', '/other'))).status).toBe(404)
  })

  describe('before an issuer that answers otherwise', () => {
    const live = { active: true, iss: SERVER, aud: LEGACY, sub: 'a', scope: 'orders:read', token_type: 'Bearer' }
    let answer: { status: number; body: unknown; location?: string }
    let at: string
    let seen: string[]

    beforeAll(async () => {
      const strange = await listening((req, res) => {
        seen.push(`${req.method} ${req.url} ${req.headers.authorization?.split(' ')[0]}`)
        res.writeHead(answer.status, { 'content-type': 'application/json', ...(answer.location ? { location: answer.location } : {}) })
        res.end(typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body))
      })
      at = await started(urlOf(strange))
    })

    test.each<[string, number, { status?: number; body: unknown; location?: string }]>([
      ['the twin: live', 200, { body: live }],
      ['bound to a key, for this very server', 401, { body: { ...live, cnf: { jkt: 'x' } } }],
      ['bound to a certificate', 401, { body: { ...live, cnf: { 'x5t#S256': 'x' } } }],
      ['of another type', 401, { body: { ...live, token_type: 'DPoP' } }],
      ['for another server', 401, { body: { ...live, aud: 'https://other.example/' } }],
      ['for several servers', 401, { body: { ...live, aud: [LEGACY, 'https://other.example/'] } }],
      ['of another issuer', 401, { body: { ...live, iss: 'https://other.example' } }],
      ['without the scope', 403, { body: { ...live, scope: 'orders:readme orders' } }],
      ['not live', 401, { body: { active: false } }],
      ['active by another word', 503, { body: { ...live, active: 'true' } }],
      ['no object', 503, { body: [live] }],
      ['no JSON', 503, { body: '<html>' }],
      ['too much', 503, { body: { ...live, more: 'x'.repeat(70_000) } }],
      ['an error', 503, { status: 500, body: live }],
      ['our secret is refused', 503, { status: 401, body: {} }],
      ['a redirect', 503, { status: 307, body: live, location: '/elsewhere' }],
    ])('%s: %i', async (_, wanted, { status = 200, ...rest }) => {
      answer = { status, ...rest }
      seen = []
      const told = await get('Bearer a.b.c', at)
      expect(told.status).toBe(wanted)
      expect(told.retry).toBe(wanted === 503 ? '1' : null)
      expect(seen).toEqual(['POST /oauth2/introspect Basic'])
    })
  })

  test('503 when nobody answers: no verdict is no pass', async () => {
    const gone = await listening(() => {})
    const nowhere = urlOf(gone)
    const at = await started(nowhere)
    gone.close()
    expect(await get('Bearer a.b.c', at)).toMatchObject({ status: 503, retry: '1' })
  })

  test('its README names what is there', () => {
    const text = readFileSync(join(FOLDER, 'README.md'), 'utf8')
    for (const name of ['CURFEW_ISSUER', 'CURFEW_AUDIENCE', 'CURFEW_CLIENT', 'CURFEW_CLIENT_SECRET', 'CURFEW_URL', 'PORT'])
      expect([text.includes(name), readFileSync(join(FOLDER, 'orders.py'), 'utf8').includes(`"${name}"`)]).toEqual([true, true])
  })
})
