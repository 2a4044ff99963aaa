/** The token endpoint to the letter (RFC 6749, 8693, 8707, 9396; standards.md 1.1, 1.8, 2.2.3, P60-P67, T50, T66): every rule beside the nearest request that passes. */
import { decodeJwt } from 'jose'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, EXCHANGE, type Held, ID_TOKEN, introspect } from '../caller.js'
import { type House, LEGACY, makeHouse, ORDERS, SERVER } from '../house.js'

const RAR = `${SERVER}/rar/task/v1`
const TYPE = 'urn:ietf:params:oauth:token-type:'
const IDENTITY = 'github:repository_id=456789'
let house: House
let ci: Caller
const http = () => supertest(house.http)

const jwt = (name: string, scopes: string[], more: object = {}) => ({
  name,
  summary: 'at the orders server',
  engine: 'jwt',
  audience: 'orders',
  intent: 'read',
  scopes,
  ...more,
})

beforeAll(async () => {
  house = await makeHouse({
    capabilities: [
      jwt('demo/orders-rw', ['orders:read', 'orders:write'], { ttlSeconds: 60 }),
      jwt('demo/orders-plain', []),
      jwt('demo/twin-a', ['twin']),
      jwt('demo/twin-b', ['twin']),
    ],
    alsoAllow: ['demo/orders-rw', 'demo/orders-plain', 'demo/twin-a', 'demo/twin-b'],
  })
  ci = await caller(house)
})
afterAll(() => house?.close())

const object = (more: Record<string, unknown> = {}) => ({ type: RAR, purpose: 'nightly report', capabilities: ['demo/orders-ro'], ...more })
const details = (more: Record<string, unknown> = {}) => JSON.stringify([object(more)])
/** Pairs, so that a parameter can come twice. */
const send = async (pairs: readonly (readonly [string, string])[]) =>
  http()
    .post('/oauth2/token')
    .set('Content-Type', 'application/x-www-form-urlencoded')
    .set('DPoP', await ci.proof('POST', '/oauth2/token'))
    .send(new URLSearchParams(pairs.map(p => [...p] as [string, string])).toString())
const base = async (): Promise<[string, string][]> => [
  ['grant_type', EXCHANGE],
  ['subject_token', await house.evidence()],
  ['subject_token_type', ID_TOKEN],
]
const asks = async (...more: [string, string][]) => send([...(await base()), ...more])
const word = (answer: { status: number; body: Record<string, unknown> }) =>
  [answer.status, answer.body.error ?? 'granted', ...(answer.body.reason === undefined ? [] : [answer.body.reason])].join(' ')

describe('a target', () => {
  const task: [string, string] = ['authorization_details', details()]

  it.each<readonly [string, [string, string][]]>([
    ['by its URI', [['resource', ORDERS]]],
    ['by its name as audience', [['audience', 'orders']]],
    ['by its URI as audience', [['audience', ORDERS]]],
    // prettier-ignore
    [
      'by both, and twice: it is one',
      [
        ['resource', ORDERS],
        ['resource', ORDERS],
        ['audience', 'orders'],
      ],
    ],
    // prettier-ignore
    [
      'beside an empty one, which counts as absent',
      [
        ['resource', ''],
        ['audience', ''],
        ['resource', ORDERS],
      ],
    ],
  ])('%s', async (_how, named) => {
    const answer = await asks(...named, task)
    expect(word(answer)).toBe('200 granted')
    expect(decodeJwt(answer.body.access_token).aud).toBe(ORDERS)
  })

  it.each<readonly [string, [string, string][], string]>([
    // prettier-ignore
    [
      'P60 two of them',
      [
        ['resource', ORDERS],
        ['resource', LEGACY],
      ],
      '400 invalid_target one_target',
    ],
    // prettier-ignore
    [
      'two of them, one by its name',
      [
        ['resource', ORDERS],
        ['audience', 'legacy'],
      ],
      '400 invalid_target one_target',
    ],
    // prettier-ignore
    [
      'one and ourselves',
      [
        ['resource', ORDERS],
        ['resource', SERVER],
      ],
      '400 invalid_target one_target',
    ],
    ['that nobody registered', [['resource', 'https://nobody.example/']], '400 invalid_target resource_unknown'],
    ['without its slash', [['resource', ORDERS.slice(0, -1)]], '400 invalid_target resource_unknown'],
    ['in upper case', [['audience', 'ORDERS']], '400 invalid_target resource_unknown'],
    ['its name as resource', [['resource', 'orders']], '400 invalid_target invalid_field'],
    ['with a fragment', [['resource', `${ORDERS}#part`]], '400 invalid_target invalid_field'],
    ['that none of the capabilities is for', [['resource', LEGACY]], '400 invalid_target resource_ambiguous'],
  ])('%s is refused', async (_what, named, wanted) => {
    expect(word(await asks(...named, task))).toBe(wanted)
  })

  it.each([SERVER, `${SERVER}/v1`])('%s is ourselves: its access token is the task token', async resource => {
    const answer = await asks(['resource', resource], task)
    expect(word(answer)).toBe('200 granted')
    expect(decodeJwt(answer.body.access_token)).toMatchObject({ aud: SERVER, jti: answer.body.task.id })
    expect(answer.body).not.toHaveProperty('scope')
    expect(word(await asks(['resource', resource]))).toBe('400 invalid_authorization_details parameter_missing')
  })
})

