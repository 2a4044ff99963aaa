/** Owns the translation of rows to the domain's nouns. */
import type { AuditRow } from '../domain/audit.js'
import type { Closed, Credential } from '../domain/credential.js'
import type { Decision } from '../domain/decision.js'
import type { Operator } from '../domain/operator.js'
import type { Exposed, Plan, Reach } from '../domain/plan.js'
import type { Quarantine } from '../domain/quarantine.js'
import type { Revocation, Selector } from '../domain/revocation.js'
import type { Signal } from '../domain/signal.js'
import type { SealedKey } from '../domain/signing-key.js'
import type { Task } from '../domain/task.js'
import { whereOf } from '../domain/where.js'
import type { Row } from './sql.js'

/** What a driver gives for a column we created ourselves is of the type we created it with. */
const as = <T>(value: unknown): T => value as T
/** PGlite and pg both read jsonb into values; instants inside JSON are text. */
const instant = (value: unknown): Date => (value instanceof Date ? value : new Date(value as string))
const maybeInstant = (value: unknown): Date | null => (value === null || value === undefined ? null : instant(value))

export function toTask(r: Row): Task {
  const attestation = as<Task['attestation'] & { evidenceAt: unknown; expiresAt: unknown }>(r.attestation)
  return {
    id: as(r.id),
    purpose: as(r.purpose),
    capabilities: as(r.capabilities),
    parent: as(r.parent),
    ancestors: as(r.ancestors),
    actors: as(r.actors),
    owner: as(r.owner),
    labels: as(r.labels),
    attestation: { ...attestation, evidenceAt: instant(attestation.evidenceAt), expiresAt: instant(attestation.expiresAt) },
    jkt: as(r.jkt),
    state: as(r.state),
    openedAt: instant(r.opened_at),
    deadlineAt: instant(r.deadline_at),
    heartbeatSeconds: as(r.heartbeat_seconds),
    heartbeatAt: instant(r.heartbeat_at),
    endedAt: maybeInstant(r.ended_at),
    endReason: as(r.end_reason),
    endedBy: as(r.ended_by),
    version: as(r.version),
  }
}

export function toCredential(r: Row): Credential {
  return {
    id: as(r.id),
    task: as(r.task),
    ancestors: as(r.ancestors),
    identity: as(r.identity),
    issuer: as(r.issuer),
    issuerId: as(r.issuer_id),
    capability: as(r.capability),
    audience: as(r.audience),
    engine: as(r.engine),
    revocationClass: as(r.class),
    decision: as(r.decision),
    jkt: as(r.jkt),
    kid: as(r.kid),
    state: as(r.state),
    version: as(r.version),
    issuedAt: instant(r.issued_at),
    expiresAt: instant(r.expires_at),
    deadlineAt: instant(r.deadline_at),
    handle: as(r.handle),
    revocation: as(r.revocation),
    reason: as(r.reason),
    revokingAt: maybeInstant(r.revoking_at),
    revokedAt: maybeInstant(r.revoked_at),
    attempts: as(r.attempts),
    nextAttemptAt: maybeInstant(r.next_attempt_at),
    failure: as(r.failure),
    probe: as(r.probe),
  }
}

export const toClosed = (r: Row): Closed => ({
  id: as(r.id),
  task: as(r.task),
  engine: as(r.engine),
  state: as(r.state),
  version: as(r.version),
  reason: as(r.reason),
  revocation: as(r.revocation),
  nextAttemptAt: maybeInstant(r.next_attempt_at),
})

export function toRevocation(r: Row): Revocation {
  return {
    id: as(r.id),
    seq: as(r.seq),
    selector: toSelector(r),
    reason: as(r.reason),
    actor: as(r.actor),
    message: as(r.message),
    at: instant(r.at),
    credentials: as(r.credentials),
    tasks: as(r.tasks),
    receipt: as(r.receipt),
  }
}

/** Wherever a selector is kept it is these four columns. */
export function toSelector(r: Row): Selector {
  if (r.filter) return as<Selector>({ kind: 'where', key: r.key, where: whereOf(as(r.filter)) })
  const issuedBefore = maybeInstant(r.issued_before)
  return as<Selector>({ kind: r.kind, key: r.key, ...(issuedBefore ? { issuedBefore } : {}) })
}

export function toReach(json: unknown): Reach {
  const reach = as<Reach & { exposed: (Exposed & { until: unknown })[]; exposedUntil: unknown }>(json)
  return { ...reach, exposed: reach.exposed.map(e => ({ ...e, until: instant(e.until) })), exposedUntil: maybeInstant(reach.exposedUntil) }
}

export function toPlan(r: Row): Plan {
  return {
    id: as(r.id),
    selector: toSelector(r),
    reason: as(r.reason),
    reach: toReach(r.reach),
    madeBy: as(r.made_by),
    madeAt: instant(r.made_at),
    validUntil: instant(r.valid_until),
    revocation: as(r.revocation),
  }
}

export function toQuarantine(r: Row): Quarantine {
  return {
    id: as(r.id),
    selector: toSelector({ ...r, issued_before: null }),
    message: as(r.message),
    setBy: as(r.set_by),
    setAt: instant(r.set_at),
    until: instant(r.until),
    revocation: as(r.revocation),
    liftedAt: maybeInstant(r.lifted_at),
    liftedBy: as(r.lifted_by),
    liftReason: as(r.lift_reason),
  }
}

export function toDecision(r: Row): Decision {
  return {
    id: as(r.id),
    at: instant(r.at),
    allowed: as(r.allowed),
    identity: as(r.identity),
    issuer: as(r.issuer),
    capability: as(r.capability),
    task: as(r.task),
    policies: as(r.policies),
    digest: as(r.digest),
    obligations: as(r.obligations),
    reason: as(r.reason),
    explanation: as(r.explanation),
    attributes: as(r.attributes),
  }
}

export function toSignal(r: Row): Signal {
  return {
    id: as(r.id),
    source: as(r.source),
    eventId: as(r.event_id),
    type: as(r.type),
    severity: as(r.severity),
    subject: as(r.subject),
    occurredAt: instant(r.occurred_at),
    receivedAt: instant(r.received_at),
    detail: as(r.detail),
    rule: as(r.rule),
    act: as(r.act),
    held: r.held ? toReach(r.held) : null,
    verdict: as(r.verdict),
    revocation: as(r.revocation),
    quarantine: as(r.quarantine),
    handledAt: maybeInstant(r.handled_at),
  }
}

export function toOperator(r: Row): Operator {
  return { id: as(r.id), name: as(r.name), role: as(r.role), createdAt: instant(r.created_at), disabledAt: maybeInstant(r.disabled_at) }
}

export function toKey(r: Row): SealedKey {
  return {
    kid: as(r.kid),
    keyClass: as(r.class),
    alg: as(r.alg),
    publicJwk: as(r.public_jwk),
    sealed: as(r.sealed),
    state: as(r.state),
    createdAt: instant(r.created_at),
    activatesAt: instant(r.activates_at),
    retiresAt: maybeInstant(r.retires_at),
  }
}

export function toAuditRow(r: Row): AuditRow {
  return {
    id: String(r.id),
    at: instant(r.at),
    kind: as(r.kind),
    actor: as(r.actor),
    subject: as(r.subject),
    reason: as(r.reason),
    requestId: as(r.request_id),
    data: as(r.data),
  }
}
