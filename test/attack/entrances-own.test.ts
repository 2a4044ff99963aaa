import { decodeJwt, type JWTPayload } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, EXCHANGE, type Held, ID_TOKEN, introspect } from '../caller.js'
import { type House, LEGACY, ORDERS, SERVER } from '../house.js'
import { allRefused, allSilent, byProof, CAPABILITY, closeDoors, es, held, http, newRequest, openDoors, refusal } from './entrances.js'
import { b64, evidenceOf, jwkOf, type Members, NONE, reheaded, spare, swap } from './forge.js'

/**
 * Our own tokens and the proofs beside them at every door that takes them (security.md 5): exact status, code and reason, one audit
 * row, nothing sent out; and a twin that succeeds.
 */

/** A token of our own as it was issued, and our own keys to sign its claims anew: what only a fault of ours could make. */
interface Own {
  readonly text: string
  readonly claims: JWTPayload
  sign(claims?: Members, typ?: string, keyClass?: 'access' | 'task'): Promise<string>
}
interface OwnCase {
  readonly id: string
  readonly build: (own: Own) => string | Promise<string>
  /** What a door for task tokens answers. A door for access tokens says `inactive` to all of them, and nothing more. */
  readonly reason: string
  /** About what the row of the credential decides, and not the token: no case for a door for access tokens. */
  readonly taskOnly?: true
}
const headed = (own: Own, more: Members) => reheaded(own.text, more)
const paid = (own: Own, more: Members) => swap(own.text, 1, () => b64(JSON.stringify({ ...own.claims, ...more })))

const OWN: readonly OwnCase[] = [
  ...[...NONE, undefined].map((alg): OwnCase => ({ id: `T01 alg ${JSON.stringify(alg)}`, reason: 'algorithm_refused', build: own => headed(own, { alg }) })),
  { id: 'T01 no signature', reason: 'malformed_token', build: own => swap(own.text, 2, () => '') },
  ...['HS256', 'PS256', 'EdDSA', 'es256'].map(
    (alg): OwnCase => ({ id: `T02 T04 alg ${alg}`, reason: 'algorithm_refused', build: own => headed(own, { alg }) }),
  ),
  ...['../../dev/null', "' or 1=1 --", '__proto__', undefined].map(
    (kid): OwnCase => ({ id: `T06 T07 kid ${JSON.stringify(kid)}`, reason: 'key_unknown', build: own => headed(own, { kid }) }),
  ),
  ...['jwk', 'jku', 'x5u', 'x5c', 'crit', 'b64', 'cty'].map(
    (name): OwnCase => ({ id: `T09 T14 header ${name}`, reason: 'header_refused', build: own => headed(own, { [name]: ['https://evil.example/keys'] }) }),
  ),
  { id: 'T10 other claims under the old signature', reason: 'signature_invalid', build: own => paid(own, { scope: 'admin' }) },
  { id: 'T12 five segments', reason: 'malformed_token', build: own => `${own.text}.a.b` },
  {
    id: 'T12 flattened JSON',
    reason: 'authorization_malformed',
    build: own => JSON.stringify({ protected: 'a', payload: own.text.split('.')[1], signature: 'b' }),
  },
  { id: 'T24 spare bits', reason: 'malformed_token', build: own => swap(own.text, 2, spare) },
  { id: 'T24 padding', reason: 'malformed_token', build: own => `${own.text}==` },
  ...['JWT', 'dpop+jwt', 'secevent+jwt', 'token-introspection+jwt', 'curfew-task+jwt ', 'at+jwt '].map(
    (typ): OwnCase => ({ id: `T16 typ ${JSON.stringify(typ)}`, reason: 'type_refused', build: own => own.sign({}, typ) }),
  ),
  ...[undefined, null, '', 'https://evil.example', `${SERVER}/`, [SERVER]].map(
    (iss): OwnCase => ({ id: `T17 T28 iss ${JSON.stringify(iss)}`, reason: 'issuer_mismatch', build: own => own.sign({ iss }) }),
  ),
  ...[undefined, null, '', `${SERVER}/oauth2/introspect`, [[ORDERS]], [SERVER, ORDERS]].map(
    (aud): OwnCase => ({ id: `T17 T25 T27 T28 aud ${JSON.stringify(aud)}`, reason: 'audience_mismatch', build: own => own.sign({ aud }) }),
  ),
  ...[undefined, null, 'x', 7, ['a'], 'tsk_', 'crd_00000000000000000000000000'].map(
    (jti): OwnCase => ({ id: `T17 jti ${JSON.stringify(jti)}`, reason: 'claim_invalid', build: own => own.sign({ jti }) }),
  ),
  ...[undefined, null, '4000000000', true, [], 0, -1].map(
    (exp): OwnCase => ({ id: `T18 exp ${JSON.stringify(exp)}`, reason: 'expired', taskOnly: true, build: own => own.sign({ exp }) }),
  ),
  ...[undefined, null, {}, { jkt: 7 }].map(
    (cnf): OwnCase => ({ id: `T17 cnf ${JSON.stringify(cnf)}`, reason: 'claim_invalid', taskOnly: true, build: own => own.sign({ cnf }) }),
  ),
]

