import { type KeyObject, sign as signBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { oidcAttestor } from '../../src/attestors/oidc.js'
import { text } from '../../src/attestors/profiles/profile.js'
import { clientId, registeredAttestor } from '../../src/attestors/registered.js'
import { spiffeAttestor } from '../../src/attestors/spiffe.js'
import type { OidcIssuerConfig, SpiffeIssuerConfig } from '../../src/config-schema.js'
import { CurfewError } from '../../src/domain/errors.js'
import { newKeyPair } from '../../src/domain/key-pair.js'
import type { Attestor } from '../../src/ports.js'
import { oidcIssuer } from '../trust-issuer.js'

/** Where two trust issuers of one broker meet: the key of one is worth nothing in the name of the other. */

const SERVER = 'https://curfew.example'
const NOW = 1_790_000_000
const key = () => newKeyPair('ec', { namedCurve: 'P-256' })
const one = await key()
const two = await key()
const jwk = (pair: { publicKey: KeyObject }, more: object = {}) => ({ ...pair.publicKey.export({ format: 'jwk' }), ...more })
const b64 = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
function mint(header: object, claims: object, pair = one): string {
  const input = `${b64({ alg: 'ES256', typ: 'JWT', ...header })}.${b64({ aud: SERVER, iat: NOW - 5, exp: NOW + 200, jti: 'j', ...claims })}`
  return `${input}.${signBytes('sha256', Buffer.from(input), { key: pair.privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
}
const files: Record<string, string> = {
  one: JSON.stringify({ keys: [jwk(one, { kid: 'k1', use: 'jwt-svid' })] }),
  two: JSON.stringify({ keys: [jwk(two, { kid: 'k2', use: 'jwt-svid' })] }),
}
const depsOf = (answers: Record<string, unknown> = {}, asked: string[] = []) => ({
  serverUrl: SERVER,
  clock: { now: () => new Date(NOW * 1000) },
  outbound: {
    getJson: async (url: string) => {
      asked.push(url)
      return answers[url] ?? Promise.reject(new CurfewError('unavailable', 'no such place', { reason: 'unreachable' }))
    },
  },
  readFile: async (path: string) => files[path] ?? Promise.reject(new Error('ENOENT')),
  log: { warn: () => {}, error: () => {} },
})
async function verdict(attestor: Attestor, token: string): Promise<string> {
  if (!attestor.recognizes({ type: 'jwt', token })) return 'not recognized'
  try {
    return (await attestor.attest({ type: 'jwt', token }, AbortSignal.timeout(5_000))).identity
  } catch (error) {
    if (!(error instanceof CurfewError)) throw error
    return `${error.code} ${error.facts.reason}`
  }
}

describe('two trust domains', () => {
  const config = (name: string, trustDomain: string): SpiffeIssuerConfig => ({
    name,
    kind: 'spiffe',
    trustDomain,
    bundle: { file: name },
    paths: ['/ci', '/ops/night'],
    maxLifeSeconds: 3_600,
    maxTtlSeconds: 3_600,
    internal: false,
    owner: null,
    enabled: true,
  })
  const attestor = spiffeAttestor([config('one', 'one.example'), config('two', 'two.example')], depsOf())
  const ask = (sub: string, kid: string, pair = one) => verdict(attestor, mint({ kid }, { sub }, pair))

  it("T08 T10 the other's key is refused, under its own name and under the right one; the twin passes", async () => {
    expect(await ask('spiffe://one.example/ci', 'k1', one)).toBe('spiffe://one.example/ci')
    expect(await ask('spiffe://two.example/ci', 'k2', two)).toBe('spiffe://two.example/ci')
    expect(await ask('spiffe://one.example/ci', 'k2', two)).toBe('attestation_refused key_unknown')
    expect(await ask('spiffe://one.example/ci', 'k1', two)).toBe('attestation_refused signature_invalid')
    expect(await ask('spiffe://three.example/ci', 'k1', one)).toBe('not recognized')
  })

  it.each([
    ['/ci', true],
    ['/ci/orders', true],
    ['/ops/night/a/b', true],
    ['/cinema', false],
    ['/ci-2', false],
    ['/ops', false],
    ['/ops/nightly', false],
    ['/x/ci', false],
    ['/CI', false],
  ])('T62 the path %s is admitted on whole segments only: %s', async (path, admitted) => {
    const sub = `spiffe://one.example${path}`
    expect(await ask(sub, 'k1')).toBe(admitted ? sub : 'attestation_refused tenant_refused')
  })
})

