/** Verb: destroy one credential at its target, and believe only the probe. */

import { fp } from '#failpoint'
import type { Claim, Credential, Probe } from '../domain/credential.js'
import { PermanentError } from '../domain/errors.js'
import type { CredentialId } from '../domain/ids.js'
import { engineFor } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import { hurryDestroy } from './hurry.js'

/**
 * Claims, destroys, probes, confirms. Duplicate, early and late calls are harmless: the row's version is the fence.
 * @param version the version that the job was made for, or null for whatever is due now.
 */
export async function destroy(deps: BrokerDeps, id: CredentialId, version: number | null, signal: AbortSignal): Promise<void> {
  const claim = await deps.store.credentials.claim(id, version)
  if (!claim) return
  await fp('revoke.3a')
  try {
    const probe = await destroyAndProbe(deps, claim.credential, signal)
    if (probe.outcome === 'dead') return await confirm(deps, claim, probe)
    await postpone(deps, claim, { probe, failure: probe.detail ?? 'still there', waiting: probe.outcome === 'waiting', permanent: false })
  } catch (error) {
    deps.meter.engineFailed(claim.credential.engine, 'destroy')
    deps.log.warn(
      { err: error, credential: id, engine: claim.credential.engine, attempts: claim.credential.attempts + 1 },
      'a credential could not be destroyed yet',
    )
    await postpone(deps, claim, { probe: null, failure: storyOf(error), waiting: false, permanent: error instanceof PermanentError })
  }
}

async function destroyAndProbe(deps: BrokerDeps, credential: Credential, signal: AbortSignal): Promise<Probe> {
  const engine = engineFor(deps, credential.engine)
  await engine.destroy(credential, signal)
  await fp('revoke.3b')
  const probe = await engine.probe(credential, signal)
  await fp('revoke.3c')
  return probe
}

async function confirm(deps: BrokerDeps, claim: Claim, probe: Probe): Promise<void> {
  const confirmed = await deps.store.credentials.confirm(claim, probe)
  await fp('revoke.4')
  const since = claim.credential.revokingAt
  if (confirmed && since) deps.meter.confirmed(claim.credential.engine, Math.max(0, deps.store.clock.now().getTime() - since.getTime()) / 1000)
}

async function postpone(
  deps: BrokerDeps,
  claim: Claim,
  outcome: { probe: Probe | null; failure: string; waiting: boolean; permanent: boolean },
): Promise<void> {
  const credential = await deps.store.credentials.postpone(claim, outcome)
  if (!credential) return
  if (credential.state === 'stuck' && claim.credential.state !== 'stuck') {
    deps.log.error(
      { credential: credential.id, engine: credential.engine, failure: credential.failure },
      'a credential is stuck: a person must look, retries go on',
    )
  }
  await hurryDestroy(deps, credential)
}

/** Errors of engines hold no secret by their contract; anything else is told by its kind alone. */
function storyOf(error: unknown): string {
  if (error instanceof Error && (error.name === 'CurfewError' || error.name === 'PermanentError')) return error.message.slice(0, 300)
  return 'unexpected failure, see the log'
}
