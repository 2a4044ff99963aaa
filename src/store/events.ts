/** Owns what the acts of the store leave in evidence: one place, so that every implementation tells the same story. */
import type { AuditEvent, AuditKind } from '../domain/audit.js'
import type { Claim, Credential, Probe } from '../domain/credential.js'
import type { Decision } from '../domain/decision.js'
import type { Plan, Reach } from '../domain/plan.js'
import type { Quarantine } from '../domain/quarantine.js'
import { type Actor, byBroker, isAbandoned, type Reason, type Revocation } from '../domain/revocation.js'
import type { EndedRun } from '../domain/run.js'
import type { NewSignal, SignalAct, SignalSubject, Verdict } from '../domain/signal.js'
import type { NewTask, TaskAttestation } from '../domain/task.js'
import { GRANT_NAMESPACE, type Mark } from '../domain/workload.js'
import type { CommitOptions, Context } from '../ports.js'

const by = (context: Context) => ({ actor: context.actor, requestId: context.requestId })

export const decided = (d: Decision, context: Context): AuditEvent => ({
  kind: d.allowed ? 'decision.permitted' : 'decision.denied',
  ...by(context),
  subject: d.id,
  reason: d.reason,
  data: { capability: d.capability, identity: d.identity, issuer: d.issuer, task: d.task, policies: d.policies, digest: d.digest },
})

export const taskOpened = (task: NewTask, deadlineAt: Date, marks: readonly Mark[], context: Context): AuditEvent => ({
  kind: 'task.opened',
  ...by(context),
  subject: task.id,
  reason: null,
  data: {
    identity: task.attestation.identity,
    issuer: task.attestation.issuer,
    evidence: task.attestation.digest,
    capabilities: task.capabilities,
    purpose: task.purpose,
    parent: task.parent,
    // The one-time grant that it was opened with: beside `task.delegated` it tells that each was used once.
    grant: marks.find(m => m.namespace === GRANT_NAMESPACE)?.id ?? null,
    // Empty below a parent: the same workload carries on. Otherwise it acts for these.
    actors: task.actors,
    deadline: deadlineAt,
  },
})

export const taskAttested = (task: string, a: TaskAttestation, context: Context): AuditEvent => ({
  kind: 'task.attested',
  ...by(context),
  subject: task,
  reason: null,
  data: { evidence: a.digest, run: a.run },
})

export interface EndedTask {
  readonly id: string
  readonly reason: Reason
  readonly revocation: string
  readonly outcome: string | null
}

export function taskEndedEvents(t: EndedTask, actor: Actor, requestId: string | null): AuditEvent[] {
  const told = { actor, subject: t.id, reason: t.reason, requestId, data: { revocation: t.revocation, outcome: t.outcome } }
  return [{ kind: 'task.ended', ...told }, ...(isAbandoned(t.reason, actor) ? [{ kind: 'task.abandoned' as const, ...told }] : [])]
}

export const runEnded = (r: EndedRun, left: boolean, context: Context): AuditEvent => ({
  kind: 'run.ended',
  ...by(context),
  subject: r.run,
  reason: r.conclusion,
  data: { issuer: r.issuerId, open_tasks: left },
})

export const credentialMade = (
  kind: 'credential.intended' | 'credential.issued',
  c: Credential,
  policies: { digest: string; policies: readonly string[] } | null,
  context: Context,
): AuditEvent => ({
  kind,
  ...by(context),
  subject: c.id,
  reason: null,
  data: {
    task: c.task,
    capability: c.capability,
    identity: c.identity,
    decision: c.decision,
    ...(policies ? { policies: policies.policies, policy: policies.digest } : {}),
    expires_at: c.expiresAt,
    bound: c.jkt !== null,
    kid: c.kid,
  },
})

export const handleRecorded = (c: Credential): AuditEvent => ({
  kind: 'credential.handle_recorded',
  actor: byBroker('issue'),
  subject: c.id,
  reason: null,
  requestId: null,
  data: { task: c.task, engine: c.engine },
})

