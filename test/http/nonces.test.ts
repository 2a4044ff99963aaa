/** A deployment that demands DPoP nonces (RFC 9449 sections 8 and 9; standards.md 1.4, 2.2.5, P53, T43): who has none is sent back with one, and nothing is used up. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import supertest, { type Response } from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { NONCE_SECONDS } from '../../src/domain/dpop-nonce.js'
import { type Caller, caller, EXCHANGE, ID_TOKEN, introspect } from '../caller.js'
import { type House, makeHouse, ORDERS, ORDERS_SECRET, SERVER } from '../house.js'
import { typed } from '../unit/cli/desk.js'

let house: House
let ci: Caller
const server = (dpopNonce: string) => ({ server: { url: SERVER, listen: '127.0.0.1:0', internal: '127.0.0.1:0', dpopNonce } })

beforeAll(async () => {
  house = await makeHouse({ more: server('required') })
  ci = await caller(house)
})
afterAll(() => house?.close())

const http = () => supertest(house.http)
const exchange = async (evidence: string, nonce?: string, claims: object = {}): Promise<Response> =>
  http()
    .post('/oauth2/token')
    .type('form')
    .set('DPoP', await ci.proof('POST', '/oauth2/token', undefined, { ...(nonce === undefined ? {} : { nonce }), ...claims }))
    .send({ grant_type: EXCHANGE, subject_token: evidence, subject_token_type: ID_TOKEN, resource: ORDERS, scope: 'orders:read' })
const beat = async (task: { id: string; token: string }, nonce?: string): Promise<Response> => {
  const path = `/v1/tasks/${task.id}/heartbeat`
  return http()
    .post(path)
    .set('Authorization', `DPoP ${task.token}`)
    .set('DPoP', await ci.proof('POST', path, task.token, nonce === undefined ? {} : { nonce }))
    .send({})
}
const nonceOf = (answer: Response) => answer.headers['dpop-nonce'] as string
const word = ({ status, body }: Response) => [status, body.error ?? body.code ?? 'ok', ...(body.reason ? [body.reason] : [])].join(' ')
/** A nonce of the token endpoint, and one of the API with a task to use it for. */
async function begun() {
  const sent = await exchange('a.b.c')
  const opened = await exchange(await house.evidence(), nonceOf(sent))
  const task = opened.body.task as { id: string; token: string }
  return { as: nonceOf(opened), rs: nonceOf(await beat(task)), task }
}

