/** Owns the limits on requests at the doors: what they refuse and how, what that costs, and what they never touch. */
import supertest from 'supertest'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { declared } from '../../src/http/declaration.js'
import { createInternalApp } from '../../src/http/listen.js'
import { type Caller, caller, type Held, introspect, JWT_BEARER } from '../caller.js'
import { type House, makeHouse, ORDERS, SERVER } from '../house.js'

const RATE = { perSecond: 2, burst: 6 }
const SOURCE = { perSecond: 5, burst: 50 }
const IDENTITY = 'github:repository_id=456789'

let house: House
let ci: Caller
/** Of the limits alone. */
let ms = 0
const http = () => supertest(house.http)
/** Whoever was limited is not any more, and has its whole burst. */
const rest = () => {
  ms += 3_600_000
}

beforeAll(async () => {
  house = await makeHouse({ more: { limits: { source: SOURCE, identity: RATE } }, monotonic: () => ms })
  ci = await caller(house)
})
afterAll(() => house?.close())
beforeEach(rest)

const audited = async (reason: string) => (await house.audits()).filter(a => a.reason === reason)
const counted = async (limit: string) =>
  Number(new RegExp(`^curfew_rate_limited_total\\{limit="${limit}"\\} (\\d+)$`, 'm').exec(await house.app.metrics.text(house.app.store))?.[1] ?? 0)
/** Takes what is left of the workload's share, by a question that leaves nothing behind. */
async function exhaust(): Promise<void> {
  for (let i = 0; i < RATE.burst; i++) await explain()
}
const explain = async (evidence?: string) =>
  http()
    .post('/v1/decisions:explain')
    .send({ subject_token: evidence ?? (await house.evidence()), capability: 'demo/orders-ro', purpose: 'report' })
/** From this address and of nobody: what is refused here has cost no look at a signature. */
async function exhaustSource(): Promise<void> {
  for (let i = 0; i < SOURCE.burst; i++) await http().post('/v1/decisions:explain').send({})
}

const limited = { status: 429, code: 'rate_limited', agent_action: 'retry', retry_after: 1, type: `${SERVER}/e/rate_limited` }

