/** Owns the tokens that were verified lately, so that a signature is checked once. It holds nothing that can become false: live, in time and proven is asked at every use. */
import type { Verified } from './token.js'

export interface Cache {
  get(digest: string): Verified | undefined
  set(digest: string, verified: Verified): void
  delete(digest: string): void
  /** By the credential's id; of several tokens of it, the last. */
  byCredential(id: string): Verified | undefined
}

/** The least lately used goes first. */
export function verifiedCache(max: number): Cache {
  const kept = new Map<string, Verified>()
  const credentials = new Map<string, Verified>()

  function forget(digest: string): void {
    const verified = kept.get(digest)
    if (!verified) return
    kept.delete(digest)
    if (credentials.get(verified.names.credential) === verified) credentials.delete(verified.names.credential)
  }

  return {
    get(digest) {
      const verified = kept.get(digest)
      if (!verified) return undefined
      kept.delete(digest)
      kept.set(digest, verified)
      return verified
    },
    set(digest, verified) {
      if (max === 0) return
      kept.set(digest, verified)
      credentials.set(verified.names.credential, verified)
      if (kept.size > max) forget(kept.keys().next().value as string)
    },
    delete: forget,
    byCredential: id => credentials.get(id),
  }
}
