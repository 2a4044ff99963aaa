/** Owns the shape of the configuration: one strict schema, every variation a discriminated union, contradictions refused by path. */
import { z } from 'zod'
import type { Secret } from './domain/secret.js'
import { OURSELVES } from './domain/signal.js'

/** The `max-age` of the key set (src/http/metadata.ts), what a replica may lag behind the store, and some time on the way. Seconds. */
export const PUBLISH_AHEAD_MIN = 360

const name = z.string().regex(/^[a-z][a-z0-9-]{0,62}$/, 'must be lower-case letters, digits and -, starting with a letter')
const capabilityName = z
  .string()
  .max(100)
  .regex(/^[a-z][a-z0-9-]*(\/[a-z0-9][a-z0-9-]*)*$/, 'must be lower-case words joined by /, like db/orders-ro')
const seconds = (min: number, max: number) => z.int().min(min).max(max)
const text = (max: number) => z.string().min(1).max(max)
const httpUrl = z.url({ protocol: /^https?$/ }).refine(u => !u.includes('#'), 'must have no fragment')
const hostPort = z
  .string()
  .regex(/^(\[[0-9a-f:]+\]|[A-Za-z0-9.-]+):\d{1,5}$/, 'must be host:port')
  .refine(at => Number(at.slice(at.lastIndexOf(':') + 1)) <= 65_535, 'has a port above 65535')

/** Switched off by `false`, and by nothing that merely does not parse (H02). */
const orOff = <T extends z.ZodRawShape>(shape: T) =>
  z.union([z.strictObject(shape), z.literal(false)], {
    error: issue => (typeof issue.input === 'object' ? undefined : `must be { ${Object.keys(shape).join(', ')} }, or false for no limit`),
  })

/** Engines of ours. */
export const BUILT_IN_ENGINES = ['jwt', 'vault-database', 'vault-pki', 'vault-ssh', 'vault-token', 'memory'] as const
export type BuiltInEngine = (typeof BUILT_IN_ENGINES)[number]

/** Secrets are named, not written. */
export const SECRET_REF = z.union([z.strictObject({ env: text(128) }), z.strictObject({ file: text(1024) })], {
  error: 'is a secret, which is named and not written here: { env: NAME } or { file: PATH }',
})
export type SecretRef = z.infer<typeof SECRET_REF>

/**
 * @param resolve reads a named secret once; what it cannot read it reports through `ctx` and answers `z.NEVER`.
 * @param toPath makes a path of the file absolute: relative ones start at the file's own directory.
 */