describe('a caller that knows OAuth only', () => {
  it('names what it needs by resource and scope: a task of that capability alone, which ends with its token', async () => {
    const answer = await asks(['resource', ORDERS], ['scope', 'orders:write orders:read'])
    expect(answer.body).toMatchObject({ token_type: 'DPoP', scope: 'orders:read orders:write', issued_token_type: `${TYPE}access_token` })
    expect(answer.body.authorization_details).toEqual([
      {
        type: RAR,
        identifier: answer.body.task.id,
        purpose: 'a token for orders',
        capabilities: ['demo/orders-rw'],
        actions: ['orders:read', 'orders:write'],
        locations: [ORDERS],
        ttl: expect.any(Number),
      },
    ])
    const task = await house.app.store.tasks.get(answer.body.task.id)
    expect(task).toMatchObject({ purpose: 'a token for orders', capabilities: ['demo/orders-rw'], state: 'open' })
    const credential = await house.app.store.credentials.get(answer.body.credential)
    expect((task?.deadlineAt.getTime() ?? 0) - (credential?.expiresAt.getTime() ?? 0)).toBeLessThan(2_000)
    expect(answer.body.expires_in).toBeGreaterThan(55)
    expect(answer.body.expires_in).toBeLessThanOrEqual(60)
    // It may end it all the same, as any holder.
    const held: Held = { task: answer.body.task.id, token: answer.body.task.token }
    expect((await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})).status).toBe(200)
    expect((await introspect(house, answer.body.access_token)).body).toEqual({ active: false })
  })

  it('no scope is no scope: the one capability there that gives none', async () => {
    const answer = await asks(['resource', ORDERS])
    expect(answer.body.authorization_details[0]).toMatchObject({ capabilities: ['demo/orders-plain'], actions: [] })
    expect(answer.body).not.toHaveProperty('scope')
    expect(decodeJwt(answer.body.access_token)).not.toHaveProperty('scope')
    expect(word(await asks(['resource', LEGACY]))).toBe('400 invalid_scope scope_unknown')
    expect(word(await asks(['resource', LEGACY], ['scope', 'orders:read']))).toBe('200 granted')
  })

  it.each([
    ['T50 more than any capability gives', 'orders:read orders:write orders:admin', 'scope_unknown'],
    ['T50 less than the only one that gives it: fewer scopes would be broadened', 'orders:write', 'scope_unknown'],
    ['T50 a pattern', 'orders:*', 'scope_unknown'],
    ['T60 another case', 'Orders:read', 'scope_unknown'],
    ['what two of them give', 'twin', 'scope_ambiguous'],
    ['two spaces', 'orders:read  orders:write', 'invalid_field'],
    ['a space at the end', 'orders:read ', 'invalid_field'],
    ['a quote', 'orders:"read"', 'invalid_field'],
    ['beyond ASCII', 'orders:reаd', 'invalid_field'],
  ])('%s is invalid_scope', async (_what, scope, reason) => {
    expect(word(await asks(['resource', ORDERS], ['scope', scope]))).toBe(`400 invalid_scope ${reason}`)
  })

  it('T59 a stranger hears nothing of capabilities: what is wrong with the evidence comes first', async () => {
    const stranger = async (form: Record<string, string>) =>
      word(await send(Object.entries({ grant_type: EXCHANGE, subject_token: 'a.b.c', subject_token_type: ID_TOKEN, resource: ORDERS, ...form })))
    for (const form of [
      { scope: 'orders:read' },
      { scope: 'no:such' },
      { authorization_details: details() },
      { authorization_details: details({ capabilities: ['no/such'] }) },
    ])
      expect(await stranger(form)).toBe('400 invalid_request issuer_unknown')
    expect(word(await asks(['resource', ORDERS], ['authorization_details', details({ capabilities: ['no/such'] })]))).toBe(
      '400 invalid_authorization_details capability_unknown',
    )
  })

  it('with neither a target nor a task object it is told what to name', async () => {
    expect(word(await asks())).toBe('400 invalid_target resource_missing')
    expect(word(await asks(['scope', 'orders:read']))).toBe('400 invalid_target resource_missing')
    expect(word(await asks(['scope', 'orders:read'], ['authorization_details', details()]))).toBe('400 invalid_target resource_missing')
  })

  it('policy is asked as ever: a scope is no permit', async () => {
    const evidence = await house.evidence({ ref: 'refs/heads/other' })
    const answer = await send([
      ['grant_type', EXCHANGE],
      ['subject_token', evidence],
      ['subject_token_type', ID_TOKEN],
      ['resource', ORDERS],
      ['scope', 'orders:read'],
    ])
    expect(word(answer)).toBe('400 access_denied no_permit')
    expect(answer.body.error_description).toMatch(/^no_permit: /)
  })
})

