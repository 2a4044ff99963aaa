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
  readonly name: 'github' | 'kubernetes' | 'generic'
  replay(payload: JWTPayload): ReplayMode
  normalise(payload: JWTPayload, issuer: OidcIssuerConfig): Normalised
}

export function refuse(reason: string, field?: string): never {
  throw new CurfewError('attestation_refused', 'this evidence may not be used here', { reason, ...(field ? { field } : {}) })
}

/** A claim as text: strings as they are, numbers and booleans in their one spelling. Bounded, printable, never normalised (T60). */
export function text(payload: Readonly<Record<string, unknown>>, name: string): string | null {
  const value = payload[name]
  if (value === undefined || value === null) return null
  const written = typeof value === 'number' || typeof value === 'boolean' ? String(value) : value
  if (typeof written !== 'string' || written.length > 512 || !/^[\x20-\x7e]*$/.test(written)) return refuse('claim_invalid', name)
  return written
}

export function required(payload: Readonly<Record<string, unknown>>, name: string): string {
  return text(payload, name) || refuse('claim_missing', name)
}
