/** Verb: a token request of any grant. Opens a task and, where a resource server is named, issues its token in the same transaction. */
import type { Audience, Capability } from '../domain/capability.js'
import { type Decision, Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import { isId } from '../domain/ids.js'
import type { Secret } from '../domain/secret.js'
import type { Task } from '../domain/task.js'
import { demandFresh } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import { termsOf } from './grant.js'
import { issue } from './issue.js'
import { type Issued, make } from './make.js'
import { type CallerAsk, demandClient, openTask, planTask, recognize, type TaskTerms } from './open-task.js'
import { prove } from './prove.js'
import { capabilityAt, ourselves, type TargetAsk, targetOf } from './target.js'
import { signTaskToken } from './task-token.js'

/** What a task object says (RFC 9396). */
export type TaskObject = Omit<TaskTerms, 'atOnce'> & {
  readonly ttlSeconds: number | null
}

/** The same of a task that is open: a further token of it. */
export interface OpenTaskObject {
  readonly identifier: string
  /** Of the task, when it is said again. */
  readonly purpose: string | null
  readonly capabilities: readonly string[]
  readonly ttlSeconds: number | null
}

export interface ExchangeAsk extends CallerAsk {
  /** Null: the caller knows OAuth only, and names what it needs by resource server and scope. */
  readonly task: TaskObject | OpenTaskObject | null
  readonly target: TargetAsk
}

export interface Exchanged {
  readonly task: Task
  readonly taskToken: Secret
  /** Null when only the task was asked for. */
  readonly issued: (Issued & { readonly capability: Capability }) | null
}

export async function exchange(deps: BrokerDeps, ask: ExchangeAsk, requestId: string | null, signal: AbortSignal): Promise<Exchanged> {
  const target = targetOf(deps, ask.target)
  if (target === null || target === ourselves) {
    const { task, token } = await openTask(deps, { ...ask, ...taskAlone(ask, target) }, requestId, signal)
    return { task, taskToken: token, issued: null }
  }
  if (ask.task && 'identifier' in ask.task) return further(deps, { ...ask, task: ask.task }, target, requestId, signal)
  // Before anything is said of capabilities: which there are is no stranger's to learn (T59).
  const who = await recognize(deps, ask, requestId, signal)
  const capability = capabilityAt(deps, target, ask.task?.capabilities ?? null, ask.target)
  const wanted = ask.task ?? forOneToken(deps, target, capability)
  const atOnce = { capability: capability.name, ttlSeconds: wanted.ttlSeconds }
  const { task, above, decisions, marks, context } = await planTask(deps, who, { ...wanted, atOnce })
  demandFresh(deps, task.attestation, capability)
  const permit = decisions.find(d => d.capability === capability.name) as Decision
  // The deadline is the store's to set; the grant is clamped by the life asked for, and by the store once more.
  const now = deps.store.clock.now()
  const grant = Grant.from(
    { ...permit, task: task.id },
    termsOf(deps, { ...task, deadlineAt: new Date(now.getTime() + task.lifeSeconds * 1000) }, above, capability.name, wanted.ttlSeconds, {}),
  )
  const others = decisions.filter(d => d !== permit)
  const [issued] = await make(deps, [grant], { marks, context, open: { task, decisions: others } }, signal)
  const opened = await deps.store.tasks.get(task.id)
  if (!opened) throw new TypeError('a task opened by a committed transaction is there')
  return { task: opened, taskToken: await signTaskToken(deps, opened), issued: { ...(issued as Issued), capability } }
}

/** Of a task that is open already: by its own key, and by evidence of the same workload. */
async function further(
  deps: BrokerDeps,
  ask: ExchangeAsk & { readonly task: OpenTaskObject },
  target: Audience,
  requestId: string | null,
  signal: AbortSignal,
): Promise<Exchanged> {
  const { identifier, purpose, ttlSeconds } = ask.task
  const at = 'authorization_details.0'
  if (ask.grant !== null) throw new CurfewError('malformed', 'a grant opens a task of its own', { reason: 'parameter_unexpected', field: `${at}.identifier` })
  const { jkt, mark } = await prove(deps, ask.presented)
  const task = isId('task', identifier) ? await deps.store.tasks.get(identifier) : null
  // Another's task answers like one that does not exist (T57).
  if (task?.jkt !== jkt) throw new CurfewError('not_found', 'no such task', { reason: 'not_found', field: `${at}.identifier` })
  if (purpose !== null && purpose !== task.purpose)
    throw new CurfewError('malformed', 'is not that of the task', { reason: 'invalid_field', field: `${at}.purpose` })
  demandClient(ask.clientId, task.attestation.identity)
  const capability = capabilityAt(deps, target, ask.task.capabilities, ask.target)
  const asked = { capability: capability.name, ttlSeconds, params: {}, evidence: ask.evidence, idempotency: null }
  const issued = await issue(deps, { task, jkt, marks: [mark] }, asked, requestId, signal)
  return { task, taskToken: await signTaskToken(deps, task), issued: { ...issued, capability } }
}

/** A task needs a task object: scopes are of resource servers, and nothing else here has any. */
function taskAlone({ task, target }: ExchangeAsk, named: typeof ourselves | null): TaskObject {
  if (task && target.scopes === null && target.actions === null && !('identifier' in task)) return task
  if (!task && named) throw new CurfewError('malformed', 'a task is opened by its task object', { reason: 'parameter_missing', field: 'authorization_details' })
  throw new CurfewError('target_unknown', 'the resource server that the token is for must be named', {
    reason: 'resource_missing',
    field: 'resource',
    next: task ? 'name the resource server whose scope it is' : 'name it, or say in authorization_details which task to open',
  })
}

/** The task of a caller that names none lives as long as its token, and is over with it. */
function forOneToken(deps: BrokerDeps, target: Audience, capability: Capability): TaskObject {
  return {
    purpose: `a token for ${target.name}`,
    capabilities: [capability.name],
    lifeSeconds: Math.min(capability.ttlSeconds, deps.tasks.maxLifeSeconds),
    owner: null,
    labels: {},
    heartbeatSeconds: null,
    ttlSeconds: null,
  }
}
