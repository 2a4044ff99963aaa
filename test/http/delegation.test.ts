/** Delegation over HTTP: the walk, the two ways of opening below, and every attack beside its twin (security.md T48-T53, R05; standards.md P57-P65). */
import { decodeJwt, decodeProtectedHeader } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { GRANT_TYP } from '../../src/broker/grant-token.js'
import { newId } from '../../src/domain/ids.js'
import { type Caller, caller, type Held, ID_TOKEN, introspect } from '../caller.js'
import {
  AGENT,
  asksGrant,
  childOf,
  DB,
  delegationHouse,
  exchangesBelow,
  granted,
  identityOf,
  JWT,
  job,
  openAs,
  opensBelow,
  RO,
  withRules,
} from '../delegation.js'
import { type House, keyedIssuer, ORDERS, SERVER } from '../house.js'

let house: House
let parent: Caller
let child: Caller
let stranger: Caller
let held: Held
const to = (repository: number) => ({ to: { identity: identityOf(repository) } })
const refused = (status: number, code: string, reason: string, field?: string) => ({ status, body: { code, reason, ...(field ? { field } : {}) } })
const claims = (token: string) => decodeJwt(token) as Record<string, unknown>

beforeAll(async () => {
  house = await delegationHouse()
  ;[parent, child, stranger] = await Promise.all([caller(house), caller(house), caller(house)])
  held = await openAs(house, parent, 1, { capabilities: [RO, DB], life_seconds: 3_600 })
})
afterAll(() => house?.close())