describe('a task object', () => {
  it('several capabilities and one resource: what is for that server is granted and told, in the token as in the answer', async () => {
    const answer = await asks(['resource', ORDERS], ['authorization_details', details({ capabilities: ['demo/orders-bearer', 'demo/orders-ro'], ttl: 120 })])
    const granted = answer.body.authorization_details
    expect(granted).toMatchObject([{ type: RAR, capabilities: ['demo/orders-ro'], actions: ['orders:read'], locations: [ORDERS] }])
    expect(decodeJwt(answer.body.access_token).authorization_details).toMatchObject([{ type: RAR, capabilities: ['demo/orders-ro'], locations: [ORDERS] }])
    expect((await introspect(house, answer.body.access_token)).body.authorization_details).toEqual(decodeJwt(answer.body.access_token).authorization_details)
    expect((await house.app.store.tasks.get(answer.body.task.id))?.capabilities).toEqual(['demo/orders-bearer', 'demo/orders-ro'])
  })
  it('may be narrower than asked: the life is what was left of it', async () => {
    const answer = await asks(['resource', ORDERS], ['authorization_details', details({ ttl: 40_000, life_seconds: 600 })])
    expect(answer.body.authorization_details[0].ttl).toBeLessThanOrEqual(600)
    expect(answer.body.expires_in).toBe(answer.body.authorization_details[0].ttl)
  })
  it('scope chooses among its capabilities for that server, and adds none', async () => {
    const two = details({ capabilities: ['demo/orders-ro', 'demo/orders-rw'] })
    expect(word(await asks(['resource', ORDERS], ['authorization_details', two]))).toBe('400 invalid_target resource_ambiguous')
    const chosen = await asks(['resource', ORDERS], ['authorization_details', two], ['scope', 'orders:read orders:write'])
    expect(chosen.body.authorization_details[0].capabilities).toEqual(['demo/orders-rw'])
    expect(word(await asks(['resource', ORDERS], ['authorization_details', details()], ['scope', 'orders:read orders:write']))).toBe(
      '400 invalid_scope scope_unknown',
    )
  })

  it.each([
    ['T66 an unknown type', JSON.stringify([{ ...object(), type: 'https://elsewhere.example/rar' }]), 'invalid_field'],
    ['T66 our type in upper case', JSON.stringify([{ ...object(), type: RAR.toUpperCase() }]), 'invalid_field'],
    ['an unknown member', details({ privileges: ['admin'] }), 'unknown_field'],
    ['a member of another JSON type', details({ capabilities: 'demo/orders-ro' }), 'invalid_field'],
    ['T50 no capability at all', details({ capabilities: [] }), 'invalid_field'],
    ['T50 a pattern', details({ capabilities: ['demo/*'] }), 'invalid_field'],
    ['a capability that is not there', details({ capabilities: ['demo/none'] }), 'capability_unknown'],
    ['two objects', JSON.stringify([object(), object()]), 'one_task_object'],
    ['no object', '[]', 'one_task_object'],
    ['no array', JSON.stringify(object()), 'one_task_object'],
    ['no JSON', '[{', 'not_json'],
    ['T21 a member twice', `[{"type":"${RAR}","purpose":"a","purpose":"b","capabilities":["demo/orders-ro"]}]`, 'duplicate_member'],
  ])('%s is invalid_authorization_details', async (_what, text, reason) => {
    expect(word(await asks(['authorization_details', text]))).toBe(`400 invalid_authorization_details ${reason}`)
    expect(word(await asks(['authorization_details', details()]))).toBe('200 granted')
  })
})

