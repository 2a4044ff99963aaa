import { exportJWK, generateKeyPair, type JWK } from 'jose'
import { beforeEach, describe, expect, test } from 'vitest'
import { COOLDOWN_MS, issuerKeys, KEEP_MS } from '../../../src/guard/keys.js'
import { testIssuer } from '../../../src/guard/testing.js'

const ISSUER = 'https://curfew.test'
let now = 0
let keys: JWK[] = []
let answer: (url: string) => Response | Promise<Response>
let asked: string[] = []
const errors: string[] = []
const log = { warn() {}, error: (f: { err?: Error }, m: string) => void errors.push(`${m}: ${f.err?.message}`) }
const json = (value: unknown, status = 200) => new Response(JSON.stringify(value), { status })
const metadata = { issuer: ISSUER, jwks_uri: `${ISSUER}/.well-known/jwks.json` }

async function key(kid: string): Promise<JWK> {
  return { ...(await exportJWK((await generateKeyPair('ES256')).publicKey)), kid, use: 'sig', alg: 'ES256' }
}
const store = (issuer = ISSUER) =>
  issuerKeys({
    issuer,
    log,
    monotonic: () => now,
    out: {
      signal: new AbortController().signal,
      fetch: async url => {
        asked.push(url)
        return answer(url)
      },
    },
  })
const fetches = () => asked.filter(u => u.endsWith('jwks.json')).length
const code = (promise: Promise<unknown>) =>
  promise.then(
    () => 'found',
    e => e.code as string,
  )

beforeEach(async () => {
  now = 0
  asked = []
  errors.length = 0
  keys = [await key('one')]
  answer = url => (url.endsWith('jwks.json') ? json({ keys }) : json(metadata))
})

