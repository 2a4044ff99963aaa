import { sign as signBytes } from 'node:crypto'
import type { JWTPayload } from 'jose'
import { describe, expect, it } from 'vitest'
import { admitKeys } from '../../src/domain/jwk.js'
import { checkAudience, checkTimes, inspect, textClaim, verifyJws } from '../../src/domain/jws.js'
import { newKeyPair } from '../../src/domain/key-pair.js'

const NOW = 1_790_000_000
const b64 = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
const reasonOf = async (act: () => unknown) => {
  try {
    await act()
    return 'accepted'
  } catch (error) {
    return (error as { facts: { reason: string } }).facts.reason
  }
}

const ec = await newKeyPair('ec', { namedCurve: 'P-256' })
const rsa = await newKeyPair('rsa', { modulusLength: 2048 })
const keyOf = (pair: typeof ec, algs: string[], more = {}) => {
  const [key] = admitKeys({ keys: [{ ...pair.publicKey.export({ format: 'jwk' }), ...more }] }, { use: 'sig', algs })
  if (!key) throw new Error('not admitted')
  return key
}
const es256 = (header: object, payload: object) => {
  const input = `${b64(header)}.${b64(payload)}`
  return { input, signature: signBytes('sha256', Buffer.from(input), { key: ec.privateKey, dsaEncoding: 'ieee-p1363' }) }
}

describe('a compact JWS', () => {
  const profile = { algorithms: ['ES256'], types: ['jwt'] }

  it('T46 another valid signature over the same bytes is the same token: one digest, so that no mark is used twice', async () => {
    const { input, signature } = es256({ alg: 'ES256', typ: 'JWT' }, { iss: 'x' })
    const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n
    const s = BigInt(`0x${signature.subarray(32).toString('hex')}`)
    const twin = Buffer.concat([signature.subarray(0, 32), Buffer.from((order - s).toString(16).padStart(64, '0'), 'hex')])
    const [one, two] = [signature, twin].map(bytes => `${input}.${bytes.toString('base64url')}`) as [string, string]
    expect(one).not.toBe(two)
    // Both verify: that is how ECDSA is.
    for (const token of [one, two]) expect((await verifyJws(token, keyOf(ec, ['ES256']), profile)).payload).toEqual({ iss: 'x' })
    expect(inspect(two, profile).digest).toBe(inspect(one, profile).digest)
    const other = es256({ alg: 'ES256', typ: 'JWT' }, { iss: 'y' })
    expect(inspect(`${other.input}.${other.signature.toString('base64url')}`, profile).digest).not.toBe(inspect(one, profile).digest)
  })

  it('P21 a signature of zeros is refused', async () => {
    const { input } = es256({ alg: 'ES256', typ: 'JWT' }, { iss: 'x' })
    expect(await reasonOf(() => verifyJws(`${input}.${Buffer.alloc(64).toString('base64url')}`, keyOf(ec, ['ES256']), profile))).toBe('signature_invalid')
  })

  it('T04 T05 of two configured algorithms each verifies by the same key, and a third does not, whatever the header says', async () => {
    const algorithms = ['RS256', 'PS256']
    const key = keyOf(rsa, algorithms)
    const token = (alg: string, options: object) => {
      const input = `${b64({ alg, typ: 'JWT' })}.${b64({ iss: 'x' })}`
      return `${input}.${signBytes('sha256', Buffer.from(input), { key: rsa.privateKey, ...options }).toString('base64url')}`
    }
    const PSS = { padding: 6, saltLength: 32 }
    const both = { algorithms, types: ['jwt'] }
    expect(await reasonOf(() => verifyJws(token('RS256', {}), key, both))).toBe('accepted')
    expect(await reasonOf(() => verifyJws(token('PS256', PSS), key, both))).toBe('accepted')
    expect(await reasonOf(() => verifyJws(token('PS256', {}), key, both))).toBe('signature_invalid')
    expect(await reasonOf(() => verifyJws(token('PS256', PSS), key, { ...both, algorithms: ['RS256'] }))).toBe('algorithm_refused')
    // The set says that this key is for one of them.
    expect(await reasonOf(() => verifyJws(token('PS256', PSS), keyOf(rsa, algorithms, { alg: 'RS256' }), both))).toBe('algorithm_refused')
  })

  it('T13 P31 a token inside a claim is text and nothing more', async () => {
    const inner = es256({ alg: 'ES256', typ: 'JWT' }, { admin: true })
    const nested = `${inner.input}.${inner.signature.toString('base64url')}`
    const outer = es256({ alg: 'ES256', typ: 'JWT' }, { iss: 'x', nested })
    const { payload } = await verifyJws(`${outer.input}.${outer.signature.toString('base64url')}`, keyOf(ec, ['ES256']), profile)
    expect(payload).toEqual({ iss: 'x', nested })
  })

  it('T16 a type is missing only where that is allowed, and an empty one is never one', async () => {
    const verdict = (header: object, types: string[]) => {
      const { input, signature } = es256({ alg: 'ES256', ...header }, { iss: 'x' })
      return reasonOf(() => inspect(`${input}.${signature.toString('base64url')}`, { algorithms: ['ES256'], types }))
    }
    expect(await verdict({}, ['jwt'])).toBe('type_refused')
    expect(await verdict({}, ['jwt', ''])).toBe('accepted')
    expect(await verdict({ typ: '' }, ['jwt', ''])).toBe('type_refused')
    expect(await verdict({ typ: 'application/JWT' }, ['jwt'])).toBe('accepted')
  })
})

