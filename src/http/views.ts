/** Owns how inner things look outside: snake case, instants as RFC 3339, and nothing that is not the caller's to see. */
import type { Described, Offer } from '../broker/describe.js'
import type { Audience, Capability } from '../domain/capability.js'
import type { Credential } from '../domain/credential.js'
import type { Decision } from '../domain/decision.js'
import type { Exposed, Plan, Reach } from '../domain/plan.js'
import type { Quarantine } from '../domain/quarantine.js'
import type { Revocation, Selector } from '../domain/revocation.js'
import { written } from '../domain/selector.js'
import { isWaiting, type Signal } from '../domain/signal.js'
import type { Task } from '../domain/task.js'
import type {
  As,
  capabilityShape,
  credentialShape,
  decisionShape,
  evidenceShape,
  offerShape,
  planShape,
  quarantineShape,
  reachShape,
  revocationShape,
  signalShape,
  taskShape,
  WrittenSelector,
} from './shapes.js'

const instant = <D extends Date | null>(at: D) => (at?.toISOString() ?? null) as D extends Date ? string : string | null
const selected = (selector: Selector) => written(selector) as WrittenSelector

export const taskView = (t: Task): As<typeof taskShape> => ({
  id: t.id,
  state: t.state,
  purpose: t.purpose,
  capabilities: t.capabilities,
  owner: t.owner,
  labels: t.labels,
  identity: t.attestation.identity,
  issuer: t.attestation.issuer,
  parent: t.parent,
  ancestors: t.ancestors,
  actors: t.actors,
  opened_at: instant(t.openedAt),
  deadline_at: instant(t.deadlineAt),
  heartbeat_seconds: t.heartbeatSeconds,
  heartbeat_at: instant(t.heartbeatAt),
  ended_at: instant(t.endedAt),
  end_reason: t.endReason,
  ended_by: t.endedBy,
})

/** The handle never leaves the broker. */
export const credentialView = (c: Credential): As<typeof credentialShape> => ({
  id: c.id,
  state: c.state,
  task: c.task,
  identity: c.identity,
  issuer: c.issuer,
  capability: c.capability,
  audience: c.audience,
  engine: c.engine,
  revocation: c.revocationClass,
  decision: c.decision,
  issued_at: instant(c.issuedAt),
  expires_at: instant(c.expiresAt),
  reason: c.reason,
  ended_by: c.revocation,
  revoking_at: instant(c.revokingAt),
  revoked_at: instant(c.revokedAt),
  exposed_until: c.revocationClass === 'expiry-only' && c.state !== 'revoked' ? instant(c.expiresAt) : null,
  attempts: c.attempts,
  next_attempt_at: instant(c.nextAttemptAt),
  failure: c.failure,
  probe: c.probe,
})

export const decisionView = (d: Decision): As<typeof decisionShape> => ({
  id: d.id,
  at: instant(d.at),
  allowed: d.allowed,
  reason: d.reason,
  identity: d.identity,
  issuer: d.issuer,
  capability: d.capability,
  task: d.task,
  policies: d.policies,
  policy_digest: d.digest,
  obligations: { max_ttl_seconds: d.obligations.maxTtlSeconds, require_proof: d.obligations.requireProof },
  nearest_rule: d.explanation?.nearestRule ?? null,
  failed: d.explanation?.failed ?? [],
  forbidden_by: d.explanation?.forbiddenBy ?? [],
  attributes: d.attributes,
})

export const revocationView = (r: Revocation): As<typeof revocationShape> => ({
  id: r.id,
  seq: r.seq,
  selector: selected(r.selector),
  reason: r.reason,
  actor: r.actor,
  message: r.message,
  refused_since: instant(r.at),
  credentials: r.credentials,
  tasks: r.tasks,
  receipt: r.receipt,
})

export const exposedView = (e: Exposed) => ({ credential: e.credential, capability: e.capability, until: instant(e.until) })

const reachView = (r: Reach): As<typeof reachShape> => ({
  credentials: r.credentials,
  tasks: r.tasks,
  instant: r.classes.instant,
  backend: r.classes.backend,
  expiry_only: r.classes['expiry-only'],
  engines: r.engines,
  capabilities: r.capabilities,
  owners: r.owners,
  exposed: r.exposed.map(exposedView),
  exposed_until: instant(r.exposedUntil),
})

export const planView = (p: Plan): As<typeof planShape> => ({
  id: p.id,
  selector: selected(p.selector),
  reason: p.reason,
  made_by: p.madeBy,
  made_at: instant(p.madeAt),
  valid_until: instant(p.validUntil),
  revocation: p.revocation,
  reach: reachView(p.reach),
})

export const quarantineView = (q: Quarantine): As<typeof quarantineShape> => ({
  id: q.id,
  selector: selected(q.selector),
  message: q.message,
  set_by: q.setBy,
  set_at: instant(q.setAt),
  until: instant(q.until),
  revocation: q.revocation,
  lifted_at: instant(q.liftedAt),
  lifted_by: q.liftedBy,
  lift_reason: q.liftReason,
})

export const signalView = (s: Signal): As<typeof signalShape> => ({
  id: s.id,
  source: s.source,
  event_id: s.eventId,
  type: s.type,
  severity: s.severity,
  subject: { [s.subject.kind]: s.subject.key },
  occurred_at: instant(s.occurredAt),
  received_at: instant(s.receivedAt),
  detail: s.detail,
  rule: s.rule,
  act: s.act,
  waits: isWaiting(s),
  held: s.held ? reachView(s.held) : null,
  verdict: s.verdict,
  revocation: s.revocation,
  quarantine: s.quarantine,
  handled_at: instant(s.handledAt),
})

export const offerView = (o: Offer, audience: Audience | undefined, params: Readonly<Record<string, 'required' | 'optional'>>): As<typeof offerShape> => ({
  ...capabilityView(o.capability, audience, params),
  ttl_seconds: Math.min(o.capability.ttlSeconds, o.maxTtlSeconds),
  max_ttl_seconds: o.maxTtlSeconds,
  require_proof: o.obligations.requireProof,
  evidence: o.isFresh ? 'sufficient' : 'stale',
})

/** Of the caller's own evidence all that policy sees; of what it rests on, only the name of the issuer. */
export const evidenceView = ({ attestation: a, at, use, jkt }: Described): As<typeof evidenceShape> => ({
  identity: a.identity,
  issuer: a.issuer,
  profile: a.profile,
  owner: a.owner,
  strength: a.strength,
  attributes: a.attributes,
  run: a.run,
  issued_at: instant(a.evidenceAt),
  expires_at: instant(a.expiresAt),
  age_seconds: Math.max(0, Math.floor((at.getTime() - a.evidenceAt.getTime()) / 1000)),
  replay: a.replay,
  use,
  jkt,
})

export const capabilityView = (
  c: Capability,
  audience: Audience | undefined,
  params: Readonly<Record<string, 'required' | 'optional'>>,
): As<typeof capabilityShape> => ({
  name: c.name,
  summary: c.summary,
  audience: audience?.uri ?? null,
  scopes: c.scopes,
  ttl_seconds: c.ttlSeconds,
  max_ttl_seconds: c.maxTtlSeconds,
  max_evidence_age_seconds: c.maxEvidenceAgeSeconds,
  sensitivity: c.sensitivity,
  intent: c.intent,
  revocation: c.revocation,
  params,
})