describe('locations and actions of a task object (RFC 9396 section 2.2)', () => {
  const ro = { capabilities: ['demo/orders-ro', 'demo/orders-rw'] }
  it('name the server and choose among its capabilities, as resource and scope do; both may say the same', async () => {
    const object = details({ ...ro, locations: [ORDERS], actions: ['orders:write', 'orders:read'] })
    for (const more of [[], [['resource', ORDERS]], [['scope', 'orders:read orders:write']]] as [string, string][][]) {
      const answer = await asks(['authorization_details', object], ...more)
      expect(answer.body.authorization_details).toMatchObject([{ capabilities: ['demo/orders-rw'], locations: [ORDERS] }])
      expect(decodeJwt(answer.body.access_token).aud).toBe(ORDERS)
    }
  })
  it.each<readonly [string, object, [string, string][], string]>([
    ['another server than the resource', { locations: [LEGACY] }, [['resource', ORDERS]], '400 invalid_authorization_details one_target'],
    ['two servers', { locations: [ORDERS, LEGACY] }, [], '400 invalid_authorization_details one_target'],
    ['a server that nobody registered', { locations: ['https://nobody.example/'] }, [], '400 invalid_authorization_details resource_unknown'],
    ['a name where a URI belongs', { locations: ['orders'] }, [], '400 invalid_authorization_details invalid_field'],
    ['no server at all', { locations: [] }, [], '400 invalid_authorization_details invalid_field'],
    [
      'T50 actions that none of its capabilities gives',
      { locations: [ORDERS], actions: ['orders:write'] },
      [],
      '400 invalid_authorization_details scope_unknown',
    ],
    ['T50 no actions: not all of them', { locations: [ORDERS], actions: [] }, [], '400 invalid_authorization_details scope_unknown'],
    [
      'actions that are not the scope',
      { locations: [ORDERS], actions: ['orders:read'] },
      [['scope', 'orders:read orders:write']],
      '400 invalid_scope scope_unknown',
    ],
    ['actions of no server', { actions: ['orders:read'] }, [], '400 invalid_target resource_missing'],
  ])('%s: refused', async (_what, members, more, wanted) => {
    expect(word(await asks(['authorization_details', details({ ...ro, ...members })], ...more))).toBe(wanted)
  })
})

