/** Owns what `curfew keys` does: which keys there are, and the next one of each kind. */

import type { KeyClass, SigningAlg } from '../domain/signing-key.js'
import type { Context } from '../ports.js'
import { KEY_KINDS, type LoadedSigner } from './key-ring.js'

/** What may be shown of a key. */
export interface KeyView {
  readonly kid: string
  readonly keyClass: KeyClass
  readonly alg: SigningAlg
  readonly state: 'next' | 'current' | 'retired'
  readonly createdAt: Date
  readonly activatesAt: Date
  readonly retiresAt: Date | null
}

const STATES = ['current', 'next', 'retired']

export function listKeys(signer: Pick<LoadedSigner, 'list'>): KeyView[] {
  return signer
    .list()
    .map(({ kid, keyClass, alg, state, createdAt, activatesAt, retiresAt }) => ({ kid, keyClass, alg, state, createdAt, activatesAt, retiresAt }))
    .sort((a, b) => a.keyClass.localeCompare(b.keyClass) || a.alg.localeCompare(b.alg) || STATES.indexOf(a.state) - STATES.indexOf(b.state))
}

/** Starts the rotation of every kind, or of the class named; what is already under way is answered, not started twice. */
export async function rotateKeys(
  signer: Pick<LoadedSigner, 'rotate'>,
  context: Context,
  options: { readonly keyClass?: KeyClass; readonly now?: boolean } = {},
): Promise<KeyView[]> {
  const made: KeyView[] = []
  for (const { keyClass, alg } of KEY_KINDS) {
    if (options.keyClass !== undefined && options.keyClass !== keyClass) continue
    const key = await signer.rotate(keyClass, alg, context, options.now ? { now: true } : {})
    made.push(...listKeys({ list: () => [key] }))
  }
  return made
}
