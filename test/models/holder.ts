/** Owns what the holder of a task shows in the models: fresh evidence of the same workload, and proofs by the key of a child. */
import { randomUUID } from 'node:crypto'
import { calculateJwkThumbprint, exportJWK, generateKeyPair, SignJWT } from 'jose'
import type { Presented } from '../../src/broker/prove.js'
import type { Task } from '../../src/domain/task.js'
import type { Attestation, Evidence } from '../../src/domain/workload.js'
import type { Attestor, Store } from '../../src/ports.js'
import { attestation, mark } from '../conformance/store/fixtures.js'

export interface EvidenceDesk {
  readonly attestor: Attestor
  /** Made now, good once. */
  of(task: Pick<Task, 'attestation'>): Evidence
}

/** Who shows a text is believed to be what was said of it when it was made: how evidence is verified is no matter of these models. */
export function evidenceDesk(store: Store): EvidenceDesk {
  const made = new Map<string, Attestation>()
  return {
    attestor: {
      kind: 'oidc',
      recognizes: ({ token }) => made.has(token),
      attest: async ({ token }) => made.get(token) as Attestation,
    },
    of({ attestation: { identity } }) {
      const token = randomUUID()
      made.set(token, { ...attestation(store, { identity, evidenceAt: store.clock.now() }), replay: 'single_use', mark: mark(store) })
      return { type: 'jwt', token }
    },
  }
}

const pair = generateKeyPair('ES256', { extractable: true })
/** All children are of one key: what they may do hangs on their grants. */
export const childJkt = pair.then(async ({ publicKey }) => calculateJwkThumbprint(await exportJWK(publicKey)))

export async function presentedBy(store: Store, serverUrl: string, path: string): Promise<Presented> {
  const { privateKey, publicKey } = await pair
  const proof = await new SignJWT({ jti: randomUUID(), htm: 'POST', htu: serverUrl + path, iat: Math.floor(store.clock.now().getTime() / 1000) })
    .setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk: await exportJWK(publicKey) })
    .sign(privateKey)
  return { proofs: [proof], method: 'POST', path }
}