export function configSchema(resolve: (ref: SecretRef, ctx: z.RefinementCtx) => Secret, toPath: (path: string) => string = path => path) {
  const secret = SECRET_REF.transform((ref, ctx) => resolve(ref, ctx))
  const file = text(1024).transform(toPath)
  /** An engine's own settings: their shape is the engine's business, and they hold no secret. */
  const parameters = z.record(z.string(), z.unknown()).default({})

  const vaultAuth = z.discriminatedUnion('method', [
    z.strictObject({ method: z.literal('token'), token: secret }),
    z.strictObject({ method: z.literal('approle'), mount: text(100).default('approle'), roleId: text(200), secretId: secret }),
    z.strictObject({ method: z.literal('kubernetes'), mount: text(100).default('kubernetes'), role: text(100), tokenFile: file }),
    z.strictObject({ method: z.literal('jwt'), mount: text(100).default('jwt'), role: text(100), tokenFile: file }),
  ])

  const issuerCommon = {
    name,
    /** Ceiling on the life of anything issued on this issuer's word. */
    maxTtlSeconds: seconds(5, 86_400).default(3_600),
    owner: text(200).nullable().default(null),
    enabled: z.boolean().default(true),
  }

  const keySource = z.union([
    z.strictObject({ url: httpUrl }),
    z.strictObject({ file: file }),
    /** OpenID discovery at the issuer; `jwks_uri` must have the issuer's origin unless it is written here. */
    z.strictObject({ discovery: z.literal(true), jwksOrigin: httpUrl.optional() }),
  ])

  const oidcIssuer = z.strictObject({
    ...issuerCommon,
    kind: z.literal('oidc'),
    profile: z.enum(['github', 'gitlab', 'buildkite', 'circleci', 'kubernetes', 'generic']),
    issuer: httpUrl,
    keys: keySource.default({ discovery: true }),
    /** Defaults to the server's own URL. */
    audience: text(255).optional(),
    /** Accept a token that names other audiences beside ours. */
    allowOtherAudiences: z.boolean().default(false),
    algs: z
      .array(z.enum(['RS256', 'ES256', 'EdDSA', 'PS256', 'RS384', 'RS512', 'ES384']))
      .min(1)
      .default(['RS256']),
    /** Allowed values; an empty one allows absence, which many issuers of ID tokens need. */
    typ: z.array(z.string()).default(['JWT']),
    /** Members of the header that this issuer sends beside the ordinary ones, and that nobody here looks at. GitHub's own is known. */
    ignoreHeaders: z.array(z.literal('x5t')).default([]),
    /** Claims that must have one of these values: what pins a shared issuer to a tenant. */
    pin: z.record(text(100), z.array(text(255)).min(1)).default({}),
    replay: z.enum(['single_use', 'bounded', 'reusable']).optional(),
    /** GitHub: events beside push, schedule, workflow_dispatch, release and pull_request that may ask, by name. GitLab: pipeline sources beside push, web, schedule, api, merge_request_event and the pipelines that others start. */
    allowEvents: z.array(text(60)).default([]),
    /** generic: the claims that make the identity, and those that policy may read. */
    identityClaims: z.array(text(100)).min(1).default(['sub']),
    attributeClaims: z.array(text(100)).max(32).default([]),
    maxLifeSeconds: seconds(10, 86_400).default(3_600),
    strength: z.union([z.literal(1), z.literal(2), z.literal(3)]).default(2),
    /** Allows private addresses and http for this issuer's keys (a cluster's own API server). */
    internal: z.boolean().default(false),
    /** CA bundle (PEM) for the key server, when it is not a public one. */
    caFile: file.optional(),
  })

  const spiffeIssuer = z.strictObject({
    ...issuerCommon,
    kind: z.literal('spiffe'),
    trustDomain: z
      .string()
      .max(255)
      .regex(/^[a-z0-9._-]+$/),
    audience: text(255).optional(),
    bundle: z.union([
      z.strictObject({ file: file }),
      z.strictObject({ endpoint: httpUrl, profile: z.literal('https_web') }),
      z.strictObject({ endpoint: httpUrl, profile: z.literal('https_spiffe'), serverId: text(2048), bootstrapFile: file }),
    ]),
    /** Path prefixes that may ask at all, on segment boundaries; empty means all of the trust domain. */
    paths: z.array(z.string().regex(/^(\/[A-Za-z0-9._-]+)+$/)).default([]),
    maxLifeSeconds: seconds(10, 86_400).default(3_600),
    internal: z.boolean().default(false),
  })

  const registeredIssuer = z.strictObject({
    ...issuerCommon,
    kind: z.literal('registered'),
    agents: z
      .array(
        z.strictObject({
          name,
          owner: text(200),
          /** Public JWK, inline or in a file. */
          key: z.union([z.strictObject({ file: file }), z.strictObject({ jwk: z.record(z.string(), z.unknown()) })]),
          labels: z.record(name, text(200)).default({}),
        }),
      )
      .min(1),
    maxLifeSeconds: seconds(10, 600).default(300),
  })

  const audience = z.strictObject({
    name,
    uri: httpUrl,
    senderConstrained: z.boolean().default(true),
    alg: z.enum(['ES256', 'RS256']).default('ES256'),
    /** How the resource server authenticates to introspection (HTTP Basic: its name and this). Without it, it cannot ask. */
    secret: secret.optional(),
  })

  const capability = z.strictObject({
    name: capabilityName,
    summary: text(300),
    /** One of ours, or of `engines`. */
    engine: name,
    parameters,
    /** A login at the target database that may end sessions and see roles: what makes the probe a real one. */
    target: z.strictObject({ url: secret }).optional(),
    audience: name.optional(),
    scopes: z
      .array(
        z
          .string()
          .regex(/^[\x21\x23-\x5B\x5D-\x7E]+$/)
          .max(100),
      )
      .max(32)
      .default([]),
    ttlSeconds: seconds(5, 3_600).default(300),
    maxTtlSeconds: seconds(5, 43_200).default(3_600),
    maxEvidenceAgeSeconds: seconds(10, 86_400).default(900),
    sensitivity: z.enum(['low', 'medium', 'high']).default('medium'),
    intent: z.enum(['read', 'write', 'destructive']),
    maxLive: z.int().min(1).max(1_000_000).default(1_000),
  })

  /** Code of the operator's choice: an engine that is not ours, in a file of this machine (docs/engines.md). */
  const engineModule = z.strictObject({
    kind: name.refine(kind => !(BUILT_IN_ENGINES as readonly string[]).includes(kind) && !kind.startsWith('vault-'), 'is the name of an engine of ours'),
    module: z
      .string()
      .max(1_024)
      .regex(/\.m?js$/, 'must be a file that ends in .js or .mjs')
      .refine(path => !/^[a-z][a-z0-9+.-]*:/i.test(path), 'must be a path: nothing is loaded from elsewhere')
      .transform(toPath),
    /** What the engine says of itself, so that plans and views know it without running it. */
    revocation: z.enum(['backend', 'expiry-only']),
    settings: parameters,
    secrets: z.record(name, secret).default({}),
  })

  const cap = z.int().min(1).max(1_000_000).default(100)
  const signals = z.strictObject({
    sources: z
      .array(
        z.strictObject({
          name,
          secret,
          /** Trust issuers about whose identities this source may speak; a signal about others is refused. */
          issuers: z.array(name).min(1),
          /** Signals older than this are refused as replays. */
          maxAgeSeconds: seconds(10, 3_600).default(300),
        }),
      )
      .default([]),
    rules: z
      .array(
        z.strictObject({
          name,
          source: name.optional(),
          type: text(100).optional(),
          minSeverity: z.enum(['low', 'medium', 'high', 'critical']).default('low'),
          act: z.discriminatedUnion('kind', [
            /** Ends what is alive. More than `cap` credentials or tasks are not ended before a person has said so. */
            z.strictObject({ kind: z.literal('revoke'), cap }),
            /** Denies what is new. */
            z.strictObject({ kind: z.literal('quarantine'), seconds: seconds(10, 604_800) }),
            /** Gives the open tasks so many seconds more, or less if they end sooner anyway. */
            z.strictObject({ kind: z.literal('shorten'), seconds: seconds(5, 86_400), cap }),
          ]),
        }),
      )
      .default([]),
  })

  /** Who may say that a job run is over: one webhook of a CI provider. */
  const hookCommon = {
    name,
    /** The trust issuer whose runs it speaks about. */
    issuer: name,
    /** The webhook's own secret. */
    secret,
  }
  const ids = (what: string) => z.array(z.string().regex(/^[1-9]\d{0,19}$/, `must be a number in quotes: a ${what}`)).min(1)
  const hook = z.discriminatedUnion('kind', [
    z.strictObject({
      ...hookCommon,
      kind: z.literal('github'),
      /** `repository_owner_id` of those whose runs it may end. */
      owners: ids('repository_owner_id'),
    }),
    z.strictObject({
      ...hookCommon,
      kind: z.literal('gitlab'),
      /** True: the secret is a signing token (`whsec_…`) and every event is signed. False: it is the secret token that GitLab sends along. */
      signed: z.boolean().default(true),
      /** `project_id` of those whose jobs it may end. Namespaces are not offered: an event names its project by number, its namespace by a name that is given out again. */
      projects: ids('project_id'),
    }),
    z.strictObject({
      ...hookCommon,
      kind: z.literal('buildkite'),
      /** `pipeline_id` of those whose jobs it may end. */
      pipelines: z.array(z.string().regex(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, 'must be a pipeline_id')).min(1),
    }),
  ])

  /** Of every replica by itself, in its memory. */
  const rate = (perSecond: number, burst: number) =>
    orOff({ perSecond: z.int().min(1).max(1_000_000).default(perSecond), burst: z.int().min(1).max(1_000_000).default(burst) }).prefault({})
  const limits = z.strictObject({
    /** Requests that ask for something, by the address that they come from: IPv6 by its /64. */
    source: rate(1_000, 5_000),
    /** The same, by attested identity. */
    identity: rate(50, 1_000),
    /** One identity that asks for so many different capabilities within the time raises the signal `curfew.breadth`. */
    breadth: orOff({ capabilities: z.int().min(2).max(1_000).default(20), withinSeconds: seconds(1, 3_600).default(60) }).prefault({}),
  })

  const shape = z.strictObject({
    /** `dev` admits memory kinds, http and loopback; never say it in production. */
    mode: z.enum(['production', 'dev']).default('production'),
    server: z.strictObject({
      /** The public URL: issuer of every token, audience of evidence, base of every `htu`. */
      url: httpUrl.refine(u => !u.endsWith('/'), 'must not end in /'),
      listen: hostPort.default('127.0.0.1:8787'),
      /** Metrics and verbose health; never public. */
      internal: hostPort.default('127.0.0.1:8786'),
      maxConnections: z.int().min(10).max(100_000).default(5_000),
      /** After SIGTERM, how long `/readyz` says so while everything that comes is served: a balancer's own time to notice. Default 5 s, in dev mode 0. */
      drainMs: z.int().min(0).max(60_000).optional(),
      /** `required`: every proof repeats a nonce of ours (RFC 9449 section 8), so that a key that somebody once held is good for no later proof. */
      dpopNonce: z.enum(['off', 'required']).default('off'),
    }),
    store: z.discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('postgres'), url: secret, maxConnections: z.int().min(2).max(200).default(16), caFile: file.optional() }),
      z.strictObject({ kind: z.literal('pglite'), dir: file }),
      z.strictObject({ kind: z.literal('memory') }),
    ]),
    queue: z.discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('redis'), url: secret, prefix: name.default('curfew') }),
      z.strictObject({ kind: z.literal('memory') }),
    ]),
    signer: z.discriminatedUnion('kind', [
      /** 32 random bytes, base64, kept outside the data directory. */
      z.strictObject({ kind: z.literal('sealed'), masterKey: secret, publishAheadSeconds: seconds(0, 86_400).default(600) }),
      z.strictObject({ kind: z.literal('transit'), mount: text(100).default('transit'), key: text(100), publishAheadSeconds: seconds(0, 86_400).default(600) }),
    ]),
    vault: z
      .strictObject({
        address: httpUrl,
        namespace: text(200).optional(),
        caFile: file.optional(),
        /** The token role under which per-issuance tokens are made. */
        tokenRole: text(100).default('curfew'),
        issuer: vaultAuth,
        revoker: vaultAuth,
        reconciler: vaultAuth.optional(),
      })
      .optional(),
    issuers: z.array(z.discriminatedUnion('kind', [oidcIssuer, spiffeIssuer, registeredIssuer])).min(1),
    audiences: z.array(audience).default([]),
    engines: z.array(engineModule).default([]),
    capabilities: z.array(capability).min(1),
    policies: z.strictObject({ dir: file }),
    signals: signals.default({ sources: [], rules: [] }),
    hooks: z.array(hook).default([]),
    limits: limits.prefault({}),
    tasks: z
      .strictObject({
        maxLifeSeconds: seconds(10, 86_400).default(21_600),
        defaultLifeSeconds: seconds(10, 86_400).default(3_600),
        heartbeatSeconds: seconds(1, 600).default(15),
      })
      .default({ maxLifeSeconds: 21_600, defaultLifeSeconds: 3_600, heartbeatSeconds: 15 }),
    timers: z
      .strictObject({
        sweepMs: z.int().min(50).max(86_400_000).default(5_000),
        reconcileMs: z.int().min(200).max(86_400_000).default(60_000),
        pollMs: z.int().min(50).max(60_000).default(1_000),
        /** The dead man's switch of a per-issuance Vault token. */
        issuanceTokenSeconds: seconds(3, 90).default(90),
      })
      .default({ sweepMs: 5_000, reconcileMs: 60_000, pollMs: 1_000, issuanceTokenSeconds: 90 }),
    log: z.strictObject({ level: z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info') }).default({ level: 'info' }),
  })

  return shape.superRefine((config, ctx) => {
    const refuse = (path: (string | number)[], message: string) => ctx.addIssue({ code: 'custom', path, message })
    const unique = (list: readonly { name: string }[], at: (string | number)[]) => {
      const seen = new Set<string>()
      for (const [i, item] of list.entries()) {
        if (seen.has(item.name)) refuse([...at, i, 'name'], `is used twice: ${item.name}`)
        seen.add(item.name)
      }
      return seen
    }
    const issuers = unique(config.issuers, ['issuers'])
    const audiences = unique(config.audiences, ['audiences'])
    unique(config.capabilities, ['capabilities'])
    const sources = unique(config.signals.sources, ['signals', 'sources'])
    if (sources.has(OURSELVES))
      refuse(['signals', 'sources', config.signals.sources.findIndex(s => s.name === OURSELVES), 'name'], 'is the name of what Curfew sees itself')
    sources.add(OURSELVES)
    unique(config.signals.rules, ['signals', 'rules'])
    if (config.server.listen === config.server.internal && !config.server.listen.endsWith(':0'))
      refuse(['server', 'internal'], 'is the public listener: metrics and verbose health need one of their own')
    if (config.tasks.defaultLifeSeconds > config.tasks.maxLifeSeconds) refuse(['tasks', 'defaultLifeSeconds'], 'is above maxLifeSeconds')

    if (config.mode === 'production') {
      if (!config.server.url.startsWith('https://')) refuse(['server', 'url'], 'must be https outside dev mode')
      if (config.store.kind === 'memory') refuse(['store', 'kind'], 'memory is for dev, demo and tests: it forgets every revocation at exit')
      if (config.queue.kind === 'memory') refuse(['queue', 'kind'], 'memory is for dev, demo and tests')
      if (config.signer.publishAheadSeconds < PUBLISH_AHEAD_MIN)
        refuse(
          ['signer', 'publishAheadSeconds'],
          `must be ${PUBLISH_AHEAD_MIN} or more: verifiers may keep our key set for 300 s, and would refuse a key that they do not know`,
        )
    }
    const uris = new Map<string, number>()
    for (const [i, a] of config.audiences.entries()) {
      if (uris.has(a.uri)) refuse(['audiences', i, 'uri'], `is registered twice: ${a.uri}`)
      uris.set(a.uri, i)
      if (a.uri === config.server.url) refuse(['audiences', i, 'uri'], 'is the server itself: task tokens would pass for access tokens')
    }
    const keyOf = new Map<string, number>()
    for (const [i, issuer] of config.issuers.entries()) {
      const key = issuer.kind === 'oidc' ? issuer.issuer : issuer.kind === 'spiffe' ? `spiffe://${issuer.trustDomain}` : `registered:${issuer.name}`
      if (keyOf.has(key)) refuse(['issuers', i], `is registered twice: ${key}`)
      keyOf.set(key, i)
      if (issuer.kind === 'oidc') {
        const shared = sharedIssuer(issuer.issuer)
        if (shared && !shared.some(claim => issuer.pin[claim])) {
          refuse(['issuers', i, 'pin'], `this issuer serves many tenants: pin one of ${shared.join(', ')}, or anybody with an account there may ask`)
        }
        const claim = PROFILE_ISSUER[issuer.profile]
        if (claim && new URL(issuer.issuer).host === claim.host && !claim.form.test(issuer.issuer)) refuse(['issuers', i, 'issuer'], claim.message)
        if (issuer.audience !== undefined && isDefaultAudience(issuer.profile, issuer.issuer, issuer.audience))
          refuse(['issuers', i, 'audience'], 'is what every token of this provider is for by default: whoever is given one could use it here')
        if (config.mode === 'production' && !issuer.internal && !issuer.issuer.startsWith('https://'))
          refuse(['issuers', i, 'issuer'], 'must be https unless the issuer is marked internal')
      }
      if (issuer.kind === 'registered') unique(issuer.agents, ['issuers', i, 'agents'])
    }
    const kinds = new Set<string>()
    for (const [i, e] of config.engines.entries()) {
      if (kinds.has(e.kind)) refuse(['engines', i, 'kind'], `is used twice: ${e.kind}`)
      kinds.add(e.kind)
    }
    for (const [i, c] of config.capabilities.entries()) {
      if (c.audience !== undefined && !audiences.has(c.audience)) refuse(['capabilities', i, 'audience'], `names no audience: ${c.audience}`)
      if (!(BUILT_IN_ENGINES as readonly string[]).includes(c.engine) && !kinds.has(c.engine))
        refuse(['capabilities', i, 'engine'], `names no engine: ${c.engine}; ours are ${BUILT_IN_ENGINES.join(', ')}`)
      if (c.engine === 'jwt' && c.audience === undefined) refuse(['capabilities', i, 'audience'], 'the jwt engine needs an audience')
      if (c.ttlSeconds > c.maxTtlSeconds) refuse(['capabilities', i, 'ttlSeconds'], 'is above maxTtlSeconds')
      if (c.engine === 'memory' && config.mode === 'production') refuse(['capabilities', i, 'engine'], 'memory is for dev, demo and tests')
    }
    const atVault = config.capabilities.find(c => c.engine.startsWith('vault-'))
    if (atVault && !config.vault) refuse(['vault'], `is needed by capability ${atVault.name}`)
    if (config.signer.kind === 'transit' && !config.vault) refuse(['vault'], 'is needed by signer.kind transit')
    for (const [i, s] of config.signals.sources.entries()) {
      for (const [j, n] of s.issuers.entries()) if (!issuers.has(n)) refuse(['signals', 'sources', i, 'issuers', j], `names no trust issuer: ${n}`)
    }
    unique(config.hooks, ['hooks'])
    for (const [i, h] of config.hooks.entries()) {
      const issuer = config.issuers.find(x => x.name === h.issuer)
      if (sources.has(h.name)) refuse(['hooks', i, 'name'], `is the name of a signal source: ${h.name}`)
      if (!issuer) refuse(['hooks', i, 'issuer'], `names no trust issuer: ${h.issuer}`)
      else if (issuer.kind !== 'oidc' || issuer.profile !== h.kind) refuse(['hooks', i, 'issuer'], `is not an issuer of profile ${h.kind}`)
      else {
        const { at, claim, ids } = scopeOf(h)
        const pinned = issuer.pin[claim]
        for (const [j, o] of ids.entries())
          if (pinned && !pinned.includes(o)) refuse(['hooks', i, at, j], `is outside the pin of issuer ${issuer.name}: nothing of it can exist here`)
      }
    }
    for (const [i, r] of config.signals.rules.entries()) {
      if (r.source !== undefined && !sources.has(r.source)) refuse(['signals', 'rules', i, 'source'], `names no signal source: ${r.source}`)
    }
  })
}