describe('the token endpoint', () => {
  it('sends a first proof back with 400 and one nonce; the same evidence succeeds with it (standards.md 2.2.5)', async () => {
    const evidence = await house.evidence()
    const first = await exchange(evidence)
    expect(word(first)).toBe('400 use_dpop_nonce nonce_required')
    expect(first.body).toMatchObject({ error_description: expect.stringMatching(/^nonce_required: /), agent_action: 'retry' })
    expect(nonceOf(first)).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect(first.headers['cache-control']).toBe('no-store')
    const second = await exchange(evidence, nonceOf(first))
    expect(word(second)).toBe('200 ok')
    expect(nonceOf(second)).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect((await introspect(house, second.body.access_token)).body.active).toBe(true)
    // Now it is used up, nonce or not.
    expect(word(await exchange(evidence, nonceOf(second)))).toBe('400 invalid_request replayed')
  })
  it('what is refused is told in the audit, once', async () => {
    await exchange(await house.evidence())
    expect((await house.audits())[0]).toMatchObject({ kind: 'proof.refused', reason: 'nonce_required' })
  })
  it('P53 a nonce is good until the end of the next bucket, and every answer brings a newer one', async () => {
    const { as } = await begun()
    await house.advance(NONCE_SECONDS)
    const late = await exchange(await house.evidence(), as)
    expect(word(late)).toBe('200 ok')
    expect(nonceOf(late)).not.toBe(as)
    await house.advance(NONCE_SECONDS)
    const evidence = await house.evidence()
    const stale = await exchange(evidence, as)
    expect(word(stale)).toBe('400 use_dpop_nonce nonce_required')
    expect(word(await exchange(evidence, nonceOf(stale)))).toBe('200 ok')
  })
  it('T43 a proof is good once, also while its nonce is', async () => {
    const { as } = await begun()
    const proof = await ci.proof('POST', '/oauth2/token', undefined, { nonce: as })
    const send = async () =>
      http()
        .post('/oauth2/token')
        .type('form')
        .set('DPoP', proof)
        .send({ grant_type: EXCHANGE, subject_token: await house.evidence(), subject_token_type: ID_TOKEN, resource: ORDERS, scope: 'orders:read' })
    expect(word(await send())).toBe('200 ok')
    expect(word(await send())).toBe('400 invalid_dpop_proof replayed')
  })
  it('T43 a proof that was made long before is worth nothing, and a slow clock is no fault', async () => {
    const { as } = await begun()
    const made = house.now() - 3_600
    expect(word(await exchange(await house.evidence(), undefined, { iat: made }))).toBe('400 use_dpop_nonce nonce_required')
    expect(word(await exchange(await house.evidence(), as, { iat: made }))).toBe('200 ok')
  })
  it('giving a token back needs one as well, and takes it', async () => {
    const { as } = await begun()
    const held = await exchange(await house.evidence(), as)
    const token = held.body.access_token as string
    const give = async (nonce: Record<string, string>) =>
      http()
        .post('/oauth2/revoke')
        .type('form')
        .set('DPoP', await ci.proof('POST', '/oauth2/revoke', token, nonce))
        .send({ token })
    expect(word(await give({}))).toBe('400 use_dpop_nonce nonce_required')
    expect((await introspect(house, token)).body.active).toBe(true)
    expect((await give({ nonce: as })).status).toBe(200)
    expect((await introspect(house, token)).body).toEqual({ active: false })
  })
})

describe('the API', () => {
  it('sends a first proof back with 401 and a challenge of RFC 9449 section 9', async () => {
    const { task } = await begun()
    const first = await beat(task)
    expect(word(first)).toBe('401 proof_refused nonce_required')
    expect(first.headers['www-authenticate']).toBe(
      `DPoP error="use_dpop_nonce", algs="ES256 RS256", resource_metadata="${SERVER}/.well-known/oauth-protected-resource/v1"`,
    )
    const second = await beat(task, nonceOf(first))
    expect(word(second)).toBe('200 ok')
    expect(nonceOf(second)).toMatch(/^[A-Za-z0-9_-]{43}$/)
  })
  it('T43 the nonces of the token endpoint and of the API are two: neither serves for the other', async () => {
    const { as, rs, task } = await begun()
    expect(as).not.toBe(rs)
    expect(word(await beat(task, as))).toBe('401 proof_refused nonce_required')
    expect(word(await exchange(await house.evidence(), rs))).toBe('400 use_dpop_nonce nonce_required')
    expect(word(await beat(task, rs))).toBe('200 ok')
    expect(word(await exchange(await house.evidence(), as))).toBe('200 ok')
  })
  it('opening a task burns no evidence either', async () => {
    const evidence = await house.evidence()
    const open = async (nonce: Record<string, string>) =>
      http()
        .post('/v1/tasks')
        .set('DPoP', await ci.proof('POST', '/v1/tasks', undefined, nonce))
        .send({ subject_token: evidence, purpose: 'report', capabilities: ['demo/orders-ro'] })
    const first = await open({})
    expect(word(first)).toBe('401 proof_refused nonce_required')
    expect((await open({ nonce: nonceOf(first) })).status).toBe(201)
  })
  it('a proof of nothing, and no proof, are refused as ever; operators have none', async () => {
    const path = '/v1/tasks'
    expect(
      word(
        await http()
          .post(path)
          .send({ subject_token: 'a.b.c', purpose: 'x', capabilities: ['demo/orders-ro'] }),
      ),
    ).toBe('401 proof_refused proof_missing')
    const listed = await http()
      .get('/v1/credentials')
      .set('Authorization', `Bearer ${await house.operator('auditor')}`)
    expect(listed.status).toBe(200)
    expect(listed.headers).not.toHaveProperty('dpop-nonce')
    // What a cache may keep brings none, whoever asks.
    const keys = await http()
      .get('/.well-known/jwks.json')
      .set('DPoP', await ci.proof('GET', '/.well-known/jwks.json'))
    expect(keys.headers).not.toHaveProperty('dpop-nonce')
  })
})

