/** What a responder does over HTTP: looks first, acts once, denies what is new, and holds the proof in his hands. */
import { createHash } from 'node:crypto'
import { createLocalJWKSet, jwtVerify } from 'jose'
import supertest, { type Response } from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, introspect } from '../caller.js'
import { type House, makeHouse, ORDERS } from '../house.js'

let house: House
let responder: string
let auditor: string
let ci: Caller

beforeAll(async () => {
  house = await makeHouse({
    // Every repository of the owner: each test has one of its own.
    policies: ['demo/orders-ro', 'demo/orders-bearer', 'demo/orders-db']
      .map(
        (c, i) =>
          `@id("any-${i}") permit(principal, action == Action::"issue", resource == Capability::"${c}") when { context.issuer == "github" && context has github && context.github.repository_owner_id == "123456" };`,
      )
      .join('\n'),
    more: {
      signals: {
        sources: [{ name: 'edr', secret: { env: 'EDR_SECRET' }, issuers: ['github', 'agents'] }],
        rules: [
          { name: 'ends', source: 'edr', minSeverity: 'critical', act: { kind: 'revoke', cap: 2 } },
          { name: 'shortens', source: 'edr', minSeverity: 'high', act: { kind: 'shorten', seconds: 30 } },
          { name: 'quarantines', source: 'edr', minSeverity: 'medium', act: { kind: 'quarantine', seconds: 600 } },
        ],
      },
    },
  })
  responder = await house.operator('responder')
  auditor = await house.operator('auditor')
  ci = await caller(house)
})
afterAll(() => house.close())

async function as(token: string, method: 'get' | 'post' | 'delete', path: string, body?: object, headers: Record<string, string> = {}): Promise<Response> {
  const request = supertest(house.http)[method](path).set('Authorization', `Bearer ${token}`).set(headers)
  return body === undefined ? request : request.send(body)
}
const revoke = (body: object, headers: Record<string, string> = {}) => as(responder, 'post', '/v1/revocations', body, headers)

/** A job of a repository of its own, with one token. */
async function job(repository: string, claims: Record<string, string> = {}) {
  const evidence = () => house.evidence({ repository_id: repository, ...claims })
  const held = await ci.opened({ subject_token: await evidence(), capabilities: ['demo/orders-ro', 'demo/orders-db'] })
  const { body } = await ci.credential(held, 'demo/orders-ro')
  return { held, evidence, identity: `github:repository_id=${repository}`, id: body.credential.id as string, token: body.secret.token as string }
}
const isActive = async (token: string) => (await introspect(house, token)).body.active as boolean

describe('plan, then act', () => {
  it('counts, ends nothing, acts once, tells newcomers, and the same plan answers the same receipt', async () => {
    const j = await job('1001')
    const db = await ci.credential(j.held, 'demo/orders-db')
    const planned = await as(responder, 'post', '/v1/plans', { selector: { identity: j.identity }, reason: 'INC-204' })
    expect(planned.status).toBe(201)
    expect(planned.body.plan).toMatchObject({
      selector: { identity: j.identity },
      reason: 'INC-204',
      revocation: null,
      reach: {
        credentials: 2,
        tasks: 1,
        instant: 1,
        backend: 1,
        expiry_only: 0,
        engines: { jwt: 1, memory: 1 },
        capabilities: 2,
        owners: [{ owner: '@orders-team', tasks: 1 }],
        exposed: [],
        exposed_until: null,
      },
    })
    expect(await isActive(j.token)).toBe(true)
    const fresh = await ci.credential(j.held, 'demo/orders-ro')
    const { id } = planned.body.plan
    const acted = await revoke({ plan: id })
    expect(acted.status).toBe(202)
    expect(acted.body).toMatchObject({
      revocation: { selector: { identity: j.identity }, message: 'INC-204', tasks: 1 },
      newcomers: [fresh.body.credential.id],
    })
    expect(await isActive(j.token)).toBe(false)
    const again = await revoke({ plan: id, reason: 'another word' })
    expect(again.body.receipt).toBe(acted.body.receipt)
    expect((await as(auditor, 'get', `/v1/plans/${id}`)).body.plan.revocation).toBe(acted.body.revocation.id)

    await house.work()
    expect((await as(auditor, 'get', `/v1/revocations/${acted.body.revocation.id}`)).body.credentials).toEqual({ revoking: 0, stuck: 0, revoked: 3 })
    expect(db.status).toBe(201)
  })

  it('a plan lapses after five minutes', async () => {
    const j = await job('1002')
    const { body } = await as(responder, 'post', '/v1/plans', { selector: { task: j.held.task } })
    await house.advance(301)
    const late = await revoke({ plan: body.plan.id })
    expect(late.status).toBe(409)
    expect(late.body).toMatchObject({ code: 'conflict', reason: 'plan_lapsed', field: 'plan' })
  })

  it('repeating answers the same: by key, and for what is dead for cause already', async () => {
    const j = await job('1003')
    const key = { 'Idempotency-Key': 'incident-1003' }
    const first = await revoke({ selector: { identity: j.identity } }, key)
    expect((await revoke({ selector: { identity: j.identity } }, key)).body).toEqual(first.body)
    expect((await revoke({ selector: { identity: 'github:repository_id=1' } }, key)).body).toMatchObject({ code: 'conflict' })
    for (const selector of [{ credential: j.id }, { task: j.held.task }]) expect((await revoke({ selector })).body.receipt).toBe(first.body.receipt)
  })

  it('what its holder completed is no reason not to revoke it: the run is tombstoned', async () => {
    const j = await job('1004', { run_id: '77', check_run_id: '770' })
    await ci.as(j.held, 'post', `/v1/tasks/${j.held.task}/complete`, {})
    const acted = await revoke({ selector: { task: j.held.task } })
    expect(acted.body.revocation).toMatchObject({ reason: 'requested', tasks: 0, credentials: 0 })
    const again = await ci.open({ subject_token: await j.evidence() })
    expect(again.body).toMatchObject({ code: 'policy_denied', reason: 'tombstoned' })
  })
})