let house: House
let ci: Caller

beforeAll(async () => {
  ;({ house, ci } = await openDoors())
})
afterAll(closeDoors)

describe('tokens of our own', () => {
  /** A token as it was issued, and our own keys to sign its claims anew. */
  const own = (text: string, keyClass: 'access' | 'task', typ: string): Own => ({
    text,
    claims: decodeJwt(text),
    sign: async (claims = {}, type = typ, keys = keyClass) =>
      (await house.app.signer.sign(keys, type, { ...decodeJwt(text), ...claims } as JWTPayload, 'ES256')).token,
  })
  const TASK_ROUTES = [
    ['post', 'credentials', { capability: CAPABILITY }],
    ['post', 'heartbeat', {}],
    ['post', 'complete', {}],
    ['get', '', undefined],
  ] as const
  const asHolder = ({ task }: Held, token: string, [method, verb, body]: (typeof TASK_ROUTES)[number], id = newRequest()) =>
    ci.as({ task, token }, method, `/v1/tasks/${task}${verb && `/${verb}`}`, body, { 'X-Request-ID': id })
  const giveBack = async (token: string, id = newRequest()) =>
    http()
      .post('/oauth2/revoke')
      .type('form')
      .set('DPoP', await ci.proof('POST', '/oauth2/revoke', token))
      .set('X-Request-ID', id)
      .send({ token })
  let task: Held
  let taskToken: Own
  let access: Own
  const rowsOf = async (id: string) => (await house.app.store.audit.list({ limit: 30 })).filter(r => r.requestId === id)

  beforeAll(async () => {
    task = held.get('es') as Held
    taskToken = own(task.token, 'task', 'curfew-task+jwt')
    access = own((await ci.credential(task, CAPABILITY)).body.secret.token, 'access', 'at+jwt')
  })

  it.each(OWN.map((c, i) => [c.id, c, i] as const))('%s, as a task token and as an access token', async (_id, c, i) => {
    const spoilt = await c.build(taskToken)
    const refused = refusal('attestation_refused', c.reason)
    await allRefused(TASK_ROUTES.map(r => ({ what: r[1], refused, send: id => asHolder(task, spoilt, r, id) })))
    for (const twin of [task.token, await taskToken.sign()])
      expect((await asHolder(task, twin, TASK_ROUTES[1 + 2 * (i % 2)] as (typeof TASK_ROUTES)[1])).status).toBe(200)
    if (c.taskOnly) return
    const token = await c.build(access)
    await allSilent(() => [introspect(house, token), introspect(house, token, 'legacy')], { active: false })
    // Whom a token is for is nothing that giving it back asks (RFC 7009).
    if (c.reason !== 'audience_mismatch') await allSilent(() => [giveBack(token)], {})
    for (const twin of [access.text, await access.sign()]) expect((await introspect(house, twin)).body).toMatchObject({ active: true, jti: access.claims.jti })
  })
  it('T28 the audiences of issue and introspection, exchanged', async () => {
    const mismatch = refusal('attestation_refused', 'audience_mismatch')
    for (const aud of [ORDERS, LEGACY]) {
      const token = await taskToken.sign({ aud })
      await allRefused(TASK_ROUTES.map(r => ({ what: r[1], refused: mismatch, send: id => asHolder(task, token, r, id) })))
    }
    const ours = await access.sign({ aud: SERVER })
    await allSilent(() => [introspect(house, ours), introspect(house, ours, 'legacy'), introspect(house, access.text, 'legacy')], { active: false })
    expect((await introspect(house, access.text)).body.active).toBe(true)
  })
  it('T69 a token of one class by the keys of another', async () => {
    const unknown = refusal('attestation_refused', 'key_unknown')
    const byAccess = await taskToken.sign({}, 'curfew-task+jwt', 'access')
    await allRefused(TASK_ROUTES.map(r => ({ what: r[1], refused: unknown, send: id => asHolder(task, byAccess, r, id) })))
    const byTask = await access.sign({}, 'at+jwt', 'task')
    await allSilent(() => [introspect(house, byTask), introspect(house, byTask, 'legacy')], { active: false })
    await allSilent(() => [giveBack(byTask)], {})
    expect((await introspect(house, await access.sign())).body.active).toBe(true)
  })
  it('the plain ones end what they name, once, and their doors close behind them', async () => {
    const mine = await ci.opened({ subject_token: evidenceOf(es, house.now()) })
    expect((await asHolder(mine, mine.token, TASK_ROUTES[2])).status).toBe(200)
    await allRefused([{ what: 'ended', refused: refusal('task_ended', 'completed'), status: 409, send: id => asHolder(mine, mine.token, TASK_ROUTES[0], id) }])
    const id = newRequest()
    expect((await giveBack(access.text, id)).status).toBe(200)
    expect((await rowsOf(id)).map(r => r.reason)).toContain('holder_revoked')
    await allSilent(() => [introspect(house, access.text)], { active: false })
  })
})

