/** Owns the key of DPoP nonces: every replica derives the same one from what keeps the signing keys shut, so that none of it lies in Redis or the store. */
import { hkdfSync } from 'node:crypto'
import type { DataKeyWrapper } from './envelope.js'

/** One use, one key (NIST SP 800-108): what is derived from the key of digests is told apart by its name, and leads back to nothing. */
export async function nonceKey(wrapper: Pick<DataKeyWrapper, 'digestKey'>): Promise<Buffer> {
  return Buffer.from(hkdfSync('sha256', await wrapper.digestKey(), Buffer.alloc(0), 'curfew dpop nonces 1', 32))
}
