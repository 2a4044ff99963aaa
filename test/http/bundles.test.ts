/** POST /v1/tasks/{id}/credentials with several capabilities: all of them or none, and what is left when one fails. */
import { createHash, randomBytes } from 'node:crypto'
import supertest from 'supertest'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { CurfewError } from '../../src/domain/errors.js'
import type { CredentialId } from '../../src/domain/ids.js'
import type { CredentialEngine } from '../../src/ports.js'
import { type Caller, caller, type Held, introspect } from '../caller.js'
import { type House, LEGACY, makeHouse, ORDERS } from '../house.js'

const TOKEN = 'demo/orders-ro'
const DB = 'demo/orders-db'
const BEARER = 'demo/orders-bearer'
const AUDIT_DB = 'demo/audit-db'
const ALL = [DB, AUDIT_DB, TOKEN]

let house: House
let ci: Caller
let held: Held

/** At a server that asks nobody whether its tokens are live. */
const BLIND = 'demo/blind'
let usual: ReadonlyMap<string, CredentialEngine>

beforeAll(async () => {
  const secret = () => ({ env: 'ORDERS_SECRET' })
  house = await makeHouse({
    capabilities: [
      { name: AUDIT_DB, summary: 'A database user that reads the audit', engine: 'memory', intent: 'read', maxEvidenceAgeSeconds: 60 },
      { name: BLIND, summary: 'A token that nobody asks about', engine: 'jwt', audience: 'blind', scopes: ['blind:read'], intent: 'read' },
    ],
    more: {
      audiences: [
        { name: 'orders', uri: ORDERS, secret: secret() },
        { name: 'legacy', uri: LEGACY, senderConstrained: false, alg: 'RS256', secret: secret() },
        { name: 'blind', uri: 'https://blind.example/' },
      ],
    },
    alsoAllow: [AUDIT_DB, BLIND],
  })
  usual = new Map(house.app.deps.engines)
  ci = await caller(house)
})
afterAll(() => house?.close())
beforeEach(async () => {
  held = await ci.opened({ capabilities: [TOKEN, DB, BEARER, AUDIT_DB, BLIND] })
})
afterEach(async () => {
  mend()
  await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
  await house.sweep()
})

type Asked = string | Record<string, unknown>
const bundle = (capabilities: readonly Asked[], more: Record<string, unknown> = {}, headers: Record<string, string> = {}) =>
  ci.as(
    held,
    'post',
    `/v1/tasks/${held.task}/credentials`,
    { capabilities: capabilities.map(c => (typeof c === 'string' ? { capability: c } : c)), ...more },
    headers,
  )
const rows = () => house.app.store.credentials.list({ task: held.task as never, limit: 99 })
const engine = (kind: string) => house.app.deps.engines.get(kind) as CredentialEngine
/** Until the end of the test. */
const replace = (kind: string, parts: Partial<CredentialEngine>) =>
  void (house.app.deps.engines as Map<string, CredentialEngine>).set(kind, { ...engine(kind), ...parts })

const mend = () => {
  for (const [kind, engine] of usual) replace(kind, engine)
}

/** Nothing was handed over, nothing lives, and everything that was made is dead. */
async function expectNothingLeft(made: number): Promise<void> {
  await house.work()
  expect([...house.database.users.keys()]).toEqual([])
  const left = await rows()
  expect(left.map(r => [r.capability, r.state, r.reason])).toEqual(left.map(r => [r.capability, 'revoked', 'issuance_failed']))
  expect(left).toHaveLength(made)
}

