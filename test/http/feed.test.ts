/** The feed over real sockets: what stands, what follows, and that nothing is skipped between the two. */
import { createServer, type IncomingMessage, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { namedId } from '../../src/domain/ids.js'
import { type Caller, caller } from '../caller.js'
import { type House, makeHouse } from '../house.js'

let house: House
let responder: string
let admin: string
let ci: Caller
let key: string
let port: number
const server = createServer((req, res) => house.http(req, res))

beforeAll(async () => {
  house = await makeHouse()
  ;[responder, admin] = [await house.operator('responder'), await house.operator('admin')]
  ci = await caller(house)
  const added = await supertest(house.http).post('/v1/guards').set('Authorization', `Bearer ${admin}`).send({ name: 'orders' })
  expect(added.status).toBe(201)
  key = added.body.key
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  port = (server.address() as AddressInfo).port
})
afterAll(async () => {
  server.closeAllConnections()
  server.close()
  await house.close()
})

interface Event {
  readonly id: string | null
  readonly name: string
  // biome-ignore lint/suspicious/noExplicitAny: a test reads what the page documents
  readonly data: any
}

/** A bare client of server-sent events. */
function follow(headers: Record<string, string> = {}, instance = 'one') {
  const events: Event[] = []
  let ended = false
  let res: IncomingMessage | null = null
  const req = request({
    port,
    path: '/v1/feed',
    headers: { Authorization: `Bearer ${key}`, Accept: 'text/event-stream', 'Curfew-Guard-Instance': instance, ...headers },
  })
  const status = new Promise<number>(resolve =>
    req.on('response', answer => {
      res = answer
      let text = ''
      answer.on('data', chunk => {
        text += chunk
        for (let at = text.indexOf('\n\n'); at >= 0; at = text.indexOf('\n\n')) {
          const lines = text.slice(0, at).split('\n')
          text = text.slice(at + 2)
          const of = (name: string) => lines.find(l => l.startsWith(`${name}: `))?.slice(name.length + 2) ?? null
          events.push({ id: of('id'), name: of('event') as string, data: JSON.parse(of('data') ?? 'null') })
        }
      })
      answer.on('close', () => (ended = true))
      resolve(answer.statusCode as number)
    }),
  )
  req.on('error', () => {})
  req.end()
  return {
    status,
    events,
    named: (name: string) => events.filter(e => e.name === name),
    isEnded: () => ended,
    close() {
      res?.destroy()
      req.destroy()
    },
  }
}

const revoke = async (selector: object) =>
  (await supertest(house.http).post('/v1/revocations').set('Authorization', `Bearer ${responder}`).send({ selector })).body.revocation as {
    id: string
    seq: number
    receipt: string
  }

const until = (what: () => boolean) => expect.poll(what, { timeout: 20_000, interval: 10 }).toBe(true)

describe('GET /v1/feed', () => {
  it('sends what stands, says that it is ready, and then each act as it comes, in order', async () => {
    const before = await revoke({ identity: 'github:repository_id=1' })
    await house.feed.ready()
    const f = follow()
    expect(await f.status).toBe(200)
    await until(() => f.named('ready').length === 1)
    const stood = f.named('entries').flatMap(e => e.data.entries)
    expect(stood).toContainEqual({ kind: 'identity', key: 'github:repository_id=1', issued_before: expect.any(String), until: expect.any(String) })
    expect(Number(f.named('ready')[0]?.id)).toBeGreaterThanOrEqual(before.seq)
    const acts: { readonly seq: number }[] = []
    for (let i = 0; i < 5; i++) acts.push(await revoke({ identity: `github:repository_id=10${i}` }))
    await until(() => f.named('revoked').length === 5)
    expect(f.named('revoked').map(e => [Number(e.id), e.data.seq, e.data.entries[0].key])).toEqual(
      acts.map((a, i) => [a.seq, a.seq, `github:repository_id=10${i}`]),
    )
    await until(() => f.named('beat').some(b => b.data.seq >= (acts.at(-1)?.seq as number) && b.data.stale_ms < 2_000))
    f.close()
  })

  it('with Last-Event-ID sends what came after it, and nothing twice', async () => {
    const [one, two] = [await revoke({ identity: 'a:1' }), await revoke({ identity: 'a:2' })]
    await until(() => house.feed.seq >= two.seq)
    const f = follow({ 'Last-Event-ID': String(one.seq) })
    await until(() => f.named('revoked').length > 0)
    expect(f.events.filter(e => e.name !== 'beat').map(e => e.data.seq)).toEqual([two.seq])
    f.close()
  })

  it('an act by attributes is one event with every task that it named', async () => {
    const tasks = [await ci.opened(), await ci.opened()]
    const f = follow()
    await until(() => f.named('ready').length === 1)
    const act = await revoke({ repository_id: '456789', actor: 'dana' })
    await until(() => f.named('revoked').length === 1)
    const keys = f.named('revoked')[0]?.data.entries.map((e: { key: string }) => e.key)
    expect(f.named('revoked')[0]?.data.seq).toBe(act.seq)
    for (const { task } of tasks) expect(keys).toContain(task)
    f.close()
  })

  it('an act that names nothing alive is passed over by the beat', async () => {
    const f = follow()
    await until(() => f.named('ready').length === 1)
    const act = await revoke({ repository_id: '999' })
    await until(() => f.named('beat').some(b => b.data.seq >= act.seq))
    f.close()
  })

  it('a token that was replaced under its Idempotency-Key is told as well', async () => {
    const held = await ci.opened()
    const ask = async () => (await ci.credential(held, 'demo/orders-ro', {}, { 'Idempotency-Key': 'retry-1234' })).body.credential.id as string
    const [first, second] = [await ask(), await ask()]
    await until(() => [...house.feed.entries()].some(e => e.key === first))
    expect([...house.feed.entries()].some(e => e.key === second)).toBe(false)
  })

  it('as JSON: what is revoked now', async () => {
    const answer = await supertest(house.http).get('/v1/feed').set('Authorization', `Bearer ${key}`)
    expect(answer.body).toMatchObject({ seq: house.feed.seq, stale_ms: expect.any(Number) })
    expect(answer.body.entries.length).toBeGreaterThan(0)
  })

  it('whoever joins while acts are committed sees all of them, by what stands or by what follows', async () => {
    const made: number[] = []
    const joined: ReturnType<typeof follow>[] = []
    for (let i = 0; i < 30; i++) {
      made.push((await revoke({ identity: `join:${i}` })).seq)
      if (i % 6 === 0) joined.push(follow({}, `join-${i}`))
    }
    for (const f of joined) {
      await until(() => f.events.some(e => e.data?.seq >= (made.at(-1) as number)))
      const keys = new Set([...f.named('entries'), ...f.named('revoked')].flatMap(e => e.data.entries.map((x: { key: string }) => x.key)))
      for (let i = 0; i < 30; i++) expect(keys, `join:${i}`).toContain(`join:${i}`)
      const seqs = f.named('revoked').map(e => e.data.seq)
      expect(seqs).toEqual([...seqs].sort((a, b) => a - b))
      expect(new Set(seqs).size).toBe(seqs.length)
      f.close()
    }
  })

  it.each([
    ['no key', { Authorization: '' }, 401],
    ['an operator for a guard', { Authorization: 'operator' }, 401],
    ['a key that nobody has', { Authorization: `Bearer curfew_guard_${'A'.repeat(38)}` }, 401],
    ['no name of the process', { 'Curfew-Guard-Instance': 'a b' }, 400],
    ['a place that is no seq', { 'Last-Event-ID': '-1' }, 400],
  ])('refuses %s', async (_name, headers, status) => {
    const given = { ...headers } as Record<string, string>
    if (given.Authorization === 'operator') given.Authorization = `Bearer ${admin}`
    const f = follow(given)
    expect(await f.status).toBe(status)
    f.close()
  })
})

describe('acknowledgements', () => {
  it('are counted by receipts and listed with their lag; a receipt is final only when every guard that is there refuses', async () => {
    const f = follow({}, 'counted')
    await until(() => f.named('ready').length === 1)
    const ack = async (seq: number) =>
      (
        await supertest(house.http)
          .post('/v1/feed/acks')
          .set({ Authorization: `Bearer ${key}`, 'Curfew-Guard-Instance': 'counted' })
          .send({ seq })
      ).status
    const act = await revoke({ identity: 'acked:1' })
    const claims = async () => (await supertest(house.http).get(`/v1/receipts/${act.receipt}`).set('Authorization', `Bearer ${responder}`)).body.claims
    // Who is there is written in batches.
    await expect.poll(async () => (await claims()).guards.of).toBeGreaterThan(0)
    expect(await claims()).toMatchObject({ final: false, guards: { applied: 0 } })
    await until(() => f.named('revoked').some(e => e.data.seq === act.seq))
    expect(await ack(act.seq)).toBe(200)
    await expect.poll(async () => (await claims()).guards.applied).toBe(1)
    const listed = await supertest(house.http).get('/v1/guards').set('Authorization', `Bearer ${responder}`)
    const me = listed.body.guards[0].instances.find((i: { instance: string }) => i.instance === 'counted')
    expect(me).toMatchObject({ live: true, seq: act.seq, lag_ms: expect.any(Number) })
    // Nobody is ahead of what was committed.
    expect(await ack(10_000_000)).toBe(200)
    f.close()
    await house.advance(31)
    await house.sweep()
    await expect.poll(async () => (await claims()).final).toBe(true)
  })

  it('are answered with how many processes of the guard are there, whichever replica they follow', async () => {
    const added = await supertest(house.http).post('/v1/guards').set('Authorization', `Bearer ${admin}`).send({ name: 'twins' })
    const counted = async (instance: string) =>
      (
        await supertest(house.http)
          .post('/v1/feed/acks')
          .set({ Authorization: `Bearer ${added.body.key}`, 'Curfew-Guard-Instance': instance })
          .send({ seq: 0 })
      ).body.instances
    // Nobody was heard of yet.
    expect(await counted('a')).toBeNull()
    await expect.poll(() => counted('a')).toBe(1)
    await counted('b')
    await expect.poll(() => counted('a')).toBe(2)
    // At another replica, that is.
    await house.app.store.guards.seen([{ guard: added.body.guard.id, instance: 'c', seq: 0, lagMs: null }])
    await expect.poll(() => counted('a')).toBe(3)
    // What was said is written a moment later: whoever says nothing more is gone in the end.
    const later = async () => {
      await house.advance(31)
      return counted('b')
    }
    await expect.poll(later).toBe(1)
  })

  it('a disabled guard is refused, and its line is cut', async () => {
    const added = await supertest(house.http).post('/v1/guards').set('Authorization', `Bearer ${admin}`).send({ name: 'stolen' })
    const f = follow({ Authorization: `Bearer ${added.body.key}` }, 'thief')
    await until(() => f.named('ready').length === 1)
    const gone = await supertest(house.http).delete(`/v1/guards/${added.body.guard.id}`).set('Authorization', `Bearer ${admin}`)
    expect(gone.body.guard.disabled_at).toEqual(expect.any(String))
    await expect.poll(() => f.isEnded(), { timeout: 20_000 }).toBe(true)
    const again = follow({ Authorization: `Bearer ${added.body.key}` })
    expect(await again.status).toBe(401)
    expect((await supertest(house.http).post('/v1/guards').set('Authorization', `Bearer ${responder}`).send({ name: 'x' })).status).toBe(403)
    expect((await supertest(house.http).post('/v1/guards').set('Authorization', `Bearer ${admin}`).send({ name: 'orders' })).status).toBe(409)
    f.close()
  })
})

it('names an issuer as tokens do, whichever way the responder did', async () => {
  const f = follow({}, 'issuers')
  await until(() => f.named('ready').length === 1)
  for (const issuer of ['agents', namedId('issuer', 'agents')]) {
    const act = await revoke({ issuer })
    await until(() => f.named('revoked').some(e => e.data.seq === act.seq))
    expect(f.named('revoked').at(-1)?.data.entries).toMatchObject([{ kind: 'issuer', key: namedId('issuer', 'agents') }])
  }
  f.close()
})
