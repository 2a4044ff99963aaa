/** Owns the check of one signature, by WebCrypto. */
import { webcrypto } from 'node:crypto'

/** Imported for one algorithm, and good for no other. */
export type VerifyKey = webcrypto.CryptoKey

/**
 * What jose asks of WebCrypto (RFC 7518 section 3.1, RFC 8037 section 3.1). Its `compactVerify` would read text and header once more, and
 * more leniently than we have, for a seventh of the whole cost; that both come to the same verdict is held by test/attack/vectors.test.ts.
 */
const ASKED: ReadonlyMap<string, webcrypto.AlgorithmIdentifier | webcrypto.EcdsaParams | webcrypto.RsaPssParams> = new Map([
  ['ES256', { name: 'ECDSA', hash: 'SHA-256' }],
  ['ES384', { name: 'ECDSA', hash: 'SHA-384' }],
  ['ES512', { name: 'ECDSA', hash: 'SHA-512' }],
  // The hash is the key's own.
  ['RS256', { name: 'RSASSA-PKCS1-v1_5' }],
  ['RS384', { name: 'RSASSA-PKCS1-v1_5' }],
  ['RS512', { name: 'RSASSA-PKCS1-v1_5' }],
  // Bytes, as many as the hash has.
  ['PS256', { name: 'RSA-PSS', saltLength: 32 }],
  ['PS384', { name: 'RSA-PSS', saltLength: 48 }],
  ['PS512', { name: 'RSA-PSS', saltLength: 64 }],
  ['EdDSA', { name: 'Ed25519' }],
  ['Ed25519', { name: 'Ed25519' }],
])

/** Rejects where the key was imported for something else. */
export function isSigned(bytes: Uint8Array, signature: Uint8Array, alg: string, key: VerifyKey): Promise<boolean> {
  const asked = ASKED.get(alg)
  return asked === undefined ? Promise.resolve(false) : webcrypto.subtle.verify(asked, key, signature, bytes)
}
