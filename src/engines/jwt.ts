/** Owns the engine of signed access tokens (RFC 9068): nothing lives at a target, so the commit is the death at every verifier that asks. */
import { isDeepStrictEqual } from 'node:util'
import type { JWTPayload } from 'jose'
import { actingOf, actOf, principalOf } from '../domain/actors.js'
import type { Credential, Probe } from '../domain/credential.js'
import type { Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { CredentialId } from '../domain/ids.js'
import { readOwnToken } from '../domain/own-token.js'
import { Secret } from '../domain/secret.js'
import type { Clock, CredentialEngine, Signer } from '../ports.js'

/** RFC 9068 section 2.1. */
const TYP = 'at+jwt'

export interface JwtEngineDeps {
  readonly issuerUrl: string
  readonly signer: Signer
  readonly clock: Clock
  /** What introspection would answer. */
  readonly isLive: (id: CredentialId) => Promise<boolean>
  /** The same for many: with it they are looked at together. */
  readonly liveAmong?: (ids: readonly CredentialId[]) => Promise<ReadonlySet<CredentialId>>
}

export function jwtEngine(deps: JwtEngineDeps): CredentialEngine {
  const { liveAmong } = deps
  return {
    kind: 'jwt',
    revocation: 'instant',
    local: true,
    check(parameters) {
      const [first] = Object.keys((parameters ?? {}) as object)
      if (first !== undefined)
        throw new CurfewError('malformed', 'the jwt engine takes no parameters', { reason: 'unknown_field', field: `parameters.${first}` })
    },
    async mint(grant) {
      const audience = grant.terms.audience
      if (!audience) throw new CurfewError('malformed', 'the jwt engine needs an audience', { reason: 'audience_missing', field: 'audience' })
      const claims = claimsOf(deps.issuerUrl, grant)
      const { token, kid } = await deps.signer.sign('access', TYP, claims, audience.alg)
      await verifyOwn(deps, token, claims, audience.alg)
      return { secret: Secret.token(token), handle: {}, expiresAt: null, kid }
    },
    async destroy() {
      // Nobody keeps a copy for us to take back: from the commit on every verifier that asks refuses it.
    },
    async probe(credential): Promise<Probe> {
      return isBlind(credential) ? byExpiry(credential, deps.clock.now()) : byIntrospection(await deps.isLive(credential.id))
    },
    ...(liveAmong && {
      async probeMany(credentials): Promise<Probe[]> {
        const live = await liveAmong(credentials.filter(c => !isBlind(c)).map(c => c.id))
        return credentials.map(c => (isBlind(c) ? byExpiry(c, deps.clock.now()) : byIntrospection(live.has(c.id))))
      },
    }),
  }
}

/** Its audience asks nobody whether it is live. One that no key has signed for was a part of a bundle that failed before it was settled: nobody has it. */
const isBlind = (credential: Credential) => credential.revocationClass === 'expiry-only' && credential.kid !== null

const byExpiry = (credential: Credential, now: Date): Probe =>
  credential.expiresAt.getTime() <= now.getTime()
    ? { outcome: 'dead', looked: ['expiry'], detail: null }
    : { outcome: 'waiting', looked: [], detail: 'its audience asks nobody: it ends by expiry only' }

const byIntrospection = (live: boolean): Probe => ({
  outcome: live ? 'alive' : 'dead',
  looked: ['introspection'],
  detail: live ? 'introspection still answers active' : null,
})

/** The claims of standards.md 4.4: everything that a revocation can name is in the token, so that a verifier can match it. */
function claimsOf(issuerUrl: string, grant: Grant): JWTPayload {
  const { terms } = grant
  const uri = terms.audience?.uri as string
  const self = actingOf(terms.attestation)
  const principal = principalOf(self, terms.actors)
  const act = actOf(self, terms.actors)
  return {
    iss: issuerUrl,
    aud: uri,
    client_id: terms.attestation.identity,
    sub: principal.identity,
    jti: grant.id,
    iat: grant.issuedAt,
    nbf: grant.issuedAt,
    exp: grant.issuedAt + grant.ttlSeconds,
    task: { id: terms.task, ancestors: [...terms.ancestors] },
    trust_issuer: terms.attestation.issuerId,
    // The principal was vouched for by another, which a revocation may name as well.
    ...(act ? { act, sub_issuer: principal.issuer } : {}),
    // Absent when none was granted: an empty one is no scope at all (RFC 6749 section 3.3).
    ...(terms.capability.scopes.length > 0 ? { scope: terms.capability.scopes.join(' ') } : {}),
    authorization_details: [
      {
        type: `${issuerUrl}/rar/task/v1`,
        identifier: terms.task,
        capabilities: [terms.capability.name],
        actions: [...terms.capability.scopes],
        locations: [uri],
      },
    ],
    // Exactly one confirmation member, or none at an audience that cannot check it (RFC 9449 section 6.1).
    ...(grant.confirmation === null ? {} : { cnf: { jkt: grant.confirmation } }),
  }
}

/**
 * What we signed is read back as a verifier would, before it leaves: a wrong key, class or claim is found here and not at three in the
 * morning. That it is the claims of the grant to the letter says all that checking them one by one would.
 */
async function verifyOwn(deps: JwtEngineDeps, token: string, claims: JWTPayload, alg: string): Promise<void> {
  const wrong = (cause?: unknown) => new TypeError('the signed token is not the granted one', { cause })
  const read = await readOwnToken(token, () => deps.signer.jwks('access'), { algorithms: [alg], types: [TYP] }).catch(cause => {
    // A token of ours that does not verify is our bug; keys that cannot be had are not.
    throw cause instanceof CurfewError && cause.code === 'unavailable' ? cause : wrong(cause)
  })
  if (!isDeepStrictEqual(read?.payload, claims)) throw wrong()
}
