import { createHash, type KeyObject, sign as signBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { type ProofExpectation, verifyProof } from '../../src/domain/dpop.js'
import { NONCE_SECONDS } from '../../src/domain/dpop-nonce.js'
import { newKeyPair } from '../../src/domain/key-pair.js'

const NOW = 1_790_000_000
const URL_ = 'https://curfew.example/v1/tasks'
const b64 = (data: string | Buffer) => Buffer.from(data).toString('base64url')
const ec = await newKeyPair('ec', { namedCurve: 'P-256' })
const rsa = await newKeyPair('rsa', { modulusLength: 2048 })
const other = await newKeyPair('ec', { namedCurve: 'P-256' })
const weak = await newKeyPair('rsa', { modulusLength: 1024 })
const jwkOf = (key: KeyObject) => key.export({ format: 'jwk' })

function proof(claims: object = {}, header: object = {}, pair: { publicKey: KeyObject; privateKey: KeyObject } = ec): string {
  const alg = pair === rsa ? 'RS256' : 'ES256'
  const input = [
    { alg, typ: 'dpop+jwt', jwk: jwkOf(pair.publicKey), ...header },
    { jti: 'one', htm: 'POST', htu: URL_, iat: NOW, ...claims },
  ]
    .map(part => b64(JSON.stringify(part)))
    .join('.')
  return `${input}.${b64(signBytes('sha256', Buffer.from(input), { key: pair.privateKey, dsaEncoding: 'ieee-p1363' }))}`
}

async function verdict(text: string, expected: Partial<ProofExpectation> = {}): Promise<string> {
  try {
    await verifyProof(text, { method: 'POST', url: URL_, now: new Date(NOW * 1000), ...expected })
    return 'accepted'
  } catch (error) {
    const { code, facts } = error as { code: string; facts: { reason: string } }
    return code === 'proof_refused' ? facts.reason : String(error)
  }
}

describe('a proof of possession', () => {
  it('T41 the twin of every case: by either kind of key, with its hash of the token where there is one', async () => {
    expect(await verdict(proof())).toBe('accepted')
    expect(await verdict(proof({}, {}, rsa))).toBe('accepted')
    const ath = createHash('sha256').update('a-token').digest('base64url')
    expect(await verdict(proof({ ath }), { accessToken: 'a-token' })).toBe('accepted')
  })

  it.each([
    ['T41 a private key in the header', proof({}, { jwk: jwkOf(ec.privateKey) }), 'key_private'],
    ['T41 a symmetric key', proof({}, { jwk: { kty: 'oct', k: 'AAAA' } }), 'key_symmetric'],
    ["T41 another's key", proof({}, { jwk: jwkOf(other.publicKey) }), 'signature_invalid'],
    ['T41 no key', proof({}, { jwk: undefined }), 'jwk_missing'],
    ['T41 a key that is text', proof({}, { jwk: 'key' }), 'jwk_missing'],
    ['T41 a list of keys', proof({}, { jwk: [jwkOf(ec.publicKey)] }), 'jwk_refused'],
    ['T41 a weak key', proof({}, { jwk: jwkOf(weak.publicKey) }), 'key_weak'],
    ['T41 no algorithm', proof({}, { alg: 'none' }), 'algorithm_refused'],
    ['T41 an algorithm that the key is not for', proof({}, { alg: 'RS256' }), 'algorithm_refused'],
    ['T41 the type of another class', proof({}, { typ: 'at+jwt' }), 'type_refused'],
    ['T41 no type', proof({}, { typ: undefined }), 'type_refused'],
    ['T41 another method', proof({ htm: 'GET' }), 'htm_mismatch'],
    ['T41 the method in lower case', proof({ htm: 'post' }), 'htm_mismatch'],
    ['T41 no method', proof({ htm: undefined }), 'htm_mismatch'],
    ['T43 an id missing', proof({ jti: undefined }), 'jti_invalid'],
    ['T43 an id empty', proof({ jti: '' }), 'jti_invalid'],
    ['T43 an id of more than 256 bytes', proof({ jti: 'é'.repeat(129) }), 'jti_invalid'],
    ['T43 301 s old', proof({ iat: NOW - 301 }), 'proof_old'],
    ['T43 61 s ahead', proof({ iat: NOW + 61 }), 'proof_in_future'],
    ['T18 a time with a fraction', proof({ iat: NOW + 0.5 }), 'iat_invalid'],
    ['T18 a time that is text', proof({ iat: String(NOW) }), 'iat_invalid'],
    ['T41 a hash of no token', proof({ ath: 'x' }), 'ath_unexpected'],
    ['T24 a space behind it', `${proof()} `, 'malformed_token'],
    ['H23 two, joined by a comma', `${proof()}, ${proof()}`, 'malformed_token'],
  ])('%s is refused', async (_name, text, reason) => {
    expect(await verdict(text)).toBe(reason)
  })

  it('T43 P56 the edges of the window are inside, and jti may have 256 bytes', async () => {
    expect(await verdict(proof({ iat: NOW - 300 }))).toBe('accepted')
    expect(await verdict(proof({ iat: NOW + 60 }))).toBe('accepted')
    expect(await verdict(proof({ jti: 'é'.repeat(128) }))).toBe('accepted')
  })

  describe('where a nonce is demanded', () => {
    const isNonce = (nonce: string) => nonce === 'good'
    const demanded = (claims: object) => verdict(proof(claims), { isNonce })

    it.each([undefined, '', 'stale', 'Good', 'good ', 7, null, true, ['good'], { good: true }])('T43 %j is none', async nonce => {
      expect(await demanded({ nonce })).toBe('nonce_required')
      expect(await demanded({ nonce: 'good' })).toBe('accepted')
    })
    it('it bounds the past, so that a slow clock costs nothing; the future has its bound as before (standards.md 1.4)', async () => {
      expect(await demanded({ nonce: 'good', iat: NOW - 86_400 })).toBe('accepted')
      expect(await demanded({ nonce: 'good', iat: NOW + 61 })).toBe('proof_in_future')
      expect(await demanded({ iat: NOW - 86_400 })).toBe('nonce_required')
    })
    it('the mark outlives the nonce, and the window of a replica that demands none yet', async () => {
      const until = async (iat: number) =>
        (await verifyProof(proof({ nonce: 'good', iat }), { method: 'POST', url: URL_, now: new Date(NOW * 1000), isNonce })).mark.until.getTime() / 1000
      expect(await until(NOW - 86_400)).toBe(NOW + 2 * NONCE_SECONDS)
      expect(await until(NOW)).toBe(NOW + 360)
    })
    it('everything else is refused as without, and before it: a nonce mends nothing', async () => {
      expect(await demanded({ nonce: 'good', htm: 'GET' })).toBe('htm_mismatch')
      expect(await demanded({ nonce: 'good', jti: undefined })).toBe('jti_invalid')
      expect(await demanded({ nonce: 'good', ath: 'x' })).toBe('ath_unexpected')
    })
    it('where none is demanded, one does no harm', async () => {
      expect(await verdict(proof({ nonce: 'any' }))).toBe('accepted')
    })
  })

  it('T41 the hash must be of the token that came along', async () => {
    const ath = createHash('sha256').update('another').digest('base64url')
    expect(await verdict(proof({ ath }), { accessToken: 'a-token' })).toBe('ath_mismatch')
    expect(await verdict(proof(), { accessToken: 'a-token' })).toBe('ath_mismatch')
  })

  it.each([
    ['the default port', 'https://curfew.example:443/v1/tasks'],
    ['another case of scheme and host', 'HTTPS://Curfew.EXAMPLE/v1/tasks'],
    ['a query and a fragment', `${URL_}?a=b#c`],
    ['an unreserved character escaped', 'https://curfew.example/v1/%74asks'],
    ['dots that resolve to it', 'https://curfew.example/v1/x/../tasks'],
  ])('T42 P51 %s is the same place (RFC 3986 section 6.2)', async (_name, htu) => {
    expect(await verdict(proof({ htu }))).toBe('accepted')
  })

  it.each([
    ['another scheme', 'http://curfew.example/v1/tasks'],
    ['another port', 'https://curfew.example:8443/v1/tasks'],
    ['another host', 'https://evil.example/v1/tasks'],
    ['ours as a user of another host', 'https://curfew.example@evil.example/v1/tasks'],
    ['a user', 'https://x@curfew.example/v1/tasks'],
    ['a dot behind the host', 'https://curfew.example./v1/tasks'],
    ['a trailing slash', `${URL_}/`],
    ['a double slash', 'https://curfew.example//v1/tasks'],
    ['another case of the path', 'https://curfew.example/V1/tasks'],
    ['a reserved character escaped', 'https://curfew.example/v1%2Ftasks'],
    ['a backslash', 'https://curfew.example\\v1\\tasks'],
    ['no slashes behind the scheme', 'https:curfew.example/v1/tasks'],
    ['three slashes behind the scheme', 'https:///curfew.example/v1/tasks'],
    ['white space', ` ${URL_}`],
    ['a path alone', '/v1/tasks'],
    ['nothing', ''],
    ['no text', 7],
  ])('T42 %s is another place', async (_name, htu) => {
    expect(await verdict(proof({ htu }))).toBe('htu_mismatch')
  })

  it('T42 a place that is no URL matches nothing, not even itself', async () => {
    const url = 'https://curfew.example/v1/\\tasks'
    expect(await verdict(proof({ htu: url }), { url })).toBe('htu_mismatch')
    expect(await verdict(proof({ htu: 'nonsense' }), { url })).toBe('htu_mismatch')
  })

  it('T43 T46 the mark is of key and jti, and outlives the window in which the proof could be shown again', async () => {
    const seen = async (text: string) => verifyProof(text, { method: 'POST', url: URL_, now: new Date(NOW * 1000) })
    const one = await seen(proof())
    expect(await seen(proof())).toEqual(one)
    expect((await seen(proof({ jti: 'two' }))).mark).not.toEqual(one.mark)
    expect((await seen(proof({}, {}, rsa))).mark).not.toEqual(one.mark)
    expect(one.mark.namespace).toBe(`dpop:${one.jkt}`)
    expect(one.mark.until.getTime()).toBeGreaterThan((NOW + 300) * 1000)
  })
})
