import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, introspect } from '../caller.js'
import { type House, LEGACY, makeHouse, ORDERS, SERVER } from '../house.js'

let house: House
let ci: Caller

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
})
afterAll(() => house?.close())

const details = (more: Record<string, unknown> = {}) =>
  JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'nightly report', capabilities: ['demo/orders-ro'], ...more }])

describe('the walk in and out', () => {
  it('a CI job exchanges its evidence for a token of one resource server, bound to its key, and loses it when it completes', async () => {
    const answer = await ci.exchange({ subject_token: await house.evidence(), resource: ORDERS, authorization_details: details({ ttl: 120 }) })
    expect(answer.body).toMatchObject({ token_type: 'DPoP', scope: 'orders:read', issued_token_type: 'urn:ietf:params:oauth:token-type:access_token' })
    expect(answer.status).toBe(200)
    expect(answer.headers['cache-control']).toBe('no-store')
    expect(answer.body.expires_in).toBeGreaterThan(110)
    expect(answer.body.expires_in).toBeLessThanOrEqual(120)

    const live = await introspect(house, answer.body.access_token)
    expect(live.body).toMatchObject({
      active: true,
      aud: ORDERS,
      sub: 'github:repository_id=456789',
      jti: answer.body.credential,
      cnf: { jkt: ci.jkt },
      token_type: 'DPoP',
      task: { id: answer.body.task.id },
    })
    expect((await introspect(house, answer.body.access_token, 'legacy')).body).toEqual({ active: false })

    const held = { task: answer.body.task.id, token: answer.body.task.token }
    const done = await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, { outcome: 'success' })
    expect(done.body).toMatchObject({ task: { state: 'completed', end_reason: 'completed' }, revocation: { reason: 'completed', credentials: 1, tasks: 1 } })
    expect((await introspect(house, answer.body.access_token)).body).toEqual({ active: false })

    await house.work()
    const credential = await house.app.store.credentials.get(answer.body.credential)
    expect(credential).toMatchObject({ state: 'revoked', reason: 'completed', probe: { outcome: 'dead', looked: ['introspection'] } })
  })

  it('a database user is made, works, and is gone only when the probe has found it gone', async () => {
    const held = await ci.opened({ capabilities: ['demo/orders-db'] })
    const made = await ci.credential(held, 'demo/orders-db')
    expect(made.status).toBe(201)
    expect(made.body.credential).toMatchObject({ state: 'active', revocation: 'backend' })
    const { PGUSER, PGPASSWORD } = made.body.secret
    expect(house.database.login(PGUSER, PGPASSWORD)).toBe(true)

    house.database.breakStep('destroy', 'throw')
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    await house.work()
    expect(await house.app.store.credentials.get(made.body.credential.id)).toMatchObject({ state: 'revoking', attempts: 1 })
    expect(house.database.login(PGUSER, PGPASSWORD)).toBe(true)

    house.database.mend()
    await house.advance(3)
    await house.work()
    expect(await house.app.store.credentials.get(made.body.credential.id)).toMatchObject({ state: 'revoked', probe: { outcome: 'dead' } })
    expect(house.database.login(PGUSER, PGPASSWORD)).toBe(false)
  })

  it('a backend that keeps failing makes its credential stuck, visibly, and a recovery ends it', async () => {
    const held = await ci.opened({ capabilities: ['demo/orders-db'] })
    const made = await ci.credential(held, 'demo/orders-db')
    house.database.breakStep('destroy', 'throw')
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    for (let i = 0; i < 3; i++) {
      await house.work()
      await house.advance(31)
    }
    const stuck = await house.app.store.credentials.get(made.body.credential.id)
    expect(stuck).toMatchObject({ state: 'stuck', failure: 'the memory engine was told to fail at destroy' })
    house.database.mend()
    await house.sweep()
    expect(await house.app.store.credentials.get(made.body.credential.id)).toMatchObject({ state: 'revoked' })
  })

  it('a task whose holder falls silent ends by its missed heartbeats', async () => {
    const held = await ci.opened({ heartbeat_seconds: 5 })
    const made = await ci.credential(held, 'demo/orders-ro')
    await house.advance(10)
    expect((await ci.as(held, 'post', `/v1/tasks/${held.task}/heartbeat`, {})).status).toBe(200)
    await house.advance(10)
    await house.sweep()
    expect((await introspect(house, made.body.secret.token)).body.active).toBe(true)
    await house.advance(6)
    await house.sweep()
    expect((await introspect(house, made.body.secret.token)).body).toEqual({ active: false })
    expect(await house.app.store.tasks.get(held.task as never)).toMatchObject({ state: 'expired', endReason: 'heartbeat_missed' })
  })

  it('a credential ends at its time at introspection, and is closed by the job of its second', async () => {
    const held = await ci.opened()
    const made = await ci.credential(held, 'demo/orders-ro', { ttl_seconds: 10 })
    expect((await introspect(house, made.body.secret.token)).body.active).toBe(true)
    await house.advance(11)
    expect((await introspect(house, made.body.secret.token)).body).toEqual({ active: false })
    await house.work()
    await house.work()
    expect(await house.app.store.credentials.get(made.body.credential.id)).toMatchObject({ state: 'revoked', reason: 'expired' })
  })

  it('an audience that cannot check a proof gets a bearer token of five minutes at most', async () => {
    const held = await ci.opened({ capabilities: ['demo/orders-bearer'] })
    const made = await ci.credential(held, 'demo/orders-bearer', { ttl_seconds: 3_000 })
    expect(made.body).toMatchObject({ token_type: 'Bearer', credential: { audience: LEGACY } })
    expect(Date.parse(made.body.credential.expires_at) - Date.parse(made.body.credential.issued_at)).toBeLessThanOrEqual(300_000)
    const live = await introspect(house, made.body.secret.token, 'legacy')
    expect(live.body.active).toBe(true)
    expect(live.body).not.toHaveProperty('cnf')
  })

  it('an agent with a registered key is capped by policy', async () => {
    const held = await ci.opened({ subject_token: await house.agentAssertion() })
    const made = await ci.credential(held, 'demo/orders-ro', { ttl_seconds: 300 })
    expect(made.status).toBe(201)
    expect(Date.parse(made.body.credential.expires_at) - Date.parse(made.body.credential.issued_at)).toBeLessThanOrEqual(60_000)
  })

  it('a responder ends all that an identity holds, and what it opens next on old evidence', async () => {
    const held = await ci.opened()
    const made = await ci.credential(held, 'demo/orders-ro')
    const old = await house.evidence()
    const token = await house.operator('responder')
    const revoked = await supertest(house.http)
      .post('/v1/revocations')
      .set('Authorization', `Bearer ${token}`)
      .send({ selector: { identity: 'github:repository_id=456789' }, message: 'INC-204' })
    expect(revoked.status).toBe(202)
    expect(revoked.body.revocation).toMatchObject({ reason: 'requested', message: 'INC-204' })
    expect((await introspect(house, made.body.secret.token)).body).toEqual({ active: false })
    expect((await ci.credential(held, 'demo/orders-ro')).body).toMatchObject({ code: 'task_ended' })
    const refused = await ci.open({ subject_token: old })
    expect(refused.body).toMatchObject({ status: 403, code: 'policy_denied', reason: 'cut_off' })
    await house.advance(2)
    expect((await ci.open({ subject_token: await house.evidence() })).status).toBe(201)
  })

  it('a signed risk signal ends what it names, once, and a lesser one denies new credentials for a while', async () => {
    const held = await ci.opened()
    const made = await ci.credential(held, 'demo/orders-ro')
    const event = {
      id: 'evt-1',
      type: 'token.leaked',
      severity: 'high',
      subject: { credential: made.body.credential.id },
      occurred_at: new Date(house.now() * 1000).toISOString(),
    }
    const { headers, text } = house.signal(event)
    const first = await supertest(house.http).post('/v1/signals').set(headers).send(text)
    expect(first.body.signal).toMatchObject({ rule: 'high-revokes', act: { kind: 'revoke' } })
    expect(first.body.signal.revocation).toMatch(/^rev_/)
    expect((await introspect(house, made.body.secret.token)).body).toEqual({ active: false })
    const again = await supertest(house.http).post('/v1/signals').set(headers).send(text)
    expect(again.body.signal.id).toBe(first.body.signal.id)

    const agent = 'agents:agent=reporter'
    await ci.opened({ subject_token: await house.agentAssertion() })
    const medium = house.signal({ ...event, id: 'evt-2', severity: 'medium', subject: { identity: agent } })
    expect((await supertest(house.http).post('/v1/signals').set(medium.headers).send(medium.text)).status).toBe(202)
    expect((await ci.open({ subject_token: await house.agentAssertion() })).body).toMatchObject({ code: 'policy_denied', reason: 'quarantined' })
    await house.advance(601)
    expect((await ci.open({ subject_token: await house.agentAssertion() })).status).toBe(201)
  })

  it('explains a denial: the nearest rule, how much of it held, and the first claim that differs', async () => {
    const answer = await ci.open({ subject_token: await house.evidence({ ref: 'refs/pull/88/merge', event_name: 'push' }) })
    expect(answer.status).toBe(403)
    expect(answer.headers['content-type']).toContain('application/problem+json')
    expect(answer.body).toMatchObject({
      code: 'policy_denied',
      nearest_rule: { id: 'ci-orders-main' },
      failed: [{ claim: 'ref', actual: 'refs/pull/88/merge' }],
      identity: 'github:repository_id=456789',
      agent_action: 'request_access',
    })
    expect(answer.body.nearest_rule.held).toBe(answer.body.nearest_rule.of - 1)
    const auditor = await house.operator('auditor')
    const decision = await supertest(house.http).get(`/v1/decisions/${answer.body.decision_id}`).set('Authorization', `Bearer ${auditor}`)
    expect(decision.body.decision).toMatchObject({ allowed: false, reason: 'no_permit' })

    const evidence = await house.evidence({ ref: 'refs/heads/other' })
    const why = await supertest(house.http).post('/v1/decisions:explain').send({ subject_token: evidence, capability: 'demo/orders-ro' })
    expect(why.body.decision).toMatchObject({ allowed: false, failed: [{ claim: 'ref', actual: 'refs/heads/other' }] })
  })
})
