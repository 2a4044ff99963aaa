/** Verb: a workload names its task. Every capability it declares is judged before the task exists. */
import type { Decision } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import { newId } from '../domain/ids.js'
import type { Secret } from '../domain/secret.js'
import type { NewTask, Task, TaskAttestation } from '../domain/task.js'
import type { Attestation, Evidence, Mark } from '../domain/workload.js'
import type { Context } from '../ports.js'
import { authorize, capabilityNamed, recordingDenials } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import { evidenceMarks, identify } from './identify.js'
import { type Presented, prove } from './prove.js'
import { signTaskToken } from './task-token.js'

export interface TaskAsk {
  readonly evidence: Evidence
  readonly presented: Presented
  readonly purpose: string
  readonly capabilities: readonly string[]
  readonly lifeSeconds: number | null
  readonly owner: string | null
  readonly labels: Readonly<Record<string, string>>
  readonly heartbeatSeconds: number | null
}

export interface OpenedTask {
  readonly task: Task
  readonly token: Secret
}

/** What a task is opened with: verified, judged, not yet written. */
export interface PlannedTask {
  readonly task: NewTask
  readonly decisions: readonly Decision[]
  readonly marks: readonly Mark[]
  readonly context: Context
}

export async function openTask(deps: BrokerDeps, ask: TaskAsk, requestId: string | null, signal: AbortSignal): Promise<OpenedTask> {
  const { task, decisions, marks, context } = await planTask(deps, ask, requestId, signal)
  const opened = await recordingDenials(deps, decisions[0] as Decision, context, () => deps.store.tasks.open(task, decisions, marks, context))
  return { task: opened, token: await signTaskToken(deps, opened) }
}

export async function planTask(deps: BrokerDeps, ask: TaskAsk, requestId: string | null, signal: AbortSignal): Promise<PlannedTask> {
  const { jkt, mark } = await prove(deps, ask.presented)
  const attestation = await identify(deps, ask.evidence, signal)
  const marks = [mark, ...(await evidenceMarks(deps, attestation, jkt))]
  const context: Context = { requestId, actor: { kind: 'workload', id: attestation.identity } }

  const lifeSeconds = ask.lifeSeconds ?? deps.tasks.defaultLifeSeconds
  if (lifeSeconds > deps.tasks.maxLifeSeconds) {
    throw new CurfewError('malformed', `a task may live ${deps.tasks.maxLifeSeconds} seconds at most`, { reason: 'life_too_long', field: 'life_seconds' })
  }
  const task: NewTask = {
    id: newId('task'),
    purpose: ask.purpose,
    capabilities: [...new Set(ask.capabilities)],
    parent: null,
    ancestors: [],
    // The issuer's registration names the owner; a caller may name one only where it does not.
    owner: attestation.owner ?? ask.owner,
    labels: ask.labels,
    lifeSeconds,
    heartbeatSeconds: ask.heartbeatSeconds,
    attestation: remembered(attestation),
    jkt,
  }
  const decisions: Decision[] = []
  for (const [i, name] of task.capabilities.entries()) {
    const capability = capabilityNamed(deps, name, `capabilities.${i}`)
    decisions.push(await authorize(deps, { attestation, capability, task: { ...task, depth: 0 }, ttlSeconds: null, proof: true }, context))
  }
  return { task, decisions, marks, context }
}

/** What a task keeps of an attestation: all but the one-time parts. */
export function remembered(attestation: Attestation): TaskAttestation {
  const { mark: _mark, replay: _replay, ...kept } = attestation
  return kept
}
