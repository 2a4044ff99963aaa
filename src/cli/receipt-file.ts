/** Owns believing a receipt: its signature, the key it was made with, and where trust in that key comes from. */
import { readFileSync, statSync } from 'node:fs'
import { CurfewError } from '../domain/errors.js'
import { parseStrictBytes } from '../domain/json.js'
import { type AdmittedKey, admitKeys } from '../domain/jwk.js'
import { inspect, type JwsProfile, verifyJws } from '../domain/jws.js'
import { CliError, EXIT, usage } from './exit.js'
import { claimsOf, type ReceiptClaims } from './receipt-claims.js'

const PROFILE: JwsProfile = { algorithms: ['ES256'], types: ['curfew-receipt+jwt'] }
const MAX_BYTES = 262_144

export interface Verified {
  readonly claims: ReceiptClaims
  readonly kid: string
  /** RFC 7638. */
  readonly thumbprint: string
}

export interface SavedReceipt {
  readonly receipt: string
  readonly keys: unknown
}

export function refused(detail: string, reason: string): CliError {
  return new CliError(EXIT.refused, { code: 'receipt_refused', detail, reason })
}

/** Signature, type and form, by the key of the set that the header names. @throws CliError, exit 3, for anything else. */
export async function verifyReceipt(receipt: string, keySet: unknown): Promise<Verified> {
  try {
    const { header } = inspect(receipt, PROFILE)
    const key = keysOf(keySet).find(k => k.kid === header.kid)
    if (!key) throw refused('no key of this set has signed this receipt', 'key_unknown')
    const { payload } = await verifyJws(receipt, key, PROFILE)
    return { claims: claimsOf(payload), kid: key.kid, thumbprint: key.thumbprint }
  } catch (error) {
    if (error instanceof CurfewError) throw refused('this is not a receipt that its key has signed', error.facts.reason ?? 'signature_invalid')
    throw error
  }
}

export function thumbprintsOf(keySet: unknown): string[] {
  return keysOf(keySet).map(k => k.thumbprint)
}

function keysOf(keySet: unknown): AdmittedKey[] {
  try {
    return admitKeys(keySet, { use: 'sig', algs: PROFILE.algorithms })
  } catch (error) {
    if (error instanceof CurfewError) throw refused('the set of keys is not acceptable', error.facts.reason ?? 'key_set_malformed')
    throw error
  }
}

/** What `receipt show --save` wrote, and nothing that only looks like it. */
export function readSaved(path: string): SavedReceipt {
  const value = readStrict(path)
  const { receipt, keys, ...others } = value
  if (typeof receipt !== 'string' || keys === undefined || Object.keys(others).length > 0) {
    throw refused('the file is not {"receipt", "keys"} as `curfew receipt show --save` writes it', 'file_malformed')
  }
  return { receipt, keys }
}

export function readStrict(path: string): Record<string, unknown> {
  let bytes: Buffer
  try {
    if (statSync(path).size > MAX_BYTES) throw refused(`the file is larger than ${MAX_BYTES} bytes`, 'file_malformed')
    bytes = readFileSync(path)
  } catch (error) {
    if (error instanceof CliError) throw error
    throw usage(`the file cannot be read: ${path}`)
  }
  try {
    const value = parseStrictBytes(bytes)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  } catch (error) {
    if (!(error instanceof CurfewError)) throw error
  }
  throw refused('the file is not one strict JSON object', 'file_malformed')
}
