/** Owns the wire facts of AuthZEN: who may ask, what a question means, and that an answer is a decision and no grant. */
import supertest, { type Response } from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller } from '../caller.js'
import { type House, LEGACY, makeHouse, ORDERS, ORDERS_SECRET, SERVER } from '../house.js'

let house: House
let ci: Caller

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
})
afterAll(() => house.close())

const MAIN = {
  type: 'workload',
  id: 'github:repository_id=456789',
  properties: {
    issuer: 'github',
    attributes: { repository_id: '456789', repository_owner_id: '123456', ref: 'refs/heads/main', event_name: 'push', runner_environment: 'github-hosted' },
  },
}
const CAPABILITY = { type: 'capability', id: 'demo/orders-ro' }
const ISSUE = { name: 'issue:access_token:token_exchange' }
const question = (over: object = {}) => ({ subject: MAIN, action: ISSUE, resource: CAPABILITY, ...over })

/** As a resource server, unless another header is given. */
async function ask(
  body: unknown,
  { path = 'evaluation', as = 'orders', headers = {} }: { path?: string; as?: string; headers?: Record<string, string> } = {},
): Promise<Response> {
  return supertest(house.http)
    .post(`/access/v1/${path}`)
    .set('Content-Type', 'application/json')
    .set('Authorization', as.startsWith('Bearer ') ? as : `Basic ${Buffer.from(`${as}:${ORDERS_SECRET}`).toString('base64')}`)
    .set(headers)
    .send(typeof body === 'string' ? body : JSON.stringify(body))
}
const decided = async (body: object, options?: Parameters<typeof ask>[1]): Promise<boolean> => {
  const { status, body: answer } = await ask(body, options)
  expect(status).toBe(200)
  return answer.decision
}
const post = (path: string, token: string, body: object) => supertest(house.http).post(path).set('Authorization', `Bearer ${token}`).send(body)

describe('who may ask', () => {
  it('a registered resource server and an operator; nobody else, and the refusal is a sentence', async () => {
    expect(await decided(question())).toBe(true)
    for (const role of ['responder', 'admin', 'auditor'] as const) expect(await decided(question(), { as: `Bearer ${await house.operator(role)}` })).toBe(true)

    const guard = await post('/v1/guards', await house.operator('admin'), { name: 'orders' })
    const held = await ci.opened()
    for (const as of ['Bearer nobody', `Bearer ${guard.body.key}`, `Bearer ${held.token}`, 'nobody', 'legacy ']) {
      const refused = await ask(question(), { as })
      expect({ as, status: refused.status, type: refused.type }).toEqual({ as, status: 401, type: 'text/plain' })
      expect(refused.headers['www-authenticate']).toContain('realm="curfew"')
      expect(refused.text).toMatch(/^[a-z_]+: Authorization /)
    }
    const none = await supertest(house.http).post('/access/v1/evaluation').send(question())
    expect([none.status, none.type]).toEqual([401, 'text/plain'])
  })

  it('a resource server asks of its own alone: of others it hears what it hears of nothing', async () => {
    const held = await ci.opened()
    const made = (await ci.credential(held, 'demo/orders-ro')).body.credential.id
    const use = { subject: { type: 'credential', id: made }, action: { name: 'orders:read' }, resource: CAPABILITY }
    const shape = async (body: object, as: string) => {
      const { body: answer } = await ask(body, { as })
      expect(answer.context.id).toMatch(/^dec_/)
      return { ...answer, context: Object.keys(answer.context) }
    }
    expect(await shape(use, 'orders')).toEqual({ decision: true, context: ['id'] })
    const nothing = await shape({ ...use, subject: { type: 'credential', id: 'crd_01kaf3q7v0m2x4t6w8y0a1b2c3' } }, 'legacy')
    expect(nothing).toEqual({ decision: false, context: ['id'] })
    expect(await shape(use, 'legacy')).toEqual(nothing)
    expect(await shape({ ...use, resource: { type: 'audience', id: ORDERS } }, 'legacy')).toEqual(nothing)
    expect(await shape({ ...use, resource: { type: 'audience', id: LEGACY } }, 'legacy')).toEqual(nothing)
    expect(await shape(question(), 'legacy')).toEqual(nothing)
    // What no server has, a database user, an operator asks of.
    const database = question({ resource: { type: 'capability', id: 'demo/orders-db' } })
    expect(await shape(database, 'orders')).toEqual(nothing)
    expect(await decided(database, { as: `Bearer ${await house.operator('auditor')}` })).toBe(true)
  })

  it('reasons are for operators; a resource server is told where they are kept', async () => {
    const denied = question({
      subject: { ...MAIN, properties: { ...MAIN.properties, attributes: { ...MAIN.properties.attributes, ref: 'refs/pull/88/merge' } } },
    })
    expect((await ask(denied)).body).toEqual({ decision: false, context: { id: expect.stringMatching(/^dec_/) } })
    const { body } = await ask(denied, { as: `Bearer ${await house.operator('auditor')}` })
    expect(body).toMatchObject({
      decision: false,
      context: {
        reason_admin: { en: 'no_permit' },
        policies: [],
        nearest_rule: { id: 'ci-orders-main' },
        failed: [{ claim: 'ref', actual: 'refs/pull/88/merge' }],
      },
    })
  })
})

