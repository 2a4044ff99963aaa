/** Owns what is kept of our own signing keys: public half, sealed private half, and when it signs. */
import type { JWK } from 'jose'

export type SigningAlg = 'ES256' | 'RS256'
/** One key per token class, so that no token of one class can pass as another. `access` keys are published for verifiers, `receipt` keys for auditors. */
export type KeyClass = 'access' | 'task' | 'receipt'

export interface SealedKey {
  readonly kid: string
  readonly keyClass: KeyClass
  readonly alg: SigningAlg
  readonly publicJwk: JWK
  /** AES-256-GCM under the master key (K1), or Vault transit's ciphertext; opaque to the store. */
  readonly sealed: string
  readonly state: 'next' | 'current' | 'retired'
  readonly createdAt: Date
  /** When it may sign (published long enough), and when verifiers may forget it. */
  readonly activatesAt: Date
  readonly retiresAt: Date | null
}
