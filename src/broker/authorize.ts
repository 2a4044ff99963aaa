/** Verb: may they. Policy's answer becomes a recorded decision; only a permit can become a Grant. */
import type { Audience, Capability } from '../domain/capability.js'
import { type Decision, denial, type PolicyRequest, strictest } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import { newId, type TaskId } from '../domain/ids.js'
import type { Task, TaskAttestation } from '../domain/task.js'
import type { Context, CredentialEngine } from '../ports.js'
import type { BrokerDeps } from './deps.js'

export interface Ask {
  readonly attestation: TaskAttestation
  readonly capability: Capability
  readonly task: {
    readonly id: TaskId | null
    readonly purpose: string
    readonly labels: Readonly<Record<string, string>>
    readonly owner: string | null
    readonly depth: number
  }
  readonly ttlSeconds: number | null
  readonly proof: boolean
}

/** Throws `capability_unknown` for what does not exist. */
export function capabilityNamed(deps: BrokerDeps, name: string, field: string): Capability {
  const capability = deps.capabilities.get(name)
  if (!capability) throw new CurfewError('capability_unknown', 'no such capability', { reason: 'capability_unknown', field })
  return capability
}

export function engineFor(deps: BrokerDeps, kind: string): CredentialEngine {
  const engine = deps.engines.get(kind)
  if (!engine) throw new TypeError(`no engine ${kind} was composed`)
  return engine
}

export function audienceOf(deps: BrokerDeps, capability: Capability): Audience | null {
  return capability.audience === null ? null : (deps.audiences.get(capability.audience) ?? null)
}

/** A credential is made on evidence that is young enough for it, however long its task may go on. Throws `attestation_stale`. */
export function demandFresh(deps: BrokerDeps, attestation: TaskAttestation, capability: Capability): void {
  const age = (deps.store.clock.now().getTime() - attestation.evidenceAt.getTime()) / 1000
  if (age <= capability.maxEvidenceAgeSeconds) return
  throw new CurfewError('attestation_stale', `the evidence is older than the ${capability.maxEvidenceAgeSeconds} seconds that this capability allows`, {
    reason: 'evidence_stale',
    next: 'send fresh evidence of the same identity as subject_token',
  })
}

/** Policy's answer as a decision; denials carry their explanation. Nothing is recorded or thrown yet. */
export function decide(deps: BrokerDeps, ask: Ask): Decision {
  const now = deps.store.clock.now()
  const request: PolicyRequest = {
    attestation: ask.attestation,
    capability: ask.capability,
    audience: audienceOf(deps, ask.capability),
    task: ask.task,
    ttlSeconds: ask.ttlSeconds ?? ask.capability.ttlSeconds,
    evidenceAgeSeconds: Math.max(0, Math.floor((now.getTime() - ask.attestation.evidenceAt.getTime()) / 1000)),
    proof: ask.proof,
  }
  const answer = deps.policy.decide(request)
  const explanation = answer.allowed || answer.fault ? null : deps.policy.explain(request)
  // A task outlives the registration of the issuer that it rests on; its rights do not (T29).
  const isTrusted = deps.issuers.get(ask.attestation.issuer)?.enabled === true
  return {
    id: newId('decision'),
    at: now,
    allowed: answer.allowed && isTrusted,
    identity: ask.attestation.identity,
    issuer: ask.attestation.issuer,
    capability: ask.capability.name,
    task: ask.task.id,
    policies: answer.policies,
    digest: answer.digest,
    obligations: answer.obligations,
    reason: !isTrusted ? 'issuer_disabled' : answer.allowed ? 'permitted' : (answer.fault ?? (explanation?.forbiddenBy.length ? 'forbidden' : 'no_permit')),
    explanation,
    attributes: {
      ...ask.attestation.attributes,
      strength: ask.attestation.strength,
      evidence_age: request.evidenceAgeSeconds,
      ttl: request.ttlSeconds,
      proof: request.proof,
    },
  }
}

/**
 * The permits of a task and of all above it, or those up to the denial, which is the last: whoever is below may do what its parent may
 * and policy lets it, whichever is less (I7). Nothing is recorded or thrown. @param above nearest first.
 */
export function decideBelow(deps: BrokerDeps, ask: Ask, above: readonly Task[]): readonly [Decision, ...Decision[]] {
  const decisions: [Decision, ...Decision[]] = [decide(deps, ask)]
  for (const t of above) {
    if (!decisions.at(-1)?.allowed) break
    decisions.push(decide(deps, { ...ask, attestation: t.attestation, task: { ...t, depth: t.ancestors.length } }))
  }
  return decisions
}

/** A permit, or the recorded denial as an error. The permit itself is recorded by the transaction that acts on it. */
export async function authorizeBelow(deps: BrokerDeps, ask: Ask, above: readonly Task[], context: Context): Promise<Decision> {
  const [own, ...others] = decideBelow(deps, ask, above)
  for (const d of [own, ...others]) deps.meter.decided(d.allowed ? 'permitted' : 'denied', d.reason)
  const last = others.at(-1) ?? own
  if (last.allowed) return strictest(own, others)
  await deps.store.decisions.deny(last, context)
  if (last === own) throw denial(own)
  // What was wrong with the claims of another workload is not the child's to hear.
  throw new CurfewError('policy_denied', `a task above may not use ${last.capability} any more`, {
    reason: 'parent_denied',
    decision: last.id,
    next: `ask an admin to look at decision ${last.id}`,
  })
}

/**
 * Runs `act`, and records a denial that the store found under its locks (a marker, a cut-off, a tombstone) like any other.
 * @param permits what it acts on: the denial is of the capability that it names, else of the first.
 */
export async function recordingDenials<T>(deps: BrokerDeps, permits: readonly Decision[], context: Context, act: () => Promise<T>): Promise<T> {
  try {
    return await act()
  } catch (error) {
    if (!(error instanceof CurfewError) || error.code !== 'policy_denied' || error.facts.decision) throw error
    const permit = permits.find(d => d.capability === error.facts.capability) ?? (permits[0] as Decision)
    const denied: Decision = { ...permit, id: newId('decision'), allowed: false, reason: error.facts.reason ?? 'barred', policies: [] }
    deps.meter.decided('denied', denied.reason)
    await deps.store.decisions.deny(denied, context)
    throw new CurfewError('policy_denied', error.message, { ...error.facts, decision: denied.id, identity: denied.identity }, { cause: error })
  }
}