describe('T41 proofs of possession, at every door that asks for one', () => {
  interface Proven {
    readonly name: string
    readonly path: string
    readonly method: 'get' | 'post'
    readonly token?: string
    readonly authorization?: true
    readonly form?: true
    readonly body?: object
    readonly ok: number
  }
  const doors: Proven[] = []
  const send = (d: Proven, proofs: readonly string[], id = newRequest(), more: Record<string, string> = {}) => {
    const request = http()[d.method](d.path).set('X-Request-ID', id).set(more)
    if (d.authorization) request.set('Authorization', `DPoP ${d.token}`)
    if (proofs.length > 0) request.set('DPoP', proofs as never)
    if (d.form) request.type('form')
    return d.body ? request.send(d.body) : request
  }
  const proofFor = (d: Proven, claims: JWTPayload = {}, header = {}, by = ci) => by.proof(d.method, d.path, d.token, claims, header)

  beforeAll(async () => {
    const mine = await ci.opened({ subject_token: evidenceOf(es, house.now()) })
    const access = (await ci.credential(mine, CAPABILITY)).body.secret.token
    const evidence = () => ({ subject_token: evidenceOf(es, house.now()) })
    const details = JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'report', capabilities: [CAPABILITY] }])
    const holder = { token: mine.token, authorization: true, method: 'post' } as const
    doors.push(
      { name: 'tasks', method: 'post', path: '/v1/tasks', ok: 201, body: { ...evidence(), purpose: 'report', capabilities: [CAPABILITY] } },
      {
        name: 'token',
        method: 'post',
        path: '/oauth2/token',
        ok: 200,
        form: true,
        body: { grant_type: EXCHANGE, subject_token_type: ID_TOKEN, ...evidence(), authorization_details: details },
      },
      { name: 'revoke', method: 'post', path: '/oauth2/revoke', ok: 200, form: true, token: access, body: { token: access } },
      { name: 'look', ...holder, method: 'get', path: `/v1/tasks/${mine.task}`, ok: 200 },
      { name: 'credentials', ...holder, path: `/v1/tasks/${mine.task}/credentials`, ok: 201, body: { capability: CAPABILITY } },
      { name: 'heartbeat', ...holder, path: `/v1/tasks/${mine.task}/heartbeat`, ok: 200, body: {} },
      { name: 'complete', ...holder, path: `/v1/tasks/${mine.task}/complete`, ok: 200, body: {} },
    )
  })

  const oct = { kty: 'oct', k: 'AAAA' }
  type ProofCase = readonly [
    id: string,
    reason: string,
    proofs: (d: Proven) => Promise<readonly string[]>,
    only?: ((d: Proven) => boolean) | undefined,
    more?: Record<string, string>,
  ]
  const CASES: readonly ProofCase[] = [
    ['T41 missing', 'proof_missing', async () => []],
    ['T41 H23 two of them', 'proof_repeated', async d => [await proofFor(d), await proofFor(d)]],
    ['T41 H23 two, joined', 'malformed_token', async d => [[await proofFor(d), await proofFor(d)].join(', ')]],
    ['T41 alg none', 'algorithm_refused', async d => [reheaded(await proofFor(d), { alg: 'none' })]],
    ['T41 alg HS256', 'algorithm_refused', async d => [reheaded(await proofFor(d), { alg: 'HS256', jwk: oct })]],
    ['T41 a symmetric key', 'key_symmetric', async d => [reheaded(await proofFor(d), { jwk: oct })]],
    ['T41 a private key', 'key_private', async d => [reheaded(await proofFor(d), { jwk: { ...jwkOf(es), d: 'AAAA' } })]],
    ["T41 another's key in the header", 'signature_invalid', async d => [reheaded(await proofFor(d), { jwk: jwkOf(es) })]],
    ['T41 no key', 'jwk_missing', async d => [await proofFor(d, {}, { jwk: undefined })]],
    ['T41 T16 typ JWT', 'type_refused', async d => [await proofFor(d, {}, { typ: 'JWT' })]],
    ['T41 T16 typ of a task token', 'type_refused', async d => [await proofFor(d, {}, { typ: 'curfew-task+jwt' })]],
    ['T09 jku', 'header_refused', async d => [await proofFor(d, {}, { jku: 'https://evil.example' })]],
    ['T14 crit', 'header_refused', async d => [reheaded(await proofFor(d), { crit: ['jwk'] })]],
    ['T41 htm of another method', 'htm_mismatch', async d => [await proofFor(d, { htm: 'PUT' })]],
    ['T41 htm in lower case', 'htm_mismatch', async d => [await proofFor(d, { htm: d.method })]],
    ['T41 method override', 'htm_mismatch', async d => [await proofFor(d, { htm: 'DELETE' })], undefined, { 'X-HTTP-Method-Override': 'DELETE' }],
    ['T41 htu of another door', 'htu_mismatch', async d => [await proofFor(d, { htu: `${SERVER}/v1/credentials` })]],
    ['T17 without jti', 'jti_invalid', async d => [await proofFor(d, { jti: undefined as never })]],
    ['T19 iat as text', 'iat_invalid', async d => [await proofFor(d, { iat: String(house.now()) as never })]],
    ['T43 old', 'proof_old', async d => [await proofFor(d, { iat: house.now() - 301 })]],
    ['T43 ahead', 'proof_in_future', async d => [await proofFor(d, { iat: house.now() + 70 })]],
    ['T41 without ath', 'ath_mismatch', async d => [await proofFor(d, { ath: undefined })], d => d.token !== undefined],
    ['T41 ath of another token', 'ath_mismatch', async d => [await proofFor(d, { ath: 'x' })], d => d.token !== undefined],
    ['T41 ath where no token is', 'ath_unexpected', async d => [await proofFor(d, { ath: 'x' })], d => d.token === undefined],
    ['T41 by another key than it is bound to', 'key_mismatch', async d => [await proofFor(d, {}, {}, await caller(house))], d => d.authorization === true],
  ]
  it.each(CASES)('%s', async (...given) => {
    const [, reason, proofs, only = () => true, more = {}] = given as unknown as ProofCase
    const of = await Promise.all(doors.filter(only).map(async d => ({ d, made: await proofs(d) })))
    await allRefused(
      of.map(({ d, made }) => ({
        what: d.name,
        refused: byProof(reason),
        send: async id => send(d, made, id, more),
        ...(d.form ? { oauth: true as const } : {}),
      })),
    )
    const beat = doors.find(d => d.name === 'heartbeat') as Proven
    expect((await send(beat, [await proofFor(beat)])).status).toBe(200)
  })
  it('T41 RFC 7009 giving back by another key: it is another client', async () => {
    const d = doors.find(each => each.name === 'revoke') as Proven
    const proof = await proofFor(d, {}, {}, await caller(house))
    await allRefused([
      { what: d.name, oauth: true, word: 'unauthorized_client', refused: refusal('forbidden', 'another_client'), send: async id => send(d, [proof], id) },
    ])
  })
  it('the twin of all: the same requests with a plain proof, each after all that was refused of it; and T43 the proof again', async () => {
    for (const d of doors) {
      const proof = await proofFor(d)
      expect([d.name, (await send(d, [proof])).status]).toEqual([d.name, d.ok])
      await allRefused([{ what: d.name, refused: byProof('replayed'), send: async id => send(d, [proof], id), ...(d.form ? { oauth: true as const } : {}) }])
    }
  })
})