describe('times', () => {
  const at = (claims: JWTPayload, toleranceSeconds = 5, more = {}) =>
    reasonOf(() => checkTimes(claims, { now: new Date(NOW * 1000), toleranceSeconds, maxLifeSeconds: 3_600, iatRequired: true, ...more }))

  it.each([
    [5, -6, 'expired'],
    [5, -5, 'expired'],
    [5, -4, 'accepted'],
    [5, -1, 'accepted'],
    [5, 0, 'accepted'],
    [5, 1, 'accepted'],
    [0, -1, 'expired'],
    [0, 0, 'expired'],
    [0, 1, 'accepted'],
  ])('T20 with a tolerance of %i s, an expiry %i s from now is %s', async (tolerance, offset, expected) => {
    expect(await at({ iat: NOW - 60, exp: NOW + offset }, tolerance)).toBe(expected)
  })

  it('T20 P56 an issue time is at most five seconds ahead', async () => {
    expect(await at({ iat: NOW + 5, exp: NOW + 60 })).toBe('accepted')
    expect(await at({ iat: NOW + 6, exp: NOW + 60 })).toBe('issued_in_future')
  })

  it('T20 the year 2038 is nothing special, and the year 9999 is too far away', async () => {
    const late = { now: new Date(2 ** 31 * 1000) }
    expect(await at({ iat: 2 ** 31 - 5, exp: 2 ** 31 + 5 }, 5, late)).toBe('accepted')
    expect(await at({ iat: NOW, exp: 253_402_300_799 })).toBe('life_too_long')
    expect(await at({ iat: NOW, exp: 253_402_300_800 })).toBe('claim_invalid')
  })

  it('T19 P28 a life that ends before or as it begins is none', async () => {
    expect(await at({ iat: NOW - 5, exp: NOW - 5 }, 60)).toBe('claim_invalid')
    expect(await at({ iat: NOW - 5, nbf: NOW + 4, exp: NOW + 4 })).toBe('claim_invalid')
    expect(await at({ iat: NOW - 5, nbf: NOW + 3, exp: NOW + 4 })).toBe('accepted')
  })

  it('freshness that nobody stated is not assumed', () => {
    const rules = { now: new Date(NOW * 1000), toleranceSeconds: 5, maxLifeSeconds: 600, iatRequired: false }
    expect(checkTimes({ exp: NOW + 100 }, rules).issuedAt).toEqual(new Date((NOW - 500) * 1000))
    expect(checkTimes({ exp: NOW + 100, nbf: NOW - 50 }, rules).issuedAt).toEqual(new Date((NOW - 50) * 1000))
    expect(checkTimes({ exp: NOW + 100, iat: NOW - 20 }, rules).issuedAt).toEqual(new Date((NOW - 20) * 1000))
  })
})

describe('names and audiences', () => {
  it('T60 T61 a name is printable ASCII, and is not trimmed, folded or normalised', async () => {
    for (const sub of ['job-7', 'repo:acme/orders:environment:Production EU', ' x', 'X', 'x'.repeat(255)]) expect(textClaim({ sub }, 'sub')).toBe(sub)
    for (const sub of ['', 'x'.repeat(256), 'é', 'e\u0301', '\uff21', 'a\u200db', '\u202ea', 'a\u0000', 'a\n', 'K\u212a'])
      expect(await reasonOf(() => textClaim({ sub }, 'sub'))).toBe('claim_invalid')
  })
  it('T26 P29 several audiences only where the issuer is configured so, and never without ours', async () => {
    const [us, them] = ['https://curfew.example', 'https://other.example']
    expect(await reasonOf(() => checkAudience({ aud: [us, them] }, us, false))).toBe('audience_mismatch')
    expect(await reasonOf(() => checkAudience({ aud: [us, them] }, us, true))).toBe('accepted')
    expect(await reasonOf(() => checkAudience({ aud: [them] }, us, true))).toBe('audience_mismatch')
    expect(await reasonOf(() => checkAudience({ aud: [] }, us, true))).toBe('claim_invalid')
    expect(await reasonOf(() => checkAudience({ aud: Array.from({ length: 21 }, () => us) }, us, true))).toBe('claim_invalid')
  })
})
