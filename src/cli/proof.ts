/** Owns the caller's proof of possession: one key, and a fresh DPoP proof (RFC 9449) for every attempt. */
import { createHash, createPrivateKey, createPublicKey, type KeyObject, randomUUID } from 'node:crypto'
import type { JWK } from 'jose'
import { newKeyPair } from '../domain/key-pair.js'

export interface ProofKey {
  /** @param url the server's configured issuer URL plus the path: neither the address we dialled nor a query (section 4.2). */
  proof(method: string, url: string, shown?: { readonly accessToken?: string | undefined; readonly nonce?: string | undefined }): Promise<string>
  /** The private JWK: for a 0600 file, or for the one child that was promised it. */
  exportPrivate(): JWK
}

/** A key that lives as long as this process. */
export async function newProofKey(): Promise<ProofKey> {
  return proofKeyOf((await newKeyPair('ec', { namedCurve: 'P-256' })).privateKey)
}

/** @throws TypeError when it is no private P-256 key. */
export function proofKeyFrom(jwk: JWK): ProofKey {
  const key = createPrivateKey({ key: jwk as never, format: 'jwk' })
  if (key.asymmetricKeyDetails?.namedCurve !== 'prime256v1') throw new TypeError('not a P-256 key')
  return proofKeyOf(key)
}

function proofKeyOf(key: KeyObject): ProofKey {
  const { kty, crv, x, y } = createPublicKey(key).export({ format: 'jwk' })
  return {
    async proof(method, url, { accessToken, nonce } = {}) {
      const { SignJWT } = await import('jose/jwt/sign')
      return new SignJWT({
        jti: randomUUID(),
        htm: method,
        htu: url,
        iat: Math.floor(Date.now() / 1000),
        ...(nonce === undefined ? {} : { nonce }),
        ...(accessToken === undefined ? {} : { ath: createHash('sha256').update(accessToken).digest('base64url') }),
      })
        .setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk: { kty, crv, x, y } as JWK })
        .sign(key)
    },
    exportPrivate: () => key.export({ format: 'jwk' }) as JWK,
  }
}
