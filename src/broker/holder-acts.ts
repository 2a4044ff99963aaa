/** Verbs of a task's holder: heartbeat, complete, cancel, and looking at what it holds. */
import type { Credential } from '../domain/credential.js'
import type { CredentialId } from '../domain/ids.js'
import type { Revocation } from '../domain/revocation.js'
import type { Task } from '../domain/task.js'
import type { BrokerDeps } from './deps.js'
import { type Holder, notFound } from './holder.js'
import { revoke } from './revoke.js'

export async function heartbeat(deps: BrokerDeps, holder: Holder, requestId: string | null): Promise<Task> {
  return deps.store.tasks.heartbeat(holder.task.id, holder.marks, { requestId, actor: { kind: 'holder', id: holder.task.id } })
}

/** The holder's own word that the work is over. Telling it twice is harmless: the first reason stands. */
export async function endTask(
  deps: BrokerDeps,
  holder: Holder,
  reason: 'completed' | 'cancelled',
  outcome: string | null,
  requestId: string | null,
): Promise<{ task: Task; revocation: Revocation }> {
  const revocation = await revoke(deps, { kind: 'task', key: holder.task.id }, reason, {
    actor: { kind: 'holder', id: holder.task.id },
    marks: holder.marks,
    requestId,
    ...(outcome === null ? {} : { outcome }),
  })
  return { task: (await deps.store.tasks.get(holder.task.id)) ?? holder.task, revocation }
}

/** A holder sees and ends what its own task holds; all else does not exist for it (T57, T58). */
export async function credentialOfHolder(deps: BrokerDeps, holder: Holder, id: CredentialId): Promise<Credential> {
  const credential = await deps.store.credentials.get(id)
  if (!credential || (credential.task !== holder.task.id && !credential.ancestors.includes(holder.task.id))) throw notFound('no such credential')
  return credential
}