describe('one workload', () => {
  it('is refused above its rate, told when to come back, and served then', async () => {
    await exhaust()
    const refused = await ci.open()
    expect(refused.body).toMatchObject({ ...limited, reason: 'identity_rate', identity: IDENTITY })
    expect(refused.headers['retry-after']).toBe('1')
    // What is left is nobody's to read off (T59).
    expect(Object.keys(refused.headers).filter(name => /limit/.test(name))).toEqual([])
    ms += 1_000
    expect((await ci.open()).status).toBe(201)
  })

  it('its evidence and its proof are not used up by the refusal, and no row but the evidence of it is written', async () => {
    const evidence = await house.evidence()
    const proof = await ci.proof('POST', '/v1/tasks')
    const ask = () =>
      http()
        .post('/v1/tasks')
        .set('DPoP', proof)
        .send({ subject_token: evidence, purpose: 'report', capabilities: ['demo/orders-ro'] })
    await exhaust()
    const before = (await house.audits()).length
    const decisions = await house.app.store.decisions.list({ limit: 1_000 })
    expect((await ask()).body).toMatchObject({ reason: 'identity_rate' })
    expect((await house.audits()).slice(0, (await house.audits()).length - before).map(a => a.reason)).toEqual(['identity_rate'])
    expect(await house.app.store.decisions.list({ limit: 1_000 })).toEqual(decisions)
    ms += 1_000
    expect((await ask()).status).toBe(201)
    expect((await ask()).body).toMatchObject({ reason: 'replayed' })
  })

  it('at the token endpoint the word is temporarily_unavailable, with the members of a problem', async () => {
    await exhaust()
    const form = { subject_token: await house.evidence(), resource: ORDERS, authorization_details: details }
    const refused = await ci.exchange(form)
    expect([refused.status, refused.headers['retry-after']]).toEqual([429, '1'])
    expect(refused.body).toMatchObject({
      error: 'temporarily_unavailable',
      code: 'rate_limited',
      reason: 'identity_rate',
      agent_action: 'retry',
      retry_after: 1,
    })
    ms += 1_000
    expect((await ci.exchange(form)).status).toBe(200)
  })

  it('all that asks shares one share: tasks, credentials, grants, tokens, explanations', async () => {
    const held = await ci.opened()
    const at = `/v1/tasks/${held.task}`
    await exhaust()
    const fresh = await house.evidence()
    const refused: [string, number, string][] = []
    for (const [door, answer] of [
      ['tasks', await ci.open()],
      ['credentials', await ci.credential(held, 'demo/orders-ro')],
      ['bundle', await ci.as(held, 'post', `${at}/credentials`, { capabilities: [{ capability: 'demo/orders-ro' }, { capability: 'demo/orders-bearer' }] })],
      ['fresh evidence', await ci.credential(held, 'demo/orders-ro', { subject_token: fresh })],
      ['grants', await ci.as(held, 'post', `${at}/grants`, { capabilities: ['demo/orders-ro'], to: { jkt: ci.jkt } })],
      ['exchange', await ci.exchange({ subject_token: await house.evidence(), authorization_details: details })],
      ['jwt-bearer', await ci.exchange({ grant_type: JWT_BEARER, assertion: await house.evidence(), authorization_details: details, ...WITHOUT_SUBJECT })],
      [
        'evidence:explain',
        await http()
          .post('/v1/evidence:explain')
          .send({ subject_token: await house.evidence() }),
      ],
      ['decisions:explain', await explain()],
    ] as const)
      refused.push([door, answer.status, answer.body.reason])
    expect(refused).toEqual(refused.map(([door]) => [door, 429, 'identity_rate']))
    ms += 1_000
    expect((await ci.credential(held, 'demo/orders-ro', { subject_token: fresh })).status, 'the fresh evidence was not used up').toBe(201)
  })

  it('what was refused takes nothing of the share: whoever goes on asking is served as soon as whoever waits', async () => {
    await exhaust()
    for (let i = 0; i < 20; i++) expect((await explain()).status).toBe(429)
    ms += 500
    expect((await explain()).status).toBe(200)
    expect((await explain()).status).toBe(429)
  })

  it('is told of once a minute, with how many were not; counted each time', async () => {
    const [rows, count] = [(await audited('identity_rate')).length, await counted('identity')]
    await exhaust()
    for (let i = 0; i < 5; i++) expect((await explain()).status).toBe(429)
    const [first] = await audited('identity_rate')
    expect((await audited('identity_rate')).length).toBe(rows + 1)
    expect(first).toMatchObject({ kind: 'request.refused', data: { limit: 'identity', key: IDENTITY, code: 'rate_limited' } })
    ms += 60_000
    await exhaust()
    await explain()
    expect((await audited('identity_rate')).length).toBe(rows + 2)
    expect((await audited('identity_rate'))[0]).toMatchObject({ data: { suppressed: 4 } })
    expect(await counted('identity')).toBe(count + 6)
  })

  it('that can show no evidence is not limited as somebody: the share is of who was attested, not of who is named', async () => {
    for (let i = 0; i < RATE.burst + 2; i++) expect((await explain(`${await house.evidence()}x`)).status).toBe(401)
    expect((await explain()).status).toBe(200)
  })
})

describe('one address', () => {
  it('is refused before its evidence is looked at, whatever its headers say of where it comes from', async () => {
    const [rows, count] = [(await audited('source_rate')).length, await counted('source')]
    await exhaustSource()
    const refused = await http()
      .post('/v1/decisions:explain')
      .set('X-Forwarded-For', '203.0.113.9')
      .set('Forwarded', 'for=203.0.113.9')
      .set('X-Real-IP', '203.0.113.9')
      .send({ subject_token: 'no.such.token', capability: 'demo/orders-ro', purpose: 'report' })
    expect(refused.body).toMatchObject({ ...limited, reason: 'source_rate' })
    expect(refused.headers['retry-after']).toBe('1')
    expect((await ci.exchange({ subject_token: 'x' })).body).toMatchObject({ error: 'temporarily_unavailable', reason: 'source_rate' })
    expect((await audited('source_rate')).length).toBe(rows + 1)
    expect((await audited('source_rate'))[0]).toMatchObject({ kind: 'request.refused', data: { limit: 'source', key: '127.0.0.1', suppressed: 0 } })
    expect(await counted('source')).toBe(count + 2)
    ms += 1_000
    expect((await explain()).status).toBe(200)
  })

  it('the doors that are limited are those that ask for something new, and no others', () => {
    expect(
      declared(house.http)
        .filter(d => d.asks)
        .map(d => `${d.method} ${d.path}`)
        .sort(),
    ).toEqual([
      'post /oauth2/token',
      'post /v1/decisions\\:explain',
      'post /v1/evidence\\:explain',
      'post /v1/tasks',
      'post /v1/tasks/:task/credentials',
      'post /v1/tasks/:task/grants',
    ])
  })

  it('every other door answers as ever to an address that has nothing left', async () => {
    await exhaustSource()
    const others = declared(house.http).filter(d => !d.asks)
    expect(others.length).toBeGreaterThan(40)
    for (const { method, path } of others) {
      const answer = await http()[method as 'get'](
        path
          .replaceAll('\\', '')
          .replace(/:(?=\w+(\/|$))\w+/g, 'x')
          .replaceAll('*rest', 'x'),
      )
      expect([method, path, answer.status === 429]).toEqual([method, path, false])
    }
    expect((await explain()).status, 'it had nothing left').toBe(429)
  })
})