describe('a further token of an open task', () => {
  /** As another client would: by its own key and evidence. */
  const by = async (who: Caller, object: object, form: Record<string, string> = {}) =>
    who.exchange({ subject_token: await house.evidence(), authorization_details: JSON.stringify([object]), ...form })
  const opened = async () => (await by(ci, object({ capabilities: ['demo/orders-ro', 'demo/orders-rw'], locations: [ORDERS], actions: ['orders:read'] }))).body
  const rest = ({ identifier }: { identifier: string }, more: object = {}) => ({
    type: RAR,
    identifier,
    capabilities: ['demo/orders-ro'],
    locations: [ORDERS],
    ...more,
  })

  it('what was granted may be sent again, by the same key and fresh evidence; the task is the same, the token is not', async () => {
    const first = await opened()
    const [granted] = first.authorization_details
    const again = await by(ci, granted)
    expect(word(again)).toBe('200 granted')
    expect(again.body.task.id).toBe(first.task.id)
    expect(again.body.credential).not.toBe(first.credential)
    const other = await by(ci, rest(granted, { capabilities: ['demo/orders-rw'], ttl: 30 }))
    expect(other.body.authorization_details).toMatchObject([{ identifier: first.task.id, capabilities: ['demo/orders-rw'] }])
    expect(other.body.expires_in).toBeLessThanOrEqual(30)
    // All of them end with their task.
    const held: Held = { task: first.task.id, token: again.body.task.token }
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    for (const { access_token } of [first, again.body, other.body]) expect((await introspect(house, access_token)).body).toEqual({ active: false })
    expect(word(await by(ci, granted))).toBe('400 invalid_grant completed')
  })
  it('T53 T57 by another key it does not exist, like one that was never there', async () => {
    const [granted] = (await opened()).authorization_details
    const stranger = await caller(house)
    const refused = await by(stranger, granted)
    const never = await by(stranger, { ...granted, identifier: 'tsk_00000000000000000000000000' })
    expect([word(refused), word(never)]).toEqual(Array(2).fill('400 invalid_authorization_details not_found'))
    const { request_id: _a, ...one } = refused.body
    const { request_id: _b, ...two } = never.body
    expect(one).toEqual(two)
    expect(word(await by(ci, granted))).toBe('200 granted')
  })
  it('T44 T53 by evidence of another workload, under another name, with used evidence: refused, and the twin is not', async () => {
    const [granted] = (await opened()).authorization_details
    expect(word(await by(ci, granted, { subject_token: await house.evidence({ repository_id: '1' }) }))).toBe('400 invalid_request identity_mismatch')
    expect(word(await by(ci, granted, { client_id: 'github:repository_id=1' }))).toBe('401 invalid_client client_mismatch')
    const evidence = await house.evidence()
    expect(word(await by(ci, granted, { subject_token: evidence }))).toBe('200 granted')
    expect(word(await by(ci, granted, { subject_token: evidence }))).toBe('400 invalid_request replayed')
  })
  it('T50 more than the task was opened for, another purpose, what only an opening says, and no server', async () => {
    const [granted] = (await opened()).authorization_details
    expect(word(await by(ci, rest(granted, { capabilities: ['demo/orders-plain'] })))).toBe('400 access_denied not_declared')
    expect(word(await by(ci, rest(granted, { purpose: 'another' })))).toBe('400 invalid_authorization_details invalid_field')
    expect(word(await by(ci, rest(granted, { life_seconds: 60 })))).toBe('400 invalid_authorization_details unknown_field')
    expect(word(await by(ci, rest(granted, { locations: undefined })))).toBe('400 invalid_target resource_missing')
    expect(word(await by(ci, rest({ identifier: 'x' })))).toBe('400 invalid_authorization_details not_found')
    expect(word(await by(ci, rest(granted)))).toBe('200 granted')
  })
})

