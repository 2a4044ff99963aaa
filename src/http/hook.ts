/** Owns what the event of a CI provider is, whichever it comes from: signed by its source, and about a job or run that is over. */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { Request } from 'express'
import { z } from 'zod'
import type { RunReport } from '../broker/run-ended.js'
import { CurfewError } from '../domain/errors.js'
import { parseStrictBytes } from '../domain/json.js'

/** What a kind of source does with a request; `raw` is its body, of which nothing was read yet. */
export interface HookKind {
  /** Throws when a secret cannot be one of this kind. Called at start. */
  check?(secret: string): void
  /** Compares in constant time. Throws `hook_old` for what was signed rightly and too long ago. @param now by the store's clock. */
  isAuthentic(req: Request, raw: Buffer, secret: string, now: Date): boolean
  /** Names of this delivery beside its bytes, each unique to it; throws when one that must be there is not. */
  deliveryOf(req: Request): readonly string[]
  read(req: Request, raw: Buffer): 'ping' | 'ignored' | Omit<RunReport, 'delivery'>
}

/** A thousand steps of six members each, beside two repositories; nested as deep as anything else we read. */
const HOOK_JSON = { maxDepth: 8, maxMembers: 16_384 }
/** What was signed longer ago, or lies ahead by as much, is a replay or a wrong clock. Milliseconds. */
const WINDOW_MS = 300_000

export const readJson = (raw: Buffer): unknown => parseStrictBytes(raw, HOOK_JSON)

/** Of an event that ends nothing no member is judged, however many there are; but what is no object is nobody's event. */
export function demandObject(raw: Buffer): void {
  try {
    const json: unknown = JSON.parse(raw.toString())
    if (typeof json === 'object' && json !== null && !Array.isArray(json)) return
  } catch {
    // Told below.
  }
  throw new CurfewError('malformed', 'an event is a JSON object', { reason: 'not_json' })
}

/** A number of the provider's, as text: ids are compared as evidence has them. */
export const number = z
  .int()
  .min(1)
  .transform(n => String(n))
export const word = z.string().regex(/^[a-z_]{1,40}$/, 'must be a word')
export const deliveryName = z.string().regex(/^[A-Za-z0-9_-]{8,64}$/, 'must name the delivery')

export const macOf = (secret: string | Buffer, ...parts: readonly (string | Buffer)[]): Buffer =>
  parts.reduce((mac, part) => mac.update(part), createHmac('sha256', secret)).digest()

/** Of any two texts or byte strings, whatever their lengths. */
export function isSame(given: string | Buffer, wanted: string | Buffer): boolean {
  const blind = randomBytes(32)
  return timingSafeEqual(macOf(blind, given), macOf(blind, wanted))
}

/** @param seconds since the epoch, as it was signed. */
export function demandFresh(seconds: string, now: Date): void {
  if (Math.abs(now.getTime() - Number(seconds) * 1000) <= WINDOW_MS) return
  throw new CurfewError('attestation_refused', 'this event was signed too long ago, or by a clock that is ahead', {
    reason: 'hook_old',
    next: 'deliver it again',
  })
}