describe('what a question means', () => {
  it('of a workload: would it be issued a credential, by what the asker says of it', async () => {
    const attributes = (over: object) => ({ ...MAIN, properties: { issuer: 'github', attributes: { ...MAIN.properties.attributes, ...over } } })
    for (const [wanted, over] of [
      [true, {}],
      [true, { action: { name: 'orders:read' } }],
      [true, { action: { name: 'read' } }],
      [true, { action: { name: 'issue' } }],
      [true, { resource: { type: 'audience', id: ORDERS } }],
      [true, { resource: { type: 'audience', id: 'orders' } }],
      [false, { action: { name: 'orders:write' } }],
      [false, { action: { name: 'issues' } }],
      [false, { action: { name: 'write' } }],
      [false, { resource: { type: 'capability', id: 'demo/unknown' } }],
      [false, { resource: { type: 'document', id: 'demo/orders-ro' } }],
      [false, { subject: attributes({ ref: 'refs/heads/other' }) }],
      [false, { subject: attributes({ repository_id: '1' }) }],
      [false, { subject: attributes({ ref: 7 }) }],
      [false, { subject: { ...MAIN, id: 'agents:agent=reporter' } }],
      [false, { subject: { ...MAIN, properties: { ...MAIN.properties, issuer: 'nobody' } } }],
      [false, { subject: { ...MAIN, type: 'user' } }],
      // Evidence that is too old for the capability, and a workload that would prove no key where that is demanded.
      [false, { subject: { ...MAIN, properties: { ...MAIN.properties, evidence_age: 901 } } }],
      [true, { context: { proof: false } }],
      [true, { subject: { type: 'workload', id: 'agents:agent=reporter', properties: { issuer: 'agents', attributes: { agent: 'reporter' } } } }],
      [
        false,
        {
          subject: { type: 'workload', id: 'agents:agent=reporter', properties: { issuer: 'agents', attributes: { agent: 'reporter' } } },
          context: { proof: false },
        },
      ],
    ] as const)
      expect({ over, decision: await decided(question(over)) }).toEqual({ over, decision: wanted })
  })

  it('of a task: would it be given one, by what was attested; and it is no longer when it has ended', async () => {
    const held = await ci.opened()
    const of = (over: object = {}) => question({ subject: { type: 'task', id: held.task, properties: { issuer: 'made up' } }, ...over })
    expect(await decided(of())).toBe(true)
    // It was not opened for that one, though policy would permit it.
    expect(await decided(of({ resource: { type: 'capability', id: 'demo/orders-db' } }), { as: `Bearer ${await house.operator('auditor')}` })).toBe(false)
    expect(await decided(question({ subject: { type: 'task', id: 'tsk_01kaf3q7v0m2x4t6w8y0a1b2c3' } }))).toBe(false)
    await house.advance(901)
    expect(await decided(of())).toBe(false)
    const fresh = await ci.opened()
    const now = () => question({ subject: { type: 'task', id: fresh.task } })
    expect(await decided(now())).toBe(true)
    await ci.as(fresh, 'post', `/v1/tasks/${fresh.task}/complete`, {})
    expect(await decided(now())).toBe(false)
  })

  it('of a credential: may it be used so, as introspection and guards answer it; to issue is asked of its task', async () => {
    const held = await ci.opened()
    const { id } = (await ci.credential(held, 'demo/orders-ro')).body.credential
    const of = (over: object = {}) => question({ subject: { type: 'credential', id }, action: { name: 'orders:read' }, ...over })
    expect(await decided(of())).toBe(true)
    expect(await decided(of({ resource: { type: 'audience', id: ORDERS } }))).toBe(true)
    expect(await decided(of({ action: { name: 'orders:write' } }))).toBe(false)
    expect(await decided(of({ action: ISSUE }))).toBe(true)

    // A quarantine refuses what is new, and lets live what lives.
    const responder = await house.operator('responder')
    const set = await post('/v1/quarantines', responder, { selector: { repository_id: '456789' }, ttl_seconds: 600 })
    expect(set.status).toBe(201)
    expect([await decided(of()), await decided(of({ action: ISSUE })), await decided(question())]).toEqual([true, false, false])
    await supertest(house.http).delete(`/v1/quarantines/${set.body.quarantine.id}`).set('Authorization', `Bearer ${responder}`).send({ reason: 'over' })
    expect(await decided(of({ action: ISSUE }))).toBe(true)

    await post('/v1/revocations', responder, { selector: { credential: id } })
    // Revoked for cause: the run may begin nothing new either.
    expect([await decided(of()), await decided(of({ action: ISSUE }))]).toEqual([false, false])
    expect(await decided(question())).toBe(true)
    await post('/v1/revocations', responder, { selector: { identity: MAIN.id } })
    // What was attested before the cut-off is of no more use, what is attested after it is.
    expect(await decided(question({ subject: { ...MAIN, properties: { ...MAIN.properties, evidence_age: 30 } } }))).toBe(false)
    await house.advance(2)
    expect(await decided(question())).toBe(true)
  })

  it('an answer is a recorded decision with one audit row, and grants nothing', async () => {
    const held = async () => [await house.app.store.tasks.list({ limit: 99 }), await house.app.store.credentials.list({ limit: 99 })]
    const before = await held()
    const { body } = await ask(question({ context: { purpose: 'look', labels: { team: 'data' } } }), { headers: { 'X-Request-ID': 'pep 1/2' } })
    const denial = await ask(question({ subject: { ...MAIN, type: 'user' } }))
    const admin = await house.operator('admin')
    const { decision } = (await supertest(house.http).get(`/v1/decisions/${body.context.id}`).set('Authorization', `Bearer ${admin}`)).body
    expect(decision).toMatchObject({
      allowed: true,
      reason: 'permitted',
      identity: MAIN.id,
      capability: CAPABILITY.id,
      task: null,
      policies: ['ci-orders-main'],
      attributes: { ref: 'refs/heads/main', asked: { by: 'server:orders', action: ISSUE.name, resource: 'capability:demo/orders-ro', subject: 'workload' } },
    })
    const rows = await house.app.store.audit.list({ subject: body.context.id, limit: 9 })
    expect(rows).toMatchObject([{ kind: 'decision.permitted', actor: { kind: 'server', id: 'orders' }, requestId: 'pep 1/2' }])
    expect(await house.app.store.audit.list({ subject: denial.body.context.id, limit: 9 })).toMatchObject([
      { kind: 'decision.denied', reason: 'subject_unknown' },
    ])
    expect(await held()).toEqual(before)
  })
})

