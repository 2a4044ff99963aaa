import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, type Held, introspect } from '../caller.js'
import { GITHUB, type House, makeHouse, ORDERS, SERVER } from '../house.js'
import { vectors } from '../vectors.js'

let house: House
let ci: Caller
const http = () => supertest(house.http)

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
})
afterAll(() => house?.close())

/** Exactly one audit row more than before, with this reason. */
async function oneMoreRow(act: () => Promise<unknown>, reason: string): Promise<void> {
  const before = Number((await house.audits())[0]?.id ?? 0)
  await act()
  const rows = (await house.audits()).filter(r => Number(r.id) > before)
  expect(rows.map(r => r.reason)).toEqual([reason])
}

const task = (evidence: string, more: object = {}) => ({ subject_token: evidence, purpose: 'report', capabilities: ['demo/orders-ro'], ...more })
const post = async (path: string, body: string | object, headers: Record<string, string> = {}) =>
  http()
    .post(path)
    .set('Content-Type', 'application/json')
    .set('DPoP', await ci.proof('POST', path))
    .set(headers)
    .send(body)

describe('evidence', () => {
  it('T40 used twice, one after the other: the second is refused, and its twin with fresh evidence succeeds', async () => {
    const evidence = await house.evidence()
    expect((await ci.open({ subject_token: evidence })).status).toBe(201)
    await oneMoreRow(
      async () => expect((await ci.open({ subject_token: evidence })).body).toMatchObject({ status: 401, code: 'attestation_refused', reason: 'replayed' }),
      'replayed',
    )
    expect((await ci.open({ subject_token: await house.evidence() })).status).toBe(201)
  })

  it('T40 R01 used two hundred times at once: exactly one task opens', async () => {
    const evidence = await house.evidence()
    const answers = await Promise.all(Array.from({ length: 200 }, () => ci.open({ subject_token: evidence })))
    expect(answers.filter(a => a.status === 201)).toHaveLength(1)
    expect(answers.filter(a => a.body.reason === 'replayed')).toHaveLength(199)
  })

  it('T40 refused on other grounds burns nothing: the same evidence may ask again', async () => {
    const evidence = await house.evidence()
    expect((await ci.open({ subject_token: evidence, capabilities: ['no/such'] })).body).toMatchObject({ code: 'capability_unknown', field: 'capabilities.0' })
    expect((await ci.open({ subject_token: evidence })).status).toBe(201)
  })

  it('T44 of another workload does not carry a task on; the same workload, attested again, does', async () => {
    const held = await ci.opened()
    const other = await ci.credential(held, 'demo/orders-ro', { subject_token: await house.agentAssertion() })
    expect(other.body).toMatchObject({ status: 401, reason: 'identity_mismatch', field: 'subject_token' })
    expect((await ci.credential(held, 'demo/orders-ro', { subject_token: await house.evidence() })).status).toBe(201)
  })

  it('too old for the capability is stale, and fresh evidence under the same task mends it', async () => {
    const held = await ci.opened()
    await house.advance(901)
    expect((await ci.credential(held, 'demo/orders-ro')).body).toMatchObject({ status: 401, code: 'attestation_stale', agent_action: 'retry' })
    expect((await ci.credential(held, 'demo/orders-ro', { subject_token: await house.evidence() })).status).toBe(201)
  })

  it.each([
    ['T36 pull_request_target', { event_name: 'pull_request_target' }, 'event_refused'],
    ['T36 workflow_run', { event_name: 'workflow_run' }, 'event_refused'],
    ['T36 issue_comment', { event_name: 'issue_comment' }, 'event_refused'],
    ['T34 the same repository name under another owner', { repository_owner_id: '999' }, 'tenant_refused'],
    ['T25 the audience of another service', { aud: 'sts.amazonaws.com' }, 'audience_mismatch'],
    ['T26 ours among other audiences', { aud: [SERVER, 'https://other.example'] }, 'audience_mismatch'],
    ['T27 ours with a trailing slash', { aud: `${SERVER}/` }, 'audience_mismatch'],
    ['T31 an issuer that only begins like a registered one', { iss: `${GITHUB}.evil.example` }, 'issuer_unknown'],
    ['T31 an issuer with a trailing slash', { iss: `${GITHUB}/` }, 'issuer_unknown'],
    ['T17 without a name of its own subject', { sub: undefined }, 'claim_missing'],
    ['T17 without an expiry', { exp: undefined }, 'claim_missing'],
    ['T18 an expiry with a fraction', { exp: 4_000_000_000.5 }, 'claim_invalid'],
    ['T18 an expiry that is text', { exp: '4000000000' as never }, 'claim_invalid'],
    ['T19 a life beyond the cap', { exp: 4_000_000_000 }, 'life_too_long'],
  ])('%s is refused', async (_name, claims, reason) => {
    const evidence = await house.evidence(claims as Record<string, string>)
    await oneMoreRow(
      async () => expect((await ci.open({ subject_token: evidence })).body).toMatchObject({ status: 401, code: 'attestation_refused', reason }),
      reason,
    )
  })

  it('T34 another repository of the same owner is another workload: denied by policy, not by name', async () => {
    expect((await ci.open({ subject_token: await house.evidence({ repository_id: '1' }) })).body).toMatchObject({
      code: 'policy_denied',
      failed: [{ claim: 'repository_id', actual: '1' }],
    })
  })

  it('T35 P2 both forms of the subject name the same workload', async () => {
    const held = await ci.opened({ subject_token: await house.evidence({ sub: 'repo:acme@123456/orders@456789:ref:refs/heads/main' }) })
    expect((await house.app.store.tasks.get(held.task as never))?.attestation.identity).toBe('github:repository_id=456789')
  })
})

