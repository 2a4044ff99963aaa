/** Owns whose work a task does: the identities above it, and how a token tells them (RFC 8693 section 4.1). */
import { CurfewError } from './errors.js'
import type { IssuerId } from './ids.js'

/** An identity in a chain of delegation, and the trust issuer that vouched for it. */
export interface Acting {
  readonly identity: string
  readonly issuer: IssuerId
}

/** The member of a token: the outermost is the current actor, those inside are history. No time and no audience stands in it. */
export interface ActClaim {
  readonly sub: string
  readonly iss: IssuerId
  readonly act?: ActClaim
}

export const actingOf = (a: { readonly identity: string; readonly issuerId: IssuerId }): Acting => ({ identity: a.identity, issuer: a.issuerId })

const isSame = (a: Acting, b: Acting | undefined): boolean => a.identity === b?.identity && a.issuer === b.issuer

/**
 * The chain above a child: its parent, then what is above the parent, the principal last. The same identity below itself is no
 * delegation and adds nothing.
 * @throws CurfewError(policy_denied) when the child is in the chain already, further up: who acts for whom could not be told any more (T48).
 */
export function actorsBelow(parent: Acting, above: readonly Acting[], child: Acting): readonly Acting[] {
  const chain = isSame(child, parent) ? above : [parent, ...above]
  if (chain.some(actor => isSame(actor, child))) {
    throw new CurfewError('policy_denied', 'this workload stands further up in the same chain of delegation', {
      reason: 'actor_cycle',
      next: 'let the task above do this itself',
    })
  }
  return chain
}

/** Whose authority it is: the last of the chain, or the actor itself. */
export const principalOf = (self: Acting, actors: readonly Acting[]): Acting => actors.at(-1) ?? self

/** Null without delegation. The principal is the token's `sub` and so no part of it. */
export function actOf(self: Acting, actors: readonly Acting[]): ActClaim | null {
  if (actors.length === 0) return null
  return [self, ...actors.slice(0, -1)].reduceRight<ActClaim | null>(
    (inner, { identity, issuer }) => ({ sub: identity, iss: issuer, ...(inner ? { act: inner } : {}) }),
    null,
  )
}
