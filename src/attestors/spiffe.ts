/** Owns the attestation of JWT-SVIDs: the trust domain of the subject chooses the bundle, and only that bundle's keys are believed. */
import { X509Certificate } from 'node:crypto'
import type { SpiffeIssuerConfig } from '../config-schema.js'
import { CLIENT_METHODS } from '../domain/client-methods.js'
import { CurfewError } from '../domain/errors.js'
import { namedId } from '../domain/ids.js'
import { checkAudience, checkTimes, inspect, type JwsProfile, verifyJws } from '../domain/jws.js'
import type { Evidence } from '../domain/workload.js'
import type { Attestor } from '../ports.js'
import type { AttestorDeps } from './deps.js'
import { FILE_REFRESH_SECONDS, type IssuerKeys, issuerKeys, type KeySourceAnswer, readJson } from './keys.js'
import { refuse } from './profiles/profile.js'
import { peek } from './unverified.js'

/** JWT-SVID, section 2.2: `typ` is absent, `JWT` or `JOSE`. */
const JWS: JwsProfile = { algorithms: CLIENT_METHODS.spiffe_jwt.algorithms, types: ['', 'jwt', 'jose'] }

export interface SpiffeId {
  readonly trustDomain: string
  readonly path: string
}

/** SPIFFE ID, section 2: lower-case scheme, no port, no user, no query, no percent-encoding, no empty or dot segments. */
export function parseSpiffeId(text: string): SpiffeId | null {
  const match = /^spiffe:\/\/([a-z0-9._-]{1,255})((?:\/[A-Za-z0-9._-]+)*)$/.exec(text)
  if (!match || text.length > 2_048) return null
  const [, trustDomain, path] = match as unknown as [string, string, string]
  return path.split('/').some(segment => segment === '.' || segment === '..') ? null : { trustDomain, path }
}

export function spiffeAttestor(issuers: readonly SpiffeIssuerConfig[], deps: AttestorDeps): Attestor {
  const registered = new Map<string, { config: SpiffeIssuerConfig; keys: IssuerKeys }>(
    issuers
      .filter(config => config.enabled)
      .map(config => [
        config.trustDomain,
        {
          config,
          // SPIFFE bundle, section 4.2.2: no keys means that all were revoked, not that somebody made a mistake (P42).
          keys: issuerKeys({ issuer: config.name, rules: { use: 'jwt-svid', algs: JWS.algorithms }, fetch: bundleOf(config, deps), emptyRevokes: true }, deps),
        },
      ]),
  )
  const choose = (evidence: Evidence) => registered.get(parseSpiffeId(peek(evidence, 'sub') ?? '')?.trustDomain ?? '')

  return {
    kind: 'spiffe',
    recognizes: evidence => choose(evidence) !== undefined,
    async attest(evidence, signal) {
      const issuer = choose(evidence)
      if (!issuer) return refuse('issuer_unknown', 'sub')
      const { config } = issuer
      const { header, digest } = inspect(evidence.token, JWS)
      if (header.kid === undefined) return refuse('key_unknown', 'kid')
      const key = await issuer.keys.find(header.kid, signal)
      const { payload } = await verifyJws(evidence.token, key, JWS)
      const id = typeof payload.sub === 'string' ? parseSpiffeId(payload.sub) : null
      if (id?.trustDomain !== config.trustDomain || id.path === '') return refuse('claim_invalid', 'sub')
      // On segment boundaries: /ci must not admit /cinema.
      if (config.paths.length > 0 && !config.paths.some(p => id.path === p || id.path.startsWith(`${p}/`))) return refuse('tenant_refused', 'sub')
      // As a client it speaks to this server and to nobody else, whatever name evidence may use for us.
      checkAudience(payload, evidence.client ? deps.serverUrl : (config.audience ?? deps.serverUrl), false)
      const times = checkTimes(payload, { now: deps.clock.now(), toleranceSeconds: 5, maxLifeSeconds: config.maxLifeSeconds, iatRequired: false })
      const identity = payload.sub as string
      return {
        issuer: config.name,
        issuerId: namedId('issuer', config.name),
        kind: 'spiffe',
        profile: 'spiffe',
        identity,
        identityId: namedId('identity', identity),
        owner: config.owner,
        attributes: { spiffe_id: identity, trust_domain: id.trustDomain, path: id.path },
        strength: 3,
        evidenceAt: times.issuedAt,
        expiresAt: times.expiresAt,
        // The agent hands the same token to every process of a workload: refusing a repeat would break its clients (standards.md 1.12).
        replay: 'reusable',
        mark: null,
        run: null,
        digest,
      }
    },
  }
}

function bundleOf(config: SpiffeIssuerConfig, deps: AttestorDeps): (signal: AbortSignal) => Promise<KeySourceAnswer> {
  const { bundle } = config
  if ('file' in bundle) return async () => ({ set: await readJson(deps, bundle.file), refreshSeconds: FILE_REFRESH_SECONDS })
  if (bundle.profile === 'https_web') return async signal => answerOf(await deps.outbound.getJson(bundle.endpoint, { internal: config.internal }, signal))
  // The endpoint is authenticated by the trust domain's own X.509 authorities; each answer brings those for the next (SPIFFE federation, section 5.2.2).
  let authorities: string | null = null
  return async signal => {
    authorities ??= pemOf(await readJson(deps, bundle.bootstrapFile))
    // An empty list of authorities would mean those of the operating system: never for an SVID (standards.md 1.12).
    if (authorities === '') throw new CurfewError('unavailable', 'the bootstrap bundle of a trust domain holds no X.509 authority', { reason: 'bundle_empty' })
    const set = await deps.outbound.getJson(bundle.endpoint, { internal: config.internal, ca: authorities, spiffeId: bundle.serverId }, signal)
    authorities = pemOf(set) || authorities
    return answerOf(set)
  }
}

function answerOf(set: unknown): KeySourceAnswer {
  const hint = (set as { spiffe_refresh_hint?: unknown } | null)?.spiffe_refresh_hint
  return typeof hint === 'number' && hint > 0 ? { set, refreshSeconds: hint } : { set }
}

function pemOf(set: unknown): string {
  const keys = (set as { keys?: { use?: string; x5c?: string[] }[] } | null)?.keys ?? []
  return keys
    .filter(k => k.use === 'x509-svid' && k.x5c?.[0])
    .map(k => new X509Certificate(Buffer.from(k.x5c?.[0] as string, 'base64')).toString())
    .join('\n')
}
