/** Owns the verification of a DPoP proof (RFC 9449 section 4.3). Replay is stopped by a mark in the store, with a nonce as without. */
import { createHash } from 'node:crypto'
import type { JWK } from 'jose'
import { NONCE_SECONDS } from './dpop-nonce.js'
import { CurfewError } from './errors.js'
import { type AdmittedKey, admitKeys } from './jwk.js'
import { inspect, type JwsProfile } from './jws.js'
import type { Mark } from './workload.js'

const PROFILE: JwsProfile = { algorithms: ['ES256', 'RS256'], types: ['dpop+jwt'], extraHeaders: ['jwk'] }
/** Real clients' clocks are off by minutes, so without a nonce `iat` may lie this far back and ahead (standards.md 1.4). Seconds. */
export const PROOF_PAST = 300
export const PROOF_AHEAD = 60

export interface ProofExpectation {
  readonly method: string
  /** The configured public URL plus the path; never built from the Host header. */
  readonly url: string
  readonly now: Date
  /** When the proof accompanies a token: its `ath` must be of this one (section 4.3, step 11). */
  readonly accessToken?: string
  /** Present where a nonce is demanded: whether this is one (section 4.3, step 10). Then the nonce bounds the past, and a client's slow clock costs it nothing. */
  readonly isNonce?: (nonce: string) => boolean
}

export interface VerifiedProof {
  /** RFC 7638 thumbprint of the proof key. */
  readonly jkt: string
  /** To be consumed once; unique to key and `jti` for as long as the proof could be shown again. */
  readonly mark: Mark
}

const refuse = (reason: string, field?: string): never => {
  throw new CurfewError('proof_refused', 'the DPoP proof is not acceptable', { reason, field: field ?? 'DPoP' })
}

export async function verifyProof(proof: string, expected: ProofExpectation): Promise<VerifiedProof> {
  const { key, payload } = await asProof(async () => {
    const { header, unverified, checkSignature } = inspect(proof, PROFILE)
    const key = keyOf(header.jwk)
    await checkSignature(key)
    return { key, payload: unverified }
  })
  const { jti, htm, htu, iat, ath, nonce } = payload
  if (typeof jti !== 'string' || jti.length === 0 || Buffer.byteLength(jti) > 256) return refuse('jti_invalid', 'jti')
  if (htm !== expected.method) return refuse('htm_mismatch', 'htm')
  const place = normalized(expected.url)
  if (typeof htu !== 'string' || place === null || normalized(htu) !== place) return refuse('htu_mismatch', 'htu')
  if (!Number.isSafeInteger(iat)) return refuse('iat_invalid', 'iat')
  const age = expected.now.getTime() / 1000 - (iat as number)
  if (expected.isNonce && !(typeof nonce === 'string' && expected.isNonce(nonce))) return refuse('nonce_required', 'nonce')
  if (!expected.isNonce && age > PROOF_PAST) return refuse('proof_old', 'iat')
  if (age < -PROOF_AHEAD) return refuse('proof_in_future', 'iat')
  if (expected.accessToken !== undefined) {
    if (ath !== createHash('sha256').update(expected.accessToken, 'ascii').digest('base64url')) return refuse('ath_mismatch', 'ath')
  } else if (ath !== undefined) return refuse('ath_unexpected', 'ath')
  // The longer of both bounds: of two replicas one may demand nonces already, and the other not yet.
  const until = new Date(Math.max((iat as number) + PROOF_PAST + PROOF_AHEAD, expected.now.getTime() / 1000 + 2 * NONCE_SECONDS) * 1000)
  return { jkt: key.thumbprint, mark: { namespace: `dpop:${key.thumbprint}`, id: createHash('sha256').update(jti).digest('base64url'), until } }
}

/** The header's own key: public, strong, asymmetric, for one of our algorithms. */
function keyOf(jwk: unknown): AdmittedKey {
  if (typeof jwk !== 'object' || jwk === null) return refuse('jwk_missing', 'jwk')
  const { use: _use, key_ops: _ops, kid: _kid, ...bare } = jwk as JWK
  const [key] = admitKeys({ keys: [bare] }, { use: 'sig', algs: PROFILE.algorithms })
  return key ?? refuse('jwk_refused', 'jwk')
}

/** Inside a proof, every refusal is one of the proof. */
async function asProof<T>(act: () => Promise<T>): Promise<T> {
  try {
    return await act()
  } catch (error) {
    if (!(error instanceof CurfewError) || error.code === 'proof_refused') throw error
    throw new CurfewError(
      'proof_refused',
      'the DPoP proof is not acceptable',
      { reason: error.facts.reason ?? 'malformed_token', field: 'DPoP' },
      { cause: error },
    )
  }
}

/** Without query and fragment, after syntax- and scheme-based normalisation (RFC 3986 sections 6.2.2 and 6.2.3); null when it is no http URL. */
function normalized(text: string): string | null {
  // What only the parser of browsers would mend (`https:host`, `\\`, white space) is no URL here.
  if (!/^https?:\/\/[^/?#\\]+[\x21-\x5b\x5d-\x7e]*$/i.test(text) || !/^[\x21-\x7e]{1,2048}$/.test(text)) return null
  let url: URL
  try {
    url = new URL(text)
  } catch {
    return null
  }
  if ((url.protocol !== 'https:' && url.protocol !== 'http:') || url.username !== '' || url.password !== '') return null
  const path = url.pathname.replace(/%[0-9a-fA-F]{2}/g, found => {
    const char = String.fromCharCode(Number.parseInt(found.slice(1), 16))
    return /[A-Za-z0-9._~-]/.test(char) ? char : found.toUpperCase()
  })
  return url.origin + path
}
