import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { CredentialEnded, type Guard } from '../../../src/guard/guard.js'
import { type Minted, type TestIssuer, type TestSelector, testIssuer } from '../../../src/guard/testing.js'

let iss: TestIssuer
let guard: Guard
beforeEach(async () => {
  iss = await testIssuer()
  guard = await iss.guard()
})
afterEach(() => iss.close())

const PLACE = 'https://orders.test/'
const see = async (t: Minted, g = guard) => g.verify(await t.request(PLACE))
const parent = `tsk_${'1'.repeat(26)}`
const given = { bound: false, ancestors: [parent], subject: 'the-principal', trustIssuer: 'iss_a', capability: 'a/b', act: { sub: 'agent', iss: 'iss_b' } }

describe('what runs ends with its credential', () => {
  test.each<[string, (t: Minted) => TestSelector]>([
    ['the credential', t => ({ credential: t.credential })],
    ['its task', t => ({ task: t.task })],
    ['a task above', () => ({ task: parent })],
    ['the principal', () => ({ identity: 'the-principal' })],
    ['an actor', () => ({ identity: 'agent' })],
    ['its trust issuer', () => ({ issuer: 'iss_a' })],
    ['an actor’s trust issuer', () => ({ issuer: 'iss_b' })],
    ['the signing key', t => ({ key: t.kid })],
    ['its capability', () => ({ capability: 'a/b' })],
    ['everything', () => ({ all: true })],
  ])('by %s: the signal fires, the socket is closed, once', async (_, selector) => {
    const t = await iss.mint(given)
    const seen = await see(t)
    const closed: string[] = []
    guard.onRevoked(seen.credential, why => closed.push(`by id ${why}`))
    guard.onRevoked(seen, why => closed.push(`by caller ${why}`))
    const signal = seen.signal
    expect(signal.aborted).toBe(false)
    await iss.revoke({ task: `tsk_${'9'.repeat(26)}` })
    expect(closed).toEqual([])
    await iss.revoke(selector(t))
    expect([closed, signal.aborted, signal.reason]).toEqual([['by id revoked', 'by caller revoked'], true, new CredentialEnded('revoked')])
    await iss.revoke(selector(t))
    expect(closed).toHaveLength(2)
  })
  test('revoked between verification and use: the signal has fired when it is first looked at', async () => {
    const t = await iss.mint(given)
    const seen = await see(t)
    await iss.revoke(t.credential)
    expect(seen.signal.aborted).toBe(true)
    const closed = vi.fn()
    guard.onRevoked(seen, closed)
    expect(closed).toHaveBeenCalledExactlyOnceWith('revoked')
  })
  test('a cut-off ends what was issued before it, and not what came after', async () => {
    const old = await see(await iss.mint(given))
    const cutoff = new Date(iss.clock.now().getTime() + 2_000)
    iss.clock.advance(4_000)
    const young = await see(await iss.mint(given))
    const signals = [old.signal, young.signal]
    await iss.revoke({ capability: 'a/b', issuedBefore: cutoff })
    expect(signals.map(s => s.aborted)).toEqual([true, false])
  })
  test('at expiry, by the timer and by the guard’s own clock', async () => {
    const [short, long] = [await see(await iss.mint({ ...given, ttlSeconds: 1 })), await see(await iss.mint({ ...given, ttlSeconds: 60 }))]
    const signals = [short.signal, long.signal]
    await expect.poll(() => signals[0]?.aborted).toBe(true)
    expect([signals[0]?.reason.code, signals[1]?.aborted]).toEqual(['token_expired', false])
    iss.clock.advance(61_000)
    await expect.poll(() => signals[1]?.aborted).toBe(true)
    const late = vi.fn()
    guard.onRevoked(long, late)
    expect(late).toHaveBeenCalledExactlyOnceWith('token_expired')
  })
  test('let go: nothing is called any more', async () => {
    const t = await iss.mint(given)
    const seen = await see(t)
    const closed = vi.fn()
    const letGo = guard.onRevoked(t.credential, closed)
    const signal = seen.signal
    letGo()
    seen.release()
    await iss.revoke(t.credential)
    expect([closed.mock.calls.length, signal.aborted]).toEqual([0, false])
  })
  test('one that throws keeps nobody else alive', async () => {
    const t = await iss.mint(given)
    await see(t)
    const closed = vi.fn()
    guard.onRevoked(t.credential, () => {
      throw new Error('the socket is gone')
    })
    guard.onRevoked(t.credential, closed)
    await iss.revoke(t.credential)
    expect(closed).toHaveBeenCalledOnce()
    expect(guard.health()).toMatchObject({ ok: true, connected: true })
  })
  test('more than can be watched: the new one is ended, none runs unwatched', async () => {
    const small = await iss.guard({ maxLive: 2 })
    const seen = await Promise.all([0, 1, 2].map(async () => see(await iss.mint(given), small)))
    expect(seen.map(s => s.signal.aborted)).toEqual([false, false, true])
    seen[0]?.release()
    expect((await see(await iss.mint(given), small)).signal.aborted).toBe(false)
  })
  test('a name it never verified is refused, not watched in vain', () => {
    expect(() => guard.onRevoked('crd_unknown', () => {})).toThrow('not a credential that this guard has verified')
  })
  test('without a look at the signal nothing is kept', async () => {
    const small = await iss.guard({ maxLive: 1 })
    const t = await iss.mint(given)
    for (let i = 0; i < 5; i++) await see(t, small)
    expect((await see(t, small)).signal.aborted).toBe(false)
  })
})

