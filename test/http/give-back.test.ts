/** Giving tokens back (RFC 7009; standards.md 1.6, 2.2.13, P64, T58): the client of a token and nobody else, every kind that we issue, and all that hangs below. */
import supertest, { type Response } from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, type Held, introspect } from '../caller.js'
import { childOf, DB, delegationHouse, granted, identityOf, openAs, RO } from '../delegation.js'
import { type House, SERVER } from '../house.js'

let house: House
let ci: Caller
let child: Caller
let stranger: Caller

beforeAll(async () => {
  house = await delegationHouse()
  ;[ci, child, stranger] = await Promise.all([caller(house), caller(house), caller(house)])
})
afterAll(() => house?.close())

const PATH = '/oauth2/revoke'
const give = async (by: Caller | null, token: string, form: Record<string, string> = {}): Promise<Response> => {
  const request = supertest(house.http).post(PATH).type('form')
  if (by) request.set('DPoP', await by.proof('POST', PATH, token))
  return request.send({ token, ...form }) as unknown as Promise<Response>
}
/** Authenticated by a task token. */
const giveAs = async (by: Caller, held: Held, token: string, form: Record<string, string> = {}): Promise<Response> =>
  supertest(house.http)
    .post(PATH)
    .type('form')
    .set('Authorization', `DPoP ${held.token}`)
    .set('DPoP', await by.proof('POST', PATH, held.token))
    .send({ token, ...form }) as unknown as Promise<Response>
const word = ({ status, body }: Response) => [status, body.error ?? 'done', ...(body.reason ? [body.reason] : [])].join(' ')
const opened = (repository = 1, by = ci) => openAs(house, by, repository, { capabilities: [RO, DB], life_seconds: 3_600 })
const tokenOf = async (held: Held, by = ci) => (await by.credential(held, RO)).body.secret.token as string
const isLive = async (token: string) => (await introspect(house, token)).body.active as boolean
const stateOf = async (held: Held) => (await house.app.store.tasks.get(held.task as never))?.state
const rows = async () => (await house.audits()).map(r => r.reason)

describe('an access token', () => {
  it('is given back by the key it is bound to, at once, and a second time as if it were the first', async () => {
    const held = await opened()
    const token = await tokenOf(held)
    const done = await give(ci, token)
    expect([word(done), done.text]).toEqual(['200 done', ''])
    expect(await isLive(token)).toBe(false)
    expect(word(await give(ci, token))).toBe('200 done')
    // The task goes on.
    expect(await stateOf(held)).toBe('open')
    expect(await isLive(await tokenOf(held))).toBe(true)
  })
  it('of another client is refused and told in the audit: by another key, by another name', async () => {
    const token = await tokenOf(await opened())
    expect(word(await give(stranger, token))).toBe('400 unauthorized_client another_client')
    expect((await rows())[0]).toBe('another_client')
    expect(word(await give(ci, token, { client_id: identityOf(2) }))).toBe('400 unauthorized_client another_client')
    expect(word(await give(null, token))).toBe('400 invalid_dpop_proof proof_missing')
    expect(await isLive(token)).toBe(true)
    expect(word(await give(ci, token, { client_id: identityOf(1) }))).toBe('200 done')
    expect(await isLive(token)).toBe(false)
  })
  it('a hint is a hint (section 2.1), and what is not recognised is ignored', async () => {
    const held = await opened()
    for (const token_type_hint of ['refresh_token', 'access_token', 'urn:nothing']) {
      const token = await tokenOf(held)
      expect(word(await give(ci, token, { token_type_hint, x: '1' }))).toBe('200 done')
      expect(await isLive(token)).toBe(false)
    }
  })
})

describe('a task token', () => {
  it('P64 ends its task and all below it, whoever holds that', async () => {
    const held = await opened()
    const below = await childOf(house, ci, held, child, 2)
    const [own, beneath] = [await tokenOf(held), await tokenOf(below, child)]
    expect(word(await give(ci, held.token))).toBe('200 done')
    expect([await stateOf(held), await stateOf(below)]).toEqual(['revoked', 'revoked'])
    expect([await isLive(own), await isLive(beneath)]).toEqual([false, false])
    expect(word(await give(ci, held.token))).toBe('200 done')
  })
  it('of another client is refused', async () => {
    const held = await opened()
    expect(word(await give(stranger, held.token))).toBe('400 unauthorized_client another_client')
    expect(word(await give(null, held.token))).toBe('400 invalid_dpop_proof proof_missing')
    expect(await stateOf(held)).toBe('open')
    expect(word(await give(ci, held.token))).toBe('200 done')
  })
})

