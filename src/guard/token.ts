/** Owns reading an access token (standards.md 4.4): the strict profile, and everything in it that a revocation can name. A token that names less is refused. */
import { hash } from 'node:crypto'
import { CurfewError } from '../domain/errors.js'
import { isId } from '../domain/ids.js'
import type { AdmittedKey } from '../domain/jwk.js'
import { checkAudience, checkTimes, inspect, type JwsProfile, textClaim } from '../domain/jws.js'
import type { TokenNames } from '../domain/revocation-index.js'
import { type GuardCode, Refusal, refuse } from './errors.js'
import type { Keys } from './keys.js'

/** RFC 9068 section 4: the class is in the header; no verifier takes two (T16). */
const PROFILE: JwsProfile = { algorithms: ['ES256', 'RS256'], types: ['at+jwt'] }
/** On `exp`, `nbf` and `iat`. Seconds. */
export const TOLERANCE = 5
/** Beyond any life that Curfew gives a token. Seconds. */
const MAX_LIFE = 86_400
/** RFC 8693 section 4.1, as deep as tasks can lie (standards.md 4.4). */
const MAX_ACTORS = 5

export interface Reach {
  readonly capabilities: readonly string[]
  readonly actions: readonly string[]
  readonly locations: readonly string[]
}

/** What is true of a token whenever it comes: all that may be kept. Whether it is live is asked each time. */
export interface Verified {
  readonly key: AdmittedKey
  readonly names: TokenNames
  readonly subject: string
  readonly client: string
  /** Outermost first; without delegation empty. */
  readonly actors: readonly { readonly identity: string; readonly issuer: string | null }[]
  readonly scopes: readonly string[]
  readonly reach: readonly Reach[]
  /** RFC 7638 thumbprint of the key that it is bound to. */
  readonly jkt: string | null
  /** Seconds since the epoch. */
  readonly expiresAt: number
  readonly notBefore: number
  readonly claims: Readonly<Record<string, unknown>>
}

export interface Wanted {
  readonly issuer: string
  readonly audience: string
  readonly now: Date
}

/**
 * The name of a token that was verified: a digest of its text, signature included. A spelling is no identity (T46), but only texts
 * whose every segment re-encodes to itself are ever verified, and of those each stands for other bytes: another spelling of what was
 * kept is not found by it, is looked at in full, and refused.
 */
export const digestOf = (token: string): string => hash('sha256', token, 'base64')

const CODES: Readonly<Record<string, GuardCode>> = {
  type_refused: 'wrong_type',
  algorithm_refused: 'signature_invalid',
  signature_invalid: 'signature_invalid',
  expired: 'token_expired',
  not_yet_valid: 'token_not_yet',
  issued_in_future: 'token_not_yet',
  audience_mismatch: 'wrong_audience',
}

export async function readToken(token: string, wanted: Wanted, keys: Pick<Keys, 'find'>): Promise<Verified> {
  try {
    const { header, unverified, checkSignature } = inspect(token, PROFILE)
    // Before any key is looked for: a stranger's token makes us ask nobody.
    if (unverified.iss !== wanted.issuer) refuse('wrong_issuer', { expected: wanted.issuer, ...printable(unverified.iss) })
    if (header.kid === undefined) return refuse('token_malformed')
    const key = await keys.find(header.kid)
    await checkSignature(key)
    return claimsFor(unverified, key, wanted)
  } catch (cause) {
    if (!(cause instanceof CurfewError)) throw cause
    // What the domain refuses, in the words of the guard.
    throw new Refusal(CODES[cause.facts.reason ?? ''] ?? 'token_malformed', { cause })
  }
}

function claimsFor(payload: Readonly<Record<string, unknown>>, key: AdmittedKey, wanted: Wanted): Verified {
  try {
    checkAudience(payload, wanted.audience, false)
  } catch (cause) {
    throw new Refusal('wrong_audience', { expected: wanted.audience, ...printable(payload.aud), cause })
  }
  const { expiresAt, issuedAt } = checkTimes(payload, { now: wanted.now, toleranceSeconds: TOLERANCE, maxLifeSeconds: MAX_LIFE, iatRequired: true })
  return claimsOf(payload, key, { exp: expiresAt.getTime() / 1000, iat: issuedAt.getTime() / 1000 })
}