describe('a task hands a part of itself on', () => {
  it('to another workload, whose token says for whom it acts', async () => {
    const asked = await asksGrant(parent, held, { to: { identity: identityOf(2), jkt: child.jkt }, life_seconds: 600 })
    expect(asked).toMatchObject({ status: 201, body: { grant: expect.any(String), expires_in: 300 } })
    expect(asked.headers['cache-control']).toBe('no-store')
    expect(decodeProtectedHeader(asked.body.grant)).toMatchObject({ typ: GRANT_TYP, alg: 'ES256' })
    expect(claims(asked.body.grant)).toMatchObject({ iss: SERVER, aud: SERVER, task: held.task, capabilities: [RO], cnf: { jkt: child.jkt } })

    const opened = await opensBelow(child, asked.body.grant, await job(house, 2), { life_seconds: 300, owner: '@somebody-else' })
    expect(opened.status).toBe(201)
    const { task, token } = opened.body
    expect(task).toMatchObject({
      parent: held.task,
      ancestors: [held.task],
      identity: identityOf(2),
      owner: '@orders-team',
      actors: [{ identity: identityOf(1), issuer: expect.stringMatching(/^iss_/) }],
    })
    expect(Date.parse(task.deadline_at) - Date.parse(task.opened_at)).toBe(300_000)

    const made = await child.credential({ task: task.id, token }, RO)
    const issuer = task.actors[0].issuer
    const act = { sub: identityOf(2), iss: issuer }
    expect(claims(made.body.secret.token)).toMatchObject({
      sub: identityOf(1),
      client_id: identityOf(2),
      act,
      sub_issuer: issuer,
      trust_issuer: issuer,
      cnf: { jkt: child.jkt },
      task: { id: task.id, ancestors: [held.task] },
    })
    expect((await introspect(house, made.body.secret.token)).body).toMatchObject({ active: true, sub: identityOf(1), act })
    // In evidence: who handed on, and for whom the child acts.
    expect((await house.audits('task.delegated'))[0]?.data).toMatchObject({ grant: claims(asked.body.grant).jti, capabilities: [RO], life_seconds: 600 })
    expect((await house.audits('task.opened'))[0]).toMatchObject({ subject: task.id, data: { parent: held.task, actors: task.actors } })
  })

  it('to its own other process by the key alone: the same workload, no act, and evidence that tells it from delegation', async () => {
    const opened = await opensBelow(child, await granted(parent, held, { to: { jkt: child.jkt } }))
    expect(opened).toMatchObject({ status: 201, body: { task: { identity: identityOf(1), actors: [], ancestors: [held.task] } } })
    const made = await child.credential({ task: opened.body.task.id, token: opened.body.token }, RO)
    expect(claims(made.body.secret.token)).toMatchObject({ sub: identityOf(1), client_id: identityOf(1), cnf: { jkt: child.jkt } })
    for (const name of ['act', 'sub_issuer']) expect(claims(made.body.secret.token)).not.toHaveProperty(name)
    expect((await house.audits('task.opened'))[0]?.data).toMatchObject({ parent: held.task, actors: [] })
  })

  it('through token exchange, with and without an actor token (RFC 8693)', async () => {
    const answer = await exchangesBelow(child, await granted(parent, held, to(2)), await job(house, 2), { resource: ORDERS })
    expect(answer).toMatchObject({ status: 200, body: { token_type: 'DPoP', scope: 'orders:read' } })
    expect((await introspect(house, answer.body.access_token)).body).toMatchObject({ active: true, sub: identityOf(1), act: { sub: identityOf(2) } })
    expect(await house.app.store.tasks.get(answer.body.task.id)).toMatchObject({ parent: held.task, state: 'open' })

    const alone = await exchangesBelow(child, await granted(parent, held, { to: { jkt: child.jkt } }), null)
    expect(alone).toMatchObject({ status: 200, body: { authorization_details: [{ capabilities: [RO] }] } })
    expect(await house.app.store.tasks.get(alone.body.task.id)).toMatchObject({ parent: held.task, actors: [] })
  })

  it('by chains: history is nested, the principal is the subject, and each link is narrower', async () => {
    const second = await childOf(house, parent, held, child, 2)
    const third = await childOf(house, child, second, stranger, 3)
    const made = await stranger.credential(third, RO)
    expect(claims(made.body.secret.token)).toMatchObject({
      sub: identityOf(1),
      client_id: identityOf(3),
      act: { sub: identityOf(3), act: { sub: identityOf(2) } },
      task: { ancestors: [second.task, held.task] },
    })
    expect(JSON.stringify(claims(made.body.secret.token).act)).not.toMatch(/exp|nbf|aud/)
  })

  it('to a registered agent: the least of both ceilings, and policy sees the depth', async () => {
    const alone = await child.open({ subject_token: await house.agentAssertion() })
    expect(alone).toMatchObject(refused(403, 'policy_denied', 'no_permit'))
    const opened = await opensBelow(child, await granted(parent, held, { to: { identity: AGENT } }), await house.agentAssertion())
    expect(opened.status).toBe(201)
    const made = await child.credential({ task: opened.body.task.id, token: opened.body.token }, RO, { ttl_seconds: 300 })
    const { iat, exp } = claims(made.body.secret.token) as { iat: number; exp: number }
    expect(exp - iat).toBe(60)
    const decision = await house.app.store.decisions.get(made.body.credential.decision)
    expect(decision).toMatchObject({ policies: ['agents-below', 'r1-orders-ro'], obligations: { maxTtlSeconds: 60 } })
  })

  it('a purpose that the grant names is the only one', async () => {
    const body = { ...to(2), purpose: 'read one order' }
    const other = await opensBelow(child, await granted(parent, held, body), await job(house, 2))
    expect(other).toMatchObject(refused(403, 'policy_denied', 'purpose_mismatch', 'purpose'))
    expect((await opensBelow(child, await granted(parent, held, body), await job(house, 2), { purpose: 'read one order' })).status).toBe(201)
  })
})