export const credentialClosed = (c: Credential, actor: Actor, requestId: string | null): AuditEvent => ({
  kind: 'credential.revoking',
  actor,
  subject: c.id,
  reason: c.reason,
  requestId,
  data: { task: c.task, capability: c.capability, revocation: c.revocation },
})

export const credentialDead = (claim: Claim, probe: Probe): AuditEvent => ({
  kind: 'credential.revoked',
  actor: byBroker('destroy'),
  subject: claim.credential.id,
  reason: claim.credential.reason,
  requestId: null,
  data: { looked: probe.looked, attempts: claim.credential.attempts, revocation: claim.credential.revocation },
})

export const destroyFailed = (c: Credential, stuck: boolean): AuditEvent => ({
  kind: stuck ? 'credential.stuck' : 'credential.destroy_failed',
  actor: byBroker('destroy'),
  subject: c.id,
  reason: c.failure,
  requestId: null,
  data: { attempts: c.attempts, engine: c.engine },
})

export const revocationCommitted = (r: Revocation, options: CommitOptions): AuditEvent => ({
  kind: 'revocation.committed',
  actor: r.actor,
  subject: r.id,
  reason: r.reason,
  requestId: options.requestId ?? null,
  data: { seq: r.seq, selector: r.selector, credentials: r.credentials, tasks: r.tasks, message: r.message },
})

export const planMade = (p: Plan, context: Context): AuditEvent => ({
  kind: 'plan.made',
  ...by(context),
  subject: p.id,
  reason: p.reason,
  data: { selector: p.selector, credentials: p.reach.credentials, tasks: p.reach.tasks },
})

export const quarantineSet = (q: Quarantine, requestId: string | null): AuditEvent => ({
  kind: 'quarantine.set',
  actor: q.setBy,
  subject: q.id,
  reason: q.message,
  requestId,
  data: { selector: q.selector, until: q.until, revocation: q.revocation },
})

export const quarantineLifted = (q: Quarantine, context: Context): AuditEvent => ({
  kind: 'quarantine.lifted',
  ...by(context),
  subject: q.id,
  reason: q.liftReason,
  data: { selector: q.selector },
})

export const signalReceived = (s: NewSignal, rule: { rule: string | null; act: SignalAct | null }, context: Context): AuditEvent => ({
  kind: 'signal.received',
  ...by(context),
  subject: s.id,
  reason: s.type,
  data: { severity: s.severity, subject: s.subject, rule: rule.rule, act: rule.act },
})

export const signalHandled = (id: string, source: string, did: { revocation: string | null; quarantine: string | null }): AuditEvent => ({
  kind: 'signal.handled',
  actor: { kind: 'signal', id: source },
  subject: id,
  reason: null,
  requestId: null,
  data: did,
})

export const signalHeld = (id: string, source: string, reach: Reach): AuditEvent => ({
  kind: 'signal.held',
  actor: { kind: 'signal', id: source },
  subject: id,
  reason: 'over_cap',
  requestId: null,
  data: { credentials: reach.credentials, tasks: reach.tasks },
})

export const signalJudged = (id: string, verdict: Verdict, context: Context): AuditEvent => ({
  kind: 'signal.judged',
  ...by(context),
  subject: id,
  reason: verdict.reason,
  data: { verdict: verdict.kind },
})

export const tasksShortened = (subject: SignalSubject, tasks: number, seconds: number, context: Context): AuditEvent => ({
  kind: 'task.shortened',
  ...by(context),
  subject: subject.key,
  reason: null,
  data: { kind: subject.kind, tasks, seconds },
})

export const keyEvent = (kind: Extract<AuditKind, `key.${string}`>, kid: string, data: Record<string, unknown>, context: Context): AuditEvent => ({
  kind,
  ...by(context),
  subject: kid,
  reason: null,
  data,
})

export const guardEvent = (kind: 'guard.added' | 'guard.disabled', id: string, data: Record<string, unknown>, context: Context): AuditEvent => ({
  kind,
  ...by(context),
  subject: id,
  reason: null,
  data,
})

export const operatorEvent = (kind: 'operator.added' | 'operator.disabled', id: string, data: Record<string, unknown>, context: Context): AuditEvent => ({
  kind,
  ...by(context),
  subject: id,
  reason: null,
  data,
})
