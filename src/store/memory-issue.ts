/** Owns issuing in memory: all that is judged before a row is written, and the rows. */

import type { Credential } from '../domain/credential.js'
import { MINT_WINDOW_MS } from '../domain/credential.js'
import type { Revocation } from '../domain/revocation.js'
import { credentialMade } from './events.js'
import { admit, inFlight, keyReused, type Member, type Part, takeRoom } from './issue.js'
import { bare, type CredentialRow, closeRows, consume, factsOf, isOpen, refuseUnstorable, type State, write, writeDecisions } from './memory-state.js'
import { insertTask, planTask } from './memory-tasks.js'

export function issueInMemory(state: State, member: Member): Credential[] {
  const { options } = member
  const facts = factsOf(state)
  if (options.open) refuseUnstorable(options.open.task)
  const { parts, planned } = admit(facts, member)
  const task = (parts[0] as Part).grant.terms.task
  const key = options.idempotency ? JSON.stringify([task, options.idempotency.key]) : null
  const earlier = key === null ? undefined : state.idempotency.get(key)
  const replaced = (earlier?.credentials ?? []).map(id => state.credentials.get(id) as CredentialRow)
  if (earlier && earlier.hash !== options.idempotency?.hash) throw keyReused()
  if (replaced.some(c => c.state === 'pending' && c.deadlineAt > facts.now)) throw inFlight()
  takeRoom(roomOf(state, parts, replaced), parts)
  consume(state, options.marks)

  // From here on nothing throws.
  closeRows(
    state,
    replaced,
    () => 'cancelled',
    () => null as Revocation['id'] | null,
    { kind: 'holder', id: task },
    null,
  )
  if (key !== null && options.idempotency) state.idempotency.set(key, { hash: options.idempotency.hash, credentials: parts.map(p => p.grant.id) })
  if (planned) insertTask(state, planTask(planned.task, planned.opening, facts.now), planned.task, options.marks, options.context)
  const decisions = [...(options.open?.decisions ?? []), ...parts.map(p => p.grant.decision)].map(d => ({ ...d, task }))
  writeDecisions(state, decisions, options.context)
  return parts.map(({ grant, made, expiresAt }) => {
    const row = rowOf(grant, made, expiresAt, facts.now)
    state.credentials.set(row.id, row)
    write(state, [credentialMade(made ? 'credential.issued' : 'credential.intended', row, grant.decision, options.context)])
    return bare(row)
  })
}

/** Places left for each capability of these parts, once what they replace is closed. */
function roomOf(state: State, parts: readonly Part[], replaced: readonly CredentialRow[]): Map<string, number> {
  const live = [...state.credentials.values()].filter(c => isOpen(c) && !replaced.includes(c))
  return new Map(
    parts.map(({ grant: { terms } }) => [terms.capability.name, terms.capability.maxLive - live.filter(c => c.capability === terms.capability.name).length]),
  )
}

function rowOf(grant: Part['grant'], made: Part['made'], expiresAt: Date, now: Date): CredentialRow {
  const { terms } = grant
  const handle = made && Object.keys(made.minted.handle).length > 0 ? made.minted.handle : null
  return {
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
    expiresAt,
    deadlineAt: new Date(now.getTime() + MINT_WINDOW_MS),
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
}
