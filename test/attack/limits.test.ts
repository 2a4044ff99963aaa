/** Owns the attack of asking too much: by one, by many, under other spellings, and for too many different things. */
import supertest from 'supertest'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { limiter } from '../../src/domain/rate.js'
import { type Caller, caller, JWT_BEARER } from '../caller.js'
import { type House, makeHouse, SERVER } from '../house.js'

const IDENTITY = 'github:repository_id=456789'
const WIDE = Array.from({ length: 50 }, (_, i) => ({ name: `wide/c${i}`, summary: 'one of many', engine: 'memory', intent: 'read' }))
const details = JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'nightly report', capabilities: ['demo/orders-ro'] }])

describe('asking too often', () => {
  let house: House
  let ci: Caller
  let ms = 0

  beforeAll(async () => {
    house = await makeHouse({ more: { limits: { source: false, identity: { perSecond: 1, burst: 20 } } }, monotonic: () => ms })
    ci = await caller(house)
  })
  afterAll(() => house?.close())
  beforeEach(() => {
    ms += 3_600_000
  })

  it('H25 one identity a hundred times at once is served its share; the twins: another identity meanwhile, and itself after Retry-After', async () => {
    const evidence = await Promise.all(Array.from({ length: 100 }, () => house.evidence()))
    const answers = await Promise.all(evidence.map(subject_token => ci.open({ subject_token })))
    expect(answers.filter(a => a.status === 201)).toHaveLength(20)
    const refused = answers.filter(a => a.status === 429)
    expect(refused.map(a => a.body.reason)).toEqual(new Array(80).fill('identity_rate'))
    expect((await ci.open({ subject_token: await house.agentAssertion() })).status).toBe(201)
    ms += Number(refused[0]?.headers['retry-after']) * 1000
    const again = evidence[answers.findIndex(a => a.status === 429)]
    expect((await ci.open({ subject_token: again })).status).toBe(201)
    const told = (await house.audits('request.refused')).filter(a => a.reason === 'identity_rate')
    expect(told).toHaveLength(1)
  })

  it('H25 T46 evidence in other words, other order, of another run or at another door is of the same share; a twin of another workload has its own', async () => {
    const spellings: (() => Promise<number>)[] = [
      async () => (await ci.open()).status,
      async () => (await ci.open({ subject_token: await house.evidence({ ref: 'refs/heads/other', run_id: '1', actor: 'Dana' }) })).status,
      async () => (await ci.open({ subject_token: await house.evidence({ extra: { a: [1, 2, 3] }, sub: 'repo:ACME/Orders:ref:refs/heads/main' }) })).status,
      async () => (await ci.open({ subject_token: await reversed() })).status,
      async () => (await (await caller(house)).open()).status,
      async () => (await ci.exchange({ subject_token: await house.evidence(), authorization_details: details })).status,
      async () =>
        (await ci.exchange({ grant_type: JWT_BEARER, assertion: await house.evidence(), authorization_details: details, subject_token_type: '' })).status,
    ]
    const first: number[] = []
    for (let i = 0; i < 20; i++) first.push(await (spellings[i % spellings.length] as () => Promise<number>)())
    expect(first.filter(status => status === 429)).toEqual([])
    expect(await Promise.all(spellings.map(ask => ask()))).toEqual(spellings.map(() => 429))
    expect((await ci.open({ subject_token: await house.agentAssertion() })).status).toBe(201)
  })

  async function reversed(): Promise<string> {
    const claims = JSON.parse(Buffer.from((await house.evidence()).split('.')[1] as string, 'base64url').toString())
    return house.github.mint(Object.fromEntries(Object.entries(claims).reverse()))
  }
})