describe('who may redeem it', () => {
  it('R01, I5: one of 200 in parallel', async () => {
    const grant = await granted(parent, held, { to: { jkt: child.jkt } })
    const before = (await house.app.store.tasks.list({ state: 'open', limit: 1_000 })).length
    const answers = await Promise.all(Array.from({ length: 200 }, () => opensBelow(child, grant)))
    const failed = answers.filter(a => a.status !== 201)
    expect(failed).toHaveLength(199)
    for (const a of failed) expect(a).toMatchObject(refused(401, 'attestation_refused', 'replayed', 'parent_grant'))
    expect((await house.app.store.tasks.list({ state: 'open', limit: 1_000 })).length).toBe(before + 1)
    expect((await exchangesBelow(child, grant, null)).body).toMatchObject({ error: 'invalid_request', reason: 'replayed', field: 'subject_token' })
  })

  it('T45 used once, it is not used again by another spelling; the twin is the next grant as it was given', async () => {
    const to = { to: { jkt: child.jkt } }
    const grant = await granted(parent, held, to)
    expect((await opensBelow(child, grant)).status).toBe(201)
    // The last character of a signature of 64 bytes carries four bits that belong to nobody.
    const loose = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    const last = loose[loose.indexOf(grant.at(-1) as string) ^ 1]
    const spellings = [
      `${grant}=`,
      `${grant} `,
      ` ${grant}`,
      `${grant}\n`,
      `${grant.slice(0, -1)}${last}`,
      grant.replaceAll('-', '+').replaceAll('_', '/'),
      `${grant}.`,
    ]
    for (const spelling of spellings.filter(text => text !== grant)) {
      const { status } = await opensBelow(child, spelling)
      expect([JSON.stringify(spelling.slice(-4)), status]).toEqual([
        JSON.stringify(spelling.slice(-4)),
        expect.toSatisfy((n: number) => n === 400 || n === 401),
      ])
    }
    expect(await opensBelow(child, grant)).toMatchObject(refused(401, 'attestation_refused', 'replayed', 'parent_grant'))
    expect((await opensBelow(child, await granted(parent, held, to))).status).toBe(201)
  })

  it('a refusal uses nothing up: neither the grant nor the evidence', async () => {
    const grant = await granted(parent, held, to(2))
    const evidence = await job(house, 2)
    expect((await opensBelow(child, grant, evidence, { capabilities: [DB] })).status).toBe(403)
    expect((await opensBelow(child, grant, evidence)).status).toBe(201)
  })

  it('T49: not another key, not another identity, not nobody', async () => {
    const byKey = await granted(parent, held, { to: { jkt: child.jkt } })
    expect(await opensBelow(stranger, byKey)).toMatchObject(refused(401, 'proof_refused', 'key_mismatch'))
    expect(await opensBelow(stranger, byKey, await job(house, 2))).toMatchObject(refused(401, 'proof_refused', 'key_mismatch'))
    expect((await opensBelow(child, byKey)).status).toBe(201)

    const byIdentity = await granted(parent, held, to(2))
    const wrong = refused(401, 'attestation_refused', 'identity_mismatch', 'subject_token')
    expect(await opensBelow(child, byIdentity, await job(house, 3))).toMatchObject(wrong)
    expect(await opensBelow(child, byIdentity, await house.agentAssertion())).toMatchObject(wrong)
    expect(await opensBelow(child, byIdentity)).toMatchObject(refused(401, 'attestation_refused', 'evidence_missing', 'subject_token'))
    expect((await opensBelow(child, byIdentity, await job(house, 2))).status).toBe(201)

    const both = { to: { jkt: child.jkt, identity: identityOf(2) } }
    expect(await opensBelow(child, await granted(parent, held, both))).toMatchObject(wrong)
    expect(await opensBelow(stranger, await granted(parent, held, both), await job(house, 2))).toMatchObject(refused(401, 'proof_refused', 'key_mismatch'))
    expect((await opensBelow(child, await granted(parent, held, both), await job(house, 2))).status).toBe(201)
  })

  it('only the holder hands on, by its own key, and each proof once', async () => {
    expect(await asksGrant(stranger, held, to(2))).toMatchObject(refused(401, 'proof_refused', 'key_mismatch'))
    const other = await openAs(house, stranger, 3)
    const path = `/v1/tasks/${held.task}/grants`
    expect(await stranger.as(other, 'post', path, { capabilities: [RO], ...to(2) })).toMatchObject(refused(404, 'not_found', 'not_found'))
    const proof = await parent.proof('POST', path, held.token)
    const again = () => parent.as(held, 'post', path, { capabilities: [RO], ...to(2) }, { DPoP: proof })
    expect((await again()).status).toBe(201)
    expect(await again()).toMatchObject(refused(401, 'proof_refused', 'replayed'))
  })

  it('T52, T69: a token of another class is no grant, and a grant is nothing else', async () => {
    const grant = await granted(parent, held, { to: { jkt: child.jkt } })
    const access = (await parent.credential(held, RO)).body.secret.token
    for (const [token, reason] of [
      [held.token, 'type_refused'],
      [access, 'type_refused'],
      [await job(house, 1), 'algorithm_refused'],
      [await parent.proof('POST', '/v1/tasks'), 'header_refused'],
    ] as const)
      expect(await opensBelow(child, token), reason).toMatchObject(refused(401, 'attestation_refused', reason, 'parent_grant'))
    expect(await child.open({ subject_token: grant })).toMatchObject(refused(401, 'attestation_refused', 'issuer_unknown'))
    expect(await child.as({ ...held, token: grant }, 'get', `/v1/tasks/${held.task}`)).toMatchObject(refused(401, 'attestation_refused', 'type_refused'))
    expect((await introspect(house, grant)).body).toEqual({ active: false })
    expect((await opensBelow(child, grant)).status).toBe(201)
  })

  it('T48: a forged grant or act is nothing', async () => {
    const grant = await granted(parent, held, { to: { jkt: child.jkt } })
    const real = claims(grant)
    const own = await keyedIssuer('ES256', decodeProtectedHeader(grant).kid as string)
    const sign = (over: object, keyClass: 'task' | 'access' = 'task', typ = GRANT_TYP) =>
      house.app.signer.sign(keyClass, typ, { ...real, jti: newId('grant'), ...over }, 'ES256').then(s => s.token)
    const [head, , tail] = grant.split('.')
    const wider = Buffer.from(JSON.stringify({ ...real, capabilities: [RO, DB] })).toString('base64url')
    const cases: [string, string, string][] = [
      ['another key under our kid', await own.mint({ ...real, jti: newId('grant') }, { typ: GRANT_TYP }), 'signature_invalid'],
      ['widened by hand', [head, wider, tail].join('.'), 'signature_invalid'],
      ['a key of another class', await sign({}, 'access'), 'key_unknown'],
      ['for another server', await sign({ aud: 'https://other.example' }), 'audience_mismatch'],
      ['by another server', await sign({ iss: 'https://other.example' }), 'issuer_mismatch'],
      ['past its end', await sign({ exp: house.now() }), 'expired'],
      ['bound to nobody', await sign({ cnf: undefined }), 'claim_invalid'],
      ['without an id', await sign({ jti: undefined }), 'claim_invalid'],
    ]
    for (const [what, token, reason] of cases)
      expect(await opensBelow(child, token), what).toMatchObject(refused(401, 'attestation_refused', reason, 'parent_grant'))
    const unknown = await sign({ task: newId('task') })
    expect(await opensBelow(child, unknown)).toMatchObject(refused(409, 'task_ended', 'parent_ended'))

    // What a provider or a caller says of actors is not asked.
    const act = { sub: 'github:repository_id=9', act: { sub: 'root' } }
    const opened = await opensBelow(child, await granted(parent, held, to(2)), await job(house, 2, { act, may_act: act }))
    expect(opened.body.task.actors).toEqual([{ identity: identityOf(1), issuer: expect.any(String) }])
    expect((await opensBelow(child, grant, undefined, { actors: [act] })).body).toMatchObject({ code: 'malformed', reason: 'unknown_field' })
    expect((await opensBelow(child, grant)).status).toBe(201)
  })

  it('T49: not after five minutes, and never longer than the task above', async () => {
    const local = await openAs(house, parent, 1, { life_seconds: 900 })
    const late = await granted(parent, local, { to: { jkt: child.jkt } })
    await house.advance(290)
    expect((await opensBelow(child, late)).status).toBe(201)
    const later = await granted(parent, local, { to: { jkt: child.jkt } })
    await house.advance(301)
    expect(await opensBelow(child, later)).toMatchObject(refused(401, 'attestation_refused', 'expired', 'parent_grant'))
    await house.advance(109)
    const last = await asksGrant(parent, local, { to: { jkt: child.jkt } })
    expect(last.body.expires_in).toBeLessThanOrEqual(200)
    await house.advance(196)
    expect(await asksGrant(parent, local, { to: { jkt: child.jkt } })).toMatchObject(refused(409, 'task_ended', 'too_little_time'))
    held = await openAs(house, parent, 1, { capabilities: [RO, DB], life_seconds: 3_600 })
  })
})

