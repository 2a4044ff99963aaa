/** Verb: a responder ends things. By a selector or by a plan that was looked at, once however often it is asked. */
import { CurfewError } from '../domain/errors.js'
import { type CredentialId, newId, type OperatorId, type PlanId, type QuarantineId } from '../domain/ids.js'
import { isForCause, type Revocation, type Selector } from '../domain/revocation.js'
import type { BrokerDeps } from './deps.js'
import { revoke } from './revoke.js'

export interface ResponderAct {
  /** What is meant, or the plan that says so. */
  readonly what: { readonly selector: Selector } | { readonly plan: PlanId }
  readonly message: string | null
  /** Denies new credentials of the same selector, from the same commit on. */
  readonly quarantine: { readonly seconds: number; readonly message: string | null } | null
  readonly idempotency: { readonly key: string; readonly hash: string } | null
}

export interface Acted {
  readonly revocation: Revocation
  /** What the act hit and its plan had not seen; null without a plan. */
  readonly newcomers: readonly CredentialId[] | null
  /** Set with the act; null when none was asked for. */
  readonly quarantine: QuarantineId | null
}

const NEWCOMERS_TOLD = 100

export async function respond(deps: BrokerDeps, operator: OperatorId, act: ResponderAct, requestId: string | null): Promise<Acted> {
  const actor = { kind: 'operator', id: operator } as const
  const made = 'plan' in act.what ? await deps.store.plans.get(act.what.plan) : null
  if ('plan' in act.what && !made) throw new CurfewError('not_found', 'no such plan', { reason: 'not_found', field: 'plan' })
  const selector = 'selector' in act.what ? act.what.selector : (made?.selector as Selector)
  const quarantine = act.quarantine && { id: newId('quarantine'), selector, ...act.quarantine }

  // One thing that was ended for cause cannot be ended more: the answer is the act that ended it. A scope has new things every second.
  const ended = made ? null : await deps.store.revocations.endedBy(selector)
  if (ended && isForCause(ended.reason)) {
    if (quarantine) await deps.store.quarantines.set(quarantine, { actor, requestId })
    return { revocation: ended, newcomers: null, quarantine: quarantine?.id ?? null }
  }
  const message = act.message ?? made?.reason ?? null
  const revocation = await revoke(deps, selector, 'requested', {
    actor,
    requestId,
    ...(message === null ? {} : { message }),
    ...(made ? { plan: made.id } : {}),
    ...(quarantine ? { quarantine } : {}),
    ...(act.idempotency ? { idempotency: act.idempotency } : {}),
  })
  // Of a repeated act the first one's: this one has set nothing.
  const set = quarantine && (await deps.store.quarantines.ofAct(revocation.id))
  return { revocation, quarantine: set?.id ?? null, newcomers: made ? await deps.store.plans.newcomers(made.id, NEWCOMERS_TOLD) : null }
}
