/** The guard before the broker itself: its keys, its tokens, its feed and its introspection over a real socket. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createGuard, type Guard, type GuardOptions } from '../../../src/guard/guard.js'
import { type Caller, caller, type Held } from '../../caller.js'
import { type House, makeHouse, ORDERS, ORDERS_SECRET, SERVER } from '../../house.js'
import { until } from './fake-broker.js'

let house: House
let ci: Caller
let responder: string
let key: string
let url: string
let held: Held
const guards: Guard[] = []
const server = createServer((req, res) => house.http(req, res))

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
  responder = await house.operator('responder')
  const added = await supertest(house.http)
    .post('/v1/guards')
    .set('Authorization', `Bearer ${await house.operator('admin')}`)
    .send({ name: 'orders' })
  key = added.body.key
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  held = await ci.opened()
})
afterAll(async () => {
  for (const g of guards) g.close()
  server.closeAllConnections()
  server.close()
  await house.close()
})

/** The public name of the house leads to its socket. */
const fetch: NonNullable<GuardOptions['fetch']> = (to, init) => globalThis.fetch(to.replace(SERVER, url), init)
async function guardOf(options: Partial<GuardOptions> = {}): Promise<Guard> {
  const g = createGuard({ issuer: SERVER, audience: ORDERS, proof: 'required', guardKey: key, fetch, ...options })
  guards.push(g)
  await g.ready()
  return g
}
async function issued(of: Held = held) {
  const { credential, secret } = (await ci.credential(of, 'demo/orders-ro')).body
  return { id: credential.id as string, token: secret.token as string }
}
async function ask(g: Guard, token: string): Promise<string> {
  const headers = { authorization: `DPoP ${token}`, dpop: await ci.proof('GET', '/', token, { htu: `${ORDERS}orders/17` }) }
  return g.verify({ method: 'GET', url: '/orders/17', headers }, { scope: 'orders:read', resource: 'orders/17' }).then(
    seen => `passes ${seen.mode}`,
    e => e.code,
  )
}
const revoke = async (selector: object) =>
  (await supertest(house.http).post('/v1/revocations').set('Authorization', `Bearer ${responder}`).send({ selector })).body.revocation.seq as number

describe('the guard before the broker', () => {
  test('its tokens pass, by the feed and by introspection', async () => {
    const { token } = await issued()
    expect(await ask(await guardOf(), token)).toBe('passes bounded')
    expect(await ask(await guardOf({ guardKey: undefined, introspection: { client: 'orders', secret: ORDERS_SECRET } }), token)).toBe('passes strict')
    // A token of another class is refused: this one is for the broker.
    expect(await ask(await guardOf(), held.token)).toMatch(/wrong_/)
  })
  test.each<[string, (id: string, own: Held) => object]>([
    ['credential', id => ({ credential: id })],
    ['task', (_, own) => ({ task: own.task })],
    ['identity', () => ({ identity: 'github:repository_id=456789' })],
    ['capability', () => ({ capability: 'demo/orders-ro' })],
    ['everything', () => ({ all: true })],
  ])('I1 what is revoked by %s is refused, and its socket ended', async (_, selector) => {
    // Evidence counts in whole seconds, and what is of the same second as the last cut-off lies before it.
    await new Promise(resolve => setTimeout(resolve, 1_100))
    const own = await ci.opened()
    const g = await guardOf({ instance: 'one' })
    const { id, token } = await issued(own)
    expect(await ask(g, token)).toBe('passes bounded')
    let ended = 0
    g.onRevoked(id, () => ended++)
    const began = performance.now()
    const seq = await revoke(selector(id, own))
    await until(() => ended === 1)
    expect(performance.now() - began).toBeLessThan(3_000)
    expect(await ask(g, token)).toBe('revoked')
    await until(() => g.health().seq >= seq)
  })
  test('what it refuses is counted by the broker', async () => {
    const g = await guardOf({ instance: 'counted' })
    const seq = await revoke({ identity: 'github:repository_id=1' })
    await until(() => g.health().seq >= seq)
    const told = async () => {
      const { guards } = (await supertest(house.http).get('/v1/guards').set('Authorization', `Bearer ${responder}`)).body
      return guards[0].instances.find((i: { instance: string }) => i.instance === 'counted')?.seq
    }
    await expect.poll(told, { timeout: 15_000 }).toBeGreaterThanOrEqual(seq)
  })
})
