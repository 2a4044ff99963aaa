/** Owns the shape of the tokens that we hand to people and to guards: recognizable to leak scanners, checkable without a look-up, kept as a digest only. */
import { createHash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { Secret } from './secret.js'

const OPERATOR = 'curfew_operator_'
const GUARD = 'curfew_guard_'
const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const SHAPE = /^[0-9A-Za-z]{38}$/

function base62(value: number, width: number): string {
  let rest = value
  let text = ''
  for (let i = 0; i < width; i++) {
    text = ALPHABET[rest % 62] + text
    rest = Math.floor(rest / 62)
  }
  return text
}

/** 32 random base62 characters (190 bits) and a CRC-32 of what stands before it, so that scanners know a real one from noise. */
function made(prefix: string): Secret {
  let body = ''
  while (body.length < 32) for (const byte of randomBytes(48)) if (byte < 248 && body.length < 32) body += ALPHABET[byte % 62]
  return Secret.token(prefix + body + base62(crc32(prefix + body), 6))
}

export const newOperatorToken = (): Secret => made(OPERATOR)
export const newGuardKey = (): Secret => made(GUARD)

/** True for the shape and the checksum; says nothing about whether anybody holds it. */
const looksLike = (prefix: string, text: string): boolean =>
  text.startsWith(prefix) && SHAPE.test(text.slice(prefix.length)) && text.slice(-6) === base62(crc32(text.slice(0, -6)), 6)

export const looksLikeOperatorToken = (text: string): boolean => looksLike(OPERATOR, text)
export const looksLikeGuardKey = (text: string): boolean => looksLike(GUARD, text)

/** SHA-256, base64url, of either kind; the store seals it once more. */
export function operatorTokenDigest(token: string): string {
  return createHash('sha256').update(token).digest('base64url')
}
