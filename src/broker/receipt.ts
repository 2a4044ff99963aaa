/** Verb: say what became of a revocation, and sign it. A receipt is true of the moment it was made at; `final` says that nothing is left. */
import { CurfewError } from '../domain/errors.js'
import type { Attendance } from '../domain/guard.js'
import { isId } from '../domain/ids.js'
import type { Outcome } from '../domain/plan.js'
import type { Revocation } from '../domain/revocation.js'
import { written } from '../domain/selector.js'
import type { BrokerDeps } from './deps.js'

/** No verifier of tokens takes it, and the key of receipts signs nothing else. */
export const RECEIPT_TYP = 'curfew-receipt+jwt'

export interface Receipt {
  readonly revocation: Revocation
  readonly outcome: Outcome
  readonly claims: Readonly<Record<string, unknown>>
  /** The claims as a compact JWS (ES256), for those who were not there. */
  readonly signed: string
}

/** @param id a receipt's or its revocation's. @throws {CurfewError} `not_found`. */
export async function receipt(deps: BrokerDeps, id: string): Promise<Receipt> {
  const { revocations } = deps.store
  const found = isId('receipt', id) ? await revocations.byReceipt(id) : isId('revocation', id) ? await revocations.get(id) : null
  if (!found) throw new CurfewError('not_found', 'no such receipt', { reason: 'not_found' })
  const outcome = await revocations.outcome(found.id)
  const claims = claimsOf(deps, found, outcome, await deps.store.guards.attendance(found.seq))
  const { token } = await deps.signer.sign('receipt', RECEIPT_TYP, claims, 'ES256')
  return { revocation: found, outcome, claims, signed: token }
}

/** Those that a reader looks for, none of them or not, and whatever else an engine looked at. */
const probedOf = (looked: Outcome['looked']) => ({ lease: 0, accessor: 0, role: 0, sessions: 0, introspection: 0, expiry: 0, ...looked })

function claimsOf(deps: BrokerDeps, r: Revocation, o: Outcome, guards: Attendance) {
  const selected = o.revoking + o.stuck + o.revoked
  return {
    iss: deps.serverUrl,
    iat: Math.floor(deps.store.clock.now().getTime() / 1000),
    jti: r.receipt,
    sub: r.id,
    selector: written(r.selector),
    reason: r.reason,
    message: r.message,
    actor: { kind: r.actor.kind, id: r.actor.id },
    seq: r.seq,
    refused_since: r.at.toISOString(),
    tasks: r.tasks,
    credentials: { selected, revoked: o.revoked, revoking: o.revoking, stuck: o.stuck },
    probed: probedOf(o.looked),
    not_probed: o.notProbed,
    // Verifiers that ask introspection refuse with the commit; those that hold the feed say when.
    guards: { applied: guards.applied, of: guards.of, slowest_ms: guards.slowestMs === null ? null : Math.round(guards.slowestMs) },
    exposed: o.exposed.map(e => ({ credential: e.credential, capability: e.capability, until: e.until.toISOString() })),
    exposed_total: o.exposedTotal,
    exposed_until: o.exposedUntil?.toISOString() ?? null,
    final: o.closed && o.revoking === 0 && o.stuck === 0 && guards.applied === guards.of,
  }
}
