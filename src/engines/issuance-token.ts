/**
 * Owns the per-issuance token of the Vault kinds: made before the secret, the crash handle by its accessor, dead by itself unless it is
 * kept (security.md 3.3). What hangs under it dies with it.
 */
import type { VaultClient } from '../clients/vault.js'
import { VaultError } from '../clients/vault.js'
import type { Credential, Handle, Probe } from '../domain/credential.js'
import type { Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import { dashed } from '../domain/ids.js'
import type { Secret } from '../domain/secret.js'
import type { Clock } from '../ports.js'

export interface VaultEngineDeps {
  readonly issuer: VaultClient
  readonly revoker: VaultClient
  readonly clock: Clock
  /** The dead man's switch. Seconds. */
  readonly issuanceTokenSeconds: number
  /** The moment up to which a complete listing showed that every lease issued before it is known to a row; null when none was made. */
  readonly clearSince: (capability: string) => Date | null
}

export interface IssuanceTokens {
  /** The handle that ends everything made with it. */
  make(grant: Grant, policy: string, signal: AbortSignal): Promise<Handle>
  /** The token itself, once. */
  take(grant: Grant): Secret
  /** Lifts the dead man's switch to what is left of the credential's life. */
  keep(credential: Credential, signal: AbortSignal): Promise<void>
  forget(credential: Credential): void
}

/** Above the grant, so that a clock's difference does not kill what is still granted. Seconds. */
const MAX_TTL_MARGIN = 30
/** Vault's own limit on a request: a read that began before its token died may still make a lease until then. Seconds. */
const READ_IN_FLIGHT = 90

export function issuanceTokens(deps: Pick<VaultEngineDeps, 'issuer' | 'clock' | 'issuanceTokenSeconds'>): IssuanceTokens {
  /** Between prepare and mint, in memory only: the handle holds the accessor, which can end the token and not use it. */
  const tokens = new Map<string, { readonly token: Secret; readonly until: number }>()
  /** What nobody came back for is dead at Vault by then, and is not kept here either. */
  const hold = (id: string, token: Secret) => {
    const now = performance.now()
    for (const [other, held] of tokens) if (held.until <= now) tokens.delete(other)
    tokens.set(id, { token, until: now + deps.issuanceTokenSeconds * 1000 })
  }
  return {
    async make(grant, policy, signal) {
      const { token, accessor } = await deps.issuer.createIssuanceToken(
        {
          credential: grant.id,
          displayName: dashed(grant.id),
          policy,
          ttlSeconds: Math.min(deps.issuanceTokenSeconds, grant.ttlSeconds),
          maxTtlSeconds: grant.ttlSeconds + MAX_TTL_MARGIN,
        },
        signal,
      )
      hold(grant.id, token)
      return { accessor }
    },
    take(grant) {
      const token = tokens.get(grant.id)?.token
      tokens.delete(grant.id)
      if (!token) throw new CurfewError('engine_failed', 'the credential was ended while it was being made', { reason: 'overtaken' })
      return token
    },
    async keep(credential, signal) {
      const lifeSeconds = (credential.expiresAt.getTime() - credential.issuedAt.getTime()) / 1000
      // By the whole life, not by what is left of it: the token's seconds have been running since prepare.
      if (lifeSeconds <= deps.issuanceTokenSeconds) return
      await deps.issuer.renewAccessor(String(credential.handle?.accessor), secondsLeft(credential.expiresAt, deps.clock), signal)
    },
    forget: credential => void tokens.delete(credential.id),
  }
}

const secondsLeft = (until: Date, clock: Clock) => Math.ceil((until.getTime() - clock.now().getTime()) / 1000)

/** What may be asked for so that it does not outlive its grant. @throws {CurfewError} when that is nothing. */
export function wholeSecondsLeft(until: Date, clock: Clock): number {
  const seconds = Math.floor((until.getTime() - clock.now().getTime()) / 1000)
  if (seconds < 1) throw new CurfewError('task_ended', 'its time was up before it was made', { reason: 'too_little_time' })
  return seconds
}

/** Says in which step it failed, and of Vault's answer its kind alone. @param what "the database user". */
export function failing(what: string): (step: 'prepared' | 'made' | 'kept' | 'ended' | 'probed', cause: unknown) => CurfewError {
  return (step, cause) => new CurfewError('engine_failed', `${what} could not be ${step}`, { reason: reasonOf(cause), retryAfterSeconds: 1 }, { cause })
}

function reasonOf(cause: unknown): string {
  if (cause instanceof VaultError) return `vault_${cause.outcome}`
  return cause instanceof CurfewError ? (cause.facts.reason ?? 'engine_failed') : 'engine_failed'
}

/** Ends the lease, which waits for the target, and then the token. What is gone counts as ended. */
export async function endAtVault(revoker: VaultClient, handle: Handle, signal: AbortSignal): Promise<void> {
  if (handle.leaseId !== undefined) await revoker.revokeLease(String(handle.leaseId), signal)
  if (handle.accessor !== undefined) await revoker.revokeAccessor(String(handle.accessor), signal)
}

/** What of it is still there, in words; null when nothing is. Adds to `looked` what it looked at. */
export async function lookAtVault(revoker: VaultClient, handle: Handle, looked: string[], signal: AbortSignal): Promise<string | null> {
  if (handle.leaseId !== undefined) {
    looked.push('lease')
    if (await revoker.leaseExists(String(handle.leaseId), signal)) return 'the lease is still there'
  }
  if (handle.accessor !== undefined) {
    looked.push('accessor')
    if (await revoker.accessorExists(String(handle.accessor), signal)) return 'the token is still there'
  }
  return null
}

/** Nothing was recorded, so nothing was made, and nothing can be: the compare-and-set of the handle will fail. */
export const NEVER_MADE: Probe = { outcome: 'dead', looked: ['row'], detail: null }

/**
 * A read may have been in flight when its token died: only a listing made after its last moment tells that it left no lease
 * (security.md 3.4). The handle is recorded inside the mint window, so the token was made before its end and dies by itself one life
 * later; a read that began with its last breath takes as long as Vault lets a request take.
 */
export function unrecordedLease(credential: Credential, deps: Pick<VaultEngineDeps, 'issuanceTokenSeconds' | 'clearSince'>, looked: readonly string[]): Probe {
  const clearSince = deps.clearSince(credential.capability)
  const over = credential.deadlineAt.getTime() + (deps.issuanceTokenSeconds + READ_IN_FLIGHT) * 1000
  if (clearSince && clearSince.getTime() > over) return { outcome: 'dead', looked: [...looked, 'listing'], detail: null }
  return { outcome: 'waiting', looked, detail: 'a read may have been in flight: waiting for a listing that shows no lease of it' }
}
