/** Owns which public keys are admitted to a key set, and their name (RFC 7638). */
import { createHash } from 'node:crypto'
import { importJWK, type JWK } from 'jose'
import { CurfewError } from './errors.js'
import type { VerifyKey } from './signature.js'

export interface KeyRules {
  /** `sig` also admits keys without a `use`; `jwt-svid` admits only its own (SPIFFE bundles carry other keys too). */
  readonly use: 'sig' | 'jwt-svid'
  readonly algs: readonly string[]
}

export interface AdmittedKey {
  readonly kid: string
  readonly thumbprint: string
  /** Algorithms of the rules that fit this key's type and curve. */
  readonly algs: readonly string[]
  readonly jwk: JWK
  /** The key for one of `algs`; WebCrypto binds a key to an algorithm when it is imported. Rejects when the point is off its curve. */
  verifier(alg: string): Promise<VerifyKey>
}

const MAX_KEYS = 100
const EC = { 'P-256': ['ES256', 32], 'P-384': ['ES384', 48], 'P-521': ['ES512', 66] } as const
const RSA_ALGS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512']
const PRIVATE = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k']

const refuse = (reason: string): never => {
  throw new CurfewError('attestation_refused', 'the key set of this trust issuer holds a key that is not admitted', { reason })
}

/** RFC 7638: only the required members, in lexicographic order, without spaces. */
export function thumbprint(jwk: JWK): string {
  return createHash('sha256')
    .update(JSON.stringify(required(jwk)))
    .digest('base64url')
}

function required(jwk: JWK): JWK {
  if (jwk.kty === 'EC') return { crv: jwk.crv, kty: jwk.kty, x: jwk.x, y: jwk.y } as JWK
  if (jwk.kty === 'RSA') return { e: jwk.e, kty: jwk.kty, n: jwk.n } as JWK
  return { crv: jwk.crv, kty: jwk.kty, x: jwk.x } as JWK
}

/** The algorithms this key can be used with, or a reason to refuse it. Only what is on its curve, strong, public and for signing. */
export function fitOf(jwk: JWK): { algs: readonly string[] } | { refused: string } {
  if (PRIVATE.some(m => m in jwk)) return { refused: 'key_private' }
  if (jwk.kty === 'EC') {
    const curve = EC[jwk.crv as keyof typeof EC]
    if (!curve || octets(jwk.x) !== curve[1] || octets(jwk.y) !== curve[1]) return { refused: 'key_malformed' }
    return { algs: [curve[0]] }
  }
  if (jwk.kty === 'RSA') {
    const n = bigint(jwk.n)
    if (n === null || jwk.e !== 'AQAB') return { refused: 'key_weak' }
    const bits = n.toString(2).length
    if (bits < 2_048 || bits > 4_096 || n % 2n === 0n || isRoca(n)) return { refused: 'key_weak' }
    return { algs: RSA_ALGS }
  }
  if (jwk.kty === 'OKP' && jwk.crv === 'Ed25519' && octets(jwk.x) === 32) return { algs: ['EdDSA', 'Ed25519'] }
  return { refused: 'key_type' }
}

/**
 * Reads a JWK set. A set that holds two keys under one `kid`, a private or weak key among those it would use, or too many keys is
 * refused whole: whoever publishes that is not in control of it. Keys for other uses are passed over.
 */
export function admitKeys(set: unknown, rules: KeyRules): AdmittedKey[] {
  const keys = (set as { keys?: unknown } | null)?.keys
  if (!Array.isArray(keys)) return refuse('key_set_malformed')
  if (keys.length > MAX_KEYS) return refuse('key_set_too_large')
  const admitted: AdmittedKey[] = []
  const kids = new Set<string>()
  for (const candidate of keys as JWK[]) {
    if (typeof candidate !== 'object' || candidate === null) return refuse('key_set_malformed')
    // Unknown uses are ignored, not refused (SPIFFE bundle format, section 4.2.2; RFC 7517 section 5).
    if (rules.use === 'jwt-svid' ? candidate.use !== 'jwt-svid' : candidate.use !== undefined && candidate.use !== 'sig') continue
    if (candidate.key_ops !== undefined && !(Array.isArray(candidate.key_ops) && candidate.key_ops.includes('verify'))) continue
    if (candidate.kty === 'oct') return refuse('key_symmetric')
    const fit = fitOf(candidate)
    if ('refused' in fit) {
      if (fit.refused === 'key_type') continue
      return refuse(fit.refused)
    }
    const algs = fit.algs.filter(a => rules.algs.includes(a) && (candidate.alg === undefined || candidate.alg === a))
    if (algs.length === 0) continue
    const print = thumbprint(candidate)
    const kid = candidate.kid ?? print
    if (typeof kid !== 'string' || kid.length === 0 || kid.length > 255) return refuse('key_set_malformed')
    if (kids.has(kid)) return refuse('key_ambiguous')
    kids.add(kid)
    // `use: jwt-svid` and `alg` are dropped: jose would find no key with the one, and the configuration decides, not the other (T05).
    const { use: _use, alg: _alg, key_ops: _ops, ...bare } = candidate
    admitted.push({ kid, thumbprint: print, algs, jwk: bare, verifier: alg => imported(print, alg, required(candidate)) })
  }
  return admitted
}

/** Importing costs more than verifying (performance.md), so that imported keys are kept, by all that makes them (T47): thumbprint and algorithm. */
const IMPORTED_MAX = 512
const kept = new Map<string, Promise<VerifyKey>>()

function imported(print: string, alg: string, jwk: JWK): Promise<VerifyKey> {
  const name = `${alg}:${print}`
  const known = kept.get(name)
  if (known) return known
  // Bytes are the answer for symmetric keys alone, of which none is admitted.
  const made = importJWK(jwk, alg) as Promise<VerifyKey>
  kept.set(name, made)
  made.catch(() => kept.delete(name))
  if (kept.size > IMPORTED_MAX) kept.delete(kept.keys().next().value as string)
  return made
}

/** How many bytes a member holds; -1 for what is no base64url, or another spelling of it: one key has one thumbprint. */
function octets(value: unknown): number {
  if (typeof value !== 'string' || !/^[A-Za-z0-9_-]+$/.test(value)) return -1
  const bytes = Buffer.from(value, 'base64url')
  return bytes.toString('base64url') === value ? bytes.length : -1
}

/** RFC 7518 section 6.3.1.1: no leading zero octets. */
function bigint(value: unknown): bigint | null {
  if (octets(value) <= 0) return null
  const bytes = Buffer.from(value as string, 'base64url')
  return bytes[0] === 0 ? null : BigInt(`0x${bytes.toString('hex')}`)
}

/** Moduli made by the broken Infineon generator are powers of 65537 modulo every small prime (CVE-2017-15361). */
const ROCA_PRIMES = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157]
const ROCA_MARKS = ROCA_PRIMES.map(p => {
  const seen = new Set<number>()
  for (let x = 1; !seen.has(x); x = (x * 65_537) % p) seen.add(x)
  return seen
})

export function isRoca(n: bigint): boolean {
  return ROCA_PRIMES.every((p, i) => ROCA_MARKS[i]?.has(Number(n % BigInt(p))))
}