export type Config = z.output<ReturnType<typeof configSchema>>
export type IssuerConfig = Config['issuers'][number]
export type OidcIssuerConfig = Extract<IssuerConfig, { kind: 'oidc' }>
export type SpiffeIssuerConfig = Extract<IssuerConfig, { kind: 'spiffe' }>
export type RegisteredIssuerConfig = Extract<IssuerConfig, { kind: 'registered' }>
export type VaultConfig = NonNullable<Config['vault']>
export type VaultAuth = VaultConfig['issuer']
export type HookConfig = Config['hooks'][number]

/** What a hook is registered for: where it stands, the claim of evidence that it is compared with, and its values. */
export function scopeOf(hook: HookConfig): { at: string; claim: string; ids: readonly string[] } {
  switch (hook.kind) {
    case 'github':
      return { at: 'owners', claim: 'repository_owner_id', ids: hook.owners }
    case 'gitlab':
      return { at: 'projects', claim: 'project_id', ids: hook.projects }
    case 'buildkite':
      return { at: 'pipelines', claim: 'pipeline_id', ids: hook.pipelines }
    default:
      return hook satisfies never
  }
}

/** Issuers that are one for each organization: the address without it, or another form of it, is nobody's. */
const PROFILE_ISSUER: Partial<Record<OidcIssuerConfig['profile'], { host: string; form: RegExp; message: string }>> = {
  circleci: {
    host: 'oidc.circleci.com',
    form: /^https:\/\/oidc\.circleci\.com\/org\/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
    message: 'is not the issuer of one organization: https://oidc.circleci.com/org/<organization id>',
  },
}

