/** Owns the shape of an operator's token: recognizable to leak scanners, checkable without a look-up, kept as a digest only. */
import { createHash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { Secret } from './secret.js'

const PREFIX = 'curfew_operator_'
const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const SHAPE = /^curfew_operator_[0-9A-Za-z]{32}[0-9A-Za-z]{6}$/

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
export function newOperatorToken(): Secret {
  let body = ''
  while (body.length < 32) for (const byte of randomBytes(48)) if (byte < 248 && body.length < 32) body += ALPHABET[byte % 62]
  return Secret.token(PREFIX + body + base62(crc32(PREFIX + body), 6))
}

/** True for the shape and the checksum; says nothing about whether anybody holds it. */
export function looksLikeOperatorToken(text: string): boolean {
  return SHAPE.test(text) && text.slice(-6) === base62(crc32(text.slice(0, -6)), 6)
}

/** SHA-256, base64url; the store seals it once more. */
export function operatorTokenDigest(token: string): string {
  return createHash('sha256').update(token).digest('base64url')
}