describe('a bundle', () => {
  it('is handed over whole and in the order in which it was asked for; each part works, and all end with the task', async () => {
    const made = await bundle([{ capability: DB, ttl_seconds: 60 }, { capability: TOKEN, ttl_seconds: 120 }, BEARER])
    expect(made.status).toBe(201)
    expect(made.headers['cache-control']).toBe('no-store')
    expect(made.headers.location).toBe(`/v1/credentials?task=${held.task}`)
    const [db, token, bearer] = made.body.credentials
    expect(made.body.credentials.map((c: { credential: { capability: string; state: string } }) => [c.credential.capability, c.credential.state])).toEqual([
      [DB, 'active'],
      [TOKEN, 'active'],
      [BEARER, 'active'],
    ])
    const life = (c: { credential: { issued_at: string; expires_at: string } }) =>
      (Date.parse(c.credential.expires_at) - Date.parse(c.credential.issued_at)) / 1000
    expect([life(db), life(token)]).toEqual([60, 120])
    expect([db.token_type, token.token_type, bearer.token_type]).toEqual([undefined, 'DPoP', 'Bearer'])
    expect(house.database.login(db.secret.PGUSER, db.secret.PGPASSWORD)).toBe(true)
    expect((await introspect(house, token.secret.token)).body.active).toBe(true)
    expect((await introspect(house, bearer.secret.token, 'legacy')).body.active).toBe(true)
    const digest = (text: string) => createHash('sha256').update(text).digest('base64url')
    const found = await supertest(house.http)
      .post('/v1/credentials:find')
      .set('Authorization', `Bearer ${await house.operator('responder')}`)
      .send({ digest: digest(token.secret.token) })
    expect(found.body.credential.id).toBe(token.credential.id)

    const ids = (await ci.as(held, 'get', made.headers.location as string)).body.credentials.map((c: { id: string }) => c.id)
    expect(ids.sort()).toEqual([db, token, bearer].map(c => c.credential.id).sort())
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    expect((await introspect(house, token.secret.token)).body).toEqual({ active: false })
    await house.work()
    expect(house.database.login(db.secret.PGUSER, db.secret.PGPASSWORD)).toBe(false)
    expect((await rows()).map(r => r.state)).toEqual(['revoked', 'revoked', 'revoked'])
  })

  it('makes each part with a decision of its own, and tells of each what it tells of one', async () => {
    const made = await bundle([DB, TOKEN])
    for (const { credential } of made.body.credentials) {
      expect(await house.app.store.decisions.get(credential.decision)).toMatchObject({ allowed: true, capability: credential.capability, task: held.task })
      const told = (await house.app.store.audit.list({ subject: credential.id, limit: 9 })).map(a => a.kind)
      expect(told).toContain('credential.issued')
    }
  })

  it('of two database users makes both at once: neither waits for the other', async () => {
    const began: string[] = []
    let go = () => {}
    const both = new Promise<void>(resolve => {
      go = resolve
    })
    const { mint } = engine('memory')
    replace('memory', {
      async mint(grant, handle, signal) {
        began.push(grant.terms.capability.name)
        if (began.length === 2) go()
        await both
        return mint(grant, handle, signal)
      },
    })
    expect((await bundle([DB, AUDIT_DB])).status).toBe(201)
    expect(began.sort()).toEqual([AUDIT_DB, DB].sort())
  })
})

