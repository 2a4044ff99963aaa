/** Verb: revoke. The one way in, whatever the reason. Once the rows have moved, nothing moves them back. */

import { fp } from '#failpoint'
import type { Reason, Revocation, Selector } from '../domain/revocation.js'
import type { CommitOptions } from '../ports.js'
import type { BrokerDeps } from './deps.js'
import { hurryClosing, hurryDestroy } from './hurry.js'

/** Rows that one act hurries itself; the job behind it sees to the rest, and the sweep behind that. */
const HURRIED = 500

/** Closed to the last row by the act itself. */
const WHOLE: ReadonlySet<Selector['kind']> = new Set(['credential', 'task'])

/** When this returns, introspection and issuing refuse. What lives at a target dies behind it, and the probe says when. */
export async function revoke(deps: BrokerDeps, selector: Selector, reason: Reason, options: CommitOptions): Promise<Revocation> {
  const revocation = await deps.store.revocations.commit(selector, reason, options)
  await fp('revoke.1')
  deps.meter.revoked(reason, revocation.credentials)
  await hurry(deps, revocation)
  return revocation
}

/** Rings and enqueues. Never throws: the act is committed, and revocation waits for no convenience (rule 7). */
async function hurry(deps: BrokerDeps, revocation: Revocation): Promise<void> {
  try {
    await deps.publisher.publish(revocation.seq)
    await fp('revoke.2')
    if (revocation.credentials > 0)
      await Promise.all((await deps.store.credentials.list({ revocation: revocation.id, limit: HURRIED })).map(closed => hurryDestroy(deps, closed)))
    if (!WHOLE.has(revocation.selector.kind) || revocation.credentials > HURRIED) await hurryClosing(deps)
  } catch (error) {
    deps.log.warn({ err: error, revocation: revocation.id }, 'a committed revocation could not be hurried; the sweep will')
  }
}