describe('the wire', () => {
  it('says where it is', async () => {
    const { status, body, headers } = await supertest(house.http).get('/.well-known/authzen-configuration')
    expect([status, headers['cache-control']]).toEqual([200, 'public, max-age=300'])
    expect(body).toEqual({
      policy_decision_point: SERVER,
      access_evaluation_endpoint: `${SERVER}/access/v1/evaluation`,
      access_evaluations_endpoint: `${SERVER}/access/v1/evaluations`,
    })
  })

  it.each<[string, unknown, RegExp]>([
    ['no subject', { action: ISSUE, resource: CAPABILITY }, /subject/],
    ['no action', { subject: MAIN, resource: CAPABILITY }, /action/],
    ['no resource', { subject: MAIN, action: ISSUE }, /resource/],
    ['a subject without a type', question({ subject: { id: 'x' } }), /subject\.type/],
    ['an id that is a number', question({ resource: { type: 'capability', id: 7 } }), /resource\.id/],
    ['a null', question({ action: null }), /action/],
    ['an array', [question()], /body/],
    ['a workload without an issuer', question({ subject: { type: 'workload', id: 'x' } }), /subject\.properties\.issuer/],
    ['a context of ours that is malformed', question({ context: { ttl_seconds: 'long' } }), /context\.ttl_seconds/],
    ['a member twice', `{"subject":{"type":"task","id":"a","id":"b"},"action":{"name":"issue"},"resource":{"type":"capability","id":"x"}}`, /^duplicate/],
    ['a member twice, once escaped', `{"action":{"name":"issue","n\\u0061me":"issue"}}`, /^duplicate/],
    ['no JSON', 'subject=x', /^/],
  ])('400 in a sentence: %s', async (_, body, says) => {
    for (const path of ['evaluation', 'evaluations']) {
      const { status, type, text, body: parsed } = await ask(body, { path })
      expect([status, type, parsed]).toEqual([400, 'text/plain', {}])
      expect(text).toMatch(says)
      expect(text).not.toContain('456789')
    }
  })

  it('ignores members that it does not know, at every depth', async () => {
    const extra = { later: { version: [1] } }
    const body = question({
      ...extra,
      action: { ...ISSUE, properties: extra, ...extra },
      resource: { ...CAPABILITY, ...extra },
      context: { time: '1985-10-26T01:22-07:00', ...extra },
    })
    expect(await decided(body)).toBe(true)
    expect((await ask({ ...body, options: { another_option: 'value' }, evaluations: [extra] }, { path: 'evaluations' })).body.evaluations).toMatchObject([
      { decision: true },
    ])
  })

  it.each(['x', 'bfe9eb29-ab87-4ca3-be83-a1d5d8305716', 'a b/c?=&"', 'z'.repeat(256)])('gives the request its own name back: %j', async id => {
    for (const answer of [await ask(question(), { headers: { 'X-Request-ID': id } }), await ask({}, { headers: { 'X-Request-ID': id } })])
      expect(answer.headers['x-request-id']).toBe(id)
  })

  it('415 for another type, 413 for too much', async () => {
    expect((await ask(question(), { headers: { 'Content-Type': 'text/plain' } })).status).toBe(415)
    expect((await ask(question({ context: { padding: 'x'.repeat(65_536) } }))).status).toBe(413)
  })
})

