import { randomBytes } from 'node:crypto'
import type { JWK } from 'jose'
import { describe, expect, it } from 'vitest'
import { admitKeys, isRoca, type KeyRules, thumbprint } from '../../src/domain/jwk.js'
import { newKeyPair } from '../../src/domain/key-pair.js'

const SIG: KeyRules = { use: 'sig', algs: ['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA'] }
const jwk = (key: { export(o: { format: 'jwk' }): unknown }, more: object = {}) => ({ ...(key.export({ format: 'jwk' }) as JWK), ...more }) as JWK
const ec = await newKeyPair('ec', { namedCurve: 'P-256' })
const rsa = await newKeyPair('rsa', { modulusLength: 2048 })
const ed = await newKeyPair('ed25519')
const fake = (bits: number, even = false) => {
  const n = randomBytes(bits / 8)
  n[0] = (n[0] as number) | 0x80
  n[n.length - 1] = even ? (n.at(-1) as number) & 0xfe : (n.at(-1) as number) | 1
  return n.toString('base64url')
}

const verdict = (key: unknown, rules = SIG): string => {
  try {
    const [admitted] = admitKeys({ keys: [key] }, rules)
    return admitted ? `admitted ${admitted.algs.join(' ')}` : 'passed over'
  } catch (error) {
    return (error as { facts: { reason: string } }).facts.reason
  }
}

