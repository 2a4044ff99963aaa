/** Verb: issue. Write down what you are about to make, make it, write down that you made it, hand it over: in that order and no other. */

import { fp } from '#failpoint'
import type { Credential, Handle } from '../domain/credential.js'
import { within } from '../domain/deadline.js'
import { type AskParams, Grant, type GrantTerms } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import { newId } from '../domain/ids.js'
import { byBroker } from '../domain/revocation.js'
import type { Secret } from '../domain/secret.js'
import type { Task } from '../domain/task.js'
import type { Evidence } from '../domain/workload.js'
import type { Context, CredentialEngine, IntendOptions } from '../ports.js'
import { judgeParams } from './ask-params.js'
import { audienceOf, authorizeBelow, capabilityNamed, demandFresh, recordingDenials } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import type { Holder } from './holder.js'
import { hurryExpiry } from './hurry.js'
import { evidenceMarks, identify } from './identify.js'
import { remembered } from './open-task.js'
import { tasksAbove } from './redeem.js'
import { revoke } from './revoke.js'
import { tellReplaced } from './tell-replaced.js'

export interface CredentialAsk {
  readonly capability: string
  readonly ttlSeconds: number | null
  readonly params: AskParams
  /** Fresh evidence of the same identity, when the task's has grown too old. */
  readonly evidence: Evidence | null
  readonly idempotency: { readonly key: string; readonly hash: string } | null
}

export interface Issued {
  readonly credential: Credential
  readonly secret: Secret
}

/** To undo what no row leads to. */
const UNDO_MS = 5_000

/** Handed over within this of being settled, or revoked instead: a process that slept must not deliver (security.md 3.3). */
const HAND_OVER_MS = 10_000

/** One credential for the holder of a task. */
export async function issue(deps: BrokerDeps, holder: Holder, ask: CredentialAsk, requestId: string | null, signal: AbortSignal): Promise<Issued> {
  const capability = capabilityNamed(deps, ask.capability, 'capability')
  let task = holder.task
  if (task.state !== 'open') throw new CurfewError('task_ended', 'this task has ended', { reason: task.state })
  if (!task.capabilities.includes(capability.name)) {
    throw new CurfewError('policy_denied', 'this task was not opened for that capability', {
      reason: 'not_declared',
      field: 'capability',
      next: 'open a task that declares it',
    })
  }
  await judgeParams(engineFor(deps, capability.engine), capability, ask.params)
  const context: Context = { requestId, actor: { kind: 'workload', id: task.attestation.identity } }
  const [proofMark] = holder.marks
  if (!proofMark) throw new TypeError('a holder carries the mark of its proof')
  if (ask.evidence) task = await attestAgain(deps, task, holder.jkt, ask.evidence, context, signal)

  demandFresh(deps, task.attestation, capability)
  const above = await tasksAbove(deps, task)
  const decision = await authorizeBelow(
    deps,
    { attestation: task.attestation, capability, task: { ...task, depth: task.ancestors.length }, ttlSeconds: ask.ttlSeconds, proof: true },
    above,
    context,
  )
  const grant = Grant.from(decision, termsOf(deps, task, above, capability.name, ask.ttlSeconds, ask.params))
  const issued = await issueGrant(deps, grant, { marks: [proofMark], context, ...(ask.idempotency ? { idempotency: ask.idempotency } : {}) }, signal)
  // What this replaced is refused by introspection already; the sweep tells the others, should this not.
  if (ask.idempotency) await tellReplaced(deps).catch(error => deps.log.warn({ err: error }, 'what was replaced is told by the sweep'))
  return issued
}

/** The common road of all ways in: a grant, and what its transaction consumes and opens. */
export async function issueGrant(deps: BrokerDeps, grant: Grant, options: IntendOptions, signal: AbortSignal): Promise<Issued> {
  const began = performance.now()
  const engine = engineFor(deps, grant.terms.capability.engine)
  const { capability, attestation } = grant.terms
  const judged: IntendOptions = { ...options, isInForce: digest => digest === deps.policy.digest }
  try {
    const issued = await recordingDenials(deps, grant.decision, options.context, () =>
      engine.local ? signAndRecord(deps, engine, grant, judged, signal) : makeAndSettle(deps, engine, grant, judged, signal),
    )
    await hurryExpiry(deps, issued.credential)
    deps.meter.issued(capability.name, attestation.issuer, 'ok', (performance.now() - began) / 1000)
    return issued
  } catch (cause) {
    deps.meter.issued(capability.name, attestation.issuer, 'failed', (performance.now() - began) / 1000)
    throw cause
  }
}

