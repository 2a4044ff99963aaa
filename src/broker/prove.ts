/** Verb: the caller shows that it holds the key it names (RFC 9449); the mark is only looked at here and consumed by the transaction that acts. */
import { verifyProof } from '../domain/dpop.js'
import type { NonceRealm } from '../domain/dpop-nonce.js'
import { CurfewError } from '../domain/errors.js'
import type { Mark } from '../domain/workload.js'
import type { BrokerDeps } from './deps.js'

/** The request as the proof must describe it. */
export interface Presented {
  /** Every `DPoP` header of the request; exactly one is allowed. */
  readonly proofs: readonly string[]
  readonly method: string
  readonly path: string
}

export interface Proven {
  readonly jkt: string
  readonly mark: Mark
}

/** Which of our two servers a path is of (RFC 9449 section 9). */
export const realmOf = (path: string): NonceRealm => (path.startsWith('/oauth2/') ? 'authorization_server' : 'resource_server')

/** @param accessToken the token that the proof accompanies (`ath`), if any. */
export async function prove(deps: BrokerDeps, presented: Presented, accessToken?: string): Promise<Proven> {
  const [proof, ...others] = presented.proofs
  if (proof === undefined) {
    throw new CurfewError('proof_refused', 'a DPoP proof is required', { reason: 'proof_missing', field: 'DPoP', next: 'send one DPoP header (RFC 9449)' })
  }
  if (others.length > 0) throw new CurfewError('proof_refused', 'exactly one DPoP header is allowed', { reason: 'proof_repeated', field: 'DPoP' })
  // The configured URL, never the Host header: whoever can forge Host must not choose what a proof is good for (H31).
  const now = deps.store.clock.now()
  const { nonces } = deps
  const proven = await verifyProof(proof, {
    method: presented.method,
    url: deps.serverUrl + presented.path,
    now,
    ...(accessToken === undefined ? {} : { accessToken }),
    ...(nonces ? { isNonce: (nonce: string) => nonces.accepts(nonce, realmOf(presented.path), now) } : {}),
  })
  if (await deps.store.replay.seen(proven.mark)) throw new CurfewError('proof_refused', 'this proof was used before', { reason: 'replayed', field: 'DPoP' })
  return { jkt: proven.jkt, mark: proven.mark }
}