describe('a child is never wider', () => {
  it.each([
    ['a superset', [RO, DB, 'demo/orders-bearer'], 'wider_than_parent', 'capabilities.2'],
    ['what does not exist', [RO, 'demo/nothing'], 'wider_than_parent', 'capabilities.1'],
    ['a longer name', ['demo/orders-ro-all'], 'wider_than_parent', 'capabilities.0'],
    ['a shorter name', ['demo'], 'wider_than_parent', 'capabilities.0'],
  ])('T50: %s, when granted', async (_, capabilities, reason, field) => {
    expect(await asksGrant(parent, held, { ...to(2), capabilities })).toMatchObject(refused(403, 'policy_denied', reason, field))
    expect((await asksGrant(parent, held, { ...to(2), capabilities: [RO, DB] })).status).toBe(201)
  })
  it.each([
    ['another case', ['Demo/orders-ro']],
    ['a wildcard', ['demo/*']],
    ['a wildcard alone', ['*']],
    ['a way up', ['demo/../demo/orders-ro']],
    ['an encoding', ['demo%2Forders-ro']],
    ['padding', [`${RO} `]],
    ['nothing, meaning all', []],
    ['null, meaning all', null],
  ])('T50: %s, when granted and when opened', async (_, capabilities) => {
    expect(await asksGrant(parent, held, { ...to(2), capabilities })).toMatchObject({ status: 400, body: { code: 'malformed' } })
    const grant = await granted(parent, held, to(2))
    const evidence = await job(house, 2)
    expect(await opensBelow(child, grant, evidence, { capabilities })).toMatchObject({ status: 400, body: { code: 'malformed' } })
    expect((await opensBelow(child, grant, evidence)).status).toBe(201)
  })
  it('T50: the same twice is the same once', async () => {
    const grant = await granted(parent, held, { ...to(2), capabilities: [RO, RO] })
    expect(claims(grant).capabilities).toEqual([RO])
    const opened = await opensBelow(child, grant, await job(house, 2), { capabilities: [RO, RO] })
    expect(opened.body.task.capabilities).toEqual([RO])
  })
  it('T50: than its grant, though the parent has it, when it opens and when it asks', async () => {
    const grant = await granted(parent, held, to(2))
    const evidence = await job(house, 2)
    const wider = refused(403, 'policy_denied', 'wider_than_parent', 'capabilities.1')
    expect(await opensBelow(child, grant, evidence, { capabilities: [RO, DB] })).toMatchObject(wider)
    const task = JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'x', capabilities: [RO, DB] }])
    expect((await exchangesBelow(child, grant, evidence, { authorization_details: task })).body).toMatchObject({
      error: 'access_denied',
      reason: 'wider_than_parent',
    })
    const opened = await opensBelow(child, grant, evidence)
    expect(opened.status).toBe(201)
    const mine = { task: opened.body.task.id, token: opened.body.token }
    expect(await child.credential(mine, DB)).toMatchObject(refused(403, 'policy_denied', 'not_declared'))
    expect(await asksGrant(child, mine, { ...to(3), capabilities: [DB] })).toMatchObject(refused(403, 'policy_denied', 'wider_than_parent'))
    expect((await asksGrant(child, mine, to(3))).status).toBe(201)
  })
  it('than policy lets it be itself: a parent lends no authority that the child is denied (T51)', async () => {
    const grant = await granted(parent, held, { ...to(2), capabilities: [RO, DB] })
    const evidence = await job(house, 2, { ref: 'refs/heads/other', sub: 'repo:acme/r2:ref:refs/heads/other' })
    expect(await opensBelow(child, grant, evidence)).toMatchObject(refused(403, 'policy_denied', 'no_permit'))
    expect((await opensBelow(child, grant, await job(house, 2))).status).toBe(201)
  })
  it('T53: when policy was narrowed meanwhile for the parent: neither opening nor asking again', async () => {
    const grant = await granted(parent, held, to(2))
    const mine = await childOf(house, parent, held, child, 2)
    expect((await child.credential(mine, RO)).status).toBe(201)
    const restore = await withRules(house, rules => rules.replace('repository_id == "1"', 'repository_id == "77"').replace('@id("r1-orders-db")', '@id("r1")'))
    const evidence = await job(house, 2)
    const denied = await opensBelow(child, grant, evidence)
    expect(denied).toMatchObject(refused(403, 'policy_denied', 'parent_denied'))
    // The claims of the parent are not the child's to hear; the decision is in evidence for those who may look.
    expect(denied.body.failed ?? []).toEqual([])
    expect(await house.app.store.decisions.get(denied.body.decision_id)).toMatchObject({ allowed: false, identity: identityOf(1), reason: 'no_permit' })
    expect(await child.credential(mine, RO)).toMatchObject(refused(403, 'policy_denied', 'parent_denied'))
    await restore()
    expect((await child.credential(mine, RO)).status).toBe(201)
    expect((await opensBelow(child, grant, evidence)).status).toBe(201)
  })
  it('T53: nor carried on by other evidence than its own', async () => {
    const mine = await childOf(house, parent, held, child, 2)
    const other = { subject_token: await job(house, 1) }
    expect(await child.credential(mine, RO, other)).toMatchObject(refused(401, 'attestation_refused', 'identity_mismatch'))
    expect((await child.credential(mine, RO, { subject_token: await job(house, 2) })).status).toBe(201)
  })
})

