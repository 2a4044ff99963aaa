/** Owns what `curfew keys` does: which keys there are, the next one of each kind, and the end of one. */

import type { Actor, Revocation } from '../domain/revocation.js'
import type { KeyClass, SealedKey, SigningAlg } from '../domain/signing-key.js'
import type { Context, RevocationLog } from '../ports.js'
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

const viewOf = ({ kid, keyClass, alg, state, createdAt, activatesAt, retiresAt }: SealedKey): KeyView => ({
  kid,
  keyClass,
  alg,
  state,
  createdAt,
  activatesAt,
  retiresAt,
})

const STATES = ['current', 'next', 'retired']

export function listKeys(signer: Pick<LoadedSigner, 'list'>): KeyView[] {
  return signer
    .list()
    .map(viewOf)
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
    made.push(viewOf(await signer.rotate(keyClass, alg, context, options.now ? { now: true } : {})))
  }
  return made
}

export async function retireKey(signer: Pick<LoadedSigner, 'retire'>, kid: string): Promise<KeyView> {
  return viewOf(await signer.retire(kid))
}

/**
 * For a key that others may hold: another signs, then, in one act, it is taken out of the set and all that bears it is refused. Whoever
 * dies in between has changed the key and revoked nothing; the same once more goes on from there.
 */
export async function withdrawKey(
  signer: Pick<LoadedSigner, 'list' | 'rotate' | 'refresh'>,
  revocations: Pick<RevocationLog, 'commit'>,
  kid: string,
  act: { readonly actor: Actor; readonly message: string },
): Promise<{ key: KeyView; revocation: Revocation }> {
  const found = signer.list().find(key => key.kid === kid)
  if (found?.state === 'current') await signer.rotate(found.keyClass, found.alg, { requestId: null, actor: act.actor }, { now: true })
  const revocation = await revocations.commit({ kind: 'key', key: kid }, 'requested', { ...act, withdraw: true })
  await signer.refresh()
  const [key] = signer.list().filter(k => k.kid === kid)
  if (!key) throw new TypeError('the row of a withdrawn key stays')
  return { key: viewOf(key), revocation }
}
