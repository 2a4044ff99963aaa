import { decodeJwt } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { compose } from '../../src/compose.js'
import { createApp } from '../../src/http/app.js'
import { createLog } from '../../src/log.js'
import { doorsOf } from '../../src/serve.js'
import { type Caller, caller, type Held } from '../caller.js'
import { GITHUB, type House } from '../house.js'
import {
  accepted,
  allRefused,
  at,
  build,
  CAPABILITY,
  closeDoors,
  DOORS,
  type Door,
  es,
  explainDoor,
  held,
  http,
  issuer,
  keySet,
  newRequest,
  openDoors,
  parties,
  refusal,
  renewDoor,
  rs,
  tasksDoor,
  tokenDoor,
} from './entrances.js'
import { EVIDENCE, evidenceOf, jwkOf, type Party } from './forge.js'

/** Evidence at every door that takes it (security.md 5): exact status, code and reason, one audit row, nothing sent out; and a twin that succeeds. */
let house: House
let ci: Caller

beforeAll(async () => {
  ;({ house, ci } = await openDoors())
})
afterAll(closeDoors)

describe('evidence, at every door that takes it, of issuers with ES256, RS256 and EdDSA', () => {
  it.each(EVIDENCE.map((c, i) => [c.id, c, i] as const))('%s', async (_id, c, i) => {
    const refused = refusal(c.code ?? 'attestation_refused', c.reason)
    await allRefused(parties.flatMap(p => DOORS.map(door => at(door, c.build(p, house.now()), p.name, refused))))
    const twin = c.twin ?? evidenceOf
    // A twin for each issuer: one at a door that acts, in turn, the others where nothing is written.
    await Promise.all(parties.map((p, j) => accepted(j === i % 3 ? (DOORS[i % DOORS.length] as Door) : explainDoor, twin(p, house.now()), p.name)))
  })

  const of = (name: string) => ({ ...es, name: 'es', issuer: `https://${name}.example` }) satisfies Party
  it('T08 two keys under one kid: none of them is used; the twin has two names', async () => {
    const text = (name: string) => evidenceOf(of(name), house.now())
    await allRefused(DOORS.map(door => at(door, text('twice'), 'es', refusal('attestation_refused', 'key_ambiguous'))))
    for (const door of [tasksDoor, tokenDoor, explainDoor]) await accepted(door, text('two'), 'es')
  })
  it('T29 the issuer is disabled, or deleted from the configuration; the twin is a house that knows it', async () => {
    const there = await build(true)
    try {
      const pair = { house: there, ci: await caller(there) }
      for (const name of ['off', 'gone']) {
        await allRefused(DOORS.map(door => at(door, evidenceOf(of(name), house.now()), 'es', refusal('attestation_refused', 'issuer_unknown'))))
        for (const door of [tasksDoor, tokenDoor, explainDoor])
          expect((await door.send(evidenceOf(of(name), there.now()), 'es', newRequest(), CAPABILITY, pair)).status).toBe(door.ok)
      }
    } finally {
      await there.close()
    }
  })
  it('T29 the issuer is disabled while a task of it runs: the task gets nothing new; the twin is a start with the issuer enabled', async () => {
    const { config, store } = house.app
    for (const enabled of [true, false]) {
      const issuers = config.issuers.map(i => (i.name === 'es' ? { ...i, enabled } : i))
      const shared = Object.assign(Object.create(store) as typeof store, { close: async () => {} })
      const again = await compose({ ...config, issuers }, { log: createLog({ level: 'silent' }), store: async () => shared })
      try {
        const { task, token } = held.get('es') as Held
        const path = `/v1/tasks/${task}/credentials`
        const answer = await http({ ...house, http: createApp(doorsOf(again, house.feed)) })
          .post(path)
          .set('Authorization', `DPoP ${token}`)
          .set('DPoP', await ci.proof('POST', path, token))
          .send({ capability: CAPABILITY })
        expect([enabled, answer.status < 300]).toEqual([enabled, enabled])
      } finally {
        await again.close()
      }
    }
  })
  it('T29 the issuer is registered twice under one URL: refused at load, whichever is enabled', async () => {
    for (const more of [{}, { enabled: false }, { keys: keySet('other', [jwkOf(rs)]), algs: ['RS256'] }]) {
      const again = issuer('again', es.issuer, keySet('again', [jwkOf(es)]), ['ES256'], more)
      await expect(build(false, [again])).rejects.toMatchObject({
        code: 'malformed',
        facts: { reason: 'config_invalid' },
        message: expect.stringContaining(`is registered twice: ${es.issuer}`),
      })
    }
  })
  it.each([
    ...[
      'Demo/orders-ro',
      'DEMO/ORDERS-RO',
      'demo/orders-ro ',
      'demo/orders\u2010ro',
      'd\u0435mo/orders-ro',
      'demo\uff0forders-ro',
      'demo/orders-ro\u0000',
      'demo//orders-ro',
    ].map(n => [n, false] as const),
    ...['*', 'demo/*', '__proto__', '../demo/orders-ro', ''].map(n => [n, false] as const),
    ...['root', 'admin', 'constructor', 'default', 'demo', 'demo/root', 'demo/orders-ro/x', 'demo/orders'].map(n => [n, true] as const),
  ])('T63 the capability %j', async (name, shaped) => {
    const refused = shaped ? refusal('capability_unknown', 'capability_unknown') : refusal('malformed', 'invalid_field')
    const turn = (j: number) => parties[(j + name.length) % 3] as Party
    await allRefused(
      DOORS.map((door, j) => ({
        ...at(door, '', turn(j).name, refused),
        word: 'invalid_authorization_details',
        send: id => door.send(evidenceOf(turn(j), house.now()), turn(j).name, id, name),
      })),
    )
    await accepted(DOORS[name.length % DOORS.length] as Door, evidenceOf(turn(0), house.now()), turn(0).name)
  })
  it.each(parties)('T44 used at one door and shown at another, or for another task, or to renew ($alg)', async p => {
    for (const first of [tasksDoor, tokenDoor, renewDoor]) {
      const token = evidenceOf(p, house.now())
      await accepted(explainDoor, token, p.name)
      await accepted(first, token, p.name)
      await allRefused([tasksDoor, tokenDoor, renewDoor].map(door => at(door, token, p.name, refusal('attestation_refused', 'replayed'))))
      await accepted(explainDoor, token, p.name)
    }
  })
  it.each(parties)('T44 of another workload, for a task of this one ($alg)', async p => {
    const foreign = evidenceOf(p.other(), house.now())
    await allRefused([
      at(renewDoor, foreign, p.name, refusal('attestation_refused', 'identity_mismatch')),
      at(renewDoor, evidenceOf(p, house.now(), { sub: 'job-8' }), p.name, refusal('attestation_refused', 'identity_mismatch')),
      at(renewDoor, await house.agentAssertion(), p.name, refusal('attestation_refused', 'identity_mismatch')),
    ])
    await accepted(renewDoor, foreign, p.other().name)
  })
  it.each(parties)('T13 T68 nothing inside a token is believed that the token itself does not say ($alg)', async p => {
    const inner = `${Buffer.from('{"alg":"none"}').toString('base64url')}.${Buffer.from(JSON.stringify({ iss: GITHUB, sub: 'root' })).toString('base64url')}.`
    const beside = {
      act: { sub: 'root' },
      id_token: inner,
      subject_token: inner,
      actor_token: evidenceOf(p.other(), house.now()),
      cnf: { jkt: 'x' },
      scope: 'admin',
      client_id: 'root',
      task: { id: 'x' },
    }
    const body = (await tasksDoor.send(evidenceOf(p, house.now(), beside), p.name)).body
    expect(body.task).toMatchObject({ identity: `${p.name}:sub=job-7`, issuer: p.name, owner: null, capabilities: [CAPABILITY] })
    expect(decodeJwt(body.token)).toMatchObject({ sub: `${p.name}:sub=job-7`, cnf: { jkt: ci.jkt } })
    // The inner text instead of the outer one is nothing at all.
    await allRefused(DOORS.map(door => at(door, inner, p.name, refusal('attestation_refused', 'malformed_token'))))
  })
})
