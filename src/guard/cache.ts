/** Owns the tokens that were verified lately, so that a signature is checked once. It holds nothing that can become false: live, in time and proven is asked at every use. */
import type { Verified } from './token.js'

export interface Cache {
  get(digest: string): Verified | undefined
  set(digest: string, verified: Verified): void
  delete(digest: string): void
  /** By the credential's id; of several tokens of it, the last. */
  byCredential(id: string): Verified | undefined
}

/** The least lately used goes first, nearly: a hit moves a token to the end only once a quarter of the room has been taken by others since it was moved. */
export function verifiedCache(max: number): Cache {
  const kept = new Map<string, { readonly verified: Verified; movedAt: number }>()
  const credentials = new Map<string, Verified>()
  /** Tokens that ever came: the clock of the above. */
  let taken = 0

  function forget(digest: string): void {
    const one = kept.get(digest)
    if (!one) return
    kept.delete(digest)
    const { credential } = one.verified.names
    if (credentials.get(credential) === one.verified) credentials.delete(credential)
  }

  return {
    get(digest) {
      const one = kept.get(digest)
      if (!one) return undefined
      if (taken - one.movedAt > max / 4) {
        kept.delete(digest)
        kept.set(digest, one)
        one.movedAt = taken
      }
      return one.verified
    },
    set(digest, verified) {
      if (max === 0) return
      kept.set(digest, { verified, movedAt: ++taken })
      credentials.set(verified.names.credential, verified)
      if (kept.size > max) forget(kept.keys().next().value as string)
    },
    delete: forget,
    byCredential: id => credentials.get(id),
  }
}
