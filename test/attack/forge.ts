/** Owns tokens made by hand, byte for byte, as no library would make them, and the trap that sees whether anything left this process. */
import { createHmac, type KeyObject, randomBytes, sign as signBytes } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { type PerformanceEntry, PerformanceObserver } from 'node:perf_hooks'
import { ORDERS, SERVER } from '../house.js'
import { type Alg, pairFor } from '../key-pair.js'

export const b64 = (data: string | Buffer) => Buffer.from(data).toString('base64url')

export interface Party {
  readonly alg: Alg
  /** As the configuration calls it. */
  readonly name: string
  readonly issuer: string
  readonly kid: string
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
  /** The party whose key is used where this one's belongs. */
  other(): Party
}

export async function party(alg: Alg, name: string, other: () => Party): Promise<Party> {
  return { alg, name, issuer: `https://${name}.example`, kid: `${name}-1`, other, ...(await pairFor(alg)) }
}

/** Three trust issuers, one for each algorithm. */
export async function threeParties(): Promise<readonly [Party, Party, Party]> {
  const all: [Party, Party, Party] = [
    await party('ES256', 'es', () => all[1]),
    await party('RS256', 'rs', () => all[2]),
    await party('EdDSA', 'ed', () => all[0]),
  ]
  return all
}

export const jwkOf = (p: Party, kid = p.kid): Record<string, string> => ({ ...(p.publicKey.export({ format: 'jwk' }) as object), kid })

export function write(p: Party, header: string | Buffer, payload: string | Buffer): string {
  const input = `${b64(header)}.${b64(payload)}`
  const signature =
    p.alg === 'EdDSA'
      ? signBytes(null, Buffer.from(input), p.privateKey)
      : signBytes('sha256', Buffer.from(input), { key: p.privateKey, dsaEncoding: 'ieee-p1363' })
  return `${input}.${signature.toString('base64url')}`
}

/** Claims and header members that differ from the plain ones; `undefined` leaves one out. */
export type Members = Readonly<Record<string, unknown>>
const headerOf = (p: Party, more: Members = {}) => JSON.stringify({ alg: p.alg, kid: p.kid, typ: 'JWT', ...more })
const claimsOf = (p: Party, now: number, more: Members = {}) =>
  JSON.stringify({ iss: p.issuer, aud: SERVER, sub: 'job-7', jti: randomBytes(9).toString('hex'), iat: now - 5, exp: now + 300, ...more })
export const evidenceOf = (p: Party, now: number, claims: Members = {}, header: Members = {}) => write(p, headerOf(p, header), claimsOf(p, now, claims))
/** One member as raw text: what JSON.stringify cannot say. */
const raw = (p: Party, now: number, name: string, text: string) => write(p, headerOf(p), claimsOf(p, now, { [name]: '\u0000' }).replace('"\\u0000"', text))
export const swap = (text: string, at: number, f: (segment: string) => string) =>
  text
    .split('.')
    .map((s, i) => (i === at ? f(s) : s))
    .join('.')
