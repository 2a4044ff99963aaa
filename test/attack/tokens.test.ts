import { createHmac, type KeyObject, sign as signBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { oidcAttestor } from '../../src/attestors/oidc.js'
import { CurfewError } from '../../src/domain/errors.js'
import type { Attestor } from '../../src/ports.js'
import { type Alg, pairFor } from '../key-pair.js'
import { oidcIssuer } from '../trust-issuer.js'

/** Every case is built by hand, byte for byte: a library that makes tokens would refuse to make these. */

const SERVER = 'https://curfew.example'
const NOW = 1_790_000_000
const b64 = (data: string | Buffer) => Buffer.from(data).toString('base64url')

interface Party {
  readonly alg: Alg
  readonly issuer: string
  readonly kid: string
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
}

async function party(alg: Alg, name: string): Promise<Party> {
  return { alg, issuer: `https://${name}.example`, kid: `${name}-1`, ...(await pairFor(alg)) }
}

function signed(p: Party, header: string, payload: string): string {
  const input = `${b64(header)}.${b64(payload)}`
  const signature =
    p.alg === 'EdDSA'
      ? signBytes(null, Buffer.from(input), p.privateKey)
      : signBytes('sha256', Buffer.from(input), { key: p.privateKey, dsaEncoding: 'ieee-p1363' })
  return `${input}.${signature.toString('base64url')}`
}

const headerOf = (p: Party, more: object = {}) => ({ alg: p.alg, kid: p.kid, typ: 'JWT', ...more })
const claimsOf = (p: Party, more: object = {}) => ({ iss: p.issuer, aud: SERVER, sub: 'job-7', jti: 'id-1', iat: NOW - 5, exp: NOW + 300, ...more })
const token = (p: Party, claims: object = {}, header: object = {}) => signed(p, JSON.stringify(headerOf(p, header)), JSON.stringify(claimsOf(p, claims)))
/** The payload's JSON as text, with one member replaced by raw text: what JSON.stringify cannot say. */
const raw = (p: Party, name: string, text: string) =>
  signed(p, JSON.stringify(headerOf(p)), JSON.stringify(claimsOf(p, { [name]: '\u0000' })).replace('"\\u0000"', text))

const parties = [await party('ES256', 'es'), await party('RS256', 'rs'), await party('EdDSA', 'ed')] as const
const outbound: string[] = []

function attestorFor(now = NOW): Attestor {
  const configs = parties.map(p => oidcIssuer(p.issuer, { name: p.kid.slice(0, 2), keys: { file: p.kid }, algs: [p.alg] }))
  return oidcAttestor(configs, {
    serverUrl: SERVER,
    clock: { now: () => new Date(now * 1000) },
    outbound: {
      getJson: async url => {
        outbound.push(url)
        throw new Error('no network here')
      },
    },
    readFile: async kid => {
      const p = parties.find(x => x.kid === kid) as Party
      return JSON.stringify({ keys: [{ ...p.publicKey.export({ format: 'jwk' }), kid: p.kid }] })
    },
    log: { warn: () => {}, error: () => {} },
  })
}

async function verdict(text: string, now = NOW): Promise<string> {
  const attestor = attestorFor(now)
  const evidence = { type: 'jwt', token: text } as const
  if (!attestor.recognizes(evidence)) return 'not recognized'
  try {
    await attestor.attest(evidence, AbortSignal.timeout(5_000))
    return 'accepted'
  } catch (error) {
    if (!(error instanceof CurfewError) || error.code !== 'attestation_refused') throw error
    return error.facts.reason ?? '?'
  }
}

const swap = (text: string, at: 0 | 1 | 2, f: (s: string) => string) =>
  text
    .split('.')
    .map((s, i) => (i === at ? f(s) : s))
    .join('.')

type Case = readonly [id: string, build: (p: Party) => string, ...expected: string[]]

const none = ['none', 'None', 'nOnE', 'NONE', 'none\u0000', ' none', '']
const CASES: readonly Case[] = [
  ...none.map((alg): Case => [`T01 P20 alg ${JSON.stringify(alg)}, signed`, p => token(p, {}, { alg }), 'algorithm_refused']),
  ...none.map(
    (alg): Case => [`T01 alg ${JSON.stringify(alg)}, no signature`, p => swap(token(p, {}, { alg }), 2, () => ''), 'malformed_token', 'algorithm_refused'],
  ),
  ['T01 alg missing', p => token(p, {}, { alg: undefined }), 'algorithm_refused'],
  ...(['spki', 'jwk'] as const).map(
    (format): Case => [
      `T02 P20 the public key as ${format} text for an HMAC secret`,
      p => {
        const secret = format === 'jwk' ? JSON.stringify(p.publicKey.export({ format: 'jwk' })) : p.publicKey.export({ type: 'spki', format: 'pem' })
        const input = `${b64(JSON.stringify(headerOf(p, { alg: 'HS256' })))}.${b64(JSON.stringify(claimsOf(p)))}`
        return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`
      },
      'algorithm_refused',
    ],
  ),
  ...['HS256', 'PS256', 'ES384', 'RS512', 'es256', 'rs256', 'eddsa', 'ES256K'].map(
    (alg): Case => [`T04 alg ${alg} outside the issuer's list`, p => token(p, {}, { alg }), 'algorithm_refused'],
  ),
  ...['../../dev/null', '/proc/self/environ', 'file:///etc/passwd', '%2e%2e/', 'x\u0000', "' or 1=1 --", '*', 'a\nb', '__proto__', 'constructor'].map(
    (kid): Case => [`T06 T07 P23 kid ${JSON.stringify(kid)}`, p => token(p, {}, { kid }), 'key_unknown'],
  ),
  ...[7, ['a'], { a: 1 }, '', 'k'.repeat(300)].map(
    (kid): Case => [`T07 kid of type ${typeof kid}, ${String(kid).slice(0, 12)}`, p => token(p, {}, { kid }), 'header_refused'],
  ),
  [
    "T08 T10 another trusted issuer's key, under its own name",
    p => signed(other(p), JSON.stringify(headerOf(p, { kid: other(p).kid })), JSON.stringify(claimsOf(p))),
    'key_unknown',
  ],
  [
    "T10 another trusted issuer's key, under the right name",
    p => signed(other(p), JSON.stringify(headerOf(p)), JSON.stringify(claimsOf(p))),
    'signature_invalid',
  ],
  ...(['jwk', 'jku', 'x5u', 'x5c', 'x5t', 'x5t#S256', 'crit', 'b64', 'cty', 'zip', 'enc'] as const).map(
    (name): Case => [`T09 T14 T15 P24 P27 header ${name}`, p => token(p, {}, { [name]: name === 'b64' ? false : ['x'] }), 'header_refused'],
  ),
  ['T12 five segments', p => `${token(p)}.a.b`, 'not recognized', 'malformed_token'],
  ['T12 the JSON form', p => JSON.stringify({ payload: token(p).split('.')[1], signatures: [] }), 'not recognized'],
  ['T12 P30 detached: an empty payload', p => swap(token(p), 1, () => ''), 'not recognized'],
  ...['at+jwt', 'dpop+jwt', 'secevent+jwt', 'logout+jwt', 'curfew-task+jwt', 'jwt ', ''].map(
    (typ): Case => [`T16 typ ${JSON.stringify(typ)}`, p => token(p, {}, { typ }), 'type_refused'],
  ),
  ['T16 typ that is no text', p => token(p, {}, { typ: 1 }), 'type_refused'],
  ...['aud', 'sub', 'exp', 'iat'].map((name): Case => [`T17 without ${name}`, p => token(p, { [name]: undefined }), 'claim_missing']),
  ...['aud', 'sub'].flatMap((name): Case[] => [
    [`T17 ${name} null`, p => token(p, { [name]: null }), 'claim_missing', 'claim_invalid'],
    [`T17 ${name} empty`, p => token(p, { [name]: '' }), 'claim_invalid', 'audience_mismatch'],
    [`T17 ${name} of another type`, p => token(p, { [name]: { a: 1 } }), 'claim_invalid'],
  ]),
  ['T17 jti of another type', p => token(p, { jti: 7 }), 'claim_invalid'],
  ['T17 iss of another type', p => token(p, { iss: [p.issuer] }), 'not recognized'],
  ...['-1e400', '1e400', '9007199254740993', '9223372036854775808', '-1', '1.5', '"123"', 'true', '[]', '{"a":1}', 'null', '1e3000'].flatMap((text): Case[] => [
    [`T18 P28 exp ${text}`, p => raw(p, 'exp', text), 'claim_invalid', 'payload_refused', 'life_too_long', 'expired', 'not recognized', 'claim_missing'],
    [`T19 iat ${text}`, p => raw(p, 'iat', text), 'claim_invalid', 'payload_refused', 'issued_in_future', 'life_too_long', 'not recognized', 'claim_missing'],
  ]),
  ['T18 exp zero', p => token(p, { exp: 0 }), 'expired'],
  ['T19 iat ahead of time', p => token(p, { iat: NOW + 60 }), 'issued_in_future'],
  ['T19 nbf after exp', p => token(p, { nbf: NOW + 400 }), 'not_yet_valid'],
  ['T19 a life over the cap', p => token(p, { exp: NOW + 3_600 }), 'life_too_long'],
  ['T19 exp before iat', p => token(p, { iat: NOW - 3, exp: NOW - 4 }), 'claim_invalid'],
  [
    'T21 P25 a claim twice',
    p => signed(p, JSON.stringify(headerOf(p)), JSON.stringify(claimsOf(p)).replace('{', '{"aud":"x",')),
    'duplicate_member',
    'not recognized',
  ],
  [
    'T21 P25 a claim twice, once escaped',
    p => signed(p, JSON.stringify(headerOf(p)), JSON.stringify(claimsOf(p)).replace('{', '{"\\u0061ud":"x",')),
    'duplicate_member',
    'not recognized',
  ],
  ['T21 a header member twice', p => signed(p, JSON.stringify(headerOf(p)).replace('{', '{"alg":"none",'), JSON.stringify(claimsOf(p))), 'duplicate_member'],
  ['T23 8 KiB and one byte', p => token(p, { pad: 'x'.repeat(8_192) }), 'not recognized', 'token_too_large'],
  ['T23 10,000 claims', p => token(p, Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`c${i}`, 1]))), 'not recognized', 'token_too_large'],
  ['T23 65 claims', p => token(p, Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`c${i}`, 1]))), 'payload_refused'],
  ['T23 nine deep', p => token(p, { deep: [[[[[[[[[]]]]]]]]] }), 'not recognized', 'payload_refused'],
  ['T24 P26 padding', p => swap(token(p), 2, s => `${s}=`), 'malformed_token'],
  ['T24 P26 white space inside', p => swap(token(p), 2, s => `${s.slice(0, 4)} ${s.slice(4)}`), 'malformed_token'],
  ['T24 the other alphabet', p => swap(token(p), 1, s => `${s.slice(0, -2)}+/`), 'not recognized', 'malformed_token'],
  ['T24 P26 spare bits', p => swap(token(p), 2, s => s.slice(0, -1) + spare(s.at(-1) as string)), 'malformed_token'],
  ['T24 a line end behind it', p => `${token(p)}\n`, 'malformed_token'],
  ['T24 two segments', p => token(p).split('.').slice(0, 2).join('.'), 'malformed_token'],
  ['T24 a trailing dot', p => `${token(p)}.`, 'malformed_token', 'not recognized'],
  ['T24 a byte-order mark', p => signed(p, `\ufeff${JSON.stringify(headerOf(p))}`, JSON.stringify(claimsOf(p))), 'header_refused'],
  ['T24 P33 subject outside printable ASCII', p => token(p, { sub: 'job\u200d7' }), 'claim_invalid'],
  ['T24 NUL inside the subject', p => token(p, { sub: 'job\u00007' }), 'claim_invalid'],
  ...['https://other.example', 'sts.amazonaws.com', `${SERVER}/`, SERVER.toUpperCase(), `${SERVER}.evil.example`, 'https://curfew'].map(
    (aud): Case => [`T25 T27 audience ${aud}`, p => token(p, { aud }), 'audience_mismatch'],
  ),
  ['T26 ours among others', p => token(p, { aud: [SERVER, 'https://other.example'] }), 'audience_mismatch'],
  ['T27 audience as an object', p => token(p, { aud: { [SERVER]: 1 } }), 'claim_invalid'],
  ['T27 audience nested', p => token(p, { aud: [[SERVER]] }), 'claim_invalid'],
  ...['/', '//', ':443', '#', '?', '\\', '%2f', '.'].map(
    (tail): Case => [`T31 P34 our issuer with ${tail} behind it`, p => token(p, { iss: p.issuer + tail }), 'not recognized'],
  ),
  ['T31 another host behind ours', p => token(p, { iss: `${p.issuer}@evil.example` }), 'not recognized'],
  ['T31 upper case', p => token(p, { iss: p.issuer.toUpperCase() }), 'not recognized'],
  ['T30 an issuer that nobody registered', p => token(p, { iss: 'http://169.254.169.254/latest' }), 'not recognized'],
  ['T20 expired by the tolerance', p => token(p, { exp: NOW - 5 }), 'expired'],
]

