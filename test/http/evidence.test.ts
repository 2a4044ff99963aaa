/** `POST /v1/evidence:explain`: what a workload is here and what it may ask for, before it asks; nothing is issued and nothing used up. */
import supertest, { type Response } from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { CiProvider } from '../../src/dev/ci-tokens.js'
import { type Caller, caller } from '../caller.js'
import type { House } from '../house.js'
import { ciHouse, ciToken, rulesFor } from '../providers.js'

const PATH = '/v1/evidence:explain'
let house: House
let ci: Caller

const CAPABILITIES = [
  { name: 'ci/slow', summary: 'evidence of ten seconds', engine: 'jwt', audience: 'orders', intent: 'read', maxEvidenceAgeSeconds: 10 },
  { name: 'ci/labelled', summary: 'for a team', engine: 'jwt', audience: 'orders', intent: 'read' },
  { name: 'ci/proved', summary: 'a proof where none can be shown', engine: 'jwt', audience: 'legacy', intent: 'read' },
]

beforeAll(async () => {
  house = await ciHouse({
    policies: `${rulesFor('demo/orders-ro')}${rulesFor('ci/slow')}
${rulesFor('demo/orders-bearer', ['gitlab']).replace('permit', '@max_ttl("2m") permit')}
${rulesFor('demo/orders-db', ['gitlab']).replace(' };', ' && context.ttl <= 60 };')}
${rulesFor('ci/labelled', ['gitlab']).replace(' };', ' && context.labels.contains("team=data") };')}
${rulesFor('ci/proved', ['gitlab']).replace('permit', '@require_proof("true") permit')}`,
    issuers: { gitlab: { maxTtlSeconds: 600, owner: '@orders', strength: 3 } },
    capabilities: CAPABILITIES,
  })
  ci = await caller(house)
})
afterAll(() => house?.close())

const ask = async (subject_token: string, more: object = {}, by: Caller | null = ci): Promise<Response> => {
  const request = supertest(house.http).post(PATH)
  if (by) request.set('DPoP', await by.proof('POST', PATH))
  return request.send({ subject_token, ...more })
}
const names = (answer: Response) => (answer.body.capabilities as { name: string }[]).map(c => c.name)
const rows = async () => Number((await house.audits())[0]?.id ?? 0)

describe('who am I', () => {
  it('the broker tells what it verified, and all that policy sees', async () => {
    const before = await rows()
    const answer = await ask(await ciToken(house, 'gitlab', { pipeline_id: '574', job_id: '302' }))
    expect([answer.status, answer.headers['cache-control']]).toEqual([200, 'no-store'])
    expect(answer.body.evidence).toMatchObject({
      identity: 'gitlab:project_id=20',
      issuer: 'gitlab',
      profile: 'gitlab',
      owner: '@orders',
      strength: 3,
      attributes: { ref_path: 'refs/heads/main', pipeline_source: 'push' },
      run: 'gitlab:20:574:302',
      replay: 'bounded',
      use: 'unused',
      jkt: ci.jkt,
    })
    expect(answer.body.evidence.attributes).not.toHaveProperty('user_email')
    expect(Math.abs(Date.parse(answer.body.now) - house.now() * 1000)).toBeLessThan(5_000)
    expect(await rows()).toBe(before)
  })

  it.each(['github', 'buildkite', 'circleci'] as CiProvider[])('of %s as well, and without a proof nobody’s key is told', async provider => {
    const answer = await ask(await ciToken(house, provider), {}, null)
    expect(answer.body.evidence).toMatchObject({ profile: provider, jkt: null, use: 'unused' })
  })

  it('what became of bounded evidence: tied to this key, to another, and used for whoever shows none', async () => {
    const token = await ciToken(house, 'gitlab')
    expect((await ci.open({ subject_token: token })).status).toBe(201)
    const use = async (by: Caller | null) => (await ask(token, {}, by)).body.evidence.use
    expect([await use(ci), await use(await caller(house)), await use(null)]).toEqual(['bound', 'bound_elsewhere', 'used'])
  })

  it('and of evidence that is good once; of an agent that states itself; looking uses neither up', async () => {
    const token = await ciToken(house, 'github')
    for (let i = 0; i < 3; i++) expect((await ask(token)).body.evidence.use).toBe('unused')
    expect((await ci.open({ subject_token: token })).status).toBe(201)
    expect((await ask(token)).body.evidence.use).toBe('used')
    expect((await ask(await house.agentAssertion())).body.evidence).toMatchObject({ profile: 'registered', strength: 1 })
  })

  it.each([
    ['evidence of nobody', async () => 'a.b.c', 'issuer_unknown'],
    ['evidence for another', async () => ciToken(house, 'gitlab', { aud: 'https://vault.example' }), 'audience_mismatch'],
    ['evidence that has ended', async () => ciToken(house, 'gitlab', { iat: house.now() - 4_000, exp: house.now() - 400 }), 'expired'],
  ])('%s is refused like everywhere, and the row says so', async (_what, token, reason) => {
    const answer = await ask(await token())
    expect(answer.body).toMatchObject({ status: 401, code: 'attestation_refused', reason })
    for (const told of ['evidence', 'capabilities', 'identity']) expect(answer.body).not.toHaveProperty(told)
    expect((await house.audits('attestation.refused'))[0]).toMatchObject({ reason })
  })

  it('a proof that is none is refused, and one of another path too', async () => {
    const token = await ciToken(house, 'gitlab')
    const shown = async (proof: string) => (await supertest(house.http).post(PATH).set('DPoP', proof).send({ subject_token: token })).body
    expect(await shown('a.b.c')).toMatchObject({ code: 'proof_refused' })
    expect(await shown(await ci.proof('POST', '/v1/tasks'))).toMatchObject({ code: 'proof_refused', reason: 'htu_mismatch' })
    expect((await ask(token, { capability: 'x' })).body).toMatchObject({ reason: 'unknown_field', field: 'capability' })
  })
})

