/** Owns the shape of evidence: one row an act, written in the act's own transaction; digests and ids, never secrets. */
import type { Actor } from './revocation.js'

export const AUDIT_KINDS = [
  'attestation.refused',
  'proof.refused',
  'request.refused',
  'task.opened',
  'task.attested',
  'task.delegated',
  'task.shortened',
  'task.ended',
  'task.abandoned',
  'run.ended',
  'decision.permitted',
  'decision.denied',
  'credential.intended',
  'credential.handle_recorded',
  'credential.issued',
  'credential.revoking',
  'credential.destroy_failed',
  'credential.stuck',
  'credential.revoked',
  'revocation.committed',
  'signal.received',
  'signal.refused',
  'signal.handled',
  'signal.held',
  'signal.judged',
  'plan.made',
  'quarantine.set',
  'quarantine.lifted',
  'key.created',
  'key.activated',
  'key.retired',
  'key.withdrawn',
  'operator.added',
  'operator.disabled',
  'operator.refused',
  'guard.added',
  'guard.disabled',
  'policy.loaded',
  'policy.refused',
  'reconcile.finding',
] as const
export type AuditKind = (typeof AUDIT_KINDS)[number]

export interface AuditEvent {
  readonly kind: AuditKind
  /** A `server` is a registered resource server, by the name of its audience. */
  readonly actor: Actor | { readonly kind: 'workload' | 'server' | 'stranger'; readonly id: string }
  /** What it is about: an id, or null. */
  readonly subject: string | null
  readonly reason: string | null
  readonly requestId: string | null
  readonly data: Readonly<Record<string, unknown>>
}

export interface AuditRow extends AuditEvent {
  readonly id: string
  readonly at: Date
}