it('resource servers of others have their own: forward-auth demands none of ours', async () => {
  const { as } = await begun()
  const token = (await exchange(await house.evidence(), as)).body.access_token as string
  const answer = await http()
    .get('/v1/forward-auth?audience=orders')
    .set('X-Forwarded-Method', 'GET')
    .set('X-Forwarded-Uri', '/orders')
    .set('Authorization', `DPoP ${token}`)
    .set('DPoP', await ci.proof('GET', '', token, { htu: `${ORDERS}orders` }))
  expect(answer.status).toBe(200)
})

it('where none is demanded no answer brings one, and a proof with one passes', async () => {
  const other = await makeHouse({ more: server('off') })
  try {
    const by = await caller(other)
    const answer = await supertest(other.http)
      .post('/oauth2/token')
      .type('form')
      .set('DPoP', await by.proof('POST', '/oauth2/token', undefined, { nonce: 'of-another-server' }))
      .send({ grant_type: EXCHANGE, subject_token: await other.evidence(), subject_token_type: ID_TOKEN, resource: ORDERS, scope: 'orders:read' })
    expect(answer.status).toBe(200)
    expect(answer.headers).not.toHaveProperty('dpop-nonce')
  } finally {
    await other.close()
  }
})

describe('the command line', () => {
  it('goes back once with the nonce, at the token endpoint and at the API, and needs no second try while it is fresh', async () => {
    const seen: string[] = []
    const door = createServer((req, res) => {
      res.on('finish', () => seen.push(`${req.method} ${(req.url as string).replace(/tsk_\w+/, '…')} ${res.statusCode}`))
      house.http(req, res)
    })
    await new Promise<void>(resolve => door.listen(0, '127.0.0.1', resolve))
    const home = mkdtempSync(join(tmpdir(), 'curfew-nonces-'))
    try {
      const env = { HOME: home, PATH: process.env.PATH ?? '', CURFEW_URL: `http://127.0.0.1:${(door.address() as AddressInfo).port}` }
      const evidence = async () => {
        writeFileSync(join(home, 'id.jwt'), await house.evidence())
        return ['--id-token-file', join(home, 'id.jwt')]
      }
      const byExchange = await typed(['token', 'demo/orders-ro', '--resource', ORDERS, ...(await evidence())], env)
      expect([byExchange.exit, byExchange.out.trim().split('.')]).toEqual([0, [expect.any(String), expect.any(String), expect.any(String)]])
      expect((await introspect(house, byExchange.out.trim(), 'orders', ORDERS_SECRET)).body.active).toBe(true)
      expect(seen.filter(line => line.startsWith('POST'))).toEqual(['POST /oauth2/token 400', 'POST /oauth2/token 200'])
      seen.length = 0
      const byTask = await typed(['token', 'demo/orders-ro', ...(await evidence())], env)
      expect(byTask.exit).toBe(0)
      expect(seen.filter(line => line.startsWith('POST'))).toEqual(['POST /v1/tasks 401', 'POST /v1/tasks 201', 'POST /v1/tasks/…/credentials 201'])
      expect((await typed(['complete', '--mine'], env)).exit).toBe(0)
      expect((await introspect(house, byTask.out.trim())).body).toEqual({ active: false })
    } finally {
      door.closeAllConnections()
      door.close()
      rmSync(home, { recursive: true, force: true })
    }
  })
})
