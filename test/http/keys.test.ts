/** Owns what the change of a signing key is like for those who ask, introspect and guard meanwhile. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { decodeJwt, decodeProtectedHeader } from 'jose'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createGuard, type Guard } from '../../src/guard/guard.js'
import type { CredentialEngine } from '../../src/ports.js'
import { retention } from '../../src/signers/configured.js'
import { type LoadedSigner, openRing } from '../../src/signers/key-ring.js'
import { withdrawKey } from '../../src/signers/keys.js'
import { masterKeyWrapper } from '../../src/signers/sealed.js'
import { type Caller, caller, introspect } from '../caller.js'
import { type House, makeHouse, ORDERS, SERVER } from '../house.js'
import { until } from '../unit/guard/fake-broker.js'

let house: House
let ci: Caller
let guard: Guard
/** The guard hears the feed, and cannot read the key set. */
let isBlind = false
const server = createServer((req, res) => house.http(req, res))

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const added = await supertest(house.http)
    .post('/v1/guards')
    .set('Authorization', `Bearer ${await house.operator('admin')}`)
    .send({ name: 'orders' })
  guard = createGuard({
    issuer: SERVER,
    audience: ORDERS,
    proof: 'required',
    guardKey: added.body.key,
    fetch: (to, init) =>
      isBlind && to.endsWith('jwks.json') ? Promise.reject(new TypeError('fetch failed')) : globalThis.fetch(to.replace(SERVER, url), init),
  })
  await guard.ready()
})
afterAll(async () => {
  guard.close()
  server.closeAllConnections()
  server.close()
  await house.close()
})

const OPERATOR = { actor: { kind: 'operator', id: 'local:test' }, message: 'INC-204' } as const

/** An administrator's process beside the one that serves: `curfew keys`. */
function beside(): Promise<LoadedSigner> {
  const { store, config } = house.app
  if (config.signer.kind !== 'sealed') throw new Error('the house seals its keys')
  return openRing({
    keys: store.keys,
    clock: store.clock,
    wrapper: masterKeyWrapper(config.signer.masterKey),
    publishAheadSeconds: 0,
    retainSeconds: retention(config),
    refreshMs: 0,
  })
}
const kidOf = (token: string) => decodeProtectedHeader(token).kid as string
async function issued(): Promise<string> {
  const made = await ci.credential(await ci.opened(), 'demo/orders-ro')
  expect(made.status).toBe(201)
  return made.body.secret.token
}
async function guarded(token: string): Promise<string> {
  const headers = { authorization: `DPoP ${token}`, dpop: await ci.proof('GET', '/', token, { htu: `${ORDERS}orders/17` }) }
  return guard.verify({ method: 'GET', url: '/orders/17', headers }, { scope: 'orders:read' }).then(
    () => 'passes',
    e => e.code,
  )
}
const active = async (token: string) => (await introspect(house, token)).body.active as boolean

describe('a stolen signing key', () => {
  test('writes no claims of its own under the name of a live credential; the twin is the token itself (T08)', async () => {
    const token = await issued()
    // The thief has another of our keys than the one that signed it.
    const forged = await house.app.signer.sign('access', 'at+jwt', { ...decodeJwt(token), scope: 'orders:read orders:write' }, 'RS256')
    expect(kidOf(forged.token)).not.toBe(kidOf(token))
    expect([await active(forged.token), await active(token)]).toEqual([false, true])
  })

  test('K2 withdrawn beside us, nobody who asks is refused: the next answer is signed by its successor', async () => {
    const heldToSign = (token: string) => house.app.signer.list().some(k => k.kid === kidOf(token) && k.state === 'current')
    const cli = await beside()
    let before = ''
    // Again, should the serving process have read the store in just that moment.
    for (let i = 0; i < 5 && !(before && heldToSign(before)); i++) {
      before = await issued()
      await withdrawKey(cli, house.app.store.revocations, kidOf(before), OPERATOR)
    }
    expect(heldToSign(before)).toBe(true)
    const after = await issued()
    expect(kidOf(after)).not.toBe(kidOf(before))
    expect([await active(before), await active(after)]).toEqual([false, true])
    expect((await supertest(house.http).get('/.well-known/jwks.json')).body.keys.map((k: { kid: string }) => k.kid)).not.toContain(kidOf(before))
  })

  test('K2 withdrawn after it signed a part of a bundle: only that part is signed anew, and the others are made once', async () => {
    const engines = house.app.deps.engines as Map<string, CredentialEngine>
    const usual = engines.get('jwt') as CredentialEngine
    const signed: string[] = []
    engines.set('jwt', {
      ...usual,
      async mint(...args) {
        const minted = await usual.mint(...args)
        signed.push(minted.kid as string)
        if (signed.length === 1) await withdrawKey(await beside(), house.app.store.revocations, minted.kid as string, OPERATOR)
        return minted
      },
    })
    const held = await ci.opened({ capabilities: ['demo/orders-db', 'demo/orders-ro'] })
    const both = [{ capability: 'demo/orders-db' }, { capability: 'demo/orders-ro' }]
    const made = await ci.as(held, 'post', `/v1/tasks/${held.task}/credentials`, { capabilities: both })
    engines.set('jwt', usual)
    expect(made.status).toBe(201)
    const [db, token] = made.body.credentials
    expect([signed.length, new Set(signed).size, kidOf(token.secret.token)]).toEqual([2, 2, signed[1]])
    expect(await active(token.secret.token)).toBe(true)
    expect(house.database.login(db.secret.PGUSER, db.secret.PGPASSWORD)).toBe(true)
    expect(await house.app.store.credentials.list({ task: held.task as never, limit: 9 })).toHaveLength(2)
  })

  test('K2 what it signs afterwards is refused by a guard that still holds its public half', async () => {
    const token = await issued()
    expect(await guarded(token)).toBe('passes')
    const [thief, cli] = [await beside(), await beside()]
    isBlind = true
    await withdrawKey(cli, house.app.store.revocations, kidOf(token), OPERATOR)
    const seq = await house.app.store.revocations.seq()
    await new Promise(resolve => setTimeout(resolve, 1_100))
    const claims = { ...decodeJwt(token), jti: 'crd_01kaf3q7v0m2x4t6w8y0a1b2c3', iat: house.now() }
    const forged = await thief.sign('access', 'at+jwt', claims, 'ES256')
    expect(forged.kid).toBe(kidOf(token))
    await until(() => guard.health().seq >= seq)
    expect([await guarded(forged.token), await guarded(token)]).toEqual(['revoked', 'revoked'])
    isBlind = false
    const next = await issued()
    expect(kidOf(next)).not.toBe(kidOf(token))
    await expect.poll(() => guarded(next), { timeout: 20_000, interval: 200 }).toBe('passes')
    expect([await guarded(forged.token), await guarded(token)]).toEqual(['key_unknown', 'key_unknown'])
  })
})