describe('what changes while a request is looked at', () => {
  test('revoked while the replay store is asked: refused, the last look is the last', async () => {
    const t = await iss.mint()
    const g = await iss.guard({ replay: { claim: async () => (await iss.revoke(t.credential)) > 0 } })
    await expect(see(t, g)).rejects.toMatchObject({ code: 'revoked' })
    const calm = await iss.guard({ replay: { claim: async () => true } })
    await see(await iss.mint(), calm)
  })
  test('stale by then: refused', async () => {
    const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
    const g = await iss.guard({ revocation: { maxStaleMs: 1_000 }, replay: { claim: () => wait(850).then(() => true) } })
    const t = await iss.mint()
    iss.cut()
    await wait(300)
    expect(g.health().ok).toBe(true)
    await expect(see(t, g)).rejects.toMatchObject({ code: 'stale_feed' })
    iss.cut(false)
    await expect.poll(() => g.health().ok).toBe(true)
    await see(await iss.mint(), g)
  })
  test('expired while introspection is asked: refused', async () => {
    const t = await iss.mint({ bound: false, ttlSeconds: 10 })
    const fetch: typeof iss.fetch = async (url, init) => {
      if (url.endsWith('/introspect')) iss.clock.advance(16_000)
      return url.endsWith('/introspect') ? Response.json({ active: true, jti: t.credential }) : iss.fetch(url, init)
    }
    const g = await iss.guard({ introspection: { client: 'a', secret: 'b' }, fetch })
    await expect(see(t, g)).rejects.toMatchObject({ code: 'token_expired' })
  })
})

describe('R07 the cache of verified tokens', () => {
  test.each([[5_000], [1], [0]])('of %i never outlives a revocation, an expiry or a proof', async cacheSize => {
    const g = await iss.guard({ cacheSize })
    const [a, b, c] = [await iss.mint({ ttlSeconds: 30 }), await iss.mint({ ttlSeconds: 30 }), await iss.mint({ ttlSeconds: 300 })]
    for (const t of [a, b, c, a, b, c]) await see(t, g)
    await iss.revoke(a.credential)
    await expect(see(a, g)).rejects.toMatchObject({ code: 'revoked' })
    const { authorization } = await b.headers('GET', PLACE)
    await expect(g.verify({ method: 'GET', url: '/', headers: { authorization } })).rejects.toMatchObject({ code: 'proof_missing' })
    const used = await b.headers('GET', PLACE)
    await g.verify({ method: 'GET', url: '/', headers: used })
    await expect(g.verify({ method: 'GET', url: '/', headers: used })).rejects.toMatchObject({ code: 'proof_replayed' })
    iss.clock.advance(36_000)
    await expect(see(b, g)).rejects.toMatchObject({ code: 'token_expired' })
    await see(c, g)
    await iss.revoke({ all: true })
    await expect(see(c, g)).rejects.toMatchObject({ code: 'revoked' })
  })
  test('P42 a key that its issuer took back is not believed on account of it', async () => {
    const t = await iss.mint({ bound: false })
    await see(t)
    await iss.rotate({ keep: false })
    const real = performance.now.bind(performance)
    vi.spyOn(performance, 'now').mockImplementation(() => real() + 301_000)
    await expect.poll(() => see(t).catch(e => e.code)).toBe('key_unknown')
    vi.restoreAllMocks()
    await see(await iss.mint({ bound: false }))
  })
  test('T46 another signature, or another spelling, under the same claims is not found in it', async () => {
    const t = await iss.mint({ bound: false })
    await see(t)
    const forged = await iss.mint({ bound: false })
    const bearer = (token: string) => guard.verify({ method: 'GET', url: '/', headers: { authorization: `Bearer ${token}` } })
    const [head, body, signature] = t.token.split('.') as [string, string, string]
    await expect(bearer(`${head}.${body}.${forged.token.split('.')[2]}`)).rejects.toMatchObject({ code: 'signature_invalid' })
    await expect(bearer(`${head}.${body}.`)).rejects.toMatchObject({ code: 'token_malformed' })
    // 64 bytes leave four spare bits in the last character: other letters decode to the same signature.
    const spelled = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'].map(last => signature.slice(0, -1) + last)
    const same = spelled.filter(s => s !== signature && Buffer.from(s, 'base64url').equals(Buffer.from(signature, 'base64url')))
    expect(same.length).toBeGreaterThan(0)
    for (const s of same) await expect(bearer(`${head}.${body}.${s}`)).rejects.toMatchObject({ code: 'token_malformed' })
    await see(t)
  })
  test('what it hands out cannot be changed for the next', async () => {
    const seen = await see(await iss.mint({ bound: false, scope: 'orders:read' }))
    expect(() => (seen.scopes as string[]).push('orders:write')).toThrow()
    expect(() => Object.assign(seen.claims as object, { sub: 'another' })).toThrow()
  })
})
