/** Owns the strict profile in front of and behind jose (security.md section 4): what a compact JWS must look like before and after its signature is checked. */
import { createHash } from 'node:crypto'
import type { JWTPayload } from 'jose'
import { CurfewError } from './errors.js'
import { parseStrictBytes } from './json.js'
import type { AdmittedKey } from './jwk.js'
import { isSigned } from './signature.js'

export interface JwsProfile {
  /** From configuration, never from the token. */
  readonly algorithms: readonly string[]
  /** Allowed `typ` values without the `application/` prefix, compared without case (RFC 7515 section 4.1.9). An empty string allows absence. */
  readonly types: readonly string[]
  /** Header members beside `alg`, `kid` and `typ` that do not refuse the token. Only DPoP proofs carry a `jwk` that is looked at. */
  readonly extraHeaders?: readonly string[]
}

export interface JwsHeader {
  readonly alg: string
  readonly kid?: string
  readonly typ?: string
  readonly jwk?: unknown
}

export interface Inspected {
  readonly header: JwsHeader
  /** NOT believed: good for choosing a registered issuer by exact look-up, and nothing else. */
  readonly unverified: Readonly<Record<string, unknown>>
  /**
   * SHA-256 of the decoded header and payload: a token's spelling is no identity (T46). The signature is left out, since from one
   * ECDSA signature (r, s) anybody makes a second valid one, (r, n - s), and would have a "new" token. Made when it is looked at.
   */
  readonly digest: string
  /**
   * Step 5: by this key, with the algorithm of the header, which is one of the configured and has to fit the key. Once it resolves, what was read is what was signed.
   * @throws CurfewError(attestation_refused, reason algorithm_refused | signature_invalid)
   */
  checkSignature(key: AdmittedKey): Promise<void>
}

/** Bytes. */
const MAX_TOKEN = 8_192

const refuse = (reason: string, field?: string): never => {
  throw new CurfewError('attestation_refused', 'the token is not acceptable', { reason, ...(field ? { field } : {}) })
}

interface Opened {
  readonly header: JwsHeader
  /** As they were sent. */
  readonly head: Buffer
  readonly payload: Buffer
  readonly signature: Buffer
}

