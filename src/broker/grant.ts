/** Verb: grant the holder of a task what it asks for: declared, freshly attested, permitted by policy, and clamped. Nothing is written down but denials. */
import type { Capability } from '../domain/capability.js'
import { type AskParams, type Decision, Grant, type GrantTerms } from '../domain/decision.js'
import { CurfewError, ofPart } from '../domain/errors.js'
import { newId } from '../domain/ids.js'
import type { Task } from '../domain/task.js'
import type { Evidence } from '../domain/workload.js'
import type { Context, IntendOptions } from '../ports.js'
import { judgeParams } from './ask-params.js'
import { audienceOf, authorizeBelow, capabilityNamed, demandFresh, engineFor } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import type { Holder } from './holder.js'
import { evidenceMarks, identify } from './identify.js'
import { remembered } from './open-task.js'
import { noteBreadth, rationIdentity } from './ration.js'
import { tasksAbove } from './redeem.js'

/** One credential that is asked for. */
export interface PartAsk {
  readonly capability: string
  readonly ttlSeconds: number | null
  readonly params: AskParams
}

/** What stands beside it, or beside all parts of a bundle. */
export interface AskTerms {
  /** Fresh evidence of the same identity, when the task's has grown too old. */
  readonly evidence: Evidence | null
  readonly idempotency: { readonly key: string; readonly hash: string } | null
}

export interface Granted {
  /** In the order in which they were asked for. */
  readonly grants: readonly Grant[]
  readonly options: IntendOptions
}

/** All of it or nothing; of several, what refuses one of them names it. */
export async function grant(
  deps: BrokerDeps,
  holder: Holder,
  asked: readonly PartAsk[],
  terms: AskTerms,
  requestId: string | null,
  signal: AbortSignal,
): Promise<Granted> {
  const { attestation } = holder.task
  rationIdentity(deps, attestation.identity)
  demandOpen(holder.task)
  const context: Context = { requestId, actor: { kind: 'workload', id: attestation.identity } }
  const [proofMark] = holder.marks
  if (!proofMark) throw new TypeError('a holder carries the mark of its proof')

  await noteBreadth(
    deps,
    attestation,
    asked.map(p => p.capability),
    requestId,
  )
  await eachPart(asked, part => demandAskable(deps, holder.task, part))
  const task = terms.evidence ? await attestAgain(deps, holder.task, holder.jkt, terms.evidence, context, signal) : holder.task
  const above = await tasksAbove(deps, task)
  const grants = await eachPart(asked, async part =>
    Grant.from(await permitted(deps, task, above, part, context), termsOf(deps, task, above, part.capability, part.ttlSeconds, part.params)),
  )
  return { grants, options: { marks: [proofMark], context, ...(terms.idempotency ? { idempotency: terms.idempotency } : {}) } }
}

/** One after the other: the first refusal is the answer, and what comes after it is not judged. */
async function eachPart<T>(asked: readonly PartAsk[], act: (part: PartAsk) => Promise<T>): Promise<T[]> {
  const results: T[] = []
  for (const [i, part] of asked.entries()) {
    try {
      results.push(await act(part))
    } catch (error) {
      throw error instanceof CurfewError && asked.length > 1 ? ofPart(error, i, part.capability) : error
    }
  }
  return results
}

async function demandAskable(deps: BrokerDeps, task: Task, part: PartAsk): Promise<void> {
  const capability = capabilityNamed(deps, part.capability, 'capability')
  demandDeclared(task, capability)
  await judgeParams(engineFor(deps, capability.engine), capability, part.params)
}

export function demandOpen({ state }: Pick<Task, 'state'>): void {
  if (state !== 'open') throw new CurfewError('task_ended', 'this task has ended', { reason: state })
}

export function demandDeclared(task: Pick<Task, 'capabilities'>, { name }: Capability): void {
  if (task.capabilities.includes(name)) return
  throw new CurfewError('policy_denied', 'this task was not opened for that capability', {
    reason: 'not_declared',
    field: 'capability',
    next: 'open a task that declares it',
  })
}

async function permitted(deps: BrokerDeps, task: Task, above: readonly Task[], { capability: name, ttlSeconds }: PartAsk, context: Context): Promise<Decision> {
  const capability = capabilityNamed(deps, name, 'capability')
  demandFresh(deps, task.attestation, capability)
  const ask = { attestation: task.attestation, capability, task: { ...task, depth: task.ancestors.length }, ttlSeconds, proof: true }
  return authorizeBelow(deps, ask, above, context)
}

/** Everything a Grant is clamped by, at database time. */
export function termsOf(
  deps: BrokerDeps,
  task: Pick<Task, 'id' | 'ancestors' | 'actors' | 'attestation' | 'jkt' | 'deadlineAt'>,
  above: readonly Task[],
  capabilityName: string,
  askedTtlSeconds: number | null,
  params: AskParams,
): GrantTerms {
  const capability = capabilityNamed(deps, capabilityName, 'capability')
  return {
    credential: newId('credential'),
    capability,
    params,
    engineClass: engineFor(deps, capability.engine).revocation,
    audience: audienceOf(deps, capability),
    task: task.id,
    ancestors: task.ancestors,
    actors: task.actors,
    attestation: task.attestation,
    jkt: task.jkt,
    askedTtlSeconds,
    now: deps.store.clock.now(),
    taskDeadline: task.deadlineAt,
    issuerMaxTtlSeconds: Math.min(...[task, ...above].map(t => deps.issuers.get(t.attestation.issuer)?.maxTtlSeconds ?? 0)),
  }
}

async function attestAgain(deps: BrokerDeps, task: Task, jkt: string, evidence: Evidence, context: Context, signal: AbortSignal): Promise<Task> {
  const attestation = await identify(deps, evidence, signal)
  // Fresh evidence of another identity is another workload's: it cannot carry this task on (T44, T53).
  if (attestation.identity !== task.attestation.identity) {
    throw new CurfewError('attestation_refused', 'this evidence is of another workload than the task', { reason: 'identity_mismatch', field: 'subject_token' })
  }
  return deps.store.tasks.attest(task.id, remembered(attestation), await evidenceMarks(deps, attestation, jkt), context)
}