describe('proofs of possession', () => {
  const open = async (proofs: string | string[]) => {
    const request = http().post('/v1/tasks')
    request.set('DPoP', proofs as string)
    return request.send(task(await house.evidence()))
  }

  it('T41 missing', async () => {
    const answer = await http()
      .post('/v1/tasks')
      .send(task(await house.evidence()))
    expect(answer.body).toMatchObject({ status: 401, code: 'proof_refused', reason: 'proof_missing', field: 'DPoP' })
    expect((await open(await ci.proof('POST', '/v1/tasks'))).status).toBe(201)
  })
  it('T41 H23 two of them, or two joined by a comma', async () => {
    const both = [await ci.proof('POST', '/v1/tasks'), await ci.proof('POST', '/v1/tasks')]
    expect((await open(both)).body).toMatchObject({ status: 401, code: 'proof_refused' })
    expect((await open(both.join(', '))).body).toMatchObject({ status: 401, code: 'proof_refused' })
  })
  it.each([
    ['T41 another method', ['GET', '/v1/tasks'], {}, {}, 'htm_mismatch'],
    ['T42 another path', ['POST', '/v1/other'], {}, {}, 'htu_mismatch'],
    ['T42 another host', ['POST', '/v1/tasks'], { htu: 'https://evil.example/v1/tasks' }, {}, 'htu_mismatch'],
    ['T42 a path that only becomes ours after dots are resolved by nobody', ['POST', '/v1/tasks'], { htu: `${SERVER}/v1//tasks` }, {}, 'htu_mismatch'],
    ['T43 made too long ago', ['POST', '/v1/tasks'], { iat: 1 }, {}, 'proof_old'],
    ['T43 made ahead of time', ['POST', '/v1/tasks'], { iat: 4_000_000_000 }, {}, 'proof_in_future'],
    ['T41 of another type', ['POST', '/v1/tasks'], {}, { typ: 'JWT' }, 'type_refused'],
    ['T41 without its key', ['POST', '/v1/tasks'], {}, { jwk: undefined }, 'jwk_missing'],
    ['T09 with a place to fetch a key', ['POST', '/v1/tasks'], {}, { jku: 'https://evil.example/jwks' }, 'header_refused'],
    ['T43 with the hash of a token where there is none', ['POST', '/v1/tasks'], { ath: 'x' }, {}, 'ath_unexpected'],
  ])('%s', async (_name, [method, path], claims, header, reason) => {
    const proof = await ci.proof(method as string, path as string, undefined, claims, header)
    expect((await open(proof)).body).toMatchObject({ status: 401, code: 'proof_refused', reason })
  })
  it.each([
    ['T42 with the default port', `${SERVER}:443/v1/tasks`],
    ['T42 with an upper-case host', 'https://CURFEW.example/v1/tasks'],
    ['T42 with a query and a fragment', `${SERVER}/v1/tasks?x=1#y`],
    ['T42 with an unreserved character escaped', `${SERVER}/v1/%74asks`],
  ])('%s is the same place', async (_name, htu) => {
    expect((await open(await ci.proof('POST', '/v1/tasks', undefined, { htu }))).status).toBe(201)
  })
  it('T43 used again, for another request', async () => {
    const proof = await ci.proof('POST', '/v1/tasks')
    expect((await open(proof)).status).toBe(201)
    expect((await open(proof)).body).toMatchObject({ code: 'proof_refused', reason: 'replayed' })
  })
  it('T41 by another key than the task is bound to', async () => {
    const held = await ci.opened()
    const thief = await caller(house)
    expect((await thief.credential(held, 'demo/orders-ro')).body).toMatchObject({ status: 401, code: 'proof_refused', reason: 'key_mismatch' })
    expect((await ci.credential(held, 'demo/orders-ro')).status).toBe(201)
  })
  it('T41 H31 the Host header chooses nothing', async () => {
    const answer = await http()
      .post('/v1/tasks')
      .set('Host', 'evil.example')
      .set('X-Forwarded-Host', 'evil.example')
      .set('DPoP', await ci.proof('POST', '/v1/tasks'))
      .send(task(await house.evidence()))
    expect(answer.status).toBe(201)
    const metadata = await http().get('/.well-known/oauth-authorization-server').set('Host', 'evil.example')
    expect(metadata.body.issuer).toBe(SERVER)
  })
})

