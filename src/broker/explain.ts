/** Verb: why. The same judgement as issuing, without issuing: nothing is written but the decision's own trace, and no evidence is used up. */
import type { Decision } from '../domain/decision.js'
import type { Evidence } from '../domain/workload.js'
import { capabilityNamed, decide } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import { identify } from './identify.js'
import { noteBreadth, rationIdentity } from './ration.js'

export interface ExplainAsk {
  readonly evidence: Evidence
  readonly capability: string
  readonly ttlSeconds: number | null
  readonly purpose: string
  readonly labels: Readonly<Record<string, string>>
}

/** @param proof whether the caller would prove a key; explained as if it did unless told otherwise. */
export async function explain(deps: BrokerDeps, ask: ExplainAsk, requestId: string | null, signal: AbortSignal): Promise<Decision> {
  const attestation = await identify(deps, ask.evidence, signal)
  rationIdentity(deps, attestation.identity)
  await noteBreadth(deps, attestation, [ask.capability], requestId)
  const capability = capabilityNamed(deps, ask.capability, 'capability')
  return decide(deps, {
    attestation,
    capability,
    task: { id: null, purpose: ask.purpose, labels: ask.labels, owner: attestation.owner, depth: 0 },
    ttlSeconds: ask.ttlSeconds,
    proof: true,
  })
}
