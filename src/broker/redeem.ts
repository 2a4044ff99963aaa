/** Verb: a child shows the grant that the task above gave it. What the grant is bound to is checked here, before policy is asked. */
import { actingOf, actorsBelow } from '../domain/actors.js'
import { MIN_TTL_SECONDS } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { TaskId } from '../domain/ids.js'
import type { NewTask, Task, TaskAttestation } from '../domain/task.js'
import type { Mark } from '../domain/workload.js'
import { refuseTooDeep, refuseWider } from './delegate.js'
import type { BrokerDeps } from './deps.js'
import { type GrantedChild, readGrant } from './grant-token.js'

export interface Redeemed {
  readonly child: GrantedChild
  /** To be consumed by the transaction that opens the child. */
  readonly mark: Mark
  readonly parent: Task
  /** The parent and all above it, nearest first. */
  readonly above: readonly Task[]
}

/** @param jkt the key that the child has proven. */
export async function redeem(deps: BrokerDeps, token: string, jkt: string): Promise<Redeemed> {
  const { mark, ...child } = await readGrant(deps, token)
  if (child.to.jkt !== null && child.to.jkt !== jkt) {
    throw new CurfewError('proof_refused', 'the proof is by another key than the grant is bound to', { reason: 'key_mismatch', field: 'DPoP' })
  }
  if (await deps.store.replay.seen(mark)) {
    throw new CurfewError('attestation_refused', 'this grant was used before', {
      reason: 'replayed',
      field: 'parent_grant',
      next: 'ask the holder of the task above for another',
    })
  }
  const parent = await deps.store.tasks.get(child.parent)
  // The store looks again under its locks; this one spares the work.
  if (parent?.state !== 'open') throw new CurfewError('task_ended', 'the task above has ended', { reason: 'parent_ended', field: 'parent_grant' })
  refuseTooDeep(parent)
  return { child, mark, parent, above: [parent, ...(await tasksAbove(deps, parent))] }
}

/** Nearest first. */
export async function tasksAbove(deps: BrokerDeps, task: Pick<Task, 'ancestors'>): Promise<readonly Task[]> {
  return Promise.all(
    task.ancestors.map(async (id: TaskId) => {
      const above = await deps.store.tasks.get(id)
      if (!above) throw new TypeError('the ancestors of a task are kept as long as it')
      return above
    }),
  )
}

/**
 * What the child is believed to be. Its own evidence speaks for it; without any, the parent's stands for both, but only for the key
 * that the parent named: then the same workload carries on, and nobody acts for another.
 */
export function attestationBelow({ child, parent }: Redeemed, own: TaskAttestation | null): TaskAttestation {
  if (own === null && child.to.jkt === null) {
    throw new CurfewError('attestation_refused', 'this grant is for an identity, which must be attested', {
      reason: 'evidence_missing',
      field: 'subject_token',
      next: 'send evidence of that identity',
    })
  }
  const attestation = own ?? parent.attestation
  if (child.to.identity !== null && child.to.identity !== attestation.identity) {
    throw new CurfewError('attestation_refused', 'this grant is for another workload', { reason: 'identity_mismatch', field: 'subject_token' })
  }
  return attestation
}

type Child = Pick<NewTask, 'purpose' | 'capabilities' | 'parent' | 'ancestors' | 'actors' | 'owner' | 'lifeSeconds'>

/** The child as the grant lets it be: no wider, no longer, for the same owner. */
export function childBelow(deps: BrokerDeps, { child, parent }: Redeemed, attestation: TaskAttestation, asked: Child): Child {
  refuseWider(asked.capabilities, child.capabilities)
  if (child.purpose !== null && child.purpose !== asked.purpose) {
    throw new CurfewError('policy_denied', 'this grant is for another purpose', { reason: 'purpose_mismatch', field: 'purpose' })
  }
  const left = Math.floor((parent.deadlineAt.getTime() - deps.store.clock.now().getTime()) / 1000)
  if (left < MIN_TTL_SECONDS) throw new CurfewError('task_ended', 'the task above ends before a child could begin', { reason: 'too_little_time' })
  return {
    ...asked,
    parent: parent.id,
    ancestors: [parent.id, ...parent.ancestors],
    actors: actorsBelow(actingOf(parent.attestation), parent.actors, actingOf(attestation)),
    owner: parent.owner,
    lifeSeconds: Math.min(asked.lifeSeconds, child.lifeSeconds ?? asked.lifeSeconds, left),
  }
}