describe('a child never outlives', () => {
  it('T49, P57: the deadline of its parent, what the grant says, or its credentials it', async () => {
    const top = await openAs(house, parent, 1, { life_seconds: 120 })
    const end = (await house.app.store.tasks.get(top.task as never))?.deadlineAt.getTime() as number
    const opened = await opensBelow(child, await granted(parent, top, { ...to(2), life_seconds: 3_600 }), await job(house, 2), { life_seconds: 3_600 })
    expect(Date.parse(opened.body.task.deadline_at)).toBeLessThanOrEqual(end)
    const made = await child.credential({ task: opened.body.task.id, token: opened.body.token }, RO, { ttl_seconds: 900 })
    expect((claims(made.body.secret.token).exp as number) * 1000).toBeLessThanOrEqual(end)

    const exchanged = await exchangesBelow(child, await granted(parent, top, to(2)), await job(house, 2), { resource: ORDERS })
    expect((claims(exchanged.body.access_token).exp as number) * 1000).toBeLessThanOrEqual(end)

    const short = await opensBelow(child, await granted(parent, top, { ...to(2), life_seconds: 20 }), await job(house, 2), { life_seconds: 60 })
    expect(Date.parse(short.body.task.deadline_at) - Date.parse(short.body.task.opened_at)).toBe(20_000)
  })
  it('R05: a parent that is revoked between planning and opening', async () => {
    const { tasks, credentials } = house.app.store
    for (const way of ['tasks', 'exchange'] as const) {
      const top = await openAs(house, parent, 1)
      const grant = await granted(parent, top, to(2))
      const before = { open: tasks.open, record: credentials.record }
      const overtake = async () => {
        Object.assign(tasks, { open: before.open })
        Object.assign(credentials, { record: before.record })
        await house.app.broker.revoke({ kind: 'task', key: top.task as never }, 'requested', { actor: { kind: 'operator', id: 'opr_test' } })
      }
      Object.assign(tasks, { open: (...args: Parameters<typeof tasks.open>) => overtake().then(() => before.open(...args)) })
      Object.assign(credentials, { record: (...args: Parameters<typeof credentials.record>) => overtake().then(() => before.record(...args)) })
      const evidence = await job(house, 2)
      const answer = way === 'tasks' ? await opensBelow(child, grant, evidence) : await exchangesBelow(child, grant, evidence, { resource: ORDERS })
      expect(answer.body).toMatchObject({ code: 'task_ended', reason: 'revoked' })
      expect((await tasks.list({ limit: 500 })).filter(t => t.parent === top.task)).toEqual([])
      expect(await opensBelow(child, grant, evidence)).toMatchObject(refused(409, 'task_ended', 'parent_ended'))
    }
    await childOf(house, parent, await openAs(house, parent, 1), child, 2)
  })
  it('P63: a parent that completed hands nothing on', async () => {
    const top = await openAs(house, parent, 1)
    const grant = await granted(parent, top, to(2))
    await parent.as(top, 'post', `/v1/tasks/${top.task}/complete`, {})
    expect(await opensBelow(child, grant, await job(house, 2))).toMatchObject(refused(409, 'task_ended', 'parent_ended'))
    expect(await asksGrant(parent, top, to(2))).toMatchObject(refused(409, 'task_ended', 'completed'))
  })
})