describe('callers and classes', () => {
  let mine: Held
  let theirs: Held
  let credential: string
  let stranger: Caller

  beforeAll(async () => {
    stranger = await caller(house)
    mine = await ci.opened()
    theirs = await stranger.opened()
    credential = (await stranger.credential(theirs, 'demo/orders-ro')).body.credential.id
  })

  it("T57 another caller's task and credential answer exactly like those that do not exist", async () => {
    const absent = 'crd_00000000000000000000000000'
    const [other, none] = [await ci.as(mine, 'get', `/v1/credentials/${credential}`), await ci.as(mine, 'get', `/v1/credentials/${absent}`)]
    const bare = (body: Record<string, unknown>) => ({ ...body, request_id: '' })
    expect(other.status).toBe(404)
    expect(bare(other.body)).toEqual(bare(none.body))
    for (const route of ['heartbeat', 'complete', 'cancel', 'credentials']) {
      const body = route === 'credentials' ? { capability: 'demo/orders-ro' } : {}
      const foreign = await ci.as(mine, 'post', `/v1/tasks/${theirs.task}/${route}`, body)
      const missing = await ci.as(mine, 'post', `/v1/tasks/tsk_00000000000000000000000000/${route}`, body)
      expect(foreign.status).toBe(404)
      expect(bare(foreign.body)).toEqual(bare(missing.body))
    }
  })
  it('T58 revoking by an id of another caller has no effect', async () => {
    expect((await ci.as(mine, 'delete', `/v1/credentials/${credential}`)).status).toBe(404)
    expect(await house.app.store.credentials.get(credential as never)).toMatchObject({ state: 'active' })
    expect((await stranger.as(theirs, 'delete', `/v1/credentials/${credential}`)).status).toBe(202)
  })
  it('T59 a list holds what the holder itself holds, whatever it filters by', async () => {
    await ci.credential(mine, 'demo/orders-ro')
    const list = await ci.as(mine, 'get', `/v1/credentials?task=${theirs.task}`)
    expect(list.body).toMatchObject({ next: null })
    expect(list.body.credentials.every((c: { task: string }) => c.task === mine.task)).toBe(true)
    expect(list.body.credentials).toHaveLength(1)
  })
  it('T69 H26 a workload token is refused on operator routes, and an operator token on workload routes', async () => {
    expect((await ci.as(mine, 'post', '/v1/revocations', { selector: { task: theirs.task } })).status).toBe(401)
    const admin = await house.operator('admin')
    const asOperator = await http().post(`/v1/tasks/${mine.task}/complete`).set('Authorization', `Bearer ${admin}`).send({})
    expect(asOperator.status).toBe(401)
    expect((await http().get('/v1/revocations').set('Authorization', `Bearer ${admin}`)).status).toBe(200)
    expect((await http().get('/v1/revocations')).status).toBe(401)
  })
  it('T69 T16 an access token is no task token, and a task token is no access token', async () => {
    const issued = (await ci.credential(mine, 'demo/orders-ro')).body.secret.token
    expect((await ci.as({ task: mine.task, token: issued }, 'post', `/v1/tasks/${mine.task}/complete`, {})).status).toBe(401)
    expect((await introspect(house, mine.token)).body).toEqual({ active: false })
    expect((await introspect(house, issued)).body.active).toBe(true)
  })
  it('T16 our own tokens are no evidence', async () => {
    expect((await ci.open({ subject_token: mine.token })).body).toMatchObject({ reason: 'issuer_unknown' })
  })
  it('an auditor may look and not act', async () => {
    const auditor = await house.operator('auditor')
    const body = { selector: { task: mine.task } }
    expect((await http().post('/v1/revocations').set('Authorization', `Bearer ${auditor}`).send(body)).body).toMatchObject({
      status: 403,
      reason: 'role_insufficient',
    })
    const responder = await house.operator('responder')
    expect((await http().post('/v1/revocations').set('Authorization', `Bearer ${responder}`).send(body)).status).toBe(202)
  })
  it('introspection needs the secret of a registered server, and absence looks like a wrong secret', async () => {
    const wrong = await introspect(house, 'x', 'orders', 'wrong')
    const unknown = await introspect(house, 'x', 'nobody', 'wrong')
    expect(wrong.status).toBe(401)
    expect({ ...wrong.body, request_id: '' }).toEqual({ ...unknown.body, request_id: '' })
    expect((await introspect(house, 'x')).body).toEqual({ active: false })
  })
  it('RFC 7009 the holder gives a bound token back with its key, and without the key it is refused', async () => {
    const held = await ci.opened()
    const token = (await ci.credential(held, 'demo/orders-ro')).body.secret.token
    const send = (proof: string) => http().post('/oauth2/revoke').type('form').set('DPoP', proof).send({ token })
    expect((await send(await stranger.proof('POST', '/oauth2/revoke', token))).body).toMatchObject({ error: 'unauthorized_client', reason: 'another_client' })
    expect((await introspect(house, token)).body.active).toBe(true)
    expect((await send(await ci.proof('POST', '/oauth2/revoke', token))).status).toBe(200)
    expect((await introspect(house, token)).body).toEqual({ active: false })
    expect((await http().post('/oauth2/revoke').type('form').send({ token: 'unknown' })).status).toBe(200)
  })
})

