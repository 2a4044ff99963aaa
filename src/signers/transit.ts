/** Owns the transit signer: data keys wrapped by a key that never leaves Vault, so that a stolen store and configuration open nothing. */
import { createHash } from 'node:crypto'
import { within } from '../domain/deadline.js'
import { CurfewError } from '../domain/errors.js'
import type { DataKeyWrapper } from './envelope.js'
import { type LoadedSigner, openRing, type RingOptions } from './key-ring.js'

/** The three calls of one Vault transit key (type `aes256-gcm96`). Each throws when Vault did not say so plainly. */
export interface TransitKey {
  /** `transit/encrypt/<key>` with `associated_data`; answers `vault:v1:…`. */
  encrypt(plain: Buffer, associated: string, signal: AbortSignal): Promise<string>
  /** `transit/decrypt/<key>` with the same `associated_data`. */
  decrypt(ciphertext: string, associated: string, signal: AbortSignal): Promise<Buffer>
  /** `transit/hmac/<key>/sha2-256` with `key_version: 1`: the same answer for ever, whatever is rotated. */
  hmac(input: Buffer, signal: AbortSignal): Promise<string>
}

/** Keys are opened at start and when one is new: this is no request's path. Milliseconds. */
const DEADLINE_MS = 5_000

export function transitWrapper(key: TransitKey): DataKeyWrapper {
  const asked = async <T>(call: (signal: AbortSignal) => Promise<T>): Promise<T> => {
    try {
      return await call(within(DEADLINE_MS))
    } catch (cause) {
      throw new CurfewError('unavailable', 'the signing keys cannot be opened without Vault', { reason: 'transit_failed' }, { cause })
    }
  }
  return {
    wrap: (dataKey, associated) => asked(signal => key.encrypt(dataKey, associated, signal)),
    unwrap: (wrapped, associated) => asked(signal => key.decrypt(wrapped, associated, signal)),
    async digestKey() {
      const answer = await asked(signal => key.hmac(Buffer.from('curfew credential digests 1'), signal))
      return createHash('sha256').update(answer).digest()
    },
  }
}

export function loadTransitSigner(options: Omit<RingOptions, 'wrapper'> & { readonly transit: TransitKey }): Promise<LoadedSigner> {
  const { transit, ...rest } = options
  return openRing({ ...rest, wrapper: transitWrapper(transit) })
}
