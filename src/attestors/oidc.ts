/** Owns the attestation of OpenID tokens: one attestor for every provider, what differs is data. */
import type { OidcIssuerConfig } from '../config-schema.js'
import { CurfewError } from '../domain/errors.js'
import { namedId } from '../domain/ids.js'
import { checkAudience, checkTimes, inspect, type JwsProfile, textClaim, verifyJws } from '../domain/jws.js'
import type { Attestation, Evidence, Mark } from '../domain/workload.js'
import type { Attestor } from '../ports.js'
import type { AttestorDeps } from './deps.js'
import { FILE_REFRESH_SECONDS, type IssuerKeys, issuerKeys, type KeySourceAnswer, readJson } from './keys.js'
import { buildkite } from './profiles/buildkite.js'
import { circleci } from './profiles/circleci.js'
import { generic } from './profiles/generic.js'
import { github } from './profiles/github.js'
import { gitlab } from './profiles/gitlab.js'
import { kubernetes } from './profiles/kubernetes.js'
import { claimAt, type Profile, refuse } from './profiles/profile.js'
import { peek } from './unverified.js'

const PROFILES: Readonly<Record<OidcIssuerConfig['profile'], Profile>> = { github, gitlab, buildkite, circleci, kubernetes, generic }
/** A mark outlives the evidence by the tolerance on its `exp`, and then some. Milliseconds. */
const MARK_MARGIN_MS = 120_000

interface Registered {
  readonly config: OidcIssuerConfig
  readonly profile: Profile
  readonly jws: JwsProfile
  readonly keys: IssuerKeys
}

export function oidcAttestor(issuers: readonly OidcIssuerConfig[], deps: AttestorDeps): Attestor {
  const registered = new Map<string, Registered>(
    issuers
      .filter(config => config.enabled)
      .map(config => [
        config.issuer,
        {
          config,
          profile: PROFILES[config.profile],
          jws: jwsOf(config),
          keys: issuerKeys({ issuer: config.name, rules: { use: 'sig', algs: config.algs }, fetch: signal => fetchKeys(config, deps, signal) }, deps),
        },
      ]),
  )
  /** Exact, byte for byte: no slash, case or port is folded (P34). */
  const choose = (evidence: Evidence) => registered.get(peek(evidence, 'iss') ?? '')

  return {
    kind: 'oidc',
    recognizes: evidence => choose(evidence) !== undefined,
    async attest(evidence, signal) {
      const issuer = choose(evidence)
      if (!issuer) return refuse('issuer_unknown', 'iss')
      const { header, digest } = inspect(evidence.token, issuer.jws)
      const key = await issuer.keys.find(header.kid, signal)
      const { payload } = await verifyJws(evidence.token, key, issuer.jws)
      const { config, profile } = issuer
      if (payload.iss !== config.issuer) return refuse('issuer_mismatch', 'iss')
      textClaim(payload, 'sub')
      checkAudience(payload, config.audience ?? deps.serverUrl, config.allowOtherAudiences)
      const times = checkTimes(payload, { now: deps.clock.now(), toleranceSeconds: 5, maxLifeSeconds: config.maxLifeSeconds, iatRequired: true })
      checkPins(payload, config)
      const { identity, attributes, run } = profile.normalise(payload, config)
      const replay = config.replay ?? profile.replay(payload)
      const issuerId = namedId('issuer', config.name)
      const attestation: Attestation = {
        issuer: config.name,
        issuerId,
        kind: 'oidc',
        profile: profile.name,
        identity,
        identityId: namedId('identity', identity),
        owner: config.owner,
        attributes,
        strength: config.strength,
        evidenceAt: times.issuedAt,
        expiresAt: times.expiresAt,
        replay,
        mark:
          replay === 'reusable' ? null : markOf(issuerId, payload.jti === undefined ? `digest:${digest}` : `jti:${textClaim(payload, 'jti')}`, times.expiresAt),
        run,
        digest,
      }
      return attestation
    },
  }
}

/** Keyed on the name that the issuer gave, or on the decoded bytes: another spelling of the same token is the same token (T46). */
export function markOf(issuerId: string, id: string, expiresAt: Date): Mark {
  return { namespace: `evidence:${issuerId}`, id, until: new Date(expiresAt.getTime() + MARK_MARGIN_MS) }
}

function jwsOf(config: OidcIssuerConfig): JwsProfile {
  const profile = PROFILES[config.profile]
  const types = config.typ.map(t => t.toLowerCase().replace(/^application\//, ''))
  return { algorithms: config.algs, types: profile.typAbsent ? [...types, ''] : types, extraHeaders: [...profile.ignoredHeaders, ...config.ignoreHeaders] }
}

/** What ties a shared issuer to a tenant. */
function checkPins(payload: Readonly<Record<string, unknown>>, config: OidcIssuerConfig): void {
  for (const [name, allowed] of Object.entries(config.pin)) {
    const value = claimAt(payload, name)
    if ((typeof value !== 'string' && typeof value !== 'number') || !allowed.includes(String(value))) refuse('tenant_refused', name)
  }
}

async function fetchKeys(config: OidcIssuerConfig, deps: AttestorDeps, signal: AbortSignal): Promise<KeySourceAnswer> {
  const { keys } = config
  if ('file' in keys) return { set: await readJson(deps, keys.file), refreshSeconds: FILE_REFRESH_SECONDS }
  const options = { internal: config.internal, ...(config.caFile ? { ca: await deps.readFile(config.caFile) } : {}) }
  if ('url' in keys) return { set: await deps.outbound.getJson(keys.url, options, signal) }
  // OpenID Connect Discovery section 4.1: a slash at the end of the issuer is removed first.
  const metadata = (await deps.outbound.getJson(`${config.issuer.replace(/\/$/, '')}/.well-known/openid-configuration`, options, signal)) as {
    issuer?: unknown
    jwks_uri?: unknown
  } | null
  if (metadata?.issuer !== config.issuer)
    throw new CurfewError('unavailable', 'the metadata of a trust issuer names another issuer', { reason: 'metadata_issuer_mismatch' })
  // A document that points elsewhere may have been tampered with: its own origin, or the one that the configuration names (H13).
  const uri = typeof metadata.jwks_uri === 'string' && URL.canParse(metadata.jwks_uri) ? new URL(metadata.jwks_uri) : null
  if (uri?.origin !== new URL(keys.jwksOrigin ?? config.issuer).origin) {
    throw new CurfewError('unavailable', 'the metadata of a trust issuer points its keys elsewhere', { reason: 'jwks_origin_mismatch' })
  }
  return { set: await deps.outbound.getJson(uri.href, options, signal) }
}
