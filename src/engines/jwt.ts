/** Owns the JWT access token as a credential (RFC 9068): pure computation, refused by every asking verifier from the commit on. */
import { importJWK, type JWTPayload, jwtVerify } from 'jose'
import { z } from 'zod'
import type { Probe } from '../domain/credential.js'
import type { Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { CredentialId } from '../domain/ids.js'
import { Secret } from '../domain/secret.js'
import type { Clock, CredentialEngine, Signer } from '../ports.js'
import { parametersOf } from './parameters.js'

export const ACCESS_TYP = 'at+jwt'

export interface JwtEngineDeps {
  /** `iss`, and the base of the authorization-details type: the broker's public URL, without a trailing slash. */
  readonly issuerUrl: string
  readonly signer: Signer
  /** The verifier's question to our own rows: what introspection answers. */
  readonly isLive: (id: CredentialId) => Promise<boolean>
  /** Only for audiences that ask nobody: there a token ends with its time and no sooner. */
  readonly clock: Clock
}

const PARAMETERS = z.strictObject({})

/** The type of our authorization details (RFC 9396 section 2): a collision-resistant URI of this issuer. */
export const taskDetailType = (issuerUrl: string): string => `${issuerUrl}/rar/task/v1`

/** Everything that a feed entry can name stands in the token (architecture.md section 7): never drop one to save bytes. */
export function accessClaims(issuerUrl: string, grant: Grant): JWTPayload {
  const { terms } = grant
  const { audience, capability, attestation } = terms
  if (!audience) throw new TypeError('an access token needs an audience')
  return {
    iss: issuerUrl,
    aud: audience.uri, // one audience, so that a scope means one thing (RFC 9068 section 3)
    sub: attestation.identity, // no resource owner: the workload itself (RFC 9068 section 2.2)
    client_id: attestation.identity,
    jti: grant.id,
    iat: grant.issuedAt,
    nbf: grant.issuedAt,
    exp: grant.issuedAt + grant.ttlSeconds,
    ...(capability.scopes.length > 0 ? { scope: capability.scopes.join(' ') } : {}),
    authorization_details: [
      {
        type: taskDetailType(issuerUrl),
        identifier: terms.task,
        capabilities: [capability.name],
        actions: [capability.intent],
        locations: [audience.uri],
      },
    ],
    task: { id: terms.task, ancestors: [...terms.ancestors] },
    trust_issuer: attestation.issuerId,
    ...(grant.confirmation !== null ? { cnf: { jkt: grant.confirmation } } : {}), // RFC 9449 section 6.1: exactly one member
  }
}

export function jwtEngine(deps: JwtEngineDeps): CredentialEngine {
  const keys = new Map<string, Promise<CryptoKey | Uint8Array>>()

  /** A key's thumbprint names it for ever (K3), so that an imported key never grows stale; retired ones are few. */
  async function keyOf(kid: string, alg: string): Promise<CryptoKey | Uint8Array> {
    const known = keys.get(kid)
    if (known) return known
    const jwk = (await deps.signer.jwks('access')).keys.find(k => k.kid === kid)
    if (!jwk) throw new Error('the signer published no key under the kid it signed with')
    const key = importJWK(jwk, alg)
    keys.set(kid, key)
    key.catch(() => keys.delete(kid))
    return key
  }

  /** What leaves is what a strict verifier would accept, or nothing leaves (fulcio's habit: check your own output). */
  async function verifyOwn(token: string, kid: string, grant: Grant, claims: JWTPayload): Promise<void> {
    const alg = grant.terms.audience?.alg as string
    const { payload, protectedHeader } = await jwtVerify(token, await keyOf(kid, alg), {
      algorithms: [alg],
      typ: ACCESS_TYP,
      issuer: deps.issuerUrl,
      audience: claims.aud as string,
      subject: claims.sub as string,
      requiredClaims: ['jti', 'iat', 'nbf', 'exp', 'client_id', 'task', 'trust_issuer', 'authorization_details'],
      currentDate: grant.terms.now,
    })
    if (protectedHeader.kid !== kid || JSON.stringify(payload) !== JSON.stringify(claims)) throw new Error('the signed token differs from what was to be signed')
  }

  return {
    kind: 'jwt',
    revocation: 'instant',
    local: true,

    /** Audience and scopes stand on the capability. */
    check: parameters => void parametersOf(PARAMETERS, parameters),

    async mint(grant) {
      const { audience } = grant.terms
      if (!audience) throw new CurfewError('target_unknown', 'this capability names no audience', { reason: 'audience_missing', field: 'resource' })
      const claims = accessClaims(deps.issuerUrl, grant)
      try {
        const { token, kid } = await deps.signer.sign('access', ACCESS_TYP, claims, audience.alg)
        await verifyOwn(token, kid, grant, claims)
        return { secret: Secret.token(token), handle: {}, expiresAt: null, kid }
      } catch (cause) {
        if (cause instanceof CurfewError) throw cause
        throw new CurfewError('engine_failed', 'the access token could not be made', { reason: 'self_check_failed' }, { cause })
      }
    },

    /** Nothing lives elsewhere: the committed row is the destruction. */
    async destroy() {},

    async probe(credential): Promise<Probe> {
      if (await deps.isLive(credential.id)) return { outcome: 'alive', looked: ['introspection'], detail: 'introspection still answers active' }
      if (credential.revocationClass === 'expiry-only' && deps.clock.now() < credential.expiresAt) {
        return { outcome: 'waiting', looked: ['introspection'], detail: 'the audience asks nobody: what it was given ends with its own time' }
      }
      return { outcome: 'dead', looked: ['introspection'], detail: null }
    },
  }
}