describe('chains', () => {
  it('T48: five above a task and no sixth, at the grant and at the opening', async () => {
    let [who, mine] = [parent, held]
    for (let n = 2; n <= 6; n++) {
      const next = await caller(house)
      mine = await childOf(house, who, mine, next, n)
      who = next
    }
    expect((await house.app.store.tasks.get(mine.task as never))?.ancestors).toHaveLength(5)
    const made = await who.credential(mine, RO)
    let depth = 0
    for (let act = claims(made.body.secret.token).act as { act?: object } | undefined; act; act = act.act as typeof act) depth++
    expect(depth).toBe(5)
    const tooDeep = refused(403, 'policy_denied', 'too_deep')
    expect(await asksGrant(who, mine, to(7))).toMatchObject(tooDeep)
    const forced = { iss: SERVER, aud: SERVER, jti: newId('grant'), iat: house.now(), exp: house.now() + 60, task: mine.task, capabilities: [RO] }
    const { token } = await house.app.signer.sign('task', GRANT_TYP, { ...forced, cnf: { jkt: child.jkt } }, 'ES256')
    expect(await opensBelow(child, token)).toMatchObject(tooDeep)
  })
  it('T48: no circle; the same workload twice in a row is none', async () => {
    const second = await childOf(house, parent, held, child, 2)
    const back = await granted(child, second, to(1))
    expect(await opensBelow(parent, back, await job(house, 1))).toMatchObject(refused(403, 'policy_denied', 'actor_cycle'))
    const same = await childOf(house, child, second, stranger, 2)
    expect((await house.app.store.tasks.get(same.task as never))?.actors.map(a => a.identity)).toEqual([identityOf(1)])
    expect(claims((await stranger.credential(same, RO)).body.secret.token)).toMatchObject({ sub: identityOf(1), act: { sub: identityOf(2) } })
  })
})