describe('a bundle of which a part fails leaves nothing, and its answer names the part', () => {
  const failing = (step: 'prepare' | 'mint' | 'extend', which: string) => {
    const usual = engine('memory')
    replace('memory', {
      async [step](about: { terms?: { capability: { name: string } }; capability?: string }, ...rest: never[]) {
        if ((about.terms?.capability.name ?? about.capability) === which) throw refusal(step)
        return (usual[step] as (...args: unknown[]) => unknown)(about, ...rest)
      },
    } as Partial<CredentialEngine>)
  }
  const refusal = (step: string) => new CurfewError('engine_failed', `it failed at ${step}`, { reason: 'broken' })

  for (const step of ['prepare', 'mint', 'extend'] as const)
    for (const [i, which] of [DB, AUDIT_DB].entries())
      it(`at ${step}, the ${i === 0 ? 'first' : 'last'} of the users`, async () => {
        failing(step, which)
        const answer = await bundle([DB, AUDIT_DB, TOKEN])
        expect(answer.status).toBe(502)
        expect(answer.body).toMatchObject({ code: 'engine_failed', reason: 'broken', field: `capabilities.${i}`, capability: which, agent_action: 'retry' })
        expect(JSON.stringify(answer.body)).not.toContain('PGPASSWORD')
        await expectNothingLeft(3)
      })

  it('at the signature, which comes last: the users that were made before are gone', async () => {
    const seen: number[] = []
    replace('jwt', {
      async mint() {
        seen.push(house.database.users.size)
        throw new CurfewError('unavailable', 'the store does not answer', { reason: 'store_unavailable', retryAfterSeconds: 1 })
      },
    })
    const answer = await bundle([TOKEN, DB, AUDIT_DB])
    expect(answer.status).toBe(503)
    expect(answer.body).toMatchObject({ code: 'unavailable', field: 'capabilities.0', capability: TOKEN })
    expect(seen).toEqual([2])
    await expectNothingLeft(3)
  })

  it('with a bug of ours: a bare 500, and nothing left', async () => {
    replace('jwt', {
      async mint() {
        throw new TypeError('a bug')
      },
    })
    const answer = await bundle([DB, TOKEN])
    expect(answer.status).toBe(500)
    expect(answer.body).not.toHaveProperty('capability')
    await expectNothingLeft(2)
  })

  it('while another is still at work: what that one makes is waited for, and gone', async () => {
    const usual = engine('memory')
    let fail = () => {}
    const failed = new Promise<void>(resolve => {
      fail = resolve
    })
    replace('memory', {
      async mint(grant, handle, signal) {
        if (grant.terms.capability.name === AUDIT_DB) {
          fail()
          throw refusal('mint')
        }
        await failed
        // The other has failed; this one's answer comes all the same.
        return usual.mint(grant, handle, signal)
      },
    })
    const answer = await bundle([DB, AUDIT_DB])
    expect(answer.body).toMatchObject({ field: 'capabilities.1', capability: AUDIT_DB })
    await expectNothingLeft(2)
  })

  it('before another has begun: that one is not begun', async () => {
    const begun: string[] = []
    const usual = engine('memory')
    let fail = () => {}
    const failed = new Promise<void>(resolve => {
      fail = resolve
    })
    replace('memory', {
      async prepare(grant, signal) {
        if (grant.terms.capability.name === AUDIT_DB) {
          setImmediate(fail)
          throw refusal('prepare')
        }
        await failed
        return (usual.prepare as NonNullable<CredentialEngine['prepare']>)(grant, signal)
      },
      async mint(grant, handle, signal) {
        begun.push(grant.terms.capability.name)
        return usual.mint(grant, handle, signal)
      },
    })
    expect((await bundle([DB, AUDIT_DB, TOKEN])).status).toBe(502)
    expect(begun).toEqual([])
    await expectNothingLeft(3)
  })

  it('because it was revoked meanwhile: the answer names it; because all were: it names none', async () => {
    const { mint } = engine('memory')
    const during = (act: (id: CredentialId) => Promise<unknown>) =>
      replace('memory', {
        async mint(grant, handle, signal) {
          const made = await mint(grant, handle, signal)
          if (grant.terms.capability.name === AUDIT_DB) await act(grant.id)
          return made
        },
      })
    const by = { actor: { kind: 'operator', id: 'opr_test' } } as const
    during(id => house.app.broker.revoke({ kind: 'credential', key: id }, 'requested', by))
    const one = await bundle([DB, AUDIT_DB, TOKEN])
    expect(one.status).toBe(409)
    expect(one.body).toMatchObject({ code: 'task_ended', reason: 'overtaken', field: 'capabilities.1', capability: AUDIT_DB })
    await house.work()
    expect([...house.database.users.keys()]).toEqual([])
    expect((await rows()).map(r => [r.state, r.reason]).sort()).toEqual([
      ['revoked', 'issuance_failed'],
      ['revoked', 'issuance_failed'],
      ['revoked', 'requested'],
    ])
    // The revocation was for cause, and its run may begin nothing any more.
    held = await ci.opened({ capabilities: ALL })
    during(() => house.app.broker.revoke({ kind: 'task', key: held.task as never }, 'completed', by))
    const all = await bundle([DB, AUDIT_DB, TOKEN])
    expect(all.body).toMatchObject({ code: 'task_ended', reason: 'overtaken' })
    expect(all.body).not.toHaveProperty('capability')
    await house.work()
    expect([...house.database.users.keys()]).toEqual([])
  })

  it('and the token of a bundle that failed is live for nobody', async () => {
    let signed = ''
    const { mint } = engine('jwt')
    replace('jwt', {
      async mint(grant, handle, signal) {
        const minted = await mint(grant, handle, signal)
        signed = minted.secret.reveal().token as string
        return minted
      },
    })
    failing('extend', DB)
    expect((await bundle([DB, TOKEN])).status).toBe(502)
    expect(signed.split('.')).toHaveLength(3)
    expect((await introspect(house, signed)).body).toEqual({ active: false })
    await expectNothingLeft(2)
  })

  it('and a token for a server that asks nobody is not said to be exposed: it never left', async () => {
    failing('mint', DB)
    expect((await bundle([BLIND, DB])).status).toBe(502)
    await expectNothingLeft(2)
    // Its twin, which was settled and may have been on its way, is.
    mend()
    held = await ci.opened({ capabilities: [BLIND, DB] })
    failing('extend', DB)
    expect((await bundle([BLIND, DB])).status).toBe(502)
    await house.work()
    expect((await rows()).map(r => [r.capability, r.state]).sort()).toEqual([
      [BLIND, 'revoking'],
      [DB, 'revoked'],
    ])
  })

  it('and its twin, in which nothing fails, is taken', async () => {
    failing('mint', 'another/capability')
    expect((await bundle(ALL)).status).toBe(201)
  })
})

