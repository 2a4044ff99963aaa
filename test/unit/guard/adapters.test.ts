import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import express, { type Request as ExpressRequest } from 'express'
import supertest from 'supertest'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Guard } from '../../../src/guard/guard.js'
import { type TestIssuer, testIssuer } from '../../../src/guard/testing.js'

let iss: TestIssuer
let guard: Guard
beforeEach(async () => {
  iss = await testIssuer()
  guard = await iss.guard({ proof: 'required' })
})
afterEach(() => iss.close())

describe('Express', () => {
  function app() {
    const app = express()
    app.get('/orders/:id', guard.express({ scope: 'orders:read', resource: r => `order/${r.params.id}` }), (req, res) => {
      res.json({ credential: req.curfew.credential, subject: req.curfew.subject, task: req.curfew.task, aborted: req.curfew.signal.aborted })
    })
    const mounted = express.Router()
    mounted.get('/things', guard.express<ExpressRequest>(), (_req, res) => void res.json({ ok: true }))
    app.use('/v2', mounted)
    app.get(
      '/broken',
      guard.express({
        resource: () => {
          throw new Error('no such parameter')
        },
      }),
      (_req, res) => void res.json({ ok: true }),
    )
    app.get('/unsaid', guard.express({ resource: (() => undefined) as never }), (_req, res) => void res.json({ ok: true }))
    app.use((_error: unknown, _req: ExpressRequest, res: express.Response, _next: express.NextFunction) => void res.status(500).json({ error: 'ours' }))
    return supertest(app)
  }
  test('lets in and tells who', async () => {
    const t = await iss.mint({ scope: 'orders:read', subject: 'ci:orders', locations: ['https://orders.test/order/17'] })
    const ok = await app()
      .get('/orders/17?full=1')
      .set(await t.headers('GET', 'https://orders.test/orders/17'))
    expect([ok.status, ok.body]).toEqual([200, { credential: t.credential, subject: 'ci:orders', task: t.task, aborted: false }])
    const beside = await app()
      .get('/orders/18')
      .set(await t.headers('GET', 'https://orders.test/orders/18'))
    expect([beside.status, beside.body.code]).toEqual([403, 'resource_missing'])
  })
  test('answers by RFC 6750 and RFC 9449', async () => {
    const none = await app().get('/orders/17')
    expect([none.status, none.headers['www-authenticate'], none.headers['cache-control'], none.body.code]).toEqual([
      401,
      'DPoP algs="ES256 RS256"',
      'no-store',
      'token_missing',
    ])
    const t = await iss.mint({ scope: 'orders:read' })
    await iss.revoke(t.credential)
    const dead = await app()
      .get('/orders/17')
      .set(await t.headers('GET', 'https://orders.test/orders/17'))
    expect(dead.headers['www-authenticate']).toBe('DPoP algs="ES256 RS256", error="invalid_token", error_description="the credential is revoked"')
    expect(dead.body).toEqual({ error: 'invalid_token', error_description: 'the credential is revoked', code: 'revoked' })
  })
  test('below a mount the whole path counts', async () => {
    const t = await iss.mint()
    expect(
      (
        await app()
          .get('/v2/things')
          .set(await t.headers('GET', 'https://orders.test/v2/things'))
      ).status,
    ).toBe(200)
    expect(
      (
        await app()
          .get('/v2/things')
          .set(await t.headers('GET', 'https://orders.test/things'))
      ).body.code,
    ).toBe('proof_htu_mismatch')
  })
  test('a resource that cannot be told is not reached', async () => {
    const t = await iss.mint()
    expect(
      (
        await app()
          .get('/broken')
          .set(await t.headers('GET', 'https://orders.test/broken'))
      ).status,
    ).toBe(500)
    expect(
      (
        await app()
          .get('/unsaid')
          .set(await t.headers('GET', 'https://orders.test/unsaid'))
      ).body.code,
    ).toBe('resource_missing')
  })
  test('what was served is watched no longer', async () => {
    const small = await iss.guard({ maxLive: 1 })
    const web = express().get('/', small.express(), (req, res) => void res.json({ aborted: req.curfew.signal.aborted }))
    const t = await iss.mint()
    for (let i = 0; i < 3; i++)
      expect(
        (
          await supertest(web)
            .get('/')
            .set(await t.headers('GET', 'https://orders.test/'))
        ).body,
      ).toEqual({ aborted: false })
  })
})