describe('several at once', () => {
  const other = { type: 'capability', id: 'demo/unknown' }
  const asked = (evaluations: unknown, over: object = {}) => ask({ subject: MAIN, action: ISSUE, evaluations, ...over }, { path: 'evaluations' })
  const decisions = async (evaluations: unknown, over: object = {}) => {
    const { status, body } = await asked(evaluations, over)
    expect(status).toBe(200)
    return body.evaluations.map((e: { decision: boolean }) => e.decision)
  }

  it('in their order, each with the members of the whole where it has none of its own', async () => {
    expect(await decisions([{ resource: CAPABILITY }, { resource: other }, { resource: CAPABILITY }])).toEqual([true, false, true])
    expect(await decisions([{}, { resource: other }, { subject: { type: 'user', id: 'x' } }], { resource: CAPABILITY })).toEqual([true, false, false])
    // A member of its own is taken whole, not mixed with that of the whole.
    const { status, text } = await asked([{}, { subject: { type: 'workload', id: MAIN.id } }], { resource: CAPABILITY })
    expect([status, text]).toEqual([400, expect.stringContaining('evaluations.1.subject.properties.issuer')])
    expect(await decisions([{ context: {} }], { resource: CAPABILITY, context: { proof: false } })).toEqual([true])
  })

  it.each([
    ['execute_all', [true, false, true]],
    ['deny_on_first_deny', [true, false]],
    ['permit_on_first_permit', [true]],
  ])('%s', async (evaluations_semantic, wanted) => {
    expect(await decisions([{ resource: CAPABILITY }, { resource: other }, { resource: CAPABILITY }], { options: { evaluations_semantic } })).toEqual(wanted)
  })

  it('none, or an empty list, is a single question', async () => {
    for (const evaluations of [undefined, []]) expect((await asked(evaluations, { resource: CAPABILITY })).body).toMatchObject({ decision: true, context: {} })
    expect((await asked([])).status).toBe(400)
  })

  it('refuses another semantic, a question that lacks a member, and more than fifty', async () => {
    expect((await asked([{ resource: CAPABILITY }], { options: { evaluations_semantic: 'all' } })).text).toContain('options.evaluations_semantic')
    const [newest] = await house.app.store.decisions.list({ limit: 1 })
    const lacking = await asked([{ resource: CAPABILITY }, {}])
    expect([lacking.status, lacking.text]).toEqual([400, expect.stringContaining('evaluations.1.resource')])
    // The first of them was not judged either.
    expect(await house.app.store.decisions.list({ limit: 1 })).toEqual([newest])
    expect(
      await decisions(
        Array.from({ length: 50 }, () => ({})),
        { resource: CAPABILITY },
      ),
    ).toHaveLength(50)
    expect(
      (
        await asked(
          Array.from({ length: 51 }, () => ({})),
          { resource: CAPABILITY },
        )
      ).status,
    ).toBe(400)
  })
})