describe('H30 signals', () => {
  const event = () => ({
    id: randomBytes(8).toString('hex'),
    type: 'token.leaked',
    severity: 'high',
    subject: { identity: 'github:repository_id=456789000' },
    occurred_at: '2026-01-01T00:00:00Z',
  })
  const send = async ({ headers, text }: ReturnType<House['signal']>, body = text) => http().post('/v1/signals').set(headers).send(body)

  it('a wrong key, an altered body, an old signature and an unknown source are refused; the plain one is accepted', async () => {
    expect((await send(house.signal(event(), { secret: 'wrong' }))).body).toMatchObject({ status: 401, reason: 'signature_invalid' })
    const signed = house.signal(event())
    expect((await send(signed, signed.text.replace('high', 'low'))).body).toMatchObject({ status: 401, reason: 'signature_invalid' })
    expect((await send(house.signal(event(), { at: house.now() - 400 }))).body).toMatchObject({ status: 401, reason: 'signature_old' })
    expect((await send({ ...signed, headers: { ...signed.headers, 'Curfew-Source': 'nobody' } })).body).toMatchObject({ status: 401, reason: 'source_unknown' })
    expect((await send(signed)).status).toBe(202)
  })

  it('P73 P74 about what is not ours nothing is done, and about what it may not speak of a source is refused', async () => {
    const unknown = await send(house.signal({ ...event(), subject: { identity: 'elsewhere:job=7' } }))
    expect(unknown.status).toBe(202)
    expect(unknown.body.signal).toMatchObject({ rule: null, act: null, revocation: null })
    const outside = { ...house.signal(event()) }
    outside.headers['Curfew-Source'] = 'narrow'
    expect((await send(outside)).body).toMatchObject({ status: 403, code: 'forbidden', reason: 'signal_out_of_scope' })
  })
})