function other(p: Party): Party {
  return parties[(parties.indexOf(p as never) + 1) % parties.length] as Party
}

/** Another last character with the same leading bits: the decoded bytes are the same, the spelling is not. */
function spare(last: string): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  return alphabet[alphabet.indexOf(last) ^ 1] as string
}

describe.each(parties)('evidence of an issuer that signs with $alg', p => {
  it('the twin of every case: the plain token is accepted, in both spellings of its type, up to the last moment of tolerance', async () => {
    expect(await verdict(token(p))).toBe('accepted')
    expect(await verdict(token(p, {}, { typ: 'application/jwt' }))).toBe('accepted')
    expect(await verdict(token(p, { aud: [SERVER] }))).toBe('accepted')
    expect(await verdict(token(p, { exp: NOW - 4 }))).toBe('accepted')
    expect(await verdict(token(p, { nbf: NOW + 5 }))).toBe('accepted')
    expect(await verdict(token(p, { iat: NOW + 5 }))).toBe('accepted')
    expect(await verdict(token(p, { constructor: 'x', toString: 'y', extra: { a: [1] } }))).toBe('accepted')
  })
  it.each(CASES)('%s', async (...given) => {
    const [, build, ...expected] = given as unknown as Case
    expect(expected).toContain(await verdict(build(p)))
  })
})

it('T30 H10 none of it touched the network, and T22 no prototype was changed', () => {
  expect(outbound).toEqual([])
  expect(Object.keys(Object.prototype)).toEqual([])
})

it('T46 a mark names the decoded token, so that another spelling cannot use it twice', async () => {
  const p = parties[0]
  const attest = async (text: string) => attestorFor().attest({ type: 'jwt', token: text }, AbortSignal.timeout(5_000))
  expect((await attest(token(p))).mark).toEqual((await attest(token(p))).mark)
  expect((await attest(token(p, { jti: 'id-2' }))).mark?.id).not.toBe((await attest(token(p))).mark?.id)
})
