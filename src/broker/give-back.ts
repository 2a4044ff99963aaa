/** Verb: a client gives a token back (RFC 7009). An access token ends alone, a task token with all below it. */
import { CurfewError } from '../domain/errors.js'
import type { CredentialId, TaskId } from '../domain/ids.js'
import type { Revocation } from '../domain/revocation.js'
import type { Mark } from '../domain/workload.js'
import type { BrokerDeps } from './deps.js'
import { readGrant } from './grant-token.js'
import { recognizeHolder } from './holder.js'
import { readAccessToken } from './introspect.js'
import { type Presented, prove } from './prove.js'
import { revoke } from './revoke.js'
import { readTaskToken } from './task-token.js'

/** What a token turned out to be, whatever the hint said (section 2.1). */
interface Given {
  /** `client_id` of the token. */
  readonly client: string
  readonly selector: { readonly kind: 'credential'; readonly key: CredentialId } | { readonly kind: 'task'; readonly key: TaskId }
  /** The key it is bound to; null: whoever has it is its client. */
  readonly jkt: string | null
  readonly task: TaskId
  readonly ancestors: readonly TaskId[]
}

export interface GiveBackAsk {
  readonly token: string
  /** What the client calls itself, when it does. */
  readonly clientId: string | null
  /** A task token, by which it authenticates. */
  readonly holder: string | null
}

/**
 * The client is known by the key of the token itself, or by a task token of its own with a proof (`holder`); then it may give back what that
 * task and those below it hold. What is no token of ours is answered like success (section 2.2): null.
 * @throws CurfewError(forbidden) for a token of another client, and for a kind that cannot be given back.
 */
export async function giveBack(
  deps: BrokerDeps,
  { token, clientId, holder }: GiveBackAsk,
  presented: Presented,
  requestId: string | null,
): Promise<Revocation | null> {
  // The client first, as section 2.1 has it: whoever shows a bad token of its own learns nothing of the other.
  const client = holder === null ? null : await recognizeHolder(deps, holder, presented, null)
  const given = await whatIs(deps, token)
  if (!given) {
    if (client) await deps.store.replay.claim(client.marks)
    return null
  }
  if (clientId !== null && clientId !== given.client) throw ofAnother('the token was issued to another client')
  let marks: readonly Mark[] = client?.marks ?? []
  if (client) {
    if (client.task.id !== given.task && !given.ancestors.includes(client.task.id)) throw ofAnother('the token is not of this task')
  } else if (given.jkt !== null) {
    const proven = await prove(deps, presented, token)
    if (proven.jkt !== given.jkt) throw ofAnother('the proof is by another key than the token is bound to')
    marks = [proven.mark]
  }
  return revoke(deps, given.selector, 'holder_revoked', { actor: { kind: 'holder', id: client?.task.id ?? given.task }, requestId, marks })
}

const ofAnother = (message: string) => new CurfewError('forbidden', message, { reason: 'another_client', field: 'token' })

async function whatIs(deps: BrokerDeps, token: string): Promise<Given | null> {
  const read = await readAccessToken(deps, token)
  if (read) {
    const credential = await deps.store.credentials.get(read.id)
    if (!credential || credential.kid !== read.kid) return null
    const { id, jkt, task, ancestors } = credential
    return { client: String(read.claims.client_id), selector: { kind: 'credential', key: id }, jkt, task, ancestors }
  }
  const claims = await ours(readTaskToken(deps, token))
  const task = claims && (await deps.store.tasks.get(claims.task))
  if (task) return { client: task.attestation.identity, selector: { kind: 'task', key: task.id }, jkt: task.jkt, task: task.id, ancestors: task.ancestors }
  if (await ours(readGrant(deps, token)))
    throw new CurfewError('forbidden', 'a grant cannot be given back: it ends by itself, or with the task that gave it', {
      reason: 'token_kind_refused',
      field: 'token',
    })
  return null
}

/** Null for what is not one of ours, or has ended; our own failures are not the token's. */
async function ours<T>(read: Promise<T>): Promise<T | null> {
  try {
    return await read
  } catch (error) {
    if (error instanceof CurfewError && error.code !== 'unavailable') return null
    throw error
  }
}