describe('the shapes', () => {
  it.each([
    ['nobody', { to: {} }, 'to'],
    ['no member to', {}, 'to'],
    ['a key that is none', { to: { jkt: 'abc' } }, 'to.jkt'],
    ['an identity with a space', { to: { identity: 'a b' } }, 'to.identity'],
    ['a stranger in it', { to: { jkt: 'a'.repeat(43), everybody: true } }, 'to.everybody'],
    ['a life that is none', { ...to(2), life_seconds: 0 }, 'life_seconds'],
    ['a field that is none', { ...to(2), audience: 'x' }, 'audience'],
  ])('a grant to %s', async (_, body, field) => {
    expect(await asksGrant(parent, held, body)).toMatchObject({ status: 400, body: { code: 'malformed', field } })
  })
  it('a task needs evidence or a grant', async () => {
    expect(await child.open({ subject_token: undefined })).toMatchObject({ status: 400, body: { code: 'malformed', field: 'subject_token' } })
  })
  it('an actor token and its type come together, and only with a grant of its own type (RFC 8693 section 2.1)', async () => {
    const grant = await granted(parent, held, to(2))
    const evidence = await job(house, 2)
    const form = async (over: Record<string, string>) => (await exchangesBelow(child, grant, null, over)).body
    expect(await form({ actor_token: evidence })).toMatchObject({ error: 'invalid_request', field: 'actor_token_type' })
    expect(await form({ actor_token_type: ID_TOKEN })).toMatchObject({ error: 'invalid_request', field: 'actor_token_type' })
    expect(await form({ actor_token: evidence, actor_token_type: 'urn:x' })).toMatchObject({ error: 'invalid_request', field: 'actor_token_type' })
    const whole = { actor_token: evidence, actor_token_type: JWT }
    expect(await form({ ...whole, subject_token_type: ID_TOKEN })).toMatchObject({ error: 'invalid_request', field: 'subject_token_type' })
    expect(await form({ ...whole, subject_token: evidence })).toMatchObject({ error: 'invalid_request', reason: 'algorithm_refused', field: 'subject_token' })
    expect(await form({ ...whole, actor_token: grant })).toMatchObject({ error: 'invalid_request', reason: 'issuer_unknown', field: 'actor_token' })
    expect(await form({ ...whole, subject_token: held.token })).toMatchObject({ error: 'invalid_request', reason: 'type_refused', field: 'subject_token' })
    expect((await exchangesBelow(child, grant, evidence, whole)).status).toBe(200)
  })
})
