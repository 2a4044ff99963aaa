/** Owns a key pair for each algorithm that evidence is signed with. */
import type { KeyObject } from 'node:crypto'
import { newKeyPair } from '../src/domain/key-pair.js'

export type Alg = 'ES256' | 'RS256' | 'EdDSA'

export function pairFor(alg: Alg): Promise<{ readonly privateKey: KeyObject; readonly publicKey: KeyObject }> {
  if (alg === 'RS256') return newKeyPair('rsa', { modulusLength: 2048 })
  return alg === 'ES256' ? newKeyPair('ec', { namedCurve: 'P-256' }) : newKeyPair('ed25519')
}
