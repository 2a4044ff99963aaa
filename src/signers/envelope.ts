/** Owns how a private key lies in the store: under a data key of its own (AES-256-GCM), which somebody else wraps. */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { CurfewError } from '../domain/errors.js'

/** Wraps data keys. What is wrapped for one name MUST NOT open for another, and nothing it throws may hold key material. */
export interface DataKeyWrapper {
  wrap(dataKey: Buffer, associated: string): Promise<string>
  /** Throws CurfewError(unavailable) when it does not open. */
  unwrap(wrapped: string, associated: string): Promise<Buffer>
  /**
   * 32 bytes that stay the same for this deployment: the key of `sealDigest`. A stolen database without it cannot be asked whether a guessed
   * or found token is in it.
   */
  digestKey(): Promise<Buffer>
}

const FORMAT = 's1'
const NONCE_BYTES = 12
const TAG_BYTES = 16

/** `s1.<wrapped data key>.<nonce>.<ciphertext and tag>`, the last three in base64url. */
export async function seal(wrapper: DataKeyWrapper, plain: Buffer, associated: string): Promise<string> {
  const dataKey = randomBytes(32)
  try {
    const wrapped = await wrapper.wrap(dataKey, associated)
    const nonce = randomBytes(NONCE_BYTES)
    const body = encrypt(dataKey, nonce, plain, associated)
    return [FORMAT, Buffer.from(wrapped).toString('base64url'), nonce.toString('base64url'), body.toString('base64url')].join('.')
  } finally {
    dataKey.fill(0)
  }
}

/** @throws CurfewError(unavailable) `key_unreadable`: another master key, another name, or a changed byte; which one cannot be told. */
export async function open(wrapper: DataKeyWrapper, sealed: string, associated: string): Promise<Buffer> {
  const [format, wrapped, nonce, body, ...rest] = sealed.split('.')
  if (format !== FORMAT || !wrapped || !nonce || !body || rest.length > 0) throw unreadable()
  const dataKey = await wrapper.unwrap(Buffer.from(wrapped, 'base64url').toString(), associated)
  try {
    return decrypt(dataKey, Buffer.from(nonce, 'base64url'), Buffer.from(body, 'base64url'), associated)
  } finally {
    dataKey.fill(0)
  }
}

export const unreadable = (cause?: unknown) =>
  new CurfewError('unavailable', 'the signing keys cannot be opened with this master key', { reason: 'key_unreadable' }, { cause })

/** Ciphertext and tag in one. */
export function encrypt(key: Buffer, nonce: Buffer, plain: Buffer, associated: string): Buffer {
  const cipher = createCipheriv('aes-256-gcm', key, nonce)
  cipher.setAAD(Buffer.from(associated))
  return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()])
}

export function decrypt(key: Buffer, nonce: Buffer, body: Buffer, associated: string): Buffer {
  try {
    // A shorter tag would be accepted by GCM and is a forgery aid: the length is checked here and fixed there.
    if (nonce.length !== NONCE_BYTES || body.length < TAG_BYTES) throw new TypeError('too short')
    const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES })
    decipher.setAAD(Buffer.from(associated))
    decipher.setAuthTag(body.subarray(-TAG_BYTES))
    return Buffer.concat([decipher.update(body.subarray(0, -TAG_BYTES)), decipher.final()])
  } catch (cause) {
    throw unreadable(cause)
  }
}