describe('keys of the issuer', () => {
  test('P41 an unknown name asks once in 30 s, whoever and how many ask', async () => {
    const held = store()
    await held.load()
    const codes = await Promise.all(Array.from({ length: 200 }, (_, i) => code(held.find(`nobody-${i}`))))
    expect([new Set(codes), fetches()]).toEqual([new Set(['key_unknown']), 2])
    now += COOLDOWN_MS - 1
    expect([await code(held.find('nobody')), fetches()]).toEqual(['key_unknown', 2])
    now += 1
    expect([await code(held.find('nobody')), fetches()]).toEqual(['key_unknown', 3])
  })
  test('R08 rotation under load: a hundred at once with the new key, one question, and all are served', async () => {
    const held = store()
    await held.load()
    keys = [...keys, await key('two')]
    const found = await Promise.all(Array.from({ length: 100 }, (_, i) => held.find(i % 2 ? 'one' : 'two')))
    expect([found.filter(k => k.kid === 'two').length, fetches()]).toEqual([50, 2])
  })
  test('P42 kept for a day through an outage, and not longer', async () => {
    const held = store()
    await held.load()
    const one = await held.find('one')
    answer = () => Promise.reject(new TypeError('down'))
    now = KEEP_MS
    expect([await code(held.find('one')), held.holds(one)]).toEqual(['found', true])
    now += 1
    expect([await code(held.find('one')), held.holds(one)]).toEqual(['keys_unavailable', false])
    answer = url => (url.endsWith('jwks.json') ? json({ keys }) : json(metadata))
    now += 1_000
    expect(await code(held.find('one'))).toBe('found')
  })
  test('what the issuer took back is gone within its max-age', async () => {
    const held = store()
    await held.load()
    const one = await held.find('one')
    keys = [await key('two')]
    now += 301_000
    expect(held.holds(one)).toBe(true)
    await expect.poll(() => held.holds(one)).toBe(false)
    expect(await code(held.find('two'))).toBe('found')
  })
  test('K3, H15 another key under a known name: the whole set is refused, the last good one stays, and it is told', async () => {
    const held = store()
    await held.load()
    const one = await held.find('one')
    const original = keys
    keys = [await key('one'), await key('two')]
    expect(await code(held.find('two'))).toBe('keys_unavailable')
    expect([(await held.find('one')).thumbprint, held.holds(one)]).toEqual([one.thumbprint, true])
    expect(errors.join()).toContain('another key is published under a known name')
    // Gone for a while and come back as another: the name is remembered.
    keys = [await key('three')]
    now += COOLDOWN_MS
    expect(await code(held.find('three'))).toBe('found')
    keys = [...keys, await key('one')]
    now += COOLDOWN_MS
    expect(await code(held.find('four'))).toBe('keys_unavailable')
    keys = [...original, ...keys.slice(0, 1)]
    now += COOLDOWN_MS
    expect([await code(held.find('one')), (await held.find('one')).thumbprint]).toEqual(['found', one.thumbprint])
  })
  test.each([
    ['an empty set', () => json({ keys: [] })],
    ['HTML', () => new Response('<html>')],
    ['500', () => json({}, 500)],
    ['a redirect that was not followed', () => json({}, 302)],
    ['101 keys', () => json({ keys: Array.from({ length: 101 }, (_, i) => ({ ...keys[0], kid: `k${i}` })) })],
    ['more bytes than are read', () => new Response(JSON.stringify({ keys, x: 'x'.repeat(110_000) }))],
    ['the same name twice', () => json({ keys: [keys[0], keys[0]] })],
    ['a private key', () => json({ keys: [{ ...keys[0], d: 'AA' }] })],
    ['a symmetric key', () => json({ keys: [{ kty: 'oct', k: 'AA', kid: 'one' }] })],
    ['a member twice (P25)', () => new Response(`{"keys":[],"keys":${JSON.stringify(keys)}}`)],
  ])('H15 %s: what is known stays; a guard that knows nothing has no verdict', async (_, broken) => {
    const held = store()
    await held.load()
    answer = url => (url.endsWith('jwks.json') ? broken() : json(metadata))
    expect([await code(held.find('one')), await code(held.find('new'))]).toEqual(['found', 'keys_unavailable'])
    expect(await code(store().find('one'))).toBe('keys_unavailable')
  })
  test.each([
    ['of another issuer (P34)', { ...metadata, issuer: `${ISSUER}/` }],
    ['that points elsewhere', { ...metadata, jwks_uri: 'https://evil.test/jwks.json' }],
    ['that points to plain http', { ...metadata, jwks_uri: 'http://curfew.test/.well-known/jwks.json' }],
  ])('metadata %s is refused, and nobody else is asked', async (_, wrong) => {
    answer = url => (url.endsWith('jwks.json') ? json({ keys }) : json(wrong))
    expect(await code(store().find('one'))).toBe('keys_unavailable')
    expect(asked).toEqual([`${ISSUER}/.well-known/oauth-authorization-server`])
  })
  test('RFC 8414: of an issuer with a path, the well-known part stands between host and path', async () => {
    answer = url => (url.endsWith('jwks.json') ? json({ keys }) : json({ issuer: 'https://curfew.test/a', jwks_uri: 'https://curfew.test/a/jwks.json' }))
    await store('https://curfew.test/a').load()
    expect(asked).toEqual(['https://curfew.test/.well-known/oauth-authorization-server/a', 'https://curfew.test/a/jwks.json'])
  })
})

test('R08 a guard under load while keys change: nothing that is good is refused', async () => {
  const iss = await testIssuer()
  const guard = await iss.guard()
  const codes: string[] = []
  for (let round = 0; round < 2; round++) {
    const [old] = [await iss.mint({ bound: false })]
    if (round === 0) await iss.rotate()
    const fresh = await iss.mint({ bound: false })
    const requests = await Promise.all([old, fresh].map(t => t.request('https://orders.test/')))
    codes.push(...(await Promise.all(Array.from({ length: 100 }, (_, i) => code(guard.verify(requests[i % 2] as Request))))))
  }
  expect(new Set(codes)).toEqual(new Set(['found']))
  iss.close()
})