function claimsOf(payload: Readonly<Record<string, unknown>>, key: AdmittedKey, { exp, iat }: { exp: number; iat: number }): Verified {
  const credential = textClaim(payload, 'jti')
  const task = record(payload.task)
  const ancestors = task.ancestors ?? []
  if (!isId('credential', credential) || !isId('task', task.id) || !Array.isArray(ancestors) || ancestors.length > MAX_ACTORS) return refuse('token_malformed')
  if (!ancestors.every(a => isId('task', a))) return refuse('token_malformed')
  const subject = textClaim(payload, 'sub')
  const client = textClaim(payload, 'client_id')
  const actors = actorsOf(payload.act)
  const reach = reachOf(payload.authorization_details)
  const trusted = [textClaim(payload, 'trust_issuer'), ...(payload.sub_issuer === undefined ? [] : [textClaim(payload, 'sub_issuer')])]
  return deepFreeze<Verified>({
    key,
    subject,
    client,
    actors,
    names: {
      credential,
      task: task.id,
      ancestors: ancestors as string[],
      identities: unique([subject, client, ...actors.map(a => a.identity)]),
      issuers: unique([...trusted, ...actors.flatMap(a => a.issuer ?? [])]),
      capabilities: unique(reach.flatMap(r => r.capabilities)),
      kid: key.kid,
      issuedAt: iat,
    },
    scopes: scopesOf(payload.scope),
    reach,
    jkt: bindingOf(payload.cnf),
    expiresAt: exp,
    notBefore: Math.max(iat, (payload.nbf as number | undefined) ?? iat),
    claims: payload,
  })
}

function actorsOf(act: unknown): { identity: string; issuer: string | null }[] {
  const actors: { identity: string; issuer: string | null }[] = []
  for (let at = act; at !== undefined; ) {
    const actor = record(at)
    if (actors.length === MAX_ACTORS) return refuse('token_malformed')
    actors.push({ identity: textClaim(actor, 'sub'), issuer: actor.iss === undefined ? null : textClaim(actor, 'iss') })
    at = actor.act
  }
  return actors
}

/** RFC 9396. Without a capability nobody could end what was issued for one. */
function reachOf(details: unknown): Reach[] {
  if (!Array.isArray(details) || details.length === 0 || details.length > 20) return refuse('token_malformed')
  const reach = details.map(record).map(d => ({ capabilities: texts(d.capabilities), actions: texts(d.actions), locations: texts(d.locations) }))
  return reach.some(r => r.capabilities.length > 0) ? reach : refuse('token_malformed')
}

/** RFC 6749 section 3.3. */
function scopesOf(scope: unknown): readonly string[] {
  if (scope === undefined) return []
  if (typeof scope !== 'string' || !/^[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*$/.test(scope)) return refuse('token_malformed')
  return unique(scope.split(' '))
}

/** Exactly one member, and one that we can check: a token whose binding is not looked at would be a bearer (standards.md 2.2.7). */
function bindingOf(cnf: unknown): string | null {
  if (cnf === undefined) return null
  const { jkt, ...others } = record(cnf)
  // RFC 8705 section 3.1: the thumbprint of a certificate, which we are not shown.
  if ('x5t#S256' in others) return refuse('binding_unsupported')
  if (typeof jkt !== 'string' || !/^[A-Za-z0-9_-]{43}$/.test(jkt) || Object.keys(others).length > 0) return refuse('token_malformed')
  return jkt
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : refuse('token_malformed')
}

function texts(value: unknown): string[] {
  if (value === undefined) return []
  if (!Array.isArray(value) || !value.every(t => typeof t === 'string' && /^[\x20-\x7e]{1,255}$/.test(t))) return refuse('token_malformed')
  return value
}

/** For a log line: what is not plain text is not repeated. */
function printable(value: unknown): { actual?: string } {
  const text = Array.isArray(value) ? value.join(' ') : value
  return typeof text === 'string' && /^[\x20-\x7e]{1,255}$/.test(text) ? { actual: text } : {}
}

const unique = (list: readonly string[]): readonly string[] => (list.length < 2 ? list : [...new Set(list)])

/** Many requests look at the same object. The key is the key store's own. Nothing is allocated for it: that would be a fifth of what a whole verification costs in memory. */
function deepFreeze<T extends object>(value: T): T {
  for (const name in value) {
    const inner = (value as Record<string, unknown>)[name]
    if (typeof inner === 'object' && inner !== null && name !== 'key') deepFreeze(inner)
  }
  return Object.freeze(value)
}

/** On every use of what was kept: exactly what `checkTimes` asks. */
export function refuseOutOfTime({ expiresAt, notBefore }: Verified, now: number): void {
  if ((expiresAt + TOLERANCE) * 1000 <= now) refuse('token_expired')
  if (notBefore * 1000 > now + TOLERANCE * 1000) refuse('token_not_yet')
}
