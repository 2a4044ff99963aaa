/** Owns the weakest evidence: a registered public key signs an assertion (RFC 7523 section 3, `private_key_jwt`). Whoever holds the key is the agent; policy caps it. */
import type { RegisteredIssuerConfig } from '../config-schema.js'
import { CLIENT_METHODS } from '../domain/client-methods.js'
import { CurfewError } from '../domain/errors.js'
import { namedId } from '../domain/ids.js'
import { type AdmittedKey, admitKeys } from '../domain/jwk.js'
import { checkTimes, inspect, type JwsProfile, textClaim, verifyJws } from '../domain/jws.js'
import type { Evidence } from '../domain/workload.js'
import type { Attestor } from '../ports.js'
import type { AttestorDeps } from './deps.js'
import { readJson } from './keys.js'
import { markOf } from './oidc.js'
import { refuse } from './profiles/profile.js'
import { peek } from './unverified.js'

const JWS: JwsProfile = { algorithms: CLIENT_METHODS.private_key_jwt.algorithms, types: ['client-authentication+jwt', 'jwt', ''] }

/** The agent's identity, and so the `iss` and `sub` of its assertion: a client is called in its tokens what it called itself (RFC 9068 section 2.2). */
export const clientId = (issuer: string, agent: string) => `${issuer}:agent=${agent}`

interface Agent {
  readonly issuer: RegisteredIssuerConfig
  readonly name: string
  readonly owner: string
  readonly labels: Readonly<Record<string, string>>
  readonly key: AdmittedKey
}

/** Judged once, at start, and named by its place in the configuration. A private key where a public one belongs is refused like a weak one. */
async function agentKey(source: RegisteredIssuerConfig['agents'][number]['key'], deps: AttestorDeps, field: string): Promise<AdmittedKey> {
  let cause: unknown
  try {
    const jwk = 'jwk' in source ? source.jwk : await readJson(deps, source.file)
    const [key] = admitKeys({ keys: [jwk] }, { use: 'sig', algs: JWS.algorithms })
    if (key && (await Promise.all(key.algs.map(key.verifier)))) return key
  } catch (error) {
    cause = error
  }
  const reason = (cause instanceof CurfewError && cause.facts.reason) || 'key_refused'
  throw new CurfewError('malformed', `${field} is not a public key that can be used (${reason})`, { reason, field }, { cause })
}

export async function registeredAttestor(issuers: readonly RegisteredIssuerConfig[], deps: AttestorDeps): Promise<Attestor> {
  const agents = new Map<string, Agent>()
  for (const issuer of issuers.filter(i => i.enabled)) {
    for (const agent of issuer.agents) {
      const key = await agentKey(agent.key, deps, `issuers.${issuer.name}.agents.${agent.name}.key`)
      agents.set(clientId(issuer.name, agent.name), { issuer, name: agent.name, owner: agent.owner, labels: agent.labels, key })
    }
  }
  const choose = (evidence: Evidence) => agents.get(peek(evidence, 'iss') ?? '')

  return {
    kind: 'registered',
    recognizes: evidence => choose(evidence) !== undefined,
    async attest(evidence) {
      const agent = choose(evidence)
      if (!agent) return refuse('issuer_unknown', 'iss')
      const { digest } = inspect(evidence.token, JWS)
      const { payload } = await verifyJws(evidence.token, agent.key, JWS)
      const identity = clientId(agent.issuer.name, agent.name)
      if (payload.iss !== identity || payload.sub !== identity) return refuse('issuer_mismatch', payload.iss === identity ? 'sub' : 'iss')
      // RFC 7523bis section 3: our issuer identifier and nothing else, as a string or an array of one.
      const audience = Array.isArray(payload.aud) && payload.aud.length === 1 ? payload.aud[0] : payload.aud
      if (audience !== deps.serverUrl) return refuse('audience_mismatch', 'aud')
      const times = checkTimes(payload, { now: deps.clock.now(), toleranceSeconds: 5, maxLifeSeconds: agent.issuer.maxLifeSeconds, iatRequired: true })
      const issuerId = namedId('issuer', agent.issuer.name)
      return {
        issuer: agent.issuer.name,
        issuerId,
        kind: 'registered',
        profile: 'registered',
        identity,
        identityId: namedId('identity', identity),
        owner: agent.owner,
        attributes: { agent: agent.name, ...Object.fromEntries(Object.entries(agent.labels).map(([k, v]) => [`label_${k}`, v])) },
        strength: 1,
        evidenceAt: times.issuedAt,
        expiresAt: times.expiresAt,
        replay: 'single_use',
        mark: markOf(issuerId, `jti:${agent.name}:${textClaim(payload, 'jti')}`, times.expiresAt),
        run: null,
        digest,
      }
    },
  }
}