describe('bodies and paths', () => {
  it('H01 one byte too many is refused, the limit itself is read', async () => {
    const fits = JSON.stringify({ x: 'a'.repeat(16_384 - 8) })
    expect(fits).toHaveLength(16_384)
    expect((await post('/v1/tasks', fits)).body).toMatchObject({ status: 400, reason: 'invalid_field' })
    const answer = await post('/v1/tasks', `${fits} `)
    expect(answer.status).toBe(413)
    expect(answer.body).toMatchObject({ reason: 'body_too_large' })
  })
  it('H03 other types, repeated parameters and nested names are refused', async () => {
    expect((await post('/v1/tasks', '<a/>', { 'Content-Type': 'application/xml' })).status).toBe(415)
    expect((await post('/v1/tasks', 'a=b', { 'Content-Type': 'application/x-www-form-urlencoded' })).status).toBe(415)
    const form = async (text: string) => http().post('/oauth2/token').set('Content-Type', 'application/x-www-form-urlencoded').send(text)
    expect((await form('grant_type=a&grant_type=b')).body).toMatchObject({ error: 'invalid_request', reason: 'parameter_repeated', field: 'grant_type' })
    expect((await form('grant_type[]=a')).body).toMatchObject({ error: 'invalid_request', reason: 'invalid_field', field: 'grant_type' })
    // Another name is another parameter, and one that nobody knows is ignored (RFC 6749 section 3.2).
    expect((await form('grant_type=a&grant_type[]=password')).body).toMatchObject({ error: 'unsupported_grant_type' })
    expect((await form('grant_type=password')).body).toMatchObject({ error: 'unsupported_grant_type' })
  })
  it('H04 T21 a member twice, too deep, a prototype, trailing bytes', async () => {
    expect((await post('/v1/tasks', '{"purpose":"a","purpose":"b"}')).body).toMatchObject({ status: 400, reason: 'duplicate_member' })
    expect((await post('/v1/tasks', '{"purpose":"a","\\u0070urpose":"b"}')).body).toMatchObject({ status: 400, reason: 'duplicate_member' })
    expect((await post('/v1/tasks', '['.repeat(8_000))).body).toMatchObject({ status: 400, reason: 'too_deep' })
    expect((await post('/v1/tasks', '{"__proto__":{"x":1}}')).body).toMatchObject({ status: 400, code: 'malformed' })
    expect((await post('/v1/tasks', '{} {}')).body).toMatchObject({ status: 400, reason: 'not_json' })
    expect((Object.prototype as Record<string, unknown>).x).toBeUndefined()
  })
  it('H09 a compressed body is refused', async () => {
    expect((await post('/v1/tasks', '{}', { 'Content-Encoding': 'gzip' })).body).toMatchObject({ status: 400, reason: 'content_encoding' })
  })
  it('names the field and the rule, and never the value', async () => {
    const canary = 'canary-4f1d'
    for (const [body, field] of [
      [{ ...task('x'), extra: canary }, 'extra'],
      [{ ...task('x'), life_seconds: canary }, 'life_seconds'],
      [{ ...task('x'), capabilities: [`${canary}//`] }, 'capabilities.0'],
      [{ ...task('x'), labels: { [`${canary}!`]: 'x' } }, `labels.${canary}!`],
      [{ ...task('x'), purpose: `${canary}\u202e` }, 'purpose'],
    ] as const) {
      const answer = await post('/v1/tasks', body)
      expect(answer.status).toBe(400)
      if (field !== `labels.${canary}!`) {
        expect(answer.body.field).toBe(field)
        expect(JSON.stringify(answer.body)).not.toContain(canary)
      }
    }
  })
  it('H19 case, slashes, dots, methods and queries that are not exactly a route are no route', async () => {
    for (const path of ['/V1/tasks', '/v1/tasks/', '//v1/tasks', '/v1/./tasks', '/v1/%2e/tasks', '/v1/tasks;x'])
      expect((await post(path, task('x'))).status).toBe(404)
    expect((await http().put('/v1/tasks').send({})).status).toBe(404)
    expect((await http().get('/v1/tasks').set('X-HTTP-Method-Override', 'POST')).status).toBe(404)
    expect((await http().get('/livez?x=1')).body).toMatchObject({ status: 400, field: 'query' })
    expect((await http().get('/livez')).status).toBe(200)
  })
  it('H19 H22 a path that cannot be decoded is told as a problem, not by a stack', async () => {
    for (const path of ['/v1/plans/%E0%A4%A', '/v1/tasks/%FF/complete', '/v1/credentials/%', '/v1/forward-auth/envoy/%C3%28', '/e/%ff']) {
      const method = path.endsWith('complete') ? 'post' : 'get'
      const answer = await http()[method](path)
      expect(answer.status, path).toBe(400)
      expect(answer.headers['content-type'], path).toMatch(/^application\/problem\+json/)
      expect(answer.body, path).toMatchObject({ code: 'malformed', reason: 'path_malformed', field: 'path' })
      expect(answer.text, path).not.toMatch(/node_modules|decodeURIComponent|Error/)
    }
    // The twin: the same door, spelled with an escape that means something.
    expect((await http().get('/e/%6Dalformed')).status).toBe(200)
  })
  it('H22 our own failure says nothing but its number', async () => {
    const { tasks } = house.app.store
    const open = tasks.open
    Object.assign(tasks, { open: () => Promise.reject(new TypeError('relation "curfew.tasks" at 10.0.0.7')) })
    try {
      const answer = await ci.open()
      expect(answer.status).toBe(500)
      expect(answer.body).toEqual({ type: 'about:blank', status: 500, request_id: answer.headers['x-request-id'], agent_action: 'stop' })
    } finally {
      Object.assign(tasks, { open })
    }
    expect((await ci.open()).status).toBe(201)
  })
  it('H21 a request id is taken over only when it is plain', async () => {
    expect((await http().get('/livez').set('X-Request-ID', 'build-1234567')).headers['x-request-id']).toBe('build-1234567')
    expect((await http().get('/livez').set('X-Request-ID', 'a b {"x"}')).headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/)
  })
  it('T07 T60 T61 capability names and identities are compared as they are', async () => {
    for (const name of ['Demo/orders-ro', 'demo/orders-ro ', 'demo/orders‐ro', 'demo/orders-ro\u0000', 'DEMO/ORDERS-RO', '__proto__', 'constructor']) {
      const answer = await ci.open({ capabilities: [name] })
      expect(answer.status).toBeGreaterThanOrEqual(400)
      expect(answer.status).toBeLessThan(500)
    }
  })
})