describe('a bundle is refused', () => {
  const told = async (capabilities: readonly Asked[], more?: Record<string, unknown>) => {
    const { status, body } = await bundle(capabilities, more)
    return { status, code: body.code, reason: body.reason, field: body.field }
  }
  const malformed = (field: string, reason = 'invalid_field') => ({ status: 400, code: 'malformed', reason, field })

  it('when its shape is wrong, by the name of the field', async () => {
    expect(await told([DB])).toEqual(malformed('capabilities'))
    expect(await told(Array.from({ length: 17 }, (_, i) => `demo/n${i}`))).toEqual(malformed('capabilities'))
    expect(await told([DB, TOKEN, DB])).toEqual(malformed('capabilities.2.capability', 'capability_repeated'))
    expect(await told([DB, 'DEMO'])).toEqual(malformed('capabilities.1.capability'))
    expect(await told([DB, { capability: TOKEN, ttl_seconds: 1 }])).toEqual(malformed('capabilities.1.ttl_seconds'))
    expect(await told([DB, { capability: TOKEN, life: 5 }])).toEqual(malformed('capabilities.1.life', 'unknown_field'))
    expect(await told([DB, { ttl_seconds: 60 }])).toEqual(malformed('capabilities.1.capability'))
    expect(await told([DB, { capability: TOKEN, params: { x: [] } }])).toEqual(malformed('capabilities.1.params.x'))
    expect(await told([DB, { capability: TOKEN, params: { x: 'y' } }])).toEqual(malformed('capabilities.1.params.x', 'unknown_field'))
    // What belongs to a part does not stand beside all of them.
    expect(await told([DB, TOKEN], { ttl_seconds: 60 })).toEqual(malformed('ttl_seconds', 'unknown_field'))
    expect(await told([DB, TOKEN], { params: {} })).toEqual(malformed('params', 'unknown_field'))
    const ask = async (body: unknown) => (await ci.as(held, 'post', `/v1/tasks/${held.task}/credentials`, body)).body
    expect(await ask({ capabilities: [DB, TOKEN] })).toMatchObject({ field: 'capabilities.0' })
    expect(await ask({ capability: DB, capabilities: [{ capability: DB }, { capability: TOKEN }] })).toMatchObject({ code: 'malformed' })
    expect(await ask({})).toMatchObject({ field: 'capability' })
    expect(await ask({ capability: DB, ttl_seconds: 1 })).toMatchObject({ field: 'ttl_seconds' })
    expect(await ask({ capability: DB, params: { x: [] } })).toMatchObject({ field: 'params.x', detail: 'must be text, a whole number, or true or false' })
    expect(await rows()).toEqual([])
  })

  it('when one of its capabilities is not there, not declared, or full', async () => {
    expect(await told([DB, 'demo/none'])).toEqual({ status: 422, code: 'capability_unknown', reason: 'capability_unknown', field: 'capabilities.1' })
    held = await ci.opened({ capabilities: [TOKEN, DB] })
    expect(await told([DB, BEARER])).toEqual({ status: 403, code: 'policy_denied', reason: 'not_declared', field: 'capabilities.1' })
    for (let i = 0; i < 5; i++) expect((await ci.credential(held, DB)).status).toBe(201)
    const full = await bundle([TOKEN, DB])
    expect(full.status).toBe(429)
    expect(full.body).toMatchObject({ reason: 'capability_full', field: 'capabilities.1', capability: DB, retry_after: 5 })
    expect(await rows()).toHaveLength(5)
  })

  it('when one is quarantined: the denial is a decision about that one', async () => {
    const responder = await house.operator('responder')
    const set = await supertest(house.http)
      .post('/v1/quarantines')
      .set('Authorization', `Bearer ${responder}`)
      .send({ selector: { capability: TOKEN }, ttl_seconds: 60, message: 'INC-7' })
    const { status, body } = await bundle([DB, TOKEN])
    expect(status).toBe(403)
    expect(body).toMatchObject({ reason: 'quarantined', field: 'capabilities.1', capability: TOKEN })
    expect(await house.app.store.decisions.get(body.decision_id)).toMatchObject({ allowed: false, capability: TOKEN, reason: 'quarantined' })
    expect(await rows()).toEqual([])
    await supertest(house.http).delete(`/v1/quarantines/${set.body.quarantine.id}`).set('Authorization', `Bearer ${responder}`).send({ reason: 'over' })
    expect((await bundle([DB, TOKEN])).status).toBe(201)
  })

  it('when the evidence is too old for one of them, until fresh evidence comes along', async () => {
    await house.advance(61)
    const { status, body } = await bundle([DB, AUDIT_DB])
    expect(status).toBe(401)
    expect(body).toMatchObject({ code: 'attestation_stale', field: 'capabilities.1', capability: AUDIT_DB })
    expect((await bundle([DB, TOKEN])).status).toBe(201)
    expect((await bundle([DB, AUDIT_DB], { subject_token: await house.evidence() })).status).toBe(201)
  })

  it('when its proof was used before, whichever way; one proof is enough for all parts (T41)', async () => {
    const path = `/v1/tasks/${held.task}/credentials`
    const proof = await ci.proof('POST', path, held.token)
    const send = (body: object) => supertest(house.http).post(path).set('Authorization', `DPoP ${held.token}`).set('DPoP', proof).send(body)
    const both = { capabilities: [{ capability: DB }, { capability: TOKEN }] }
    expect((await send(both)).status).toBe(201)
    for (const body of [both, { capability: TOKEN }])
      expect((await send(body)).body).toMatchObject({ code: 'proof_refused', reason: 'replayed', field: 'DPoP' })
    expect(await rows()).toHaveLength(2)
  })
})

