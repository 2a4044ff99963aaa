/** Owns the one policy engine: what Cedar answers becomes our answer, and whatever is not a plain answer denies. */
import { LRUCache } from 'lru-cache'
import type { Capability } from '../domain/capability.js'
import type { Explanation, Obligations, PolicyAnswer, PolicyRequest } from '../domain/decision.js'
import type { PolicyEngine } from '../ports.js'
import { factsOf } from './context.js'
import { explanationOf } from './explain.js'
import { loadPolicies, type PolicySet } from './load.js'
import { shown } from './need.js'
import { callOf } from './wasm.js'

export interface CedarOptions {
  /** Every `*.cedar` in it, and `schema.cedarschema`. */
  readonly dir: string
  readonly capabilities: readonly Capability[]
  /** Names of the configured trust issuers. */
  readonly issuers: readonly string[]
  /** What `generic` issuers put into attestations (identityClaims and attributeClaims): each becomes an optional text in `context.oidc.claims`. */
  readonly genericClaims?: readonly string[]
  readonly log: { error(fields: object, message: string): void; info(fields: object, message: string): void }
}

/** The set in force. The answers die with the set that gave them, so that none outlives its policies. */
interface InForce extends PolicySet {
  readonly answers: LRUCache<string, PolicyAnswer>
}

const CACHED_ANSWERS = 4_096
const NO_OBLIGATIONS: Obligations = { maxTtlSeconds: null, requireProof: false }

/** @throws CurfewError(malformed), reason `policies_refused`, whose message lists everything that is wrong with the set. */
export async function cedarPolicy(options: CedarOptions): Promise<PolicyEngine> {
  const claims = [...new Set(options.genericClaims ?? [])].sort()
  const load = async (): Promise<InForce> => ({
    ...(await loadPolicies({ dir: options.dir, capabilities: options.capabilities, issuers: options.issuers, genericClaims: claims })),
    answers: new LRUCache({ max: CACHED_ANSWERS }),
  })
  let loaded = await load()
  let reloading: Promise<unknown> = Promise.resolve()

  const fault = (request: PolicyRequest, fields: object): PolicyAnswer => {
    options.log.error({ capability: request.capability.name, digest: loaded.digest, ...fields }, 'policy could not be evaluated: denied')
    return { allowed: false, policies: [], obligations: NO_OBLIGATIONS, digest: loaded.digest, fault: 'policy_error' }
  }

  return {
    get digest() {
      return loaded.digest
    },
    decide(request) {
      try {
        const all = factsOf(request, claims)
        const slice = loaded.slices.get(request.capability.name)
        if (!slice) return fault(request, { cause: 'a capability that the policies were not loaded for' })
        const facts = shown(all, slice.need)
        const key = JSON.stringify([request.attestation.identity, request.capability.name, facts])
        const known = loaded.answers.get(key)
        if (known) return known
        const answer = loaded.cedar.statefulIsAuthorized(callOf(slice.decide, request.attestation.identity, request.capability.name, facts))
        if (answer.type === 'failure') return fault(request, { cause: 'failure' })
        const { decision, diagnostics } = answer.response
        // Cedar skips a policy that errs, so that an erring forbid would let pass: any error denies.
        if (diagnostics.errors.length > 0) return fault(request, { cause: 'error', policies: diagnostics.errors.map(e => e.policyId) })
        const allowed = decision === 'allow'
        const policies = [...diagnostics.reason].sort()
        const obligations = allowed ? strictest(policies.map(id => loaded.obligations.get(id) ?? NO_OBLIGATIONS)) : NO_OBLIGATIONS
        const made: PolicyAnswer = Object.freeze({ allowed, policies: Object.freeze(policies), obligations, digest: loaded.digest, fault: null })
        loaded.answers.set(key, made)
        return made
      } catch (error) {
        // Bad calls throw instead of answering `failure` (a lone surrogate does). Our own TypeErrors name a fact, never its value; Cedar's messages may quote it.
        return fault(request, { cause: error instanceof TypeError ? error.message : 'thrown' })
      }
    },
    explain(request) {
      try {
        const facts = factsOf(request, claims)
        const slice = loaded.slices.get(request.capability.name)
        if (!slice) return NOTHING_NEAR
        const reasons = (set: string): readonly string[] => {
          const answer = loaded.cedar.statefulIsAuthorized(callOf(set, request.attestation.identity, request.capability.name, shown(facts, slice.need)))
          return answer.type === 'success' ? answer.response.diagnostics.reason : []
        }
        return explanationOf(slice.rules, new Set(reasons(slice.conditions)), [...reasons(slice.forbids)].sort(), request.attestation.identity, facts)
      } catch {
        return NOTHING_NEAR
      }
    },
    reload() {
      // One after the other, so that the last to be asked for is the last to be read.
      const next = reloading.then(async () => {
        loaded = await load()
        options.log.info({ digest: loaded.digest, policies: loaded.obligations.size }, 'policies loaded')
        return loaded.digest
      })
      reloading = next.catch(() => {})
      return next
    },
  }
}

const NOTHING_NEAR: Explanation = { nearestRule: null, failed: [], forbiddenBy: [] }

function strictest(all: readonly Obligations[]): Obligations {
  const ttls = all.flatMap(o => o.maxTtlSeconds ?? [])
  return Object.freeze({ maxTtlSeconds: ttls.length > 0 ? Math.min(...ttls) : null, requireProof: all.some(o => o.requireProof) })
}
