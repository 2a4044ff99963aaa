/** Verb: is this token live, for this resource server. Anything else is `inactive`, without a word why (RFC 7662 section 2.2). */
import type { JWTPayload } from 'jose'
import type { Audience } from '../domain/capability.js'
import type { Credential } from '../domain/credential.js'
import { CurfewError } from '../domain/errors.js'
import { isId } from '../domain/ids.js'
import { readOwnToken } from '../domain/own-token.js'
import type { BrokerDeps } from './deps.js'

export interface Live {
  readonly credential: Credential
  readonly claims: JWTPayload
}

const PROFILE = { algorithms: ['ES256', 'RS256'], types: ['at+jwt'] } as const

export async function introspect(deps: BrokerDeps, audience: Audience, token: string): Promise<Live | null> {
  const read = await readAccessToken(deps, token)
  if (!read || read.claims.aud !== audience.uri) return null
  const credential = await deps.store.credentials.live(read.id)
  // Under the name of a live credential a stolen key could write any claims: it must be the key that signed the one we issued.
  return credential && credential.kid === read.kid ? { credential, claims: read.claims } : null
}

/** RFC 9701 section 5. No verifier of ours or of access tokens accepts the type, and an answer that could pass for one has `sub` and `exp` at its top (section 8.1). */
const ANSWER_TYP = 'token-introspection+jwt'

/** The same answer, live or not, as evidence that we gave it to this resource server. */
export async function signIntrospection(deps: BrokerDeps, audience: Audience, answer: Readonly<Record<string, unknown>>): Promise<string> {
  const iat = Math.floor(deps.store.clock.now().getTime() / 1000)
  // The name by which it authenticates is its client_id.
  const claims = { iss: deps.serverUrl, aud: audience.name, iat, token_introspection: answer }
  return (await deps.signer.sign('access', ANSWER_TYP, claims, audience.alg)).token
}

/** An access token of ours by its signature; null for all else. Says nothing about whether it is live. */
export async function readAccessToken(deps: BrokerDeps, token: string): Promise<{ id: Credential['id']; kid: string; claims: JWTPayload } | null> {
  try {
    const read = await readOwnToken(token, () => deps.signer.jwks('access'), PROFILE)
    const claims = read?.payload
    return read && claims?.iss === deps.serverUrl && isId('credential', claims.jti) ? { id: claims.jti, kid: read.kid, claims } : null
  } catch (error) {
    // Whatever a stranger sends is simply not one of ours; our own failures are not the token's.
    if (error instanceof CurfewError && error.code !== 'unavailable') return null
    throw error
  }
}