describe('asking for too much', () => {
  let house: House
  let ci: Caller
  let ms = 0

  /** As it is configured by nobody, but for what `more` says. */
  async function open(more: object = {}): Promise<void> {
    house = await makeHouse({ capabilities: WIDE, more: more as Record<string, unknown>, monotonic: () => ms })
    ci = await caller(house)
  }
  afterEach(() => house?.close())

  const sees = async () =>
    (
      await supertest(house.http)
        .get('/v1/signals')
        .set('Authorization', `Bearer ${await house.operator('auditor')}`)
    ).body.signals
  const askFor = async (from: number, to: number) => {
    const statuses: number[] = []
    for (let i = from; i < to; i++) statuses.push((await ci.open({ capabilities: [`wide/c${i}`] })).status)
    return statuses
  }

  it('H25 by the limits that nobody changed ten thousand in a second are held to burst and rate; the twin: ten thousand workloads, each once a second, are all served', async () => {
    await open()
    const { identity } = house.app.config.limits
    if (!identity) throw new Error('identities are limited by default')
    const one = limiter(identity)
    let served = 0
    for (let i = 0; i < 10_000; i++) if (one.take(IDENTITY, i / 10) === 0) served++
    expect(served).toBe(1_049)
    const many = limiter(identity)
    let refused = 0
    for (let second = 0; second < 30; second++) for (let i = 0; i < 10_000; i++) if (many.take(`w${i}`, second * 1000 + i / 10) > 0) refused++
    expect(refused).toBe(0)
  })

  it('H25 fifty capabilities in a minute, all denied, raise one signal, which without a rule is listed, and nothing else; the twin: few, or many slowly, raise none', async () => {
    await open({ signals: { sources: [], rules: [] } })
    for (let i = 0; i < 30; i++) {
      await askFor(i, i + 1)
      ms += 10_000
    }
    for (let i = 0; i < 30; i++) await askFor(i % 3, (i % 3) + 1)
    expect(await sees(), 'thirty within five minutes, or three all the time').toEqual([])
    ms += 60_000
    expect(await askFor(0, 50)).toEqual(new Array(50).fill(403))
    const signals = await sees()
    expect(signals).toHaveLength(1)
    expect(signals[0]).toMatchObject({
      source: 'curfew',
      type: 'curfew.breadth',
      severity: 'medium',
      subject: { identity: IDENTITY },
      detail: 'asked for 20 different capabilities within 60 seconds',
      rule: null,
    })
    expect((await house.audits('signal.received')).length).toBe(1)
    expect((await ci.open()).status, 'nothing was done').toBe(201)
  })

  it('H25 a rule makes of it a quarantine, which the very request meets; the twin: another workload goes on', async () => {
    await open({ signals: { sources: [], rules: [{ name: 'broad', source: 'curfew', type: 'curfew.breadth', act: { kind: 'quarantine', seconds: 600 } }] } })
    expect((await ci.open()).status).toBe(201)
    await askFor(0, 18)
    expect((await ci.open()).status, 'the nineteenth of them once more').toBe(201)
    const last = await ci.open({ capabilities: ['demo/orders-ro', 'demo/orders-bearer'] })
    expect(last.body).toMatchObject({ status: 403, reason: 'quarantined' })
    expect((await sees())[0]).toMatchObject({ rule: 'broad', quarantine: expect.any(String) })
    expect((await ci.open({ subject_token: await house.agentAssertion() })).status).toBe(201)
  })

  it('H25 explanations and the parts of a task count as well', async () => {
    await open()
    const explain = async (capability: string) =>
      supertest(house.http)
        .post('/v1/decisions:explain')
        .send({ subject_token: await house.evidence(), capability, purpose: 'a look' })
    for (let i = 0; i < 10; i++) expect((await explain(`wide/c${i}`)).status).toBe(200)
    expect(await sees()).toEqual([])
    const rest = WIDE.slice(10, 20).map(c => c.name)
    expect((await ci.open({ capabilities: rest })).status).toBe(403)
    expect(await sees()).toHaveLength(1)
  })

  it('H25 two replicas that see it make one signal', async () => {
    await open()
    await askFor(0, 20)
    const { breadth } = house.app.deps.limits
    Object.assign(house.app.deps.limits, { breadth: breadth && { ...breadth, of: { note: () => true } } })
    const [first] = await sees()
    await askFor(0, 1)
    const window = (at: string) => Math.floor(new Date(at).getTime() / 60_000)
    const all = await sees()
    expect(all.filter((s: { occurred_at: string }) => window(s.occurred_at) === window(first.occurred_at))).toHaveLength(1)
  })

  it('H25 a signal that cannot be raised stops nobody', async () => {
    await open({ limits: { breadth: { capabilities: 2 } } })
    Object.assign(house.app.store.signals, { accept: () => Promise.reject(new Error('not now')) })
    expect((await ci.open({ capabilities: ['demo/orders-ro', 'demo/orders-bearer'] })).status).toBe(201)
  })

  it('H30 nobody speaks as what Curfew sees itself; the twin: a registered source is heard', async () => {
    await open()
    const told = house.signal({ id: 'e', type: 'curfew.breadth', severity: 'high', subject: { identity: IDENTITY }, occurred_at: new Date().toISOString() })
    const send = (headers: object) =>
      supertest(house.http)
        .post('/v1/signals')
        .set(headers as Record<string, string>)
        .send(told.text)
    expect((await send({ ...told.headers, 'Curfew-Source': 'curfew' })).body).toMatchObject({ status: 401, reason: 'source_unknown' })
    expect((await send(told.headers)).status).toBe(202)
  })
})
