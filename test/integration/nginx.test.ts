/** A real nginx in front of a plain upstream that knows nothing of tokens: 200, then 401 after completion; identity set by us and never by the client. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, request, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../../src/dev/ports.js'
import { until } from '../../src/dev/process.js'
import { type Caller, caller, type Held } from '../caller.js'
import { type House, makeHouse, ORDERS } from '../house.js'

const found = ['/usr/sbin/nginx', '/usr/bin/nginx'].find(existsSync)
const absent = found ? null : 'no nginx is installed'
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`${absent}, and this run demands the real parts`)

describe.skipIf(absent !== null)(`nginx auth_request${absent ? ` (skipped: ${absent})` : ''}`, () => {
  let house: House
  let ci: Caller
  let nginx: ChildProcess
  let dir: string
  let port: number
  const servers: Server[] = []
  /** What the upstream was handed. */
  let handed: Record<string, string | string[] | undefined> = {}

  beforeAll(async () => {
    house = await makeHouse()
    ci = await caller(house)
    const broker = await listening((req, res) => house.http(req, res))
    const upstream = await listening((req, res) => {
      handed = req.headers
      res.end('the orders')
    })
    dir = mkdtempSync(join(tmpdir(), 'curfew-nginx-'))
    mkdirSync(join(dir, 'temp'))
    port = await freePort()
    // The very text that the documentation shows, with the addresses of this run.
    const shown = /```nginx\n([\s\S]*?)```/.exec(readFileSync(fileURLToPath(new URL('../../docs/forward-auth.md', import.meta.url)), 'utf8'))?.[1]
    const server = (shown as string)
      .replaceAll('https://curfew.example', `http://127.0.0.1:${broker}`)
      .replaceAll('http://orders.internal:8080', `http://127.0.0.1:${upstream}`)
      .replace('listen 443 ssl;', `listen 127.0.0.1:${port};`)
      .replace(/ *ssl_certificate.*\n/g, '')
    const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${join(dir, 'temp', name)};`).join('\n')
    writeFileSync(
      join(dir, 'nginx.conf'),
      `daemon off; master_process off; pid ${join(dir, 'pid')}; error_log ${join(dir, 'error.log')};
events {} http { access_log off; ${temp}
${server}}`,
    )
    nginx = spawn(found as string, ['-p', dir, '-c', join(dir, 'nginx.conf')], { stdio: 'ignore' })
    await until(async () => (await get('/nothing')).status === 401, { what: 'nginx', deadlineMs: 10_000 })
  })
  afterAll(async () => {
    nginx?.kill()
    for (const server of servers) {
      server.closeAllConnections()
      server.close()
    }
    await house?.close()
    if (dir) rmSync(dir, { recursive: true, force: true })
  })

  async function listening(act: Parameters<typeof createServer>[1]): Promise<number> {
    const server = createServer(act as never)
    servers.push(server)
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    return (server.address() as AddressInfo).port
  }

  function get(
    path: string,
    headers: Record<string, string> = {},
    method = 'GET',
  ): Promise<{ status: number; text: string; headers: Record<string, unknown> }> {
    return new Promise((resolve, reject) => {
      const req = request({ port, path, method, headers }, res => {
        let text = ''
        res.on('data', chunk => (text += chunk))
        res.on('end', () => resolve({ status: res.statusCode as number, text, headers: res.headers }))
      })
      req.on('error', reject)
      req.end()
    })
  }

  async function granted(): Promise<{ held: Held; token: string; credential: string }> {
    const held = await ci.opened()
    const { body } = await ci.credential(held, 'demo/orders-ro')
    return { held, token: body.secret.token, credential: body.credential.id }
  }
  const with_ = async (token: string, method: string, path: string) => ({
    Authorization: `DPoP ${token}`,
    DPoP: await ci.proof(method, '', token, { htu: new URL(ORDERS).origin + path }),
  })

  it('a live token passes, and is refused from the completion on', async () => {
    const { held, token, credential } = await granted()
    expect(await get('/orders/7?full=1', await with_(token, 'GET', '/orders/7'))).toMatchObject({ status: 200, text: 'the orders' })
    expect(handed).toMatchObject({ 'x-curfew-credential': credential, 'x-curfew-task': held.task, 'x-curfew-scope': 'orders:read' })
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    const refused = await get('/orders/7', await with_(token, 'GET', '/orders/7'))
    expect(refused.status).toBe(401)
    expect(refused.headers['www-authenticate']).toMatch(/^DPoP error="invalid_token"/)
  })

  it('a POST is asked about as a POST', async () => {
    const { token } = await granted()
    expect((await get('/orders', await with_(token, 'POST', '/orders'), 'POST')).status).toBe(200)
    expect((await get('/orders', await with_(token, 'GET', '/orders'), 'POST')).status).toBe(401)
  })

  it('identity that a client claims is stripped, and so is what it says of another request', async () => {
    const { token, credential } = await granted()
    const forged = {
      'X-Curfew-Credential': 'crd_forged',
      'X-Curfew-Subject': 'root',
      'X-Original-URI': '/elsewhere',
      'X-Forwarded-Uri': '/elsewhere',
      'X-Forwarded-Method': 'DELETE',
    }
    expect((await get('/orders/7', { ...(await with_(token, 'GET', '/orders/7')), ...forged })).status).toBe(200)
    expect(handed).toMatchObject({ 'x-curfew-credential': credential, 'x-curfew-subject': 'github:repository_id=456789' })
    // Neither is the server behind it told of another request than its own, nor handed what opens others.
    expect(Object.keys(handed).filter(name => /^(x-original|x-forwarded|authorization|dpop)/.test(name))).toEqual([])
    expect((await get('/orders/7', { ...(await with_(token, 'GET', '/elsewhere')), ...forged })).status).toBe(401)
  })

  it('nothing, a bearer of a bound token, and a used proof do not pass', async () => {
    const { token } = await granted()
    expect((await get('/orders')).status).toBe(401)
    expect((await get('/orders', { Authorization: `Bearer ${token}` })).status).toBe(401)
    const once = await with_(token, 'GET', '/orders')
    expect((await get('/orders', once)).status).toBe(200)
    expect((await get('/orders', once)).status).toBe(401)
  })
})
