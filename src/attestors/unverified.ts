/** Owns the one look at text that nobody has verified: good for an exact look-up among registered issuers, and for nothing else. */
import { parseStrictBytes } from '../domain/json.js'
import type { Evidence } from '../domain/workload.js'

/** A claim of the payload as text, or null for whatever is no token. Never throws, never fetches. */
export function peek(evidence: Evidence, claim: 'iss' | 'sub'): string | null {
  const [, body] = evidence.token.length <= 8_192 ? evidence.token.split('.') : []
  if (!body || !/^[A-Za-z0-9_-]+$/.test(body)) return null
  try {
    const value = (parseStrictBytes(Buffer.from(body, 'base64url'), { maxDepth: 8, maxMembers: 256 }) as Record<string, unknown>)[claim]
    return typeof value === 'string' ? value : null
  } catch {
    return null
  }
}
