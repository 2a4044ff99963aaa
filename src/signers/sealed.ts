/** Owns the sealed signer: data keys wrapped by a master key that is kept outside the store. */
import { createHmac, hkdfSync, randomBytes } from 'node:crypto'
import { CurfewError } from '../domain/errors.js'
import type { Secret } from '../domain/secret.js'
import { withoutTrailing } from '../domain/trailing.js'
import { type DataKeyWrapper, decrypt, encrypt, unreadable } from './envelope.js'
import { type LoadedSigner, openRing, type RingOptions } from './key-ring.js'

/** @param masterKey 32 random bytes in base64 (`openssl rand -base64 32`). Throws CurfewError(malformed) for anything else. */
export function masterKeyWrapper(masterKey: Secret): DataKeyWrapper {
  const text = (masterKey.reveal().token ?? '').trim()
  const master = Buffer.from(text, 'base64')
  // Node's decoder skips what it does not know, so that a truncated or mistyped key would silently be a weaker one.
  const unpadded = (base64: string) => withoutTrailing(base64, '=')
  if (master.length !== 32 || unpadded(master.toString('base64')) !== unpadded(text).replaceAll('-', '+').replaceAll('_', '/')) {
    throw new CurfewError('malformed', 'the master key must be 32 random bytes in base64', {
      reason: 'master_key_malformed',
      field: 'signer.masterKey',
      next: 'make one with: openssl rand -base64 32',
    })
  }
  // One use, one key (NIST SP 800-108): wrapping and digests never share one.
  const wrapping = derived(master, 'curfew data key wrapping 1')
  const digests = derived(master, 'curfew credential digests 1')
  master.fill(0)
  return {
    async wrap(dataKey, associated) {
      const nonce = randomBytes(12)
      return `${nonce.toString('base64url')}.${encrypt(wrapping, nonce, dataKey, associated).toString('base64url')}`
    },
    async unwrap(wrapped, associated) {
      const [nonce, body, ...rest] = wrapped.split('.')
      if (!nonce || !body || rest.length > 0) throw unreadable()
      return decrypt(wrapping, Buffer.from(nonce, 'base64url'), Buffer.from(body, 'base64url'), associated)
    },
    async digestKey() {
      return Buffer.from(digests)
    },
  }
}

const derived = (master: Buffer, info: string) => Buffer.from(hkdfSync('sha256', master, Buffer.alloc(0), info, 32))

/** Loads the ring, creating the first keys of a new deployment. */
export function loadSigner(options: Omit<RingOptions, 'wrapper'> & { readonly masterKey: Secret }): Promise<LoadedSigner> {
  const { masterKey, ...rest } = options
  return openRing({ ...rest, wrapper: masterKeyWrapper(masterKey) })
}

export type SealDigest = (digest: string) => string

/**
 * How a credential's digest is stored and searched: HMAC-SHA256 (base64url) of the SHA-256 that a responder's machine computed, so that a
 * stolen database cannot be asked whether a found text was a credential.
 */
export async function sealDigest(wrapper: Pick<DataKeyWrapper, 'digestKey'>): Promise<SealDigest> {
  const key = await wrapper.digestKey()
  return digest => createHmac('sha256', key).update(digest).digest('base64url')
}
