/** Owns reading what we signed for ourselves: task tokens and grants, by the keys that are never published. */
import type { JWTPayload } from 'jose'
import { CurfewError } from '../domain/errors.js'
import type { JwsProfile } from '../domain/jws.js'
import { readOwnToken } from '../domain/own-token.js'
import type { BrokerDeps } from './deps.js'

/** Verifies signature, class, issuer, audience and time. What the token is good for is the caller's to judge. */
export async function readAddressedToken(
  deps: BrokerDeps,
  token: string,
  profile: JwsProfile,
  refuse: (reason: string) => CurfewError,
): Promise<JWTPayload & { readonly exp: number }> {
  const read = await readOwnToken(token, () => deps.signer.jwks('task'), profile).catch(error => {
    // Whatever is wrong with it, it is this token that is: the caller has the name of where it stood.
    throw error instanceof CurfewError && error.code === 'attestation_refused' ? refuse(error.facts.reason ?? 'malformed_token') : error
  })
  if (!read) throw refuse('key_unknown')
  const { payload } = read
  if (payload.iss !== deps.serverUrl) throw refuse('issuer_mismatch')
  if (payload.aud !== deps.serverUrl) throw refuse('audience_mismatch')
  const { exp } = payload
  if (typeof exp !== 'number' || exp * 1000 <= deps.store.clock.now().getTime()) throw refuse('expired')
  return { ...payload, exp }
}