describe('a client that authenticates by its task token', () => {
  it('gives back what its task and those below hold, without the proof of their keys, and nothing of others', async () => {
    const [held, other] = [await opened(), await opened(2, stranger)]
    const below = await childOf(house, ci, held, child, 3)
    const [own, beneath, foreign] = [await tokenOf(held), await tokenOf(below, child), await tokenOf(other, stranger)]
    for (const token of [foreign, other.token]) expect(word(await giveAs(ci, held, token))).toBe('400 unauthorized_client another_client')
    // Upwards it reaches as little.
    expect(word(await giveAs(child, below, own))).toBe('400 unauthorized_client another_client')
    expect([await isLive(own), await isLive(foreign), await stateOf(other)]).toEqual([true, true, 'open'])
    expect(word(await giveAs(ci, held, beneath))).toBe('200 done')
    expect(word(await giveAs(ci, held, below.token))).toBe('200 done')
    expect([await isLive(beneath), await stateOf(below), await isLive(own)]).toEqual([false, 'revoked', true])
    expect(word(await giveAs(ci, held, held.token))).toBe('200 done')
    expect(await isLive(own)).toBe(false)
  })
  it('must be it: another key, no token of ours, another way', async () => {
    const held = await opened()
    const token = await tokenOf(held)
    expect(word(await giveAs(stranger, held, token))).toBe('400 invalid_dpop_proof key_mismatch')
    const bad = await giveAs(ci, { ...held, token: `${held.token}x` }, token)
    expect([bad.status, bad.body.error, bad.headers['www-authenticate']]).toEqual([401, 'invalid_client', expect.stringMatching(/^DPoP error="invalid_token"/)])
    const basic = await supertest(house.http).post(PATH).auth('orders', 'x').type('form').send({ token })
    expect([word(basic), basic.headers['www-authenticate']]).toEqual(['401 invalid_client authorization_refused', 'Basic realm="curfew"'])
    // Also where there is nothing to end: the client comes first (section 2.1).
    expect(word(await giveAs(stranger, held, 'unknown'))).toBe('400 invalid_dpop_proof key_mismatch')
    expect(await isLive(token)).toBe(true)
    expect(word(await giveAs(ci, held, token))).toBe('200 done')
  })
  it('T43 its proof is good once, also when nothing was ended by it', async () => {
    const held = await opened()
    const proof = await ci.proof('POST', PATH, held.token)
    const send = () =>
      supertest(house.http)
        .post(PATH)
        .type('form')
        .set({ Authorization: `DPoP ${held.token}`, DPoP: proof })
        .send({ token: 'unknown' })
    expect(word((await send()) as unknown as Response)).toBe('200 done')
    expect(word((await send()) as unknown as Response)).toBe('400 invalid_dpop_proof replayed')
  })
})

describe('what cannot be given back', () => {
  it('a grant: unsupported_token_type, since it ends with the task above; the task above can be', async () => {
    const held = await opened()
    const grant = await granted(ci, held, { to: { identity: identityOf(2) } })
    expect(word(await give(null, grant))).toBe('400 unsupported_token_type token_kind_refused')
    expect(word(await give(ci, held.token))).toBe('200 done')
  })
  it('what is none of ours is answered like success (section 2.2): no word of what there is', async () => {
    const held = await opened()
    const forged = `${held.token.split('.').slice(0, 2).join('.')}.${'A'.repeat(86)}`
    const before = await rows()
    for (const token of ['unknown', 'a.b.c', forged, await house.evidence(), await ci.proof('POST', PATH)]) {
      const answer = await give(ci, token)
      expect([answer.status, answer.text]).toEqual([200, ''])
    }
    expect(await rows()).toEqual(before)
    expect(await stateOf(held)).toBe('open')
  })
  it('the metadata says who may ask, and how', async () => {
    const { body } = await supertest(house.http).get('/.well-known/oauth-authorization-server')
    expect(body).toMatchObject({ revocation_endpoint: SERVER + PATH, revocation_endpoint_auth_methods_supported: ['none'] })
  })
})
