/** Owns reading a token of our own: by the key of ours that its header names, and by no other. */
import type { JWTPayload } from 'jose'
import { admitKeys } from './jwk.js'
import { inspect, type JwsProfile, verifyJws } from './jws.js'

/**
 * Class and signature are verified; issuer, audience, time and whether it is live are the caller's to judge. Null: no key of ours has that name.
 * @param keySet asked for only when the token's shape is acceptable.
 * @throws CurfewError(attestation_refused) as `inspect` and `verifyJws` do.
 */
export async function readOwnToken(
  token: string,
  keySet: () => Promise<unknown> | unknown,
  profile: JwsProfile,
): Promise<{ readonly kid: string; readonly payload: JWTPayload } | null> {
  const { header } = inspect(token, profile)
  const keys = admitKeys(await keySet(), { use: 'sig', algs: profile.algorithms })
  const key = keys.find(k => k.kid === header.kid)
  return key ? { kid: key.kid, payload: (await verifyJws(token, key, profile)).payload } : null
}
