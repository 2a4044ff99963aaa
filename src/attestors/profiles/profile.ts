/** Owns what a provider profile is: data about a provider's tokens, and one pure step from verified claims to our words. */
import type { JWTPayload } from 'jose'
import type { OidcIssuerConfig } from '../../config-schema.js'
import { CurfewError } from '../../domain/errors.js'
import type { Attributes, ReplayMode } from '../../domain/workload.js'

export interface Normalised {
  readonly identity: string
  readonly attributes: Attributes
  readonly run: string | null
}

export interface Profile {
  readonly name: OidcIssuerConfig['profile']
  /** This provider's tokens may come without a `typ`, whatever else the configuration allows. */
  readonly typAbsent: boolean
  /** Header members that this provider sends and nobody here looks at. */
  readonly ignoredHeaders: readonly string[]
  replay(payload: JWTPayload): ReplayMode
  normalise(payload: JWTPayload, issuer: OidcIssuerConfig): Normalised
}

type Claims = Readonly<Record<string, unknown>>

/** @param next what its bearer can do about it. */
export function refuse(reason: string, field?: string, next?: string): never {
  throw new CurfewError('attestation_refused', 'this evidence may not be used here', {
    reason,
    ...(field === undefined ? {} : { field }),
    ...(next === undefined ? {} : { next }),
  })
}

/** A claim as text: strings as they are, numbers and booleans in their one spelling. Bounded, printable, never normalised (T60). */
export function text(payload: Claims, name: string): string | null {
  const value = claimAt(payload, name)
  if (value === undefined || value === null) return null
  // Beyond 2^53 two numbers read alike: an id that is not exact identifies nobody.
  if (typeof value === 'number' && !Number.isSafeInteger(value)) return refuse('claim_invalid', name)
  const written = typeof value === 'number' || typeof value === 'boolean' ? String(value) : value
  if (typeof written !== 'string' || written.length > 512 || !/^[\x20-\x7e]*$/.test(written)) return refuse('claim_invalid', name)
  return written
}

/** A claim of several texts, each as `text` has them; null when it is not there. */
export function texts(payload: Claims, name: string): readonly string[] | null {
  const value = claimAt(payload, name)
  if (value === undefined || value === null) return null
  if (!Array.isArray(value) || value.length > 64 || value.some(v => typeof v !== 'string')) return refuse('claim_invalid', name)
  return value.map(v => text({ v }, 'v') ?? '')
}

/** A claim by its exact name, else along `/` through nested objects (`kubernetes.io/serviceaccount/uid`). Only what the token itself holds. */
export function claimAt(payload: Claims, name: string): unknown {
  if (Object.hasOwn(payload, name)) return payload[name]
  let at: unknown = payload
  for (const step of name.split('/')) {
    if (typeof at !== 'object' || at === null || Array.isArray(at) || !Object.hasOwn(at, step)) return undefined
    at = (at as Record<string, unknown>)[step]
  }
  return at
}

export function required(payload: Claims, name: string, next?: string): string {
  return text(payload, name) || refuse('claim_missing', name, next)
}
