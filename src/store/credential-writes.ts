/** Owns the statements that insert and close credential rows; the transactions around them are their callers'. */
import type { Credential, CredentialState } from '../domain/credential.js'
import { MINT_WINDOW_MS } from '../domain/credential.js'
import type { Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { CredentialId } from '../domain/ids.js'
import type { Actor, Reason } from '../domain/revocation.js'
import type { Context, IntendOptions, Minted } from '../ports.js'
import { writeAudit } from './audit.js'
import { lockCutoffs, lockOpenTasks, refuseBarred } from './checks.js'
import { writeDecisions } from './decisions.js'
import { consume } from './marks.js'
import { toCredential } from './rows.js'
import type { Tx } from './sql.js'
import { openIn } from './tasks.js'

/** All that both roads share: locks and checks, the task if it is new, the mark, the row, its decision and its audit. */
export async function insertCredential(tx: Tx, grant: Grant, options: IntendOptions, made: { minted: Minted; digest: string } | null): Promise<Credential> {
  const { terms } = grant
  await lockCutoffs(tx, 'shared')
  if (options.open) await openIn(tx, options.open.task, options.open.decisions, options.context)
  const deadline = await lockOpenTasks(tx, [terms.task, ...terms.ancestors])
  await refuseBarred(tx, standingOf(grant, made?.minted.kid ?? null))
  await refuseFull(tx, terms.capability.name, terms.capability.maxLive)
  if (options.idempotency) await claimKey(tx, grant, options.idempotency, options.context)
  await consume(tx, options.marks)
  const state: CredentialState = made ? 'active' : 'pending'
  const [row] = await tx.query(
    `insert into curfew.credentials (id, task, ancestors, identity, issuer, issuer_id, capability, audience, engine, class, decision, jkt, kid, digest, state,
                                     issued_at, expires_at, deadline_at, handle)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, least($17::timestamptz, $18::timestamptz),
             curfew.now() + make_interval(secs => $19::double precision), $20::jsonb)
     returning *`,
    [
      grant.id,
      terms.task,
      terms.ancestors,
      terms.attestation.identity,
      terms.attestation.issuer,
      terms.attestation.issuerId,
      terms.capability.name,
      terms.audience?.uri ?? null,
      terms.capability.engine,
      grant.revocation,
      grant.decision.id,
      grant.confirmation,
      made?.minted.kid ?? null,
      made?.digest ?? null,
      state,
      new Date(grant.issuedAt * 1000),
      made?.minted.expiresAt && made.minted.expiresAt < grant.expiresAt ? made.minted.expiresAt : grant.expiresAt,
      deadline,
      MINT_WINDOW_MS / 1000,
      made && Object.keys(made.minted.handle).length > 0 ? JSON.stringify(made.minted.handle) : null,
    ],
  )
  const credential = toCredential(row as Record<string, unknown>)
  await writeDecisions(tx, [{ ...grant.decision, task: terms.task }], options.context)
  await writeAudit(tx, [issuedEvent(made ? 'credential.issued' : 'credential.intended', credential, options.context)])
  return credential
}

export function issuedEvent(kind: 'credential.issued' | 'credential.intended', c: Credential, context: Context) {
  return {
    kind,
    actor: context.actor,
    subject: c.id,
    reason: null,
    requestId: context.requestId,
    data: { task: c.task, capability: c.capability, identity: c.identity, decision: c.decision, expires_at: c.expiresAt, bound: c.jkt !== null },
  } as const
}

export function standingOf(grant: Grant, kid: string | null) {
  const { attestation, capability } = grant.terms
  return {
    identity: attestation.identity,
    issuer: attestation.issuer,
    issuerId: attestation.issuerId,
    capabilities: [capability.name],
    kid,
    run: attestation.run,
    issuedAt: new Date(grant.issuedAt * 1000),
  }
}

/** Back-pressure before the target feels it: a thousand database users are an outage of their own. */
async function refuseFull(tx: Tx, capability: string, maxLive: number): Promise<void> {
  const [row] = await tx.query<{ live: number }>(
    `select count(*)::int as live from (select 1 from curfew.credentials where capability = $1 and state in ('pending', 'active') limit $2) l`,
    [capability, maxLive],
  )
  if ((row?.live ?? 0) >= maxLive) {
    throw new CurfewError('rate_limited', 'this capability has as many live credentials as it may have', { reason: 'capability_full', retryAfterSeconds: 5, next: 'complete tasks that are done' })
  }
}

/** The same key and request ends the earlier credential, whose secret was lost with its answer; another request under the key is a mistake. */
async function claimKey(tx: Tx, grant: Grant, idempotency: { key: string; hash: string }, context: Context): Promise<void> {
  const [fresh] = await tx.query(
    'insert into curfew.idempotency (task, key, hash, credential) values ($1, $2, $3, $4) on conflict do nothing returning key',
    [grant.terms.task, idempotency.key, idempotency.hash, grant.id],
  )
  if (fresh) return
  const [met] = await tx.query<{ hash: string; credential: CredentialId }>('select hash, credential from curfew.idempotency where task = $1 and key = $2 for update', [
    grant.terms.task,
    idempotency.key,
  ])
  if (met?.hash !== idempotency.hash) {
    throw new CurfewError('conflict', 'this Idempotency-Key was used for another request', { reason: 'idempotency_key_reused', field: 'Idempotency-Key' })
  }
  await tx.query('update curfew.idempotency set credential = $3 where task = $1 and key = $2', [grant.terms.task, idempotency.key, grant.id])
  await closeRows(tx, [met.credential], 'cancelled', null, { kind: 'holder', id: grant.terms.task }, context.requestId)
}

/** `pending | active → revoking`, the first reason wins. Answers the rows that moved. */
export async function closeRows(tx: Tx, ids: readonly string[], reason: Reason, revocation: string | null, actor: Actor, requestId: string | null): Promise<Credential[]> {
  if (ids.length === 0) return []
  const rows = await tx.query(
    `update curfew.credentials
     set state = 'revoking', version = version + 1, reason = $2, revocation = $3, revoking_at = curfew.now(), claimed_until = null,
         next_attempt_at = case when class = 'expiry-only' then greatest(expires_at, curfew.now()) else curfew.now() end
     where id = any($1::text[]) and state in ('pending', 'active') returning *`,
    [ids, reason, revocation],
  )
  const moved = rows.map(toCredential)
  await writeAudit(
    tx,
    moved.map(c => ({ kind: 'credential.revoking' as const, actor, subject: c.id, reason, requestId, data: { task: c.task, capability: c.capability, revocation } })),
  )
  return moved
}
