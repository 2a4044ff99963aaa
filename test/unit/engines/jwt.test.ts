/** The engine of access tokens: every claim that a verifier or a revocation needs, nothing that lies, and no token that it has not verified itself. */
import { decodeJwt, decodeProtectedHeader, exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose'
import * as oauth from 'oauth4webapi'
import { describe, expect, it } from 'vitest'
import { grantOf, rowOf } from '../../../src/contract/fixtures.js'
import type { Acting } from '../../../src/domain/actors.js'
import { type Audience, BEARER_MAX_SECONDS } from '../../../src/domain/capability.js'
import { Grant } from '../../../src/domain/decision.js'
import { namedId, newId } from '../../../src/domain/ids.js'
import { jwtEngine } from '../../../src/engines/jwt.js'
import type { Signer } from '../../../src/ports.js'

const ISSUER = 'https://curfew.example'
const audience = (over: Partial<Audience> = {}): Audience => ({
  name: 'orders',
  uri: 'https://orders.example/',
  senderConstrained: true,
  alg: 'ES256',
  introspects: true,
  ...over,
})
const signal = AbortSignal.timeout(60_000)
const now = new Date()

async function house(over: { tamper?: (claims: JWTPayload) => JWTPayload; typ?: string; live?: boolean } = {}) {
  const keys = await Promise.all((['ES256', 'RS256'] as const).map(async alg => ({ alg, kid: `kid-${alg}`, ...(await generateKeyPair(alg)) })))
  const jwks = { keys: await Promise.all(keys.map(async k => ({ ...(await exportJWK(k.publicKey)), kid: k.kid, alg: k.alg, use: 'sig' }))) }
  const signer: Signer = {
    async sign(_class, typ, claims, alg) {
      const key = keys.find(k => k.alg === alg)
      if (!key) throw new Error('no key')
      const token = await new SignJWT(over.tamper?.(claims) ?? claims).setProtectedHeader({ typ: over.typ ?? typ, alg, kid: key.kid }).sign(key.privateKey)
      return { token, kid: key.kid }
    },
    jwks: () => jwks,
    refresh: () => {},
  }
  const clock = { at: now }
  const engine = jwtEngine({ issuerUrl: ISSUER, signer, clock: { now: () => clock.at }, isLive: async () => over.live ?? false })
  return { engine, clock, jwks }
}

function grant(over: { audience?: Audience; scopes?: string[]; ttl?: number; ancestors?: number; actors?: readonly Acting[] } = {}): Grant {
  const base = grantOf(now, { engine: 'jwt', revocation: 'instant', scopes: over.scopes ?? ['orders:read'] })
  return Grant.from(base.decision, {
    ...base.terms,
    engineClass: 'instant',
    audience: over.audience ?? audience(),
    ancestors: Array.from({ length: over.ancestors ?? 0 }, () => newId('task')),
    actors: over.actors ?? [],
    askedTtlSeconds: over.ttl ?? 120,
  })
}
const tokenOf = async (engine: Awaited<ReturnType<typeof house>>['engine'], g: Grant) => (await engine.mint(g, null, signal)).secret.reveal().token as string

describe('an access token', () => {
  it('carries everything that a feed entry can name, and its scope, for one audience', async () => {
    const { engine } = await house()
    const g = grant({ ancestors: 5 })
    const { terms } = g
    const token = await tokenOf(engine, g)
    expect(decodeProtectedHeader(token)).toEqual({ typ: 'at+jwt', alg: 'ES256', kid: 'kid-ES256' })
    expect(decodeJwt(token)).toEqual({
      iss: ISSUER,
      aud: 'https://orders.example/',
      sub: terms.attestation.identity,
      client_id: terms.attestation.identity,
      jti: g.id,
      iat: g.issuedAt,
      nbf: g.issuedAt,
      exp: g.issuedAt + 120,
      scope: 'orders:read',
      task: { id: terms.task, ancestors: terms.ancestors },
      trust_issuer: terms.attestation.issuerId,
      cnf: { jkt: 'thumbprint' },
      authorization_details: [
        {
          type: `${ISSUER}/rar/task/v1`,
          identifier: terms.task,
          capabilities: [terms.capability.name],
          actions: ['orders:read'],
          locations: ['https://orders.example/'],
        },
      ],
    })
  })

  it('says whose work it is, and through whom (RFC 8693 section 4.1): history is nested, and holds names alone', async () => {
    const { engine, jwks } = await house()
    const [b, a] = ['b', 'a'].map(identity => ({ identity, issuer: namedId('issuer', identity) })) as [Acting, Acting]
    const g = grant({ ancestors: 2, actors: [b, a], audience: audience({ senderConstrained: false }) })
    const { attestation } = g.terms
    const token = await tokenOf(engine, g)
    expect(decodeJwt(token)).toMatchObject({
      sub: 'a',
      sub_issuer: a.issuer,
      client_id: attestation.identity,
      trust_issuer: attestation.issuerId,
      act: { sub: attestation.identity, iss: attestation.issuerId, act: { sub: 'b', iss: b.issuer } },
    })
    expect((decodeJwt(token).act as { act: object }).act).toEqual({ sub: 'b', iss: b.issuer })
    const fetched = async () => new Response(JSON.stringify(jwks), { headers: { 'content-type': 'application/json' } })
    const request = new Request('https://orders.example/', { headers: { authorization: `Bearer ${token}` } })
    const options = { [oauth.customFetch]: fetched, signingAlgorithms: ['ES256'] } as never
    expect(await oauth.validateJwtAccessToken({ issuer: ISSUER, jwks_uri: `${ISSUER}/jwks` }, request, 'https://orders.example/', options)).toMatchObject({
      sub: 'a',
    })
    const alone = decodeJwt(await tokenOf(engine, grant()))
    for (const name of ['act', 'sub_issuer']) expect(alone).not.toHaveProperty(name)
  })

  it('has no scope claim when no scope was granted', async () => {
    const { engine } = await house()
    expect(decodeJwt(await tokenOf(engine, grant({ scopes: [] })))).not.toHaveProperty('scope')
  })

  it('has no confirmation, and five minutes at most, at an audience that cannot check a proof', async () => {
    const { engine } = await house()
    const claims = decodeJwt(await tokenOf(engine, grant({ audience: audience({ senderConstrained: false, alg: 'RS256' }), ttl: 3_000 })))
    expect(claims).not.toHaveProperty('cnf')
    expect((claims.exp as number) - (claims.iat as number)).toBe(BEARER_MAX_SECONDS)
  })

  it.each(['ES256', 'RS256'] as const)('signed with %s is accepted by a resource server that nobody here wrote (RFC 9068)', async alg => {
    const { engine, jwks } = await house()
    const token = await tokenOf(engine, grant({ audience: audience({ senderConstrained: false, alg }) }))
    const server: oauth.AuthorizationServer = { issuer: ISSUER, jwks_uri: `${ISSUER}/jwks` }
    const fetched = async () => new Response(JSON.stringify(jwks), { headers: { 'content-type': 'application/json' } })
    const check = (aud: string) =>
      oauth.validateJwtAccessToken(server, new Request('https://orders.example/', { headers: { authorization: `Bearer ${token}` } }), aud, {
        [oauth.customFetch]: fetched,
        signingAlgorithms: ['ES256', 'RS256'],
      } as never)
    expect(await check('https://orders.example/')).toMatchObject({ iss: ISSUER, aud: 'https://orders.example/' })
    await expect(check('https://other.example/')).rejects.toThrow()
  })

  it.each<[string, Parameters<typeof house>[0]]>([
    ['another audience', { tamper: c => ({ ...c, aud: 'https://other.example/' }) }],
    ['another issuer', { tamper: c => ({ ...c, iss: 'https://other.example' }) }],
    ['another credential id', { tamper: c => ({ ...c, jti: newId('credential') }) }],
    ['a longer life', { tamper: c => ({ ...c, exp: (c.exp as number) + 3_600 }) }],
    ['no end', { tamper: ({ exp: _, ...c }) => c }],
    ['no subject', { tamper: ({ sub: _, ...c }) => c }],
    ['another type', { typ: 'JWT' }],
  ])('that its signer gave %s never leaves', async (_name, over) => {
    const { engine } = await house(over)
    await expect(engine.mint(grant(), null, signal)).rejects.toThrow()
  })
})

describe('the death of an access token', () => {
  it('is what introspection says', async () => {
    const row = rowOf(grant(), {})
    expect(await (await house({ live: true })).engine.probe(row, signal)).toMatchObject({ outcome: 'alive', looked: ['introspection'] })
    expect(await (await house({ live: false })).engine.probe(row, signal)).toEqual({ outcome: 'dead', looked: ['introspection'], detail: null })
  })

  it('waits for its time where the audience asks nobody', async () => {
    const { engine, clock } = await house()
    const g = grant({ audience: audience({ introspects: false }) })
    const row = { ...rowOf(g, {}), kid: 'kid-ES256' }
    expect(row.revocationClass).toBe('expiry-only')
    await engine.destroy(row, signal)
    clock.at = new Date(g.expiresAt.getTime() - 1_000)
    expect(await engine.probe(row, signal)).toMatchObject({ outcome: 'waiting' })
    clock.at = g.expiresAt
    expect(await engine.probe(row, signal)).toMatchObject({ outcome: 'dead' })
  })

  it('is at once where it was never settled, whoever its audience asks: nobody has it', async () => {
    const { engine } = await house({ live: false })
    const row = { ...rowOf(grant({ audience: audience({ introspects: false }) }), {}), kid: null }
    expect(await engine.probe(row, signal)).toEqual({ outcome: 'dead', looked: ['introspection'], detail: null })
  })

  it('leaves nothing behind anywhere: it is local, takes no parameters, and says so by the field', async () => {
    const { engine } = await house()
    expect(engine).toMatchObject({ kind: 'jwt', local: true, revocation: 'instant' })
    expect(engine.prepare).toBeUndefined()
    engine.check({})
    expect(() => engine.check({ scope: 'x' })).toThrow(expect.objectContaining({ facts: expect.objectContaining({ field: 'parameters.scope' }) }))
  })
})