describe('as it comes over the wire (P52)', () => {
  async function send(lines: (token: string, proof: string) => string[]): Promise<string> {
    const server = createServer((req, res) => {
      guard.verify(req).then(
        () => res.end('passes'),
        e => res.end(e.code ?? String(e)),
      )
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const t = await iss.mint()
    const { dpop } = await t.headers('GET', 'https://orders.test/x')
    const answer = await new Promise<string>((resolve, reject) => {
      let text = ''
      const socket = connect((server.address() as AddressInfo).port, '127.0.0.1', () =>
        socket.write(['GET /x HTTP/1.1', 'Host: orders.test', 'Connection: close', ...lines(t.token, dpop as string), '', ''].join('\r\n')),
      )
      socket.on('data', d => (text += d))
      socket.on('end', () => resolve(text))
      socket.on('error', reject)
    })
    server.close()
    return answer
      .split('\r\n\r\n')
      .slice(1)
      .join()
      .replace(/\r\n.*|^[0-9a-f]+\r\n/g, '')
  }
  const pass = (t: string, p: string) => [`Authorization: DPoP ${t}`, `DPoP: ${p}`]
  test.each<[string, (t: string, p: string) => string[], string]>([
    ['one of each', pass, 'passes'],
    ['names in any case', (t, p) => [`AUTHORIZATION: dpop ${t}`, `dpop: ${p}`], 'passes'],
    ['two Authorization headers, of which Node shows the first', (t, p) => [...pass(t, p), 'Authorization: Bearer x'], 'token_malformed'],
    ['two DPoP headers', (t, p) => [...pass(t, p), `DPoP: ${p}`], 'proof_malformed'],
    ['the token in the query', (t, p) => [`DPoP: ${p}`, `X-Access-Token: ${t}`], 'token_missing'],
  ])('%s', async (_, lines, wanted) => {
    expect(await send(lines)).toContain(wanted)
  })
})

describe('handlers of web requests', () => {
  test('is given who asks, or never called', async () => {
    let calls = 0
    const handler = guard.fetch(
      (_request, seen, context: { n: number }) => {
        calls++
        return Response.json({ task: seen.task, n: context.n })
      },
      { scope: 'orders:read', resource: r => `order${new URL(r.url).pathname}` },
    )
    const t = await iss.mint({ scope: 'orders:read' })
    const ok = await handler(await t.request('https://orders.test/17'), { n: 7 })
    expect([ok.status, await ok.json()]).toEqual([200, { task: t.task, n: 7 }])
    const refused = await handler(new Request('https://orders.test/17'), { n: 7 })
    expect([refused.status, refused.headers.get('www-authenticate'), ((await refused.json()) as { code: string }).code, calls]).toEqual([
      401,
      'DPoP algs="ES256 RS256"',
      'token_missing',
      1,
    ])
  })
  test('behind a server whose own address is another, the configured one counts', async () => {
    const t = await iss.mint()
    const headers = await t.headers('POST', 'https://orders.test/17')
    expect((await guard.verify(new Request('http://10.0.0.7:3000/17', { method: 'POST', headers }))).credential).toBe(t.credential)
  })
})

test('as ux says: an issuer for tests, without broker and network', async () => {
  const t = await iss.mint({ scope: 'orders:read', ttlSeconds: 60 })
  await guard.verify(await t.request('https://orders.test/'))
  iss.clock.advance(66_000)
  await expect(guard.verify(await t.request('https://orders.test/'))).rejects.toMatchObject({ code: 'token_expired' })
  const u = await iss.mint({ scope: 'orders:read', ttlSeconds: 60 })
  await iss.revoke(u.credential)
  await expect(guard.verify(await u.request('https://orders.test/'))).rejects.toMatchObject({ code: 'revoked' })
})
