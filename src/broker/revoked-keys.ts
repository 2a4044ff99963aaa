/** Verb: tell sshd which certificates to refuse, though their time is not up. It helps the hosts that load the list; `exposed_until` does not count on it. */
import { createHash } from 'node:crypto'
import { keyRevocationList, sshKeyId } from '../domain/ssh-krl.js'
import type { BrokerDeps } from './deps.js'

export interface RevokedKeys {
  /** As sshd reads it (`RevokedKeys`). */
  readonly list: Buffer
  /** Of what it names, whoever wrote it and when. */
  readonly tag: string
}

/** The engine whose certificates sshd meets. */
const ENGINE = 'vault-ssh'

export async function revokedKeys(deps: BrokerDeps): Promise<RevokedKeys> {
  const ids = (await deps.store.credentials.closedOf(ENGINE)).map(sshKeyId).sort()
  const now = deps.store.clock.now()
  return { list: keyRevocationList(ids, now.getTime(), now), tag: createHash('sha256').update(ids.join()).digest('base64url') }
}
