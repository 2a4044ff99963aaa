/** Owns the nonces of DPoP (RFC 9449 sections 8 and 9): what a proof must repeat, so that nobody can have made it long before. Nothing is kept of them. */
import { createHmac, timingSafeEqual } from 'node:crypto'

/** One nonce is given out for so long, and accepted for as long again. Seconds. */
export const NONCE_SECONDS = 60

/** The token endpoint and our API are two servers to a client, and each has nonces of its own (RFC 9449 section 9). */
export type NonceRealm = 'authorization_server' | 'resource_server'

export interface Nonces {
  current(realm: NonceRealm, now: Date): string
  /** Of this time or of the one before, so that a client that asks at its very end is not sent back twice (P53). */
  accepts(nonce: string, realm: NonceRealm, now: Date): boolean
}

/** @param key 32 bytes that all replicas of a deployment have, and nobody else. */
export function dpopNonces(key: Buffer): Nonces {
  const bucketOf = (now: Date) => Math.floor(now.getTime() / 1000 / NONCE_SECONDS)
  const made = (realm: NonceRealm, bucket: number) => createHmac('sha256', key).update(`${realm} ${bucket}`).digest('base64url')
  return {
    current: (realm, now) => made(realm, bucketOf(now)),
    accepts(nonce, realm, now) {
      const given = Buffer.from(nonce)
      return [0, 1].some(ago => {
        const wanted = Buffer.from(made(realm, bucketOf(now) - ago))
        return given.length === wanted.length && timingSafeEqual(given, wanted)
      })
    },
  }
}