describe('a bundle under an Idempotency-Key', () => {
  const key = () => ({ 'Idempotency-Key': randomBytes(9).toString('base64url') })

  it('is ended whole and made anew by the same request once more', async () => {
    const once = key()
    const first = await bundle([DB, TOKEN], {}, once)
    const second = await bundle([DB, TOKEN], {}, once)
    expect(second.status).toBe(201)
    expect((await introspect(house, first.body.credentials[1].secret.token)).body).toEqual({ active: false })
    expect((await introspect(house, second.body.credentials[1].secret.token)).body.active).toBe(true)
    await house.sweep()
    const [user, again] = [first, second].map(a => a.body.credentials[0].secret)
    expect(house.database.login(user.PGUSER, user.PGPASSWORD)).toBe(false)
    expect(house.database.login(again.PGUSER, again.PGPASSWORD)).toBe(true)
    // Verifiers that do not ask hear of it as well.
    const feed = (await house.app.store.revocations.since(0, 99)).map(e => e.key)
    for (const { credential } of first.body.credentials) expect(feed).toContain(credential.id)
  })

  it('is a conflict for anything else: another order, another life, one of them alone', async () => {
    const once = key()
    expect((await bundle([DB, TOKEN], {}, once)).status).toBe(201)
    for (const other of [
      [TOKEN, DB],
      [DB, { capability: TOKEN, ttl_seconds: 60 }],
      [DB, TOKEN, BEARER],
    ] as Asked[][])
      expect((await bundle(other, {}, once)).body).toMatchObject({ code: 'conflict', reason: 'idempotency_key_reused', field: 'Idempotency-Key' })
    expect((await ci.credential(held, DB, {}, once)).body).toMatchObject({ code: 'conflict', reason: 'idempotency_key_reused' })
    expect((await rows()).map(r => r.state)).toEqual(['active', 'active'])
  })
})
