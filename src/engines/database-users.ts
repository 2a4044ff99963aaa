/** Owns the users that live at a target under our names, for reconcile: one whose credential is dead came back with a backup of the target. */
import type { Target } from '../clients/target.js'
import { type CredentialId, dashed, isId } from '../domain/ids.js'
import type { Reconcilable } from '../ports.js'

const PREFIX = 'curfew_'

/** As the shipped username_template names it. */
export const userNamed = (credential: CredentialId): string => `${PREFIX}${dashed(credential)}`

/** Whose it is; null for a name that is not of that shape. */
function credentialOf(user: string): CredentialId | null {
  const id = user.slice(PREFIX.length).replace('-', '_')
  return isId('credential', id) ? id : null
}

/** @param capability for people and the audit. */
export function databaseUsers(capability: string, target: Pick<Target, 'usersOf' | 'drop'>): Reconcilable {
  return {
    name: `target of ${capability}`,
    // What is missing here is told by Vault's own listing.
    engines: [],
    async list() {
      return (await target.usersOf(PREFIX)).flatMap(ref => {
        const credential = credentialOf(ref)
        return credential ? [{ kind: 'user' as const, ref, credential, ageSeconds: Number.POSITIVE_INFINITY }] : []
      })
    },
    destroyUpstream: ({ ref }, signal) => target.drop(ref, signal),
  }
}