/** A job hands such tokens to all kinds of services; each of them could hand it on to us (P10). */
function isDefaultAudience(profile: OidcIssuerConfig['profile'], issuer: string, audience: string): boolean {
  if (profile === 'github') return /^https:\/\/github\.com\/[^/]+\/?$/.test(audience)
  if (profile === 'gitlab') return audience === issuer
  if (profile === 'buildkite') return /^https:\/\/buildkite\.com\//.test(audience)
  if (profile === 'circleci') return issuer.endsWith(`/org/${audience}`)
  return false
}

/** The claims of which one must be pinned before an issuer that signs for everybody may load (T33, P9). Null: one tenant only. */
function sharedIssuer(issuer: string): readonly string[] | null {
  if (/^https:\/\/token\.actions\.githubusercontent\.com(\/|$)/.test(issuer)) return ['repository_id', 'repository_owner_id', 'enterprise_id']
  if (issuer === 'https://gitlab.com') return ['namespace_id', 'project_id']
  if (issuer === 'https://agent.buildkite.com') return ['organization_id']
  if (issuer === 'https://accounts.google.com') return ['google/compute_engine/project_id', 'sub', 'email']
  if (/^https:\/\/(sts\.windows\.net|login\.microsoftonline\.com)\//.test(issuer)) return ['tid', 'oid']
  return null
}