describe('what may I ask for', () => {
  it('what policy permits, with the ceilings that remain; what it does not, also for its life alone or for want of a proof, is not there', async () => {
    const answer = await ask(await ciToken(house, 'gitlab'))
    expect(names(answer)).toEqual(['demo/orders-ro', 'demo/orders-bearer', 'ci/slow'])
    const [bound, bearer] = answer.body.capabilities
    // The issuer's ceiling; then the rule's, which is below the five minutes of a bearer token.
    expect(bound).toMatchObject({ ttl_seconds: 300, max_ttl_seconds: 600, revocation: 'instant', evidence: 'sufficient', require_proof: false, intent: 'read' })
    expect(bearer).toMatchObject({ ttl_seconds: 120, max_ttl_seconds: 120 })
  })

  it('names, and values of rules, of what it may not have are not told', async () => {
    const answer = await ask(await ciToken(house, 'gitlab', { ref_path: 'refs/heads/x', ref: 'x' }))
    expect(answer.body.capabilities).toEqual([])
    expect(answer.text).not.toMatch(/demo|ci-|orders-ro|456789/)
    expect(names(await ask(await ciToken(house, 'github')))).toEqual(['demo/orders-ro', 'ci/slow'])
  })

  it('a label that opens a rule opens it here', async () => {
    const token = await ciToken(house, 'gitlab')
    expect(names(await ask(token, { labels: { team: 'data' } }))).toContain('ci/labelled')
    expect(names(await ask(token, { labels: { team: 'other' } }))).not.toContain('ci/labelled')
  })

  it('evidence that is too old for one of them is told, as asking for it would be', async () => {
    const token = await ciToken(house, 'gitlab', { iat: house.now() - 30, nbf: house.now() - 30, exp: house.now() + 3_000 })
    const answer = await ask(token)
    const of = (name: string) => (answer.body.capabilities as { name: string; evidence: string }[]).find(c => c.name === name)?.evidence
    expect([of('demo/orders-ro'), of('ci/slow')]).toEqual(['sufficient', 'stale'])
    const held = await ci.opened({ subject_token: token, capabilities: ['ci/slow', 'demo/orders-ro'] })
    expect((await ci.credential(held, 'ci/slow')).body).toMatchObject({ code: 'attestation_stale', reason: 'evidence_stale' })
    expect((await ci.credential(held, 'demo/orders-ro')).status).toBe(201)
  })

  it('every one that is offered is granted for its longest life, and no longer', async () => {
    for (const provider of ['github', 'gitlab', 'buildkite', 'circleci'] as CiProvider[]) {
      const { body } = await ask(await ciToken(house, provider))
      for (const offer of body.capabilities as { name: string; max_ttl_seconds: number }[]) {
        const ttl_seconds = offer.max_ttl_seconds
        const held = await ci.opened({ subject_token: await ciToken(house, provider), capabilities: [offer.name], life_seconds: 7_200 })
        const answer = await ci.credential(held, offer.name, { ttl_seconds })
        expect([provider, offer.name, answer.status]).toEqual([provider, offer.name, 201])
        const { issued_at, expires_at } = answer.body.credential
        expect((Date.parse(expires_at) - Date.parse(issued_at)) / 1000).toBe(ttl_seconds)
        const longer = (await ci.credential(held, offer.name, { ttl_seconds: ttl_seconds + 60 })).body.credential
        expect((Date.parse(longer.expires_at) - Date.parse(longer.issued_at)) / 1000).toBe(ttl_seconds)
      }
    }
  })
})
