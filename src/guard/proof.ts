/** Owns that the caller holds the key a token is bound to (RFC 9449), and that no proof is used twice. */
import { untilLate } from '../domain/deadline.js'
import { PROOF_PAST, type VerifiedProof, verifyProof } from '../domain/dpop.js'
import { CurfewError } from '../domain/errors.js'
import { inspect } from '../domain/jws.js'
import { type GuardCode, Refusal, refuse } from './errors.js'
import type { Presented } from './presented.js'
import type { Replay } from './replay.js'

const CODES: Readonly<Record<string, GuardCode>> = {
  htm_mismatch: 'proof_htm_mismatch',
  htu_mismatch: 'proof_htu_mismatch',
  ath_mismatch: 'proof_ath_mismatch',
  proof_old: 'proof_old',
  proof_in_future: 'proof_old',
}
const REPLAY_MS = 1_000

export interface Wanted {
  readonly method: string
  readonly url: string
  readonly now: Date
  readonly jkt: string
}

/** Everything but its use. */
export async function checkProof({ proofs, token }: Presented, wanted: Wanted): Promise<VerifiedProof> {
  const [proof, ...others] = proofs
  if (proof === undefined) return refuse('proof_missing')
  // Section 4.3, step 1: exactly one.
  if (others.length > 0) return refuse('proof_malformed')
  let verified: VerifiedProof
  try {
    verified = await verifyProof(proof, { method: wanted.method, url: wanted.url, now: wanted.now, accessToken: token })
  } catch (cause) {
    if (!(cause instanceof CurfewError)) throw cause
    const code = CODES[cause.facts.reason ?? ''] ?? 'proof_malformed'
    throw new Refusal(code, { cause, ...compared(code, proof, wanted) })
  }
  if (verified.jkt !== wanted.jkt) return refuse('proof_key_mismatch')
  return verified
}

/** What stood in the proof is told beside what was wanted: behind proxies nothing else helps (P51). It was signed, and it is no secret. */
function compared(code: GuardCode, proof: string, { method, url, now }: Wanted): { expected?: string; actual?: string } {
  const claim = code === 'proof_htu_mismatch' ? 'htu' : code === 'proof_htm_mismatch' ? 'htm' : code === 'proof_old' ? 'iat' : null
  if (claim === null) return {}
  const { unverified } = inspect(proof, { algorithms: ['ES256', 'RS256'], types: ['dpop+jwt'], extraHeaders: ['jwk'] })
  const seen = String(unverified[claim])
  const expected = claim === 'htu' ? url : claim === 'htm' ? method : `within ${PROOF_PAST} s before ${Math.floor(now.getTime() / 1000)}`
  return { expected, ...(/^[\x20-\x7e]{1,2048}$/.test(seen) ? { actual: seen } : {}) }
}

/** Used up here. A store that does not answer gives no verdict: 503, and the caller makes a new proof. */
export async function useProof(replay: Replay, { mark }: VerifiedProof, now: Date): Promise<void> {
  let fresh: boolean
  try {
    const answer = replay.claim(`${mark.namespace}:${mark.id}`, mark.until, now)
    fresh = typeof answer === 'boolean' ? answer : await untilLate(answer, REPLAY_MS, () => new Error(`no answer within ${REPLAY_MS} ms`))
  } catch (cause) {
    throw new Refusal('proof_replayed', { status: 503, says: 'whether the DPoP proof was used before is not known', cause })
  }
  if (fresh !== true) refuse('proof_replayed')
}