/** Local kinds: a signed secret without a committed row is garbage that nobody holds, so one transaction after signing is enough. */
async function signAndRecord(deps: BrokerDeps, engine: CredentialEngine, grant: Grant, options: IntendOptions, signal: AbortSignal): Promise<Issued> {
  const signed = async (): Promise<Issued> => {
    const minted = await engine.mint(grant, null, signal)
    return { credential: await deps.store.credentials.record(grant, minted, options), secret: minted.secret }
  }
  try {
    return await signed()
  } catch (error) {
    if (!(error instanceof CurfewError) || error.facts.reason !== 'key_revoked') throw error
    // The key was withdrawn while we held it to be good: once more, with the one that took its place.
    await deps.signer.refresh()
    return signed()
  }
}

/** Kinds that live at a target. Whatever fails after `intend` ends in a revocation; what that cannot finish, the sweep will. */
async function makeAndSettle(deps: BrokerDeps, engine: CredentialEngine, grant: Grant, options: IntendOptions, signal: AbortSignal): Promise<Issued> {
  const { credentials } = deps.store
  const [intended] = await credentials.intend([grant], options)
  let credential = intended as Credential
  let unrecorded: Handle | null = null
  try {
    await fp('issue.3')
    const handle = engine.prepare ? await engine.prepare(grant, signal) : null
    await fp('issue.4a')
    if (handle) {
      unrecorded = handle
      const recorded = await recordHandle(deps, credential, handle)
      if (!recorded) throw overtaken()
      unrecorded = null
      credential = recorded
    }
    await fp('issue.4b')
    const minted = await engine.mint(grant, handle, signal)
    await fp('issue.4c')
    const settled = await credentials.settle([{ credential, minted }], options.context)
    const settledAt = performance.now()
    const active = settled?.[0]
    if (!active) {
      await credentials.noteHandle(credential.id, minted.handle)
      throw overtaken()
    }
    await fp('issue.5a')
    await engine.extend?.(active, signal)
    await fp('issue.5b')
    if (performance.now() - settledAt > HAND_OVER_MS)
      throw new CurfewError('unavailable', 'it took too long to hand the credential over', { reason: 'handover_late' })
    await fp('issue.6')
    return { credential: active, secret: minted.secret }
  } catch (cause) {
    if (!(cause instanceof CurfewError)) deps.meter.engineFailed(engine.kind, 'issue')
    // No row leads to it: whoever holds the handle destroys it, and its own short life ends it where that fails.
    if (unrecorded)
      await engine
        .destroy({ ...credential, handle: unrecorded }, within(UNDO_MS))
        .catch(error => deps.log.warn({ err: error, credential: credential.id }, 'what no row knows of is left to its own end'))
    // The caller hears the first cause.
    await revoke(deps, { kind: 'credential', key: credential.id }, 'issuance_failed', { actor: byBroker('issue'), requestId: options.context.requestId }).catch(
      error => deps.log.warn({ err: error, credential: credential.id }, 'a failed issue is left to the sweep'),
    )
    throw cause
  }
}

/** Whether it was written may be unknown: then the row says (security.md 3.3, 4b). Null: overtaken. */
async function recordHandle(deps: BrokerDeps, credential: Credential, handle: Handle): Promise<Credential | null> {
  try {
    return await deps.store.credentials.recordHandle(credential, handle)
  } catch (cause) {
    const row = await deps.store.credentials.get(credential.id).catch(() => null)
    if (row?.state === 'pending' && row.version === credential.version + 1 && row.handle) return row
    throw cause
  }
}

const overtaken = () => new CurfewError('task_ended', 'the credential was revoked while it was being made', { reason: 'overtaken' })

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

export function engineFor(deps: BrokerDeps, kind: string): CredentialEngine {
  const engine = deps.engines.get(kind)
  if (!engine) throw new TypeError(`no engine ${kind} was composed`)
  return engine
}

async function attestAgain(deps: BrokerDeps, task: Task, jkt: string, evidence: Evidence, context: Context, signal: AbortSignal): Promise<Task> {
  const attestation = await identify(deps, evidence, signal)
  // Fresh evidence of another identity is another workload's: it cannot carry this task on (T44, T53).
  if (attestation.identity !== task.attestation.identity) {
    throw new CurfewError('attestation_refused', 'this evidence is of another workload than the task', { reason: 'identity_mismatch', field: 'subject_token' })
  }
  return deps.store.tasks.attest(task.id, remembered(attestation), await evidenceMarks(deps, attestation, jkt), context)
}
