/** Owns the identifiers: a prefix, `_`, and 26 lower-case base32 characters, never a `:` and never all digits. */
import { createHash, randomBytes } from 'node:crypto'

const PREFIXES = {
  issuer: 'iss',
  identity: 'wid',
  task: 'tsk',
  decision: 'dec',
  credential: 'crd',
  revocation: 'rev',
  receipt: 'rcp',
  plan: 'pln',
  quarantine: 'qrn',
  signal: 'sig',
  policy: 'pol',
  operator: 'opr',
  guard: 'grd',
  grant: 'grn',
} as const

export type IdKind = keyof typeof PREFIXES
declare const kind: unique symbol
export type Id<K extends IdKind> = string & { readonly [kind]: K }

export type IssuerId = Id<'issuer'>
export type IdentityId = Id<'identity'>
export type TaskId = Id<'task'>
export type DecisionId = Id<'decision'>
export type CredentialId = Id<'credential'>
export type RevocationId = Id<'revocation'>
export type SignalId = Id<'signal'>
export type PolicyId = Id<'policy'>
export type ReceiptId = Id<'receipt'>
export type PlanId = Id<'plan'>
export type QuarantineId = Id<'quarantine'>
export type GuardId = Id<'guard'>
export type OperatorId = Id<'operator'>

/** Crockford's alphabet in lower case: no i, l, o, u, so that an id read aloud at 3 a.m. is the id that is typed. */
const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz'
const BODY = /^[0-9a-hjkmnp-tv-z]{26}$/

function encode(bytes: Uint8Array): string {
  let bits = 0
  let value = 0
  let text = ''
  for (const byte of bytes) {
    value = (value << 8) | byte
    bits += 8
    while (bits >= 5) {
      bits -= 5
      text += ALPHABET[(value >> bits) & 31]
    }
    value &= (1 << bits) - 1
  }
  return text
}

/** A new id: 48 bits of milliseconds, then 80 random bits, so that ids sort by their birth. The order is a convenience and decides nothing. */
export function newId<K extends IdKind>(of: K): Id<K> {
  const bytes = Buffer.alloc(17)
  bytes.writeUIntBE(Date.now(), 0, 6)
  randomBytes(10).copy(bytes, 6)
  return `${PREFIXES[of]}_${encode(bytes).slice(0, 26)}` as Id<K>
}

/**
 * The id of a thing that is its own name (a trust issuer, a workload identity, a policy set): the same on every replica and
 * after every restart, without a row that somebody has to write first.
 */
export function namedId<K extends IdKind>(of: K, ...parts: string[]): Id<K> {
  const digest = createHash('sha256')
    .update(JSON.stringify([of, ...parts]))
    .digest()
  return `${PREFIXES[of]}_${encode(digest).slice(0, 26)}` as Id<K>
}

/** True for a well-formed id of this kind; says nothing about whether the thing exists. */
export function isId<K extends IdKind>(of: K, text: unknown): text is Id<K> {
  return typeof text === 'string' && text.startsWith(`${PREFIXES[of]}_`) && BODY.test(text.slice(PREFIXES[of].length + 1))
}

/** For those who judge or describe ids by a pattern: what `isId` accepts. */
export const idPattern = (of: IdKind): RegExp => new RegExp(`^${PREFIXES[of]}_${BODY.source.slice(1)}`)

/** How an id is written where the target forbids `_` (Vault turns it into `-` by itself). */
export function dashed(id: string): string {
  return id.replaceAll('_', '-')
}
