/** Verb: a workload names its task. Every capability it declares is judged before the task exists. */
import type { Decision } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import { newId } from '../domain/ids.js'
import type { Secret } from '../domain/secret.js'
import type { NewTask, Task, TaskAttestation } from '../domain/task.js'
import type { Attestation, Evidence, Mark } from '../domain/workload.js'
import type { Context } from '../ports.js'
import { authorizeBelow, capabilityNamed, recordingDenials } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import { evidenceMarks, identify } from './identify.js'
import { type Presented, prove } from './prove.js'
import { noteBreadth, rationIdentity } from './ration.js'
import { attestationBelow, childBelow, type Redeemed, redeem } from './redeem.js'
import { signTaskToken } from './task-token.js'

/** Who asks, and by what. */
export interface CallerAsk {
  /** Null below a grant that is bound to the caller's key. */
  readonly evidence: Evidence | null
  /** Opens the task below the one that gave this. */
  readonly grant: string | null
  readonly presented: Presented
  /** What the caller calls itself, when it does: its identity, or it is another (RFC 7521 section 4.2). */
  readonly clientId?: string | null
}

export interface TaskTerms {
  readonly purpose: string
  readonly capabilities: readonly string[]
  readonly lifeSeconds: number | null
  readonly owner: string | null
  readonly labels: Readonly<Record<string, string>>
  readonly heartbeatSeconds: number | null
  /** The credential that is asked for together with the task: policy may look at the life that it is to have. */
  readonly atOnce?: { readonly capability: string; readonly ttlSeconds: number | null }
}

export type TaskAsk = CallerAsk & TaskTerms

/** Verified, not yet judged; nothing of it is used up. */
export interface Recognized {
  readonly attestation: TaskAttestation
  readonly jkt: string
  readonly redeemed: Redeemed | null
  readonly marks: readonly Mark[]
  readonly context: Context
}

export interface OpenedTask {
  readonly task: Task
  readonly token: Secret
}

/** What a task is opened with: verified, judged, not yet written. */
export interface PlannedTask {
  readonly task: NewTask
  readonly decisions: readonly Decision[]
  /** Nearest first; their permits are needed as well. */
  readonly above: readonly Task[]
  readonly marks: readonly Mark[]
  readonly context: Context
}

export async function openTask(deps: BrokerDeps, ask: TaskAsk, requestId: string | null, signal: AbortSignal): Promise<OpenedTask> {
  const { task, decisions, marks, context } = await planTask(deps, await recognize(deps, ask, requestId, signal), ask)
  const opened = await recordingDenials(deps, decisions, context, () => deps.store.tasks.open(task, decisions, marks, context))
  return { task: opened, token: await signTaskToken(deps, opened) }
}

export async function recognize(deps: BrokerDeps, ask: CallerAsk, requestId: string | null, signal: AbortSignal): Promise<Recognized> {
  const { jkt, mark } = await prove(deps, ask.presented)
  const redeemed = ask.grant === null ? null : await redeem(deps, ask.grant, jkt)
  const own = ask.evidence && (await identify(deps, ask.evidence, signal))
  const attestation = redeemed ? attestationBelow(redeemed, own && remembered(own)) : own && remembered(own)
  if (!attestation) throw new CurfewError('malformed', 'evidence is required', { reason: 'parameter_missing', field: 'subject_token' })
  demandClient(ask.clientId, attestation.identity)
  rationIdentity(deps, attestation.identity)
  const marks = [mark, ...(redeemed ? [redeemed.mark] : []), ...(own ? await evidenceMarks(deps, own, jkt) : [])]
  return { attestation, jkt, redeemed, marks, context: { requestId, actor: { kind: 'workload', id: attestation.identity } } }
}

/** Every capability is judged here, and nothing is written but denials. */
export async function planTask(deps: BrokerDeps, who: Recognized, ask: TaskTerms): Promise<PlannedTask> {
  const { attestation, jkt, redeemed, marks, context } = who
  await noteBreadth(deps, attestation, ask.capabilities, context.requestId)
  const lifeSeconds = ask.lifeSeconds ?? deps.tasks.defaultLifeSeconds
  if (lifeSeconds > deps.tasks.maxLifeSeconds) {
    throw new CurfewError('malformed', `a task may live ${deps.tasks.maxLifeSeconds} seconds at most`, { reason: 'life_too_long', field: 'life_seconds' })
  }
  const asked = {
    purpose: ask.purpose,
    capabilities: [...new Set(ask.capabilities)],
    parent: null,
    ancestors: [],
    actors: [],
    // The issuer's registration names the owner; a caller may name one only where it does not.
    owner: attestation.owner ?? ask.owner,
    lifeSeconds,
  }
  const task: NewTask = {
    ...(redeemed ? childBelow(deps, redeemed, attestation, asked) : asked),
    id: newId('task'),
    labels: ask.labels,
    heartbeatSeconds: ask.heartbeatSeconds,
    attestation,
    jkt,
  }
  const above = redeemed?.above ?? []
  const decisions: Decision[] = []
  for (const [i, name] of task.capabilities.entries()) {
    const capability = capabilityNamed(deps, name, `capabilities.${i}`)
    const ttlSeconds = ask.atOnce?.capability === name ? ask.atOnce.ttlSeconds : null
    const judged = { attestation, capability, task: { ...task, depth: above.length }, ttlSeconds, proof: true }
    decisions.push(await authorizeBelow(deps, judged, above, context))
  }
  return { task, above, decisions, marks, context }
}

/** Whoever calls itself something is what its evidence says, or nobody (P68). */
export function demandClient(clientId: string | null | undefined, identity: string): void {
  if (!clientId || clientId === identity) return
  throw new CurfewError('attestation_refused', 'the evidence is of another workload than the client_id', { reason: 'client_mismatch', field: 'client_id' })
}

/** What a task keeps of an attestation: all but the one-time parts. */
export function remembered(attestation: Attestation): TaskAttestation {
  const { mark: _mark, replay: _replay, ...kept } = attestation
  return kept
}