describe('selectors', () => {
  it.each([
    ['issuer', { issuer: 'github' }],
    ['capability', { capability: 'demo/orders-ro' }],
    ['all', { all: true }],
    ['workflow', { workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main' }],
    ['repository', { repository_id: '2001' }],
    ['owner and audience', { owner: '@orders-team', audience: ORDERS }],
    ['actor and engine', { actor: 'dana', engine: 'jwt' }],
    ['a window', { issuer: 'github', issued_after: '2020-01-01T00:00:00Z' }],
  ])('by %s: refused by introspection from the answer on', async (_name, selector) => {
    const j = await job('2001')
    const acted = await revoke({ selector })
    expect(acted.status).toBe(202)
    expect(acted.body.revocation.selector).toMatchObject(Object.fromEntries(Object.entries(selector).filter(([name]) => !name.startsWith('issued'))))
    expect(await isActive(j.token)).toBe(false)
    // Evidence made after a cut-off begins anew.
    await house.advance(2)
    expect((await ci.open({ subject_token: await house.evidence({ repository_id: '2001' }) })).status).toBe(201)
  })

  it('a cut-off by a clock that is a little ahead means now: what is issued after it lives', async () => {
    const before = await job('2003')
    const ahead = new Date((house.now() + 30) * 1000).toISOString()
    expect((await revoke({ selector: { issuer: 'github', repository_id: '2003', issued_before: ahead } })).status).toBe(202)
    await house.advance(2)
    const after = await job('2003')
    expect([await isActive(before.token), await isActive(after.token)]).toEqual([false, true])
  })

  it('by key: the kid of the token', async () => {
    const j = await job('2002')
    const { kid } = JSON.parse(Buffer.from(j.token.split('.')[0] as string, 'base64url').toString())
    expect((await revoke({ selector: { key: kid } })).status).toBe(202)
    expect(await isActive(j.token)).toBe(false)
    await house.advance(2)
  })

  it.each([
    ['nothing', {}, 'selector'],
    ['two that stand alone', { all: true, identity: 'x' }, 'selector.all'],
    ['a credential among attributes', { credential: 'crd_00000000000000000000000000', actor: 'dana' }, 'selector.credential'],
    ['a cut-off of one task', { task: 'tsk_00000000000000000000000000', issued_before: '2020-01-01T00:00:00Z' }, 'selector.issued_before'],
    ['a window of everything', { all: true, issued_after: '2020-01-01T00:00:00Z' }, 'selector.all'],
    ['a cut-off that lies further ahead than clocks do', { identity: 'x', issued_before: '2099-01-01T00:00:00Z' }, 'selector.issued_before'],
    [
      'a window that ends before it begins',
      { actor: 'x', issued_after: '2021-01-01T00:00:00Z', issued_before: '2020-01-01T00:00:00Z' },
      'selector.issued_after',
    ],
    ['not all', { all: false }, 'selector.all'],
    ['a local time', { identity: 'x', issued_before: '2020-01-01T00:00:00' }, 'selector.issued_before'],
    ['a time before all years that a database knows', { issued_before: '0001-01-01T00:00:01+00:01' }, 'selector.issued_before'],
    ['a time in a year of five digits', { issued_after: '9999-12-31T23:59:59-00:01' }, 'selector.issued_after'],
    ['an unknown attribute', { repository: 'acme/orders' }, 'selector.repository'],
    ['a name for an id', { repository_id: 'acme/orders' }, 'selector.repository_id'],
    ['a kid that is none', { key: 'k7' }, 'selector.key'],
    ['no label', { label: {} }, 'selector.label'],
  ])('refuses %s, and names it', async (_name, selector, field) => {
    const refused = await revoke({ selector })
    expect([refused.status, refused.body.code, refused.body.field]).toEqual([400, 'malformed', field])
  })

  it('demands a selector or a plan, and not both', async () => {
    expect((await revoke({ reason: 'x' })).body.field).toBe('selector')
    expect((await revoke({ selector: { all: true }, plan: 'pln_00000000000000000000000000' })).body.field).toBe('selector')
    expect((await revoke({ plan: 'pln_00000000000000000000000000' })).status).toBe(404)
    expect((await as(auditor, 'post', '/v1/plans', { selector: { all: true } })).status).toBe(403)
  })
})

describe('quarantines', () => {
  it('stop new credentials with a message, are listed, and lifted with a reason', async () => {
    const j = await job('3001')
    const set = await as(responder, 'post', '/v1/quarantines', {
      selector: { repository_id: '3001', actor: 'dana' },
      ttl_seconds: 600,
      message: 'INC-9: ask #security',
    })
    expect(set.status).toBe(201)
    const denied = await ci.credential(j.held, 'demo/orders-ro')
    expect(denied.body).toMatchObject({ status: 403, reason: 'quarantined', detail: expect.stringContaining('INC-9: ask #security') })
    expect(await isActive(j.token)).toBe(true)
    const { id } = set.body.quarantine
    expect((await as(auditor, 'get', '/v1/quarantines')).body.quarantines.map((q: { id: string }) => q.id)).toContain(id)
    expect((await as(responder, 'delete', `/v1/quarantines/${id}`, {})).body.field).toBe('reason')
    const lifted = await as(responder, 'delete', `/v1/quarantines/${id}`, { reason: 'false alarm' })
    expect(lifted.body.quarantine).toMatchObject({ lift_reason: 'false alarm' })
    expect((await ci.credential(j.held, 'demo/orders-ro')).status).toBe(201)
    expect((await as(auditor, 'get', '/v1/quarantines?all=true')).body.quarantines.map((q: { id: string }) => q.id)).toContain(id)
  })

  it('go with a revocation, in one commit', async () => {
    const j = await job('3002')
    const acted = await revoke({ selector: { identity: j.identity }, quarantine: { ttl_seconds: 60 } })
    expect(acted.body.quarantine).toMatch(/^qrn_/)
    await house.advance(2)
    expect((await ci.open({ subject_token: await j.evidence() })).body).toMatchObject({ reason: 'quarantined' })
    await house.advance(60)
    expect((await ci.open({ subject_token: await j.evidence() })).status).toBe(201)
  })

  it.each([
    ['labels, which a workload writes itself', { label: { team: 'x' } }, 'selector.label'],
    ['an audience', { audience: ORDERS }, 'selector.audience'],
    ['the past', { identity: 'x', issued_before: '2020-01-01T00:00:00Z' }, 'selector.issued_before'],
  ])('refuse %s', async (_name, selector, field) => {
    expect((await as(responder, 'post', '/v1/quarantines', { selector, ttl_seconds: 60 })).body).toMatchObject({ code: 'malformed', field })
  })
})

describe('receipts', () => {
  it('say what was selected, destroyed and probed, signed for those who were not there', async () => {
    const j = await job('4001')
    await ci.credential(j.held, 'demo/orders-db')
    const { body } = await revoke({ selector: { identity: j.identity }, reason: 'INC-204' })
    const early = await as(auditor, 'get', `/v1/receipts/${body.receipt}`)
    expect(early.body.claims).toMatchObject({ final: false })
    await house.sweep()
    await house.work()
    await house.sweep()
    const late = await as(auditor, 'get', `/v1/receipts/${body.revocation.id}`)
    expect(late.body.claims).toMatchObject({
      selector: { identity: j.identity },
      jti: body.receipt,
      sub: body.revocation.id,
      message: 'INC-204',
      credentials: { selected: 2, revoked: 2, revoking: 0, stuck: 0 },
      probed: { role: 1, introspection: 1 },
      not_probed: 0,
      exposed: [],
      exposed_until: null,
      final: true,
    })
    const keys = await supertest(house.http).get('/v1/receipt-keys')
    const verified = await jwtVerify(late.body.receipt, createLocalJWKSet(keys.body), { typ: 'curfew-receipt+jwt', algorithms: ['ES256'] })
    expect(verified.payload).toEqual(late.body.claims)
    expect((await supertest(house.http).get('/.well-known/jwks.json')).body.keys.map((k: { kid: string }) => k.kid)).not.toContain(keys.body.keys[0].kid)
    expect((await as(auditor, 'get', '/v1/receipts/rcp_00000000000000000000000000')).status).toBe(404)
  })

  it('tell what stays exposed, and until when', async () => {
    const held = await ci.opened({ subject_token: await house.evidence({ repository_id: '4002' }), capabilities: ['demo/orders-bearer'] })
    const { body } = await ci.credential(held, 'demo/orders-bearer')
    const acted = await revoke({ selector: { task: held.task } })
    const { claims } = (await as(auditor, 'get', `/v1/receipts/${acted.body.receipt}`)).body
    const isExposed = body.credential.revocation === 'expiry-only'
    expect(claims.exposed).toEqual(isExposed ? [{ credential: body.credential.id, capability: 'demo/orders-bearer', until: body.credential.expires_at }] : [])
  })
})

describe('find', () => {
  it('by the digest of a leaked token, and by nothing else', async () => {
    const j = await job('5001')
    const digest = createHash('sha256').update(j.token).digest('base64url')
    expect((await as(auditor, 'post', '/v1/credentials:find', { digest })).body.credential.id).toBe(j.id)
    expect((await as(auditor, 'post', '/v1/credentials:find', { digest: digest.replace(/^./, c => (c === 'A' ? 'B' : 'A')) })).status).toBe(404)
    const sent = await as(auditor, 'post', '/v1/credentials:find', { digest: j.token })
    expect([sent.status, sent.body.field]).toEqual([400, 'digest'])
    expect(JSON.stringify(sent.body)).not.toContain(j.token)
  })
})

describe('risk signals', () => {
  const send = async (identity: string, severity: string) => {
    const { text, headers } = house.signal({
      id: `ev-${Math.random()}`,
      type: 'malware',
      severity,
      subject: { identity },
      occurred_at: new Date().toISOString(),
    })
    return (await supertest(house.http).post('/v1/signals').set(headers).send(text)).body.signal
  }

  it('a rule that would end more than its cap ends nothing and waits for a person; approved, it acts', async () => {
    const j = await job('6001')
    for (let i = 0; i < 2; i++) await ci.credential(j.held, 'demo/orders-ro')
    const held = await send(j.identity, 'critical')
    expect(held).toMatchObject({ rule: 'ends', waits: true, held: { credentials: 3, tasks: 1 }, handled_at: null, revocation: null })
    await house.sweep()
    expect(await isActive(j.token)).toBe(true)
    expect((await as(auditor, 'get', '/v1/signals?held=true')).body.signals.map((s: { id: string }) => s.id)).toEqual([held.id])
    expect((await house.audits('signal.held')).map(e => e.reason)).toEqual(['over_cap'])
    expect((await as(auditor, 'post', `/v1/signals/${held.id}/approve`, { reason: 'x' })).status).toBe(403)
    const judged = await as(responder, 'post', `/v1/signals/${held.id}/approve`, { reason: 'confirmed by the owner' })
    expect(judged.body.signal).toMatchObject({
      waits: false,
      verdict: { kind: 'approved', reason: 'confirmed by the owner' },
      revocation: expect.stringMatching(/^rev_/),
    })
    expect(await isActive(j.token)).toBe(false)
    expect((await as(responder, 'post', `/v1/signals/${held.id}/dismiss`, { reason: 'late' })).status).toBe(409)
  })

  it('dismissed, it did nothing and is done', async () => {
    const j = await job('6002')
    for (let i = 0; i < 2; i++) await ci.credential(j.held, 'demo/orders-ro')
    const held = await send(j.identity, 'critical')
    await as(responder, 'post', `/v1/signals/${held.id}/dismiss`, { reason: 'a drill' })
    await house.sweep()
    expect(await isActive(j.token)).toBe(true)
  })

  it('within its cap it acts at once; a shortening lets the task end sooner and never later; a quarantine denies what is new', async () => {
    const j = await job('6003')
    expect(await send(j.identity, 'critical')).toMatchObject({ waits: false, revocation: expect.stringMatching(/^rev_/) })
    expect(await isActive(j.token)).toBe(false)

    const k = await job('6004')
    expect(await send(k.identity, 'high')).toMatchObject({ rule: 'shortens', revocation: null, handled_at: expect.any(String) })
    expect(await isActive(k.token)).toBe(true)
    await house.advance(31)
    expect(await isActive(k.token)).toBe(false)
    await house.sweep()
    expect((await as(auditor, 'get', `/v1/tasks/${k.held.task}`)).body.task).toMatchObject({ state: 'expired', end_reason: 'deadline' })

    const l = await job('6005')
    expect(await send(l.identity, 'medium')).toMatchObject({ rule: 'quarantines', quarantine: expect.stringMatching(/^qrn_/) })
    expect((await ci.credential(l.held, 'demo/orders-ro')).body).toMatchObject({ reason: 'quarantined' })
    expect(await isActive(l.token)).toBe(true)
  })
})