describe('two registered agents', () => {
  it("T10 P29 the other's key signs nothing in the name of the first; each signs for itself", async () => {
    const agent = (name: string, pair: { publicKey: KeyObject }) => ({ name, owner: 'ada', key: { jwk: jwk(pair) as Record<string, unknown> }, labels: {} })
    const attestor = await registeredAttestor(
      [
        {
          name: 'agents',
          kind: 'registered',
          agents: [agent('first', one), agent('second', two)],
          maxLifeSeconds: 300,
          maxTtlSeconds: 900,
          owner: null,
          enabled: true,
        },
      ],
      depsOf(),
    )
    const ask = (iss: string, sub: string, pair: typeof one, more: object = {}) =>
      verdict(attestor, mint({}, { iss: clientId('agents', iss), sub: clientId('agents', sub), ...more }, pair))
    expect(await ask('first', 'first', one)).toBe('agents:agent=first')
    expect(await ask('second', 'second', two)).toBe('agents:agent=second')
    expect(await ask('first', 'first', two)).toBe('attestation_refused signature_invalid')
    expect(await ask('first', 'second', one)).toBe('attestation_refused issuer_mismatch')
    for (const aud of [[], [[SERVER]], [SERVER, SERVER], ['https://other.example'], `${SERVER}/`, { 0: SERVER }])
      expect(await ask('first', 'first', one, { aud })).toBe('attestation_refused audience_mismatch')
    expect(await ask('first', 'first', one, { iat: NOW, exp: NOW + 300 })).toBe('agents:agent=first')
    expect(await ask('first', 'first', one, { iat: NOW, exp: NOW + 301 })).toBe('attestation_refused life_too_long')
  })
})

describe('discovery', () => {
  const issuer = 'https://ci.example'
  const place = `${issuer}/.well-known/openid-configuration`
  const keys = { keys: [jwk(one, { kid: 'k1' })] }
  const ask = async (metadata: unknown, more: Partial<OidcIssuerConfig> = {}, where = `${issuer}/keys`) => {
    const asked: string[] = []
    const config = oidcIssuer(issuer, more)
    const seen = await verdict(oidcAttestor([config], depsOf({ [place]: metadata, [where]: keys }, asked)), mint({ kid: 'k1' }, { iss: issuer, sub: 'job' }))
    return { seen, asked }
  }

  it('H13 the twin: keys at the origin of the issuer, or at the one that is configured', async () => {
    expect(await ask({ issuer, jwks_uri: `${issuer}/keys` })).toEqual({ seen: 'ci:sub=job', asked: [place, `${issuer}/keys`] })
    const where = 'https://keys.example/jwks'
    expect((await ask({ issuer, jwks_uri: where }, { keys: { discovery: true, jwksOrigin: 'https://keys.example' } }, where)).seen).toBe('ci:sub=job')
  })

  it.each([
    'https://evil.example/keys',
    'http://ci.example/keys',
    'https://ci.example:8443/keys',
    'https://ci.example.evil.example/keys',
    'https://ci.example@evil.example/keys',
    'http://169.254.169.254/latest',
    'file:///etc/passwd',
    '/keys',
    7,
    null,
    undefined,
  ])('H13 keys said to be at %s are not fetched', async jwks_uri => {
    expect(await ask({ issuer, jwks_uri })).toEqual({ seen: 'unavailable jwks_origin_mismatch', asked: [place] })
  })

  it.each([`${issuer}/`, 'https://CI.example', 'https://evil.example', undefined, [issuer]])(
    'P34 metadata of the issuer %j are not those of ours',
    async named => {
      expect(await ask({ issuer: named, jwks_uri: `${issuer}/keys` })).toEqual({ seen: 'unavailable metadata_issuer_mismatch', asked: [place] })
    },
  )

  it.each([[[]], ['text'], [7], [{}]])('H15 metadata that are %j lead nowhere', async metadata => {
    expect((await ask(metadata)).seen).toBe('unavailable metadata_issuer_mismatch')
  })
})

it('an id that a double cannot hold exactly is refused, the largest exact one is read', () => {
  const claims = (id: number) => text({ id }, 'id')
  expect(claims(Number.MAX_SAFE_INTEGER)).toBe('9007199254740991')
  expect(() => claims(Number.MAX_SAFE_INTEGER + 1)).toThrow(CurfewError)
  expect(() => claims(1.5)).toThrow(CurfewError)
})