describe('vectors from outside', () => {
  const data = vectors()

  it.skipIf(data === null)(`H04 JSONTestSuite as request bodies: no crash, no 500${data === null ? ' (skipped: the vectors are not here)' : ''}`, async () => {
    const dir = join(data as string, 'json-test-suite', 'test_parsing')
    for (const name of readdirSync(dir)) {
      const bytes = readFileSync(join(dir, name))
      if (bytes.length > 16_384) continue
      const answer = await http()
        .post('/v1/decisions:explain')
        .set('Content-Type', 'application/json')
        .serialize(b => b)
        .send(bytes.toString('latin1'))
      expect([name, answer.status]).toEqual([name, 400])
    }
  })
  it.skipIf(data === null)(
    `H05 naughty strings in every text: refused by name or taken as they are${data === null ? ' (skipped: the vectors are not here)' : ''}`,
    async () => {
      const strings = JSON.parse(readFileSync(join(data as string, 'naughty-strings', 'blns.json'), 'utf8')) as string[]
      const held = { plain: 0, refused: 0 }
      for (const text of strings) {
        const answer = await ci.open({ purpose: text, labels: { note: text }, owner: text })
        expect([201, 400]).toContain(answer.status)
        if (answer.status === 201) {
          held.plain++
          expect(answer.body.task.purpose).toBe(text)
          expect(answer.body.task.labels.note).toBe(text)
        } else {
          held.refused++
          expect(answer.body.code).toBe('malformed')
        }
      }
      expect(held.plain).toBeGreaterThan(300)
      expect(held.refused).toBeGreaterThan(20)
    },
    60_000,
  )
  it('P-resource an unknown resource, and one that no capability is for', async () => {
    const details = JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'x', capabilities: ['demo/orders-ro'] }])
    const ask = async (resource: string) => ci.exchange({ subject_token: await house.evidence(), resource, authorization_details: details })
    expect((await ask('https://nobody.example/')).body).toMatchObject({ error: 'invalid_target', reason: 'resource_unknown' })
    expect((await ask('https://legacy.example/')).body).toMatchObject({ error: 'invalid_target', reason: 'resource_ambiguous' })
    expect((await ask(ORDERS)).status).toBe(200)
  })
})
