/** Owns waiting for what a revocation promised: the receipt is read until it says that nothing is left, and never before. */
import { setTimeout as sleep } from 'node:timers/promises'
import { CliError } from './exit.js'
import { type CredentialView, listCredentials, type RevocationView } from './holder.js'
import type { Auth, Broker } from './http.js'
import { clockTime, plain } from './output.js'
import { counted } from './plan.js'
import { claimsOf, type ReceiptClaims } from './receipt-claims.js'
import type { Selector } from './selectors.js'

/** How often a person is told that we wait. */
const TELL_MS = 1_000
/** A receipt names no more than so many that are exposed. */
const EXPOSED_TOLD = 20
const NAMED = 8
const LOOKED_AT = 1_000

export async function readReceipt(broker: Broker, auth: Auth, id: string, signal: AbortSignal): Promise<ReceiptClaims> {
  const { body } = await broker.call({ method: 'GET', path: `/v1/receipts/${id}`, auth }, signal)
  return claimsOf(body.claims)
}

/** Waits, at most so long, until nothing more can be learned: all dead and heard of, or only time or a person can help. */
export async function follow(
  look: () => Promise<ReceiptClaims>,
  waitMs: number,
  tell: (claims: ReceiptClaims, elapsedMs: number) => void,
  signal: AbortSignal,
): Promise<ReceiptClaims> {
  const began = performance.now()
  let told = began
  let pause = 50
  for (;;) {
    const claims = await look()
    const now = performance.now()
    if (isSettled(claims) || now - began >= waitMs) return claims
    if (now - told >= TELL_MS) {
      told = now
      tell(claims, now - began)
    }
    await sleep(Math.min(pause, Math.max(1, waitMs - (now - began))), undefined, { signal })
    pause = Math.min(pause * 2, TELL_MS / 2)
  }
}

function isSettled(claims: ReceiptClaims): boolean {
  const { credentials: c, guards, exposed } = claims
  if (guards.applied < guards.of) return false
  return claims.final || (exposed.length + c.stuck > 0 && unfinished(claims) === 0)
}

/** Neither dead, nor waiting for a person, nor for its own end. What is exposed is still `revoking`. */
function unfinished({ credentials: c, exposed }: ReceiptClaims): number {
  return Math.max(0, Math.max(c.selected - c.revoked - c.stuck, c.revoking) - exposed.length)
}

export function tellProgress(claims: ReceiptClaims, elapsedMs: number): string {
  return `${Math.round(elapsedMs / 1000)} s: confirmed dead ${claims.credentials.revoked}/${total(claims)}${guardsOf(claims)}`
}

/**
 * The rows behind the numbers: what this act ended and nobody has seen dead, and what still stands behind its cut-off, since a scope's rows
 * are closed in batches. Naming helps; that it failed changes nothing about the numbers.
 */
export async function notDead(broker: Broker, auth: Auth, selector: Selector, revocation: RevocationView, signal: AbortSignal): Promise<CredentialView[]> {
  const { identity, capability, issuer, task, credential } = selector as Record<string, string | undefined>
  const narrowed = { task, identity, capability }
  const scope = issuer ?? identity ?? capability
  try {
    const ended = await Promise.all(['stuck', 'revoking'].map(state => listCredentials(broker, auth, { task, state }, LOOKED_AT, signal)))
    const mine = ended.flat().filter(c => c.ended_by === revocation.id)
    if (credential !== undefined || scope === undefined || Object.keys(selector).length > 1) return mine
    const live = await listCredentials(broker, auth, { ...narrowed, state: 'live' }, LOOKED_AT, signal)
    const issuerOf = (c: CredentialView) => (c as { issuer?: string }).issuer
    return [...mine, ...live.filter(c => c.issued_at <= revocation.refused_since && (issuer === undefined || issuerOf(c) === issuer))]
  } catch (error) {
    if (error instanceof CliError) return []
    throw error
  }
}

/** "confirmed dead 13/14, guards 12/12 at seq 88121, 2 tasks ended, crd_… exposed until 10:31:00Z": what was seen, and nothing more. */
export function tellOutcome(claims: ReceiptClaims, unconfirmed: readonly CredentialView[]): string {
  const all = total(claims)
  const parts = [all === 0 && claims.final ? 'it held nothing alive' : `confirmed dead ${claims.credentials.revoked}/${all}${guardsOf(claims)}`]
  if (claims.tasks > 0) parts.push(`${counted(claims.tasks, 'task')} ended`)
  if (claims.exposed.length > 3)
    parts.push(
      `${claims.exposed.length}${claims.exposed.length < EXPOSED_TOLD ? '' : ' or more'} exposed until ${clockTime(claims.exposed_until ?? latest(claims))}Z`,
    )
  else for (const e of claims.exposed) parts.push(`${e.credential} exposed until ${clockTime(e.until)}Z`)
  const named = unconfirmed.slice(0, NAMED)
  for (const c of named) parts.push(`${c.id} ${c.state}${c.failure ? `: ${c.failure}` : ''}`)
  const unseen = Math.max(unfinished(claims) + claims.credentials.stuck, unconfirmed.length) - named.length
  if (unseen > 0) parts.push(`${unseen}${named.length > 0 ? ' more' : ''} not yet`)
  else if (!claims.final && claims.exposed.length === 0 && named.length === 0) parts.push('not all is closed yet')
  return plain(parts.join(', '))
}

const latest = (claims: ReceiptClaims) =>
  claims.exposed
    .map(e => e.until)
    .sort()
    .at(-1) ?? ''
const total = ({ credentials: c }: ReceiptClaims) => Math.max(c.selected, c.revoked + c.revoking + c.stuck)
const guardsOf = ({ guards, seq }: ReceiptClaims) => (guards.of > 0 ? `, guards ${guards.applied}/${guards.of} at seq ${seq}` : '')