describe('keeping and ending things never waits', () => {
  let held: Held
  let token: string
  let credential: string

  /** A live task and token of a workload and an address that may ask for nothing more. */
  beforeEach(async () => {
    held = await ci.opened()
    const made = await ci.credential(held, 'demo/orders-ro')
    token = made.body.secret.token
    credential = made.body.credential.id
    await exhaust()
    await exhaustSource()
    expect((await ci.open()).body).toMatchObject({ reason: 'source_rate' })
  })
  const operator = async (role: 'responder' | 'admin') => ({ Authorization: `Bearer ${await house.operator(role)}` })

  it('a heartbeat: without it the task would end', async () => {
    expect((await ci.as(held, 'post', `/v1/tasks/${held.task}/heartbeat`, {})).status).toBe(200)
  })
  it('completion', async () => expect((await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})).body.task.state).toBe('completed'))
  it('cancellation', async () => expect((await ci.as(held, 'post', `/v1/tasks/${held.task}/cancel`, {})).body.task.state).toBe('cancelled'))
  it('a credential given up by its holder', async () => expect((await ci.as(held, 'delete', `/v1/credentials/${credential}`)).status).toBe(202))
  it('a token given back (RFC 7009)', async () => {
    const proof = await ci.proof('POST', '/oauth2/revoke', token)
    expect((await http().post('/oauth2/revoke').type('form').set('DPoP', proof).send({ token })).status).toBe(200)
  })
  it('introspection', async () => expect((await introspect(house, token)).body).toMatchObject({ active: true }))
  it('forward-auth', async () => {
    const answer = await http()
      .get('/v1/forward-auth?audience=orders')
      .set({ Authorization: `DPoP ${token}`, DPoP: await ci.proof('GET', '', token, { htu: `${ORDERS}list` }) })
      .set({ 'X-Original-Method': 'GET', 'X-Original-URI': '/list' })
    expect(answer.status).toBe(200)
  })
  it('a revocation by an operator', async () => {
    const answer = await http()
      .post('/v1/revocations')
      .set(await operator('responder'))
      .send({ selector: { task: held.task }, reason: 'it was stolen' })
    expect(answer.status).toBe(202)
    expect((await introspect(house, token)).body).toEqual({ active: false })
  })
  it('a quarantine by an operator, and its end', async () => {
    const by = await operator('admin')
    const set = await http()
      .post('/v1/quarantines')
      .set(by)
      .send({ selector: { task: held.task }, ttl_seconds: 60, message: 'a look' })
    expect(set.status).toBe(201)
    expect((await http().delete(`/v1/quarantines/${set.body.quarantine.id}`).set(by).send({ reason: 'looked' })).status).toBe(200)
  })
  it('a risk signal', async () => {
    const told = house.signal({ id: 'e-1', type: 'malware', severity: 'high', subject: { task: held.task }, occurred_at: new Date().toISOString() })
    expect((await http().post('/v1/signals').set(told.headers).send(told.text)).status).toBe(202)
    expect((await introspect(house, token)).body).toEqual({ active: false })
  })
  it('what a guard tells of the feed', async () => {
    const added = await http()
      .post('/v1/guards')
      .set(await operator('admin'))
      .send({ name: 'orders' })
    const acked = await http()
      .post('/v1/feed/acks')
      .set({ Authorization: `Bearer ${added.body.key}`, 'Curfew-Guard-Instance': 'a' })
      .send({ seq: 0 })
    expect(acked.status).toBe(200)
  })
  it('health and metrics', async () => {
    expect((await http().get('/livez')).status).toBe(200)
    const internal = createInternalApp({ readiness: async () => ({ status: 'ok', lines: [] }) }, () => house.app.metrics.text(house.app.store))
    expect((await supertest(internal).get('/metrics')).text).toContain('curfew_rate_limited_total{limit="source"}')
  })
})

describe('switched off', () => {
  it('nobody is limited', async () => {
    const open = await makeHouse({ more: { limits: { source: false, identity: false, breadth: false } }, monotonic: () => 0 })
    const one = await caller(open)
    try {
      for (let i = 0; i < 60; i++) expect((await one.open()).status).toBe(201)
    } finally {
      await open.close()
    }
  })
})

const details = JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'nightly report', capabilities: ['demo/orders-ro'] }])
const WITHOUT_SUBJECT = { subject_token_type: '' }
