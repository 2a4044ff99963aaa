/** Verb: the holder of a task hands a part of it on. The grant is signed here and redeemed where the child opens (redeem.ts). */
import { MIN_TTL_SECONDS } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import { newId } from '../domain/ids.js'
import type { Secret } from '../domain/secret.js'
import { MAX_ANCESTORS, type Task } from '../domain/task.js'
import type { BrokerDeps } from './deps.js'
import { type GrantedChild, signGrant } from './grant-token.js'
import type { Holder } from './holder.js'
import { rationIdentity } from './ration.js'

/** A grant is carried from one process to the next, not kept. Seconds. */
export const GRANT_SECONDS = 300

export type GrantAsk = Omit<GrantedChild, 'parent'>

export interface Granted {
  readonly grant: Secret
  readonly expiresInSeconds: number
}

export async function delegate(deps: BrokerDeps, holder: Holder, ask: GrantAsk, requestId: string | null): Promise<Granted> {
  const { task } = holder
  rationIdentity(deps, task.attestation.identity)
  const now = deps.store.clock.now()
  if (task.state !== 'open') throw new CurfewError('task_ended', 'this task has ended', { reason: task.state })
  const left = Math.floor((task.deadlineAt.getTime() - now.getTime()) / 1000)
  if (left < MIN_TTL_SECONDS) throw new CurfewError('task_ended', 'the task ends before a child could begin', { reason: 'too_little_time' })
  refuseTooDeep(task)
  refuseWider(ask.capabilities, task.capabilities)

  const issuedAt = Math.floor(now.getTime() / 1000)
  const expiresAt = Math.min(issuedAt + GRANT_SECONDS, Math.floor(task.deadlineAt.getTime() / 1000))
  const id = newId('grant')
  const child: GrantedChild = { ...ask, parent: task.id, capabilities: [...new Set(ask.capabilities)] }
  const grant = await signGrant(deps, id, child, issuedAt, expiresAt)
  // What is not in evidence is not handed over.
  await deps.store.replay.claim(holder.marks)
  await deps.store.audit.append({
    kind: 'task.delegated',
    actor: { kind: 'holder', id: task.id },
    subject: task.id,
    reason: null,
    requestId,
    data: { grant: id, to: ask.to, capabilities: child.capabilities, life_seconds: ask.lifeSeconds, purpose: ask.purpose },
  })
  return { grant, expiresInSeconds: expiresAt - issuedAt }
}

export function refuseTooDeep(parent: Pick<Task, 'ancestors'>): void {
  if (parent.ancestors.length < MAX_ANCESTORS) return
  throw new CurfewError('policy_denied', `a task may have ${MAX_ANCESTORS} tasks above it at most`, {
    reason: 'too_deep',
    next: 'let the task above do this itself',
  })
}

/** Names are compared letter by letter: nothing stands for another, and nothing for all (T50). */
export function refuseWider(asked: readonly string[], given: readonly string[]): void {
  const wider = asked.findIndex(name => !given.includes(name))
  if (wider === -1) return
  throw new CurfewError('policy_denied', 'a child may do no more than the task above it', {
    reason: 'wider_than_parent',
    field: `capabilities.${wider}`,
    next: 'ask for capabilities that the task above has and has granted',
  })
}