describe('keys of a set', () => {
  it('plain public keys are admitted for the algorithms that fit them', () => {
    expect(verdict(jwk(ec.publicKey))).toBe('admitted ES256')
    expect(verdict(jwk(rsa.publicKey))).toBe('admitted RS256 PS256')
    expect(verdict(jwk(ed.publicKey))).toBe('admitted EdDSA')
    expect(verdict(jwk(rsa.publicKey, { alg: 'PS256', use: 'sig', key_ops: ['verify'] }))).toBe('admitted PS256')
  })

  it.each([
    ['T11 P22 RSA of 1024 bits', { kty: 'RSA', e: 'AQAB', n: fake(1024) }, 'key_weak'],
    ['H08 RSA of 16384 bits', { kty: 'RSA', e: 'AQAB', n: fake(16_384) }, 'key_weak'],
    ['T11 P22 RSA with e = 1', jwk(rsa.publicKey, { e: 'AQ' }), 'key_weak'],
    ['T11 RSA with e = 2', jwk(rsa.publicKey, { e: 'Ag' }), 'key_weak'],
    ['T11 RSA with e = 65537 in another spelling', jwk(rsa.publicKey, { e: 'AAEAAQ' }), 'key_weak'],
    ['T11 an even modulus', { kty: 'RSA', e: 'AQAB', n: fake(2048, true) }, 'key_weak'],
    [
      'a modulus with a zero in front',
      jwk(rsa.publicKey, { n: Buffer.concat([Buffer.from([0]), Buffer.from(jwk(rsa.publicKey).n as string, 'base64url')]).toString('base64url') }),
      'key_weak',
    ],
    ['T11 a private part', jwk(rsa.privateKey), 'key_private'],
    ['T11 a private part of a curve', jwk(ec.privateKey), 'key_private'],
    ['T11 a symmetric key', { kty: 'oct', k: 'AAAA' }, 'key_symmetric'],
    ['T11 a key for encryption', jwk(rsa.publicKey, { use: 'enc' }), 'passed over'],
    ['a key that may only encrypt', jwk(rsa.publicKey, { key_ops: ['encrypt'] }), 'passed over'],
    ['key_ops that are no list', jwk(rsa.publicKey, { key_ops: 5 }), 'passed over'],
    ['an algorithm that the key cannot be', jwk(ec.publicKey, { alg: 'RS256' }), 'passed over'],
    ['a curve that nobody configured', { kty: 'EC', crv: 'secp256k1', x: fake(256), y: fake(256) }, 'key_malformed'],
    ['a curve called like a method', { kty: 'EC', crv: 'constructor', x: fake(256), y: fake(256) }, 'key_malformed'],
    ['another type', { kty: 'AKP', alg: 'ML-DSA-44', pub: 'x' }, 'passed over'],
    ['coordinates too short', jwk(ec.publicKey, { x: 'AAAA' }), 'key_malformed'],
    ['T07 a kid that is no text', jwk(ec.publicKey, { kid: 7 }), 'key_set_malformed'],
    ['T07 a kid without end', jwk(ec.publicKey, { kid: 'k'.repeat(256) }), 'key_set_malformed'],
    ['no object', 'key', 'key_set_malformed'],
  ])('%s: %#', (_name, key, expected) => {
    expect(verdict(key)).toBe(expected)
  })

  it('T11 P21 a point off the curve verifies nothing', async () => {
    const y = Buffer.from(jwk(ec.publicKey).y as string, 'base64url')
    y[31] = (y[31] as number) ^ 1
    const [key] = admitKeys({ keys: [jwk(ec.publicKey, { y: y.toString('base64url') })] }, SIG)
    await expect(key?.verifier('ES256')).rejects.toThrow()
    await expect(admitKeys({ keys: [jwk(ec.publicKey)] }, SIG)[0]?.verifier('ES256')).resolves.toBeDefined()
  })

  it('T08 two keys under one name refuse the set; two names for two keys do not', () => {
    const pair = (b: string) => ({ keys: [jwk(ec.publicKey, { kid: 'a' }), jwk(rsa.publicKey, { kid: b })] })
    expect(() => admitKeys(pair('a'), SIG)).toThrow(expect.objectContaining({ facts: { reason: 'key_ambiguous' } }))
    expect(admitKeys(pair('b'), SIG).map(k => k.kid)).toEqual(['a', 'b'])
  })

  it('H14 P40 a hundred keys are the limit, and what is no set is none', () => {
    const keys = Array.from({ length: 101 }, (_, i) => jwk(ec.publicKey, { kid: String(i) }))
    expect(admitKeys({ keys: keys.slice(1) }, SIG)).toHaveLength(100)
    expect(() => admitKeys({ keys }, SIG)).toThrow(expect.objectContaining({ facts: { reason: 'key_set_too_large' } }))
    for (const set of [null, {}, { keys: {} }, [], 'x'])
      expect(() => admitKeys(set, SIG)).toThrow(expect.objectContaining({ facts: { reason: 'key_set_malformed' } }))
  })

  it('a SPIFFE bundle gives its JWT keys and nothing else, and they verify although `use` is foreign to jose', async () => {
    const rules: KeyRules = { use: 'jwt-svid', algs: ['ES256'] }
    const keys = admitKeys(
      { keys: [jwk(ec.publicKey, { use: 'jwt-svid', kid: 'j' }), jwk(ec.publicKey, { use: 'x509-svid', x5c: ['x'] }), jwk(ec.publicKey)] },
      rules,
    )
    expect(keys.map(k => k.kid)).toEqual(['j'])
    await expect(keys[0]?.verifier('ES256')).resolves.toBeDefined()
    expect(verdict(jwk(ec.publicKey, { use: 'jwt-svid' }))).toBe('passed over')
  })

  it('T47 an imported key is found again by its whole thumbprint and its algorithm, never by its name', async () => {
    const one = admitKeys({ keys: [jwk(rsa.publicKey, { kid: 'same' })] }, SIG)[0]
    const again = admitKeys({ keys: [jwk(rsa.publicKey, { kid: 'other' })] }, SIG)[0]
    const stranger = admitKeys({ keys: [jwk((await newKeyPair('rsa', { modulusLength: 2048 })).publicKey, { kid: 'same' })] }, SIG)[0]
    expect(await again?.verifier('RS256')).toBe(await one?.verifier('RS256'))
    expect(await stranger?.verifier('RS256')).not.toBe(await one?.verifier('RS256'))
    expect(await one?.verifier('PS256')).not.toBe(await one?.verifier('RS256'))
  })

  it('RFC 7638 section 3.1: the thumbprint of the example key', () => {
    const n =
      '0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw'
    expect(thumbprint({ kty: 'RSA', n, e: 'AQAB', alg: 'RS256', kid: '2011-04-29' })).toBe('NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs')
  })

  it('P22 a modulus of the broken generator is known by its fingerprint, an ordinary one is not', () => {
    // Any power of 65537 modulo the primorial has the fingerprint; the generator's primes are such powers plus a multiple of it.
    let weak = 1n
    for (let i = 0; i < 100; i++) weak *= 65_537n
    expect(isRoca(weak)).toBe(true)
    expect(isRoca(BigInt(`0x${Buffer.from(jwk(rsa.publicKey).n as string, 'base64url').toString('hex')}`))).toBe(false)
  })
})
