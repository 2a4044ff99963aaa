/** Verb: who asks. Choose the attestor on unverified text, believe only what it verified, look at the replay rule. */
import { CLIENT_METHODS } from '../domain/client-methods.js'
import { CurfewError } from '../domain/errors.js'
import { type Attestation, type Evidence, type Mark, secondKey } from '../domain/workload.js'
import type { BrokerDeps } from './deps.js'

export async function identify(deps: BrokerDeps, evidence: Evidence, signal: AbortSignal): Promise<Attestation> {
  try {
    const only = evidence.client && CLIENT_METHODS[evidence.client].attestor
    const attestor = deps.attestors.find(a => (only === undefined || a.kind === only) && a.recognizes(evidence))
    if (!attestor) {
      throw new CurfewError('attestation_refused', 'this evidence is of no registered trust issuer', { reason: 'issuer_unknown', field: 'subject_token' })
    }
    return await attestor.attest(evidence, signal)
  } catch (error) {
    if (error instanceof CurfewError && error.code === 'attestation_refused') deps.meter.attestationRefused(error.facts.reason ?? 'unknown')
    throw error
  }
}

/**
 * The mark to consume when this evidence is acted on by the holder of `jkt`. It is looked at now, so that a replay is refused early,
 * and consumed by the transaction that acts, so that a request refused on other grounds burns nothing (standards.md 2.2.5).
 */
export async function evidenceMarks(deps: BrokerDeps, attestation: Attestation, jkt: string): Promise<readonly Mark[]> {
  if (!attestation.mark) return []
  const mark: Mark = attestation.replay === 'bounded' ? { ...attestation.mark, holder: jkt } : attestation.mark
  if (await deps.store.replay.seen(mark)) {
    if (mark.holder !== undefined) {
      // How a stolen token looks: for whoever watches, beside the audit row that every refusal leaves.
      deps.meter.secondKey(attestation.issuer)
      deps.log.warn(
        { identity: attestation.identity, run: attestation.run, digest: attestation.digest },
        'evidence came with a second key: it was copied, or the commands of its job do not share their key',
      )
      throw secondKey()
    }
    throw new CurfewError('attestation_refused', 'this evidence was used before', {
      reason: 'replayed',
      field: 'subject_token',
      next: 'ask the provider for a new token',
    })
  }
  return [mark]
}
