/** Owns issuing in memory: all that is judged before a row is written, and the rows. */

import type { Credential } from '../domain/credential.js'
import { MINT_WINDOW_MS } from '../domain/credential.js'
import type { Grant } from '../domain/decision.js'
import type { Revocation } from '../domain/revocation.js'
import type { IntendOptions, Minted } from '../ports.js'
import { capabilityFull } from './admission.js'
import { credentialMade } from './events.js'
import { admit, inFlight, keyReused } from './issue.js'
import { bare, type CredentialRow, closeRows, consume, factsOf, isOpen, refuseUnstorable, type State, write, writeDecisions } from './memory-state.js'
import { insertTask, planTask } from './memory-tasks.js'

export function issueInMemory(state: State, grant: Grant, options: IntendOptions, made: { minted: Minted; digest: string } | null): Credential {
  const { terms } = grant
  const facts = factsOf(state)
  if (options.open) refuseUnstorable(options.open.task)
  const admitted = admit(facts, { grant, options, made })
  const key = options.idempotency ? JSON.stringify([terms.task, options.idempotency.key]) : null
  const earlier = key === null ? undefined : state.idempotency.get(key)
  const replaced = earlier ? (state.credentials.get(earlier.credential) as CredentialRow) : null
  if (earlier && earlier.hash !== options.idempotency?.hash) throw keyReused()
  if (replaced?.state === 'pending' && replaced.deadlineAt > facts.now) throw inFlight()
  const live = [...state.credentials.values()].filter(c => c.capability === terms.capability.name && isOpen(c) && c !== replaced).length
  if (live >= terms.capability.maxLive) throw capabilityFull()
  consume(state, options.marks)

  // From here on nothing throws.
  if (replaced)
    closeRows(
      state,
      [replaced],
      () => 'cancelled',
      () => null as Revocation['id'] | null,
      { kind: 'holder', id: terms.task },
      null,
    )
  if (key !== null && options.idempotency) state.idempotency.set(key, { hash: options.idempotency.hash, credential: grant.id })
  if (admitted.planned) insertTask(state, planTask(admitted.planned.task, admitted.planned.opening, facts.now), admitted.planned.task, options.context)
  const decisions = [...(options.open?.decisions ?? []), grant.decision].map(d => ({ ...d, task: terms.task }))
  writeDecisions(state, decisions, options.context)
  const handle = made && Object.keys(made.minted.handle).length > 0 ? made.minted.handle : null
  const row: CredentialRow = {
    id: grant.id,
    task: terms.task,
    ancestors: [...terms.ancestors],
    identity: terms.attestation.identity,
    issuer: terms.attestation.issuer,
    issuerId: terms.attestation.issuerId,
    capability: terms.capability.name,
    audience: terms.audience?.uri ?? null,
    engine: terms.capability.engine,
    revocationClass: grant.revocation,
    decision: grant.decision.id,
    jkt: grant.confirmation,
    kid: made?.minted.kid ?? null,
    digest: made?.digest ?? null,
    state: made ? 'active' : 'pending',
    version: 1,
    issuedAt: new Date(grant.issuedAt * 1000),
    expiresAt: admitted.expiresAt,
    deadlineAt: new Date(facts.now.getTime() + MINT_WINDOW_MS),
    handle,
    revocation: null,
    reason: null,
    revokingAt: null,
    revokedAt: null,
    attempts: 0,
    nextAttemptAt: null,
    claimedUntil: null,
    failure: null,
    probe: null,
  }
  state.credentials.set(row.id, row)
  write(state, [credentialMade(made ? 'credential.issued' : 'credential.intended', row, grant.decision, options.context)])
  return bare(row)
}