/** Another last character with the same leading bits: the bytes are the same, the spelling is not. */
export const spare = (segment: string) => {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  return segment.slice(0, -1) + alphabet[alphabet.indexOf(segment.at(-1) as string) ^ 1]
}
function hmac(p: Party, now: number, secret: string | Buffer): string {
  const input = `${b64(headerOf(p, { alg: 'HS256' }))}.${b64(claimsOf(p, now))}`
  return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`
}
/** The public key's bare numbers: a point for EC and Ed25519, a modulus for RSA. */
const pointOf = (p: Party, names: readonly string[]) => Buffer.concat(names.map(n => Buffer.from(jwkOf(p)[n] ?? jwkOf(p).n ?? '', 'base64url')))

export interface EvidenceCase {
  readonly id: string
  readonly build: (p: Party, now: number) => string
  /** The same token with the plain value at the same place; the plain token when it is left out. */
  readonly twin?: (p: Party, now: number) => string
  readonly reason: string
  /** `attestation_refused` unless it is said otherwise. */
  readonly code?: 'malformed'
}
const over = <T>(values: readonly T[], id: (v: T) => string, reason: string, build: (p: Party, now: number, v: T) => string, code?: 'malformed') =>
  values.map((v): EvidenceCase => ({ id: id(v), build: (p, now) => build(p, now, v), reason, ...(code ? { code } : {}) }))
const claim = (id: string, reason: string, claims: Members | ((p: Party, now: number) => Members), twin: Members = {}): EvidenceCase => ({
  id,
  reason,
  build: (p, now) => evidenceOf(p, now, typeof claims === 'function' ? claims(p, now) : claims),
  twin: (p, now) => evidenceOf(p, now, twin),
})
const text = (id: string, reason: string, spoil: (t: string, p: Party, now: number) => string): EvidenceCase => ({
  id,
  reason,
  build: (p, now) => spoil(evidenceOf(p, now), p, now),
})

export const NONE = ['none', 'None', 'nOnE', 'NONE', 'none\u0000', ' none', '']
const NO_TIME = ['9007199254740992', '9223372036854775808', '-1', '1.5', '"123"', 'true', '[]', '{"a":1}', 'null']
const NO_JSON = ['1e400', '-1e400', 'NaN', 'Infinity', '0x7f', '01']
const HTML = 'https://evil.example/keys'

export const EVIDENCE: readonly EvidenceCase[] = [
  ...over(
    [...NONE, undefined],
    a => `T01 alg ${JSON.stringify(a)}, signed by the right key`,
    'algorithm_refused',
    (p, now, alg) => evidenceOf(p, now, {}, { alg }),
  ),
  ...over(
    [...NONE, undefined],
    a => `T01 alg ${JSON.stringify(a)} without a signature`,
    'malformed_token',
    (p, now, alg) => swap(evidenceOf(p, now, {}, { alg }), 2, () => ''),
  ),
  ...over(
    ['pem', 'pem, trimmed', 'pem, a space before it', 'der', 'jwk'] as const,
    f => `T02 the public key as ${f} for an HMAC secret`,
    'algorithm_refused',
    (p, now, form) => {
      const pem = p.publicKey.export({ type: 'spki', format: 'pem' }) as string
      if (form === 'der') return hmac(p, now, p.publicKey.export({ type: 'spki', format: 'der' }))
      if (form === 'jwk') return hmac(p, now, JSON.stringify(p.publicKey.export({ format: 'jwk' })))
      return hmac(p, now, form === 'pem' ? pem : form === 'pem, trimmed' ? pem.trim() : ` ${pem}`)
    },
  ),
  ...over(
    ['x', 'x and y', '04, x and y'],
    n => `T03 the bare point (${n}) for an HMAC secret`,
    'algorithm_refused',
    (p, now, form) => hmac(p, now, Buffer.concat([Buffer.from(form.startsWith('04') ? [4] : []), pointOf(p, form === 'x' ? ['x'] : ['x', 'y'])])),
  ),
  ...over(
    ['HS256', 'HS512', 'PS256', 'ES384', 'RS512', 'ES256K'],
    a => `T04 alg ${a} outside the list`,
    'algorithm_refused',
    (p, now, alg) => evidenceOf(p, now, {}, { alg }),
  ),
  ...over(
    ['lower case', "another issuer's", 'a list', 'a number'],
    a => `T04 alg in ${a}`,
    'algorithm_refused',
    (p, now, a) => evidenceOf(p, now, {}, { alg: a === 'lower case' ? p.alg.toLowerCase() : a === 'a list' ? [p.alg] : a === 'a number' ? 7 : p.other().alg }),
  ),
  ...over(
    ['../../dev/null', '/proc/self/environ', 'file:///etc/passwd', '%2e%2e/', 'x\u0000', "' or 1=1 --", '*', 'a\nb', '__proto__', 'constructor', HTML],
    k => `T06 T07 kid ${JSON.stringify(k)}`,
    'key_unknown',
    (p, now, kid) => evidenceOf(p, now, {}, { kid }),
  ),
  ...over(
    [7, ['a'], { a: 1 }, null, '', 'k'.repeat(256)],
    k => `T07 kid ${JSON.stringify(k).slice(0, 9)}`,
    'header_refused',
    (p, now, kid) => evidenceOf(p, now, {}, { kid }),
  ),
  ...over(
    [9_000],
    n => `T07 kid of ${n} characters`,
    'invalid_field',
    (p, now, n) => evidenceOf(p, now, {}, { kid: 'k'.repeat(n) }),
    'malformed',
  ),
  text("T08 another issuer's key under its own name", 'key_unknown', (_t, p, now) =>
    write({ ...p.other() }, headerOf(p, { kid: p.other().kid }), claimsOf(p, now)),
  ),
  text("T10 another issuer's key under the right name", 'signature_invalid', (_t, p, now) => write(p.other(), headerOf(p), claimsOf(p, now))),
  ...over(
    ['jwk', 'jku', 'x5u', 'x5c', 'x5t', 'x5t#S256', 'cty', 'zip', 'enc', 'url'],
    n => `T09 header ${n}`,
    'header_refused',
    (p, now, name) => evidenceOf(p, now, {}, { [name]: name === 'jwk' ? jwkOf(p) : name === 'x5c' ? [HTML] : HTML }),
  ),
  ...over(
    ['other', 'own'],
    w => `T09 signed by the ${w} key that the token brings along`,
    'header_refused',
    (p, now, which) => {
      const q = which === 'own' ? p : p.other()
      return write(q, headerOf(p, { alg: q.alg, jwk: jwkOf(q) }), claimsOf(p, now))
    },
  ),
  text('T12 flattened JSON', 'issuer_unknown', t => JSON.stringify({ protected: t.split('.')[0], payload: t.split('.')[1], signature: t.split('.')[2] })),
  text('T12 general JSON, two signatures', 'issuer_unknown', t => {
    const [head, payload, signature] = t.split('.')
    return JSON.stringify({
      payload,
      signatures: [
        { protected: head, signature },
        { protected: head, signature },
      ],
    })
  }),
  text('T12 detached', 'issuer_unknown', t => swap(t, 1, () => '')),
  text('T12 two tokens in one', 'malformed_token', (t, p, now) => `${t}.${evidenceOf(p, now)}`),
  text('T13 a token inside a token', 'issuer_unknown', (t, p) => write(p, headerOf(p), t)),
  text('T13 a token as a JSON text', 'issuer_unknown', (t, p) => write(p, headerOf(p), JSON.stringify(t))),
  text('T13 the shape of a JWE', 'issuer_unknown', t => [b64('{"alg":"dir","enc":"A256GCM","cty":"JWT"}'), '', b64('iv'), b64(t), b64('tag')].join('.')),
  text('T13 the shape of a JWE whose key is our payload', 'malformed_token', t => [t, b64('x'), b64('tag')].join('.')),
  ...over(
    [['x'], [], ['alg'], ['exp', 'exp'], 'x', null],
    c => `T14 crit ${JSON.stringify(c)}`,
    'header_refused',
    (p, now, crit) => evidenceOf(p, now, {}, { crit }),
  ),
  ...over(
    [{ b64: false }, { b64: false, crit: ['b64'] }, { b64: true }],
    h => `T15 ${JSON.stringify(h)}`,
    'header_refused',
    (p, now, h) => evidenceOf(p, now, {}, h),
  ),
  ...over(
    [
      undefined,
      '',
      'at+jwt',
      'AT+JWT',
      'dpop+jwt',
      'secevent+jwt',
      'logout+jwt',
      'token-introspection+jwt',
      'curfew-task+jwt',
      'client-authentication+jwt',
      'JWT ',
      1,
    ],
    t => `T16 typ ${JSON.stringify(t)}`,
    'type_refused',
    (p, now, typ) => evidenceOf(p, now, {}, { typ }),
  ),
  ...['aud', 'sub', 'exp', 'iat'].map(n => claim(`T17 without ${n}`, 'claim_missing', { [n]: undefined })),
  ...[undefined, null, '', 7, ['x'], { a: 1 }].map(v => claim(`T17 iss ${JSON.stringify(v)}`, 'issuer_unknown', { iss: v })),
  ...[7, ['x'], { a: 1 }, '', true].flatMap(v => ['sub', 'jti'].map(n => claim(`T17 ${n} ${JSON.stringify(v)}`, 'claim_invalid', { [n]: v }))),
  ...['sub', 'jti'].map(n => claim(`T17 ${n} null`, 'claim_missing', { [n]: null })),
  ...NO_TIME.flatMap(v => ['exp', 'iat', 'nbf'].map(n => ({ id: `${n === 'exp' ? 'T18' : 'T19'} ${n} ${v}`, reason: 'claim_invalid', ...timed(n, v) }))),
  ...NO_JSON.flatMap((v, i) =>
    (i < 2 ? ['exp', 'iat', 'nbf'] : ['exp']).map(n => ({ id: `${n === 'exp' ? 'T18' : 'T19'} ${n} ${v}`, reason: 'issuer_unknown', ...timed(n, v) })),
  ),
  claim('T18 exp 0', 'expired', { exp: 0 }),
  claim('T18 exp 9999', 'life_too_long', { exp: 253_402_300_799 }),
  claim('T19 iat 0', 'life_too_long', { iat: 0 }),
  claim('T19 iat ahead', 'issued_in_future', (_p, now) => ({ iat: now + 60 })),
  claim('T19 nbf ahead', 'not_yet_valid', (_p, now) => ({ nbf: now + 60 })),
  claim('T19 nbf after exp', 'claim_invalid', (_p, now) => ({ exp: now + 2, nbf: now + 3 })),
  claim('T19 exp before iat', 'claim_invalid', (_p, now) => ({ iat: now + 3, exp: now + 2 })),
  claim('T19 a life over the cap', 'life_too_long', (_p, now) => ({ exp: now + 3_700 })),
  text('T21 a claim twice', 'issuer_unknown', (_t, p, now) => write(p, headerOf(p), claimsOf(p, now).replace('{', '{"aud":"x",'))),
  text('T21 a claim twice, once escaped', 'issuer_unknown', (_t, p, now) => write(p, headerOf(p), claimsOf(p, now).replace('{', '{"\\u0061ud":"x",'))),
  text('T21 a claim twice, deep inside', 'issuer_unknown', (_t, p, now) =>
    write(p, headerOf(p), claimsOf(p, now).replace('{', '{"act":{"sub":"a","sub":"b"},')),
  ),
  text('T21 a header member twice', 'duplicate_member', (_t, p, now) => write(p, headerOf(p).replace('{', '{"alg":"none",'), claimsOf(p, now))),
  text('T21 a header member twice, once escaped', 'duplicate_member', (_t, p, now) =>
    write(p, headerOf(p).replace('{', '{"\\u006bid":"x",'), claimsOf(p, now)),
  ),
  text('T24 padding', 'malformed_token', t => swap(t, 2, s => `${s}=`)),
  ...[' ', '\t', '\r\n'].map(c => text(`T24 ${JSON.stringify(c)} inside`, 'malformed_token', t => swap(t, 2, s => `${s.slice(0, 4)}${c}${s.slice(4)}`))),
  ...[' ', '\t', '\r\n', '\u0000'].map(c => text(`T24 ${JSON.stringify(c)} behind`, 'malformed_token', t => t + c)),
  text('T24 white space inside the payload', 'issuer_unknown', t => swap(t, 1, s => `${s.slice(0, 4)} ${s.slice(4)}`)),
  text('T24 the other alphabet', 'malformed_token', t => swap(t, 2, s => `${s.slice(0, -4)}+/+/`)),
  text('T24 spare bits', 'malformed_token', t => swap(t, 2, spare)),
  text('T24 a byte-order mark in the header', 'header_refused', (_t, p, now) => write(p, `\ufeff${headerOf(p)}`, claimsOf(p, now))),
  text('T24 a byte-order mark in the payload', 'issuer_unknown', (_t, p, now) => write(p, headerOf(p), `\ufeff${claimsOf(p, now)}`)),
  ...[[0xff], [0xc0, 0xaf], [0xed, 0xa0, 0x80]].map(bytes =>
    text(`T24 the bytes ${Buffer.from(bytes).toString('hex')} in a claim`, 'issuer_unknown', (_t, p, now) => {
      const [before, after] = claimsOf(p, now, { sub: 'job@7' }).split('@') as [string, string]
      return write(p, headerOf(p), Buffer.concat([Buffer.from(before), Buffer.from(bytes), Buffer.from(after)]))
    }),
  ),
  { id: 'T24 a lone surrogate', reason: 'issuer_unknown', build: (p, now) => raw(p, now, 'sub', '"\\ud800"'), twin: (p, now) => raw(p, now, 'sub', '"job-7"') },
  text('T24 one dot', 'malformed_token', t => t.split('.').slice(0, 2).join('.')),
  text('T24 a dot behind', 'malformed_token', t => `${t}.`),
  text('T24 a dot before', 'issuer_unknown', t => `.${t}`),
  ...['https://other.example', 'sts.amazonaws.com', 'https://github.com/acme'].map(aud => claim(`T25 audience ${aud}`, 'audience_mismatch', { aud })),
  ...[
    [SERVER, 'https://other.example'],
    [ORDERS, SERVER],
    [SERVER, SERVER],
  ].map(aud => claim(`T26 audiences ${aud}`, 'audience_mismatch', { aud }, { aud: [SERVER] })),
  ...[`${SERVER}/`, SERVER.toUpperCase(), `${SERVER}.evil.example`, SERVER.slice(0, -1), `${SERVER} `, 'curfew.example', ''].map(aud =>
    claim(`T27 audience ${JSON.stringify(aud)}`, 'audience_mismatch', { aud }, { aud: SERVER }),
  ),
  ...[{ [SERVER]: 1 }, [[SERVER]], [], 7, null, [SERVER, 7]].map(aud =>
    claim(`T27 audience ${JSON.stringify(aud)}`, 'claim_invalid', { aud }, { aud: [SERVER] }),
  ),
  ...[`${SERVER}/oauth2/token`, `${SERVER}/v1/tasks`, `${SERVER}/oauth2/introspect`, ORDERS].map(aud =>
    claim(`T28 audience ${aud}`, 'audience_mismatch', { aud }),
  ),
  claim('T28 issued by ourselves', 'issuer_unknown', { iss: SERVER }),
  claim('T30 issuer of the metadata address', 'issuer_unknown', { iss: 'http://169.254.169.254/latest' }),
  claim('T31 another host behind the issuer', 'issuer_unknown', p => ({ iss: `${p.issuer}@evil.example` })),
]

function timed(name: string, value: string): Pick<EvidenceCase, 'build' | 'twin'> {
  return { build: (p, now) => raw(p, now, name, value), twin: (p, now) => raw(p, now, name, String(name === 'exp' ? now + 300 : now - 5)) }
}

/** Another header over the old signature. */
export const reheaded = (text: string, more: Members) =>
  swap(text, 0, h => b64(JSON.stringify({ ...JSON.parse(Buffer.from(h, 'base64url').toString()), ...more })))
/** Whatever leaves: a name that was looked up, a request of the client that fetches keys. The requests of a test itself go by address and are neither. */
export function watchOutbound(): { seen(): readonly string[]; stop(): void } {
  const seen: string[] = []
  const onRequest = (message: unknown) => void seen.push(`request to ${(message as { request: { origin: string } }).request.origin}`)
  const noted = (entries: readonly PerformanceEntry[]) => void seen.push(...entries.map(e => e.name))
  const names = new PerformanceObserver(list => noted(list.getEntries()))
  names.observe({ entryTypes: ['dns'] })
  subscribe('undici:request:create', onRequest)
  return {
    seen() {
      noted(names.takeRecords())
      return seen
    },
    stop() {
      names.disconnect()
      unsubscribe('undici:request:create', onRequest)
    },
  }
}