/** Steps 1 and 2: shape, canonical spelling, header. No network, no cryptography. */
function open(token: string, profile: JwsProfile): Opened {
  if (typeof token !== 'string' || token.length > MAX_TOKEN) return refuse('token_too_large')
  const segments = token.split('.')
  if (segments.length !== 3) return refuse('malformed_token')
  const [head, payload, signature] = segments.map(decodeSegment) as [Buffer, Buffer, Buffer]
  const header = readObject(head, 'header_refused')
  for (const name of Object.keys(header)) {
    if (name !== 'alg' && name !== 'kid' && name !== 'typ' && !profile.extraHeaders?.includes(name)) return refuse('header_refused')
  }
  const { alg, kid, typ } = header
  if (typeof alg !== 'string' || !profile.algorithms.includes(alg)) return refuse('algorithm_refused')
  if (kid !== undefined && (typeof kid !== 'string' || kid.length === 0 || kid.length > 255)) return refuse('header_refused')
  if (typ !== undefined && (typeof typ !== 'string' || typ === '')) return refuse('type_refused')
  // RFC 7515 section 4.1.9: compared without case; a value without `/` means `application/…`.
  const type = (typ ?? '').toLowerCase().replace(/^application\//, '')
  if (!profile.types.includes(type)) return refuse('type_refused')
  return { header: header as unknown as JwsHeader, head, payload, signature }
}

/** Steps 1 and 2, and the unverified look of step 3. */
export function inspect(token: string, profile: JwsProfile): Inspected {
  const opened = open(token, profile)
  const { header, head, payload } = opened
  return {
    header,
    unverified: readObject(payload, 'payload_refused'),
    get digest() {
      return createHash('sha256').update(head).update('.').update(payload).digest('base64url')
    },
    checkSignature: key => checkSignature(token, opened, key),
  }
}

async function checkSignature(token: string, { header: { alg }, signature }: Opened, key: AdmittedKey): Promise<void> {
  if (!key.algs.includes(alg)) return refuse('algorithm_refused')
  // Every character of it is one of the alphabet.
  const signed = Buffer.from(token.slice(0, token.lastIndexOf('.')), 'latin1')
  let isGood: boolean
  try {
    isGood = await isSigned(signed, signature, alg, await key.verifier(alg))
  } catch (cause) {
    throw new CurfewError('attestation_refused', 'the token is not acceptable', { reason: 'signature_invalid' }, { cause })
  }
  if (!isGood) refuse('signature_invalid')
}

/** Steps 1, 2 and 5, whatever the payload is. Answers the bytes that were signed. */
export async function verifySignature(token: string, key: AdmittedKey, profile: JwsProfile): Promise<{ header: JwsHeader; payload: Buffer }> {
  const opened = open(token, profile)
  await checkSignature(token, opened, key)
  return opened
}

/** Steps 5 and 6: the very bytes that were verified, read strictly. jose's own JSON.parse keeps the last of two members. */
export async function verifyJws(token: string, key: AdmittedKey, profile: JwsProfile): Promise<{ header: JwsHeader; payload: JWTPayload }> {
  const { header, payload } = await verifySignature(token, key, profile)
  return { header, payload: readObject(payload, 'payload_refused') as JWTPayload }
}

export interface TimeRules {
  readonly now: Date
  /** Tolerated on `exp` and `nbf`. */
  readonly toleranceSeconds: number
  /** Longest `exp - iat`, and the longest age. */
  readonly maxLifeSeconds: number
  readonly iatRequired: boolean
}

/** Step 6: times are safe integers in an order that makes sense. `1e400`, fractions and strings never reach a comparison. */
export function checkTimes(payload: JWTPayload, rules: TimeRules): { issuedAt: Date; expiresAt: Date } {
  const time = (name: 'exp' | 'iat' | 'nbf', required: boolean): number | null => {
    const value: unknown = payload[name]
    if (value === undefined) return required ? refuse('claim_missing', name) : null
    if (!Number.isSafeInteger(value) || (value as number) < 0 || (value as number) > 253_402_300_799) return refuse('claim_invalid', name)
    return value as number
  }
  const now = rules.now.getTime() / 1000
  const exp = time('exp', true) as number
  const iat = time('iat', rules.iatRequired)
  const nbf = time('nbf', false)
  if (exp + rules.toleranceSeconds <= now) return refuse('expired', 'exp')
  if (nbf !== null && nbf > now + rules.toleranceSeconds) return refuse('not_yet_valid', 'nbf')
  if (nbf !== null && nbf >= exp) return refuse('claim_invalid', 'nbf')
  if (iat !== null) {
    if (iat > now + 5) return refuse('issued_in_future', 'iat')
    if (exp <= iat) return refuse('claim_invalid', 'exp')
    if (exp - iat > rules.maxLifeSeconds) return refuse('life_too_long', 'exp')
  } else if (exp - now > rules.maxLifeSeconds) return refuse('life_too_long', 'exp')
  // Freshness that nobody stated is not assumed: without `iat` and `nbf` the evidence counts as old as its life allows.
  const earliest = Math.min(exp - rules.maxLifeSeconds, Math.floor(now))
  return { issuedAt: new Date((iat ?? nbf ?? earliest) * 1000), expiresAt: new Date(exp * 1000) }
}

/** A claim that identifies something: printable ASCII, at most 255 characters, exactly as sent (GitHub's `sub` holds the spaces of an environment's name). */
export function textClaim(payload: JWTPayload, name: string): string {
  const value: unknown = payload[name]
  if (value === undefined || value === null) return refuse('claim_missing', name)
  if (typeof value !== 'string' || !/^[\x20-\x7e]{1,255}$/.test(value)) return refuse('claim_invalid', name)
  return value
}

/** Exactly us, byte for byte; other audiences beside ours only where the issuer is configured so (T25–T27). */
export function checkAudience(payload: JWTPayload, audience: string, allowOthers: boolean): void {
  const { aud } = payload as { aud?: unknown }
  if (aud === undefined) refuse('claim_missing', 'aud')
  const list = Array.isArray(aud) ? aud : [aud]
  if (!list.every(a => typeof a === 'string') || list.length === 0 || list.length > 20) refuse('claim_invalid', 'aud')
  if (!list.includes(audience) || (list.length > 1 && !allowOthers)) refuse('audience_mismatch', 'aud')
}

/** Each segment must re-encode to itself, and so holds nothing but the alphabet: spaces, padding and spare bits are other spellings of the same bytes. */
function decodeSegment(segment: string): Buffer {
  const bytes = Buffer.from(segment, 'base64url')
  if (segment === '' || bytes.toString('base64url') !== segment) return refuse('malformed_token')
  return bytes
}

function readObject(bytes: Buffer, reason: string): Record<string, unknown> {
  let value: unknown
  try {
    value = parseStrictBytes(bytes, { maxDepth: 8, maxMembers: 256 })
  } catch (error) {
    return refuse(error instanceof CurfewError && error.facts.reason === 'duplicate_member' ? 'duplicate_member' : reason)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value) || Object.keys(value).length > 64) return refuse(reason)
  return value as Record<string, unknown>
}
