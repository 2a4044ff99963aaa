/** Verb: token exchange (RFC 8693). Opens a task and, where a resource is named, issues its token in the same transaction. */
import type { Capability } from '../domain/capability.js'
import { type Decision, Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { Secret } from '../domain/secret.js'
import type { Task } from '../domain/task.js'
import { audienceOf, capabilityNamed, demandFresh } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import { type Issued, issueGrant, termsOf } from './issue.js'
import { openTask, planTask, type TaskAsk } from './open-task.js'
import { signTaskToken } from './task-token.js'

export interface ExchangeAsk extends TaskAsk {
  /** The audience asked for (RFC 8707); null asks for the task token alone. */
  readonly resource: string | null
  readonly ttlSeconds: number | null
}

export interface Exchanged {
  readonly task: Task
  readonly taskToken: Secret
  /** Null when only the task was asked for. */
  readonly issued: (Issued & { readonly capability: Capability }) | null
}

export async function exchange(deps: BrokerDeps, ask: ExchangeAsk, requestId: string | null, signal: AbortSignal): Promise<Exchanged> {
  if (ask.resource === null) {
    const { task, token } = await openTask(deps, ask, requestId, signal)
    return { task, taskToken: token, issued: null }
  }
  const capability = capabilityFor(deps, ask.capabilities, ask.resource)
  const { task, above, decisions, marks, context } = await planTask(deps, ask, requestId, signal)
  demandFresh(deps, task.attestation, capability)
  const permit = decisions.find(d => d.capability === capability.name) as Decision
  // The deadline is the store's to set; the grant is clamped by the life asked for, and by the store once more.
  const now = deps.store.clock.now()
  const grant = Grant.from(
    { ...permit, task: task.id },
    termsOf(deps, { ...task, deadlineAt: new Date(now.getTime() + task.lifeSeconds * 1000) }, above, capability.name, ask.ttlSeconds, {}),
  )
  const others = decisions.filter(d => d !== permit)
  const issued = await issueGrant(deps, grant, { marks, context, open: { task, decisions: others } }, signal)
  const opened = await deps.store.tasks.get(task.id)
  if (!opened) throw new TypeError('a task opened by a committed transaction is there')
  return { task: opened, taskToken: await signTaskToken(deps, opened), issued: { ...issued, capability } }
}

function capabilityFor(deps: BrokerDeps, names: readonly string[], resource: string): Capability {
  if (![...deps.audiences.values()].some(a => a.uri === resource)) {
    throw new CurfewError('target_unknown', 'no such resource server is registered', { reason: 'resource_unknown', field: 'resource' })
  }
  const fitting = names
    .map((name, i) => capabilityNamed(deps, name, `authorization_details.0.capabilities.${i}`))
    .filter(c => audienceOf(deps, c)?.uri === resource)
  const [capability, ...others] = fitting
  if (!capability || others.length > 0) {
    throw new CurfewError('target_unknown', 'exactly one of the capabilities must be for that resource server', {
      reason: 'resource_ambiguous',
      field: 'resource',
    })
  }
  return capability
}
