/** Owns whether a token reaches what is asked for: scopes, and where `authorization_details` say they hold (RFC 9396 section 2.2). */
import { refuse } from './errors.js'
import type { Verified } from './token.js'

export interface Needed {
  /** One, or all of several. */
  readonly scope?: string | readonly string[]
  /** Below the audience, `order/17`, or absolute. It must lie at or below a location of the token. */
  readonly resource?: string
}

export function refuseOutOfReach({ scopes, reach }: Verified, needed: Needed, audience: string): void {
  const wanted = needed.scope === undefined ? [] : typeof needed.scope === 'string' ? [needed.scope] : needed.scope
  const missing = wanted.filter(scope => !scopes.includes(scope))
  if (missing.length > 0) refuse('scope_missing', { expected: wanted.join(' '), actual: scopes.join(' ') })
  if (!('resource' in needed) || needed.resource === undefined) return
  const place = placeOf(needed.resource, audience)
  // One and the same part of the token must allow the act and the place.
  const covers = place !== null && reach.some(r => wanted.every(a => r.actions.includes(a)) && r.locations.some(l => isWithin(place, placeOf(l, audience))))
  if (!covers) refuse('resource_missing', { expected: needed.resource, actual: reach.flatMap(r => r.locations).join(' ') })
}

/** Normalised, so that `..` leads nowhere; null for what a browser's parser would have to mend, or where a query would hide the rest. */
function placeOf(text: string, audience: string): string | null {
  if (typeof text !== 'string' || !/^[\x21-\x7e]{1,2048}$/.test(text) || /[?#\\]/.test(text)) return null
  if (!URL.canParse(audience)) return /(?:^|\/)\.\.?(?:\/|$)/.test(text) ? null : text
  const base = audience.endsWith('/') ? audience : `${audience}/`
  try {
    return new URL(text, base).href
  } catch {
    return null
  }
}

/** At it or below it, by whole segments. */
function isWithin(place: string, location: string | null): boolean {
  if (location === null) return false
  return place === location || place.startsWith(location.endsWith('/') ? location : `${location}/`)
}
