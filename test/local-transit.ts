/** Owns a transit key in this process: what Vault does with an `aes256-gcm96` key, in a few lines. */
import { createCipheriv, createDecipheriv, createHmac, randomBytes } from 'node:crypto'
import type { TransitKey } from '../src/signers/transit.js'

/** @param down the connection is refused, in words that must not travel. */
export function localTransit(down = () => false): TransitKey {
  const key = randomBytes(32)
  const check = () => {
    if (down()) throw new Error('connect ECONNREFUSED vault.internal with hvs.secrettoken')
  }
  return {
    async encrypt(plain, associated) {
      check()
      const nonce = randomBytes(12)
      const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(associated))
      return `vault:v1:${Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]).toString('base64')}`
    },
    async decrypt(text, associated) {
      check()
      const all = Buffer.from(text.slice('vault:v1:'.length), 'base64')
      const decipher = createDecipheriv('aes-256-gcm', key, all.subarray(0, 12), { authTagLength: 16 })
      decipher.setAAD(Buffer.from(associated)).setAuthTag(all.subarray(-16))
      return Buffer.concat([decipher.update(all.subarray(12, -16)), decipher.final()])
    },
    async hmac(input) {
      check()
      return `vault:v1:${createHmac('sha256', key).update(input).digest('base64')}`
    },
  }
}
