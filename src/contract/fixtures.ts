/** Owns the grants and rows that an engine is shown in a test: whole, and of nobody in particular. */
import type { Capability } from '../domain/capability.js'
import type { Credential, Handle } from '../domain/credential.js'
import { type AskParams, type Decision, Grant } from '../domain/decision.js'
import { namedId, newId } from '../domain/ids.js'

/** Of a grant that is asked for no other. */
const LIFE_SECONDS = 300

export interface GrantOptions extends Capability {
  /** Seconds. */
  readonly ttl: number
  readonly params: AskParams
}

/** A grant for a workload that nobody else is. */
export function grantOf(at: Date, over: Partial<GrantOptions> = {}): Grant {
  const { ttl = LIFE_SECONDS, params = {}, ...more } = over
  const capability: Capability = {
    name: 'test/thing',
    summary: 'something to be made and ended',
    engine: 'test',
    parameters: {},
    audience: null,
    scopes: [],
    ttlSeconds: LIFE_SECONDS,
    maxTtlSeconds: 43_200,
    maxEvidenceAgeSeconds: 900,
    sensitivity: 'low',
    intent: 'read',
    maxLive: 1_000,
    revocation: 'backend',
    ...more,
  }
  const identity = `github:repository_id=${newId('identity').slice(4)}`
  const task = newId('task')
  const attestation = {
    issuer: 'github',
    issuerId: namedId('issuer', 'github'),
    kind: 'oidc' as const,
    profile: 'github',
    identity,
    identityId: namedId('identity', identity),
    owner: null,
    attributes: {},
    strength: 2 as const,
    evidenceAt: at,
    expiresAt: new Date(at.getTime() + 600_000),
    run: null,
    digest: 'digest',
  }
  const permit: Decision = {
    id: newId('decision'),
    at,
    allowed: true,
    identity,
    issuer: 'github',
    capability: capability.name,
    task,
    policies: ['test'],
    digest: namedId('policy', 'test'),
    obligations: { maxTtlSeconds: null, requireProof: false },
    reason: 'permitted',
    explanation: null,
    attributes: {},
  }
  return Grant.from(permit, {
    credential: newId('credential'),
    capability,
    params,
    engineClass: capability.revocation,
    audience: null,
    task,
    ancestors: [],
    actors: [],
    attestation,
    jkt: 'thumbprint',
    askedTtlSeconds: ttl,
    now: at,
    taskDeadline: new Date(at.getTime() + 43_200_000),
    issuerMaxTtlSeconds: 43_200,
  })
}

/** The row as the store would hold it, on its way out. */
export function rowOf(grant: Grant, handle: Handle | null, over: Partial<Credential> = {}): Credential {
  const { terms } = grant
  return {
    id: grant.id,
    task: terms.task,
    ancestors: terms.ancestors,
    identity: terms.attestation.identity,
    issuer: terms.attestation.issuer,
    issuerId: terms.attestation.issuerId,
    capability: terms.capability.name,
    audience: null,
    engine: terms.capability.engine,
    revocationClass: grant.revocation,
    decision: grant.decision.id,
    jkt: terms.jkt,
    kid: null,
    state: 'revoking',
    version: 3,
    issuedAt: terms.now,
    expiresAt: grant.expiresAt,
    deadlineAt: new Date(terms.now.getTime() + 20_000),
    handle,
    revocation: null,
    reason: 'completed',
    revokingAt: terms.now,
    revokedAt: null,
    attempts: 0,
    nextAttemptAt: terms.now,
    failure: null,
    probe: null,
    ...over,
  }
}