describe('parameters', () => {
  it.each<readonly [string, [string, string][], string]>([
    // prettier-ignore
    [
      'P67 a parameter twice',
      [
        ['client_id', IDENTITY],
        ['client_id', IDENTITY],
      ],
      '400 invalid_request parameter_repeated',
    ],
    // prettier-ignore
    [
      'P67 even an unknown one',
      [
        ['x', '1'],
        ['x', '1'],
      ],
      '400 invalid_request parameter_repeated',
    ],
    // prettier-ignore
    [
      'P67 even an empty one',
      [
        ['scope', ''],
        ['scope', 'orders:read'],
      ],
      '400 invalid_request parameter_repeated',
    ],
    ['an actor_token_type without its token', [['actor_token_type', ID_TOKEN]], '400 invalid_request parameter_unexpected'],
    ['an actor_token without its type', [['actor_token', 'a.b.c']], '400 invalid_request parameter_missing'],
    ['T69 an assertion of another grant', [['assertion', 'a.b.c']], '400 invalid_request parameter_unexpected'],
    ['T69 a client assertion of another grant', [['client_assertion', 'a.b.c']], '400 invalid_request parameter_unexpected'],
    ['T66 P66 a type that is never issued', [['requested_token_type', `${TYPE}refresh_token`]], '400 invalid_request invalid_field'],
    ['a client secret', [['client_secret', 'x']], '401 invalid_client client_secret_refused'],
    ['P68 the name of another client', [['client_id', 'github:repository_id=1']], '401 invalid_client client_mismatch'],
  ])('%s is refused', async (_what, more, wanted) => {
    const answer = await asks(...more, ['resource', ORDERS], ['authorization_details', details()])
    expect(word(answer)).toBe(wanted)
    expect(answer.headers).not.toHaveProperty('www-authenticate')
    expect(answer.headers['cache-control']).toBe('no-store')
  })
  it('empty ones count as absent, unrecognised ones are ignored, and the own name is no other (RFC 6749 sections 3.2 and 3.2.1)', async () => {
    const empty = ['actor_token', 'actor_token_type', 'requested_token_type', 'scope', 'assertion', 'client_secret'].map(n => [n, ''] as [string, string])
    expect(word(await asks(...empty, ['x-vendor', '1'], ['client_id', IDENTITY], ['resource', ORDERS], ['authorization_details', details()]))).toBe(
      '200 granted',
    )
  })
  it.each([
    ['T66 a type that is no evidence', { subject_token_type: `${TYPE}saml2` }, '400 invalid_request invalid_field'],
    ['T66 an access token', { subject_token_type: `${TYPE}access_token` }, '400 invalid_request invalid_field'],
    ['no type', { subject_token_type: '' }, '400 invalid_request parameter_missing'],
    ['no token', { subject_token: '' }, '400 invalid_request parameter_missing'],
    ['a token that is none', { subject_token: 'a.b.c' }, '400 invalid_request issuer_unknown'],
    ['T66 another grant', { grant_type: 'password' }, '400 unsupported_grant_type grant_type_unsupported'],
    ['T66 a grant named like a member of every object', { grant_type: '__proto__' }, '400 unsupported_grant_type grant_type_unsupported'],
    ['no grant', { grant_type: '' }, '400 invalid_request invalid_field'],
  ])('%s is refused', async (_what, changes, wanted) => {
    const form = { ...Object.fromEntries(await base()), resource: ORDERS, scope: 'orders:read', ...changes }
    expect(word(await send(Object.entries(form)))).toBe(wanted)
  })
  it('an Authorization header is a way to authenticate that no client has here, and says so by a challenge (section 5.2)', async () => {
    const form = { ...Object.fromEntries(await base()), resource: ORDERS, scope: 'orders:read' }
    const answer = await http()
      .post('/oauth2/token')
      .auth('agents:agent=reporter', 'secret')
      .type('form')
      .set('DPoP', await ci.proof('POST', '/oauth2/token'))
      .send(form)
    expect(word(answer)).toBe('401 invalid_client authorization_refused')
    expect(answer.headers['www-authenticate']).toBe('Basic realm="curfew"')
    expect(word(await send(Object.entries(form)))).toBe('200 granted')
  })
  it('P66 what was requested is what was issued, with a resource and without', async () => {
    for (const target of [[], [['resource', ORDERS]]] as [string, string][][])
      for (const type of ['access_token', 'jwt'])
        expect((await asks(...target, ['authorization_details', details()], ['requested_token_type', TYPE + type])).body.issued_token_type).toBe(TYPE + type)
  })
  it('a description is printable ASCII without quotes, and begins with the stable word (section 5.2, standards.md 2.2.3)', async () => {
    for (const form of [{ requested_token_type: 'x' }, { authorization_details: '[{"type":"\\u0000"}]' }, { scope: 'a"' }]) {
      const answer = await asks(...(Object.entries(form) as [string, string][]), ['resource', ORDERS])
      expect(answer.body.error_description).toMatch(/^[a-z_]+: [\x20\x21\x23-\x5b\x5d-\x7e]+$/)
      expect(answer.body.error_description.split(':')[0]).toBe(answer.body.reason)
    }
  })
})

describe('P63 T52 tokens of ours are no evidence', () => {
  it('neither a task token nor an access token opens anything; evidence does', async () => {
    const opened = await asks(['resource', ORDERS], ['scope', 'orders:read'])
    for (const token of [opened.body.access_token, opened.body.task.token])
      for (const type of [ID_TOKEN, `${TYPE}jwt`])
        expect(
          word(await send(Object.entries({ grant_type: EXCHANGE, subject_token: token, subject_token_type: type, resource: ORDERS, scope: 'orders:read' }))),
        ).toBe('400 invalid_request issuer_unknown')
  })
})

describe('evidence', () => {
  it('older than the capability allows is refused here as it is where a credential is asked for', async () => {
    const ask = async (age: number) =>
      ci.exchange({
        subject_token: await house.evidence({ iat: house.now() - age, nbf: house.now() - age, exp: house.now() + 300 }),
        resource: ORDERS,
        authorization_details: details(),
      })
    expect((await ask(905)).body).toMatchObject({ error: 'invalid_request', code: 'attestation_stale', reason: 'evidence_stale' })
    const fresh = await ask(890)
    expect(fresh.status).toBe(200)
    expect(decodeJwt(fresh.body.access_token).aud).toBe(ORDERS)
  })
})
