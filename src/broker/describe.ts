/** Verb: who am I here, and what may I ask for. The judgement of issuing over everything there is, without issuing: nothing is written, and no evidence is used up. */
import type { Capability } from '../domain/capability.js'
import { longestLife, MIN_TTL_SECONDS, type Obligations } from '../domain/decision.js'
import type { Attestation, Evidence } from '../domain/workload.js'
import { audienceOf } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import { identify } from './identify.js'
import { type Presented, prove } from './prove.js'
import { rationIdentity } from './ration.js'

export interface DescribeAsk {
  readonly evidence: Evidence
  /** A proof is looked at when there is one. */
  readonly presented: Presented
  readonly purpose: string
  readonly labels: Readonly<Record<string, string>>
}

/** What became of this piece of evidence: bounded evidence that was used is tied to a key, which is the caller's or another. */
export type EvidenceUse = 'reusable' | 'unused' | 'used' | 'bound' | 'bound_elsewhere'

export interface Offer {
  readonly capability: Capability
  readonly obligations: Obligations
  /** The most that a credential may live, short of the end of its task. */
  readonly maxTtlSeconds: number
  /** Too old evidence is refused until it is made anew. */
  readonly isFresh: boolean
}

export interface Described {
  readonly attestation: Attestation
  readonly at: Date
  readonly use: EvidenceUse
  /** Of the key that the caller proved; null without a proof. */
  readonly jkt: string | null
  /** What policy permits; what it does not is not there. */
  readonly offers: readonly Offer[]
}

/** What stands behind rows is not looked at: a quarantine, a tombstone, a revocation may refuse all of it. */
export async function describe(deps: BrokerDeps, ask: DescribeAsk, signal: AbortSignal): Promise<Described> {
  const jkt = ask.presented.proofs.length === 0 ? null : (await prove(deps, ask.presented)).jkt
  const attestation = await identify(deps, ask.evidence, signal)
  rationIdentity(deps, attestation.identity)
  const at = deps.store.clock.now()
  return { attestation, at, jkt, use: await useOf(deps, attestation, jkt), offers: offersOf(deps, ask, attestation, at) }
}

async function useOf(deps: BrokerDeps, { mark, replay }: Attestation, jkt: string | null): Promise<EvidenceUse> {
  if (!mark) return 'reusable'
  if (!(await deps.store.replay.seen(mark))) return 'unused'
  if (replay === 'single_use' || jkt === null) return 'used'
  return (await deps.store.replay.seen({ ...mark, holder: jkt })) ? 'bound_elsewhere' : 'bound'
}

function offersOf(deps: BrokerDeps, ask: DescribeAsk, attestation: Attestation, at: Date): Offer[] {
  const evidenceAgeSeconds = Math.max(0, Math.floor((at.getTime() - attestation.evidenceAt.getTime()) / 1000))
  const issuerMaxTtlSeconds = deps.issuers.get(attestation.issuer)?.maxTtlSeconds ?? 0
  const task = { purpose: ask.purpose, labels: ask.labels, owner: attestation.owner, depth: 0 }
  return [...deps.capabilities.values()].flatMap(capability => {
    const audience = audienceOf(deps, capability)
    // Judged as the opening of a task is: for the life that is given to who names none.
    const request = { attestation, capability, audience, task, ttlSeconds: capability.ttlSeconds, evidenceAgeSeconds, proof: true }
    const { allowed, obligations } = deps.policy.decide(request)
    // Nobody can show a proof there, so that nobody is given it.
    if (!allowed || (obligations.requireProof && audience?.senderConstrained === false)) return []
    const maxTtlSeconds = longestLife({ capability, audience, issuerMaxTtlSeconds, obligations })
    return maxTtlSeconds < MIN_TTL_SECONDS ? [] : [{ capability, obligations, maxTtlSeconds, isFresh: evidenceAgeSeconds <= capability.maxEvidenceAgeSeconds }]
  })
}
