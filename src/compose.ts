/** Owns the meeting of verbs and adapters: the only file that names implementations. */
import { readFile } from 'node:fs/promises'
import { oidcAttestor } from './attestors/oidc.js'
import { registeredAttestor } from './attestors/registered.js'
import { spiffeAttestor } from './attestors/spiffe.js'
import { type Broker, createBroker } from './broker/broker.js'
import type { BrokerDeps, Issuer, Log } from './broker/deps.js'
import { type Limits, TELL_MS } from './broker/ration.js'
import { createOutbound } from './clients/outbound.js'
import { composeEngines } from './compose-engines.js'
import { composeQueue } from './compose-queue.js'
import { toAudiences, toCapabilities } from './config.js'
import type { Config, IssuerConfig } from './config-schema.js'
import { breadth } from './domain/breadth.js'
import type { Audience } from './domain/capability.js'
import { dpopNonces } from './domain/dpop-nonce.js'
import type { CredentialId } from './domain/ids.js'
import { limiter, tally } from './domain/rate.js'
import type { Secret } from './domain/secret.js'
import { OURSELVES } from './domain/signal.js'
import type { Doorbell } from './feed/doorbell.js'
import { createLog, type Logger } from './log.js'
import { createMetrics, type Metrics } from './metrics.js'
import { cedarPolicy } from './policy/cedar.js'
import type { Attestor, JobQueue, Store } from './ports.js'
import { retention, wrapperOf } from './signers/configured.js'
import { type LoadedSigner, openRing } from './signers/key-ring.js'
import { nonceKey } from './signers/nonce-key.js'
import { sealDigest } from './signers/sealed.js'
import { MIGRATIONS } from './store/migrate.js'
import { openStore } from './store/open.js'

export interface App {
  readonly config: Config
  readonly broker: Broker
  readonly deps: BrokerDeps
  readonly store: Store
  readonly signer: LoadedSigner
  readonly queue: JobQueue
  readonly doorbell: Doorbell
  readonly audiences: readonly (Audience & { readonly secret: Secret | null })[]
  readonly sealDigest: (digest: string) => string
  readonly log: Logger
  readonly metrics: Metrics
  /** In reverse order of opening; waits for nothing that is already gone. */
  close(): Promise<void>
}

/** What a test puts in another's place. */
export interface Overrides {
  readonly log?: Logger
  readonly store?: (sealDigest: (digest: string) => string) => Promise<Store>
  /** Milliseconds, for the limits on requests. */
  readonly monotonic?: () => number
}

export async function compose(config: Config, overrides: Overrides = {}): Promise<App> {
  const log = overrides.log ?? createLog({ level: config.log.level })
  const metrics = createMetrics()
  const closing: (() => Promise<void> | void)[] = []
  try {
    const { wrapper, close: closeWrapper } = await wrapperOf(config, log)
    closing.push(closeWrapper)
    const seal = await sealDigest(wrapper)
    const store = overrides.store ? await overrides.store(seal) : await openStore(config.store, { migrationsDir: MIGRATIONS, sealDigest: seal, log })
    closing.push(() => store.close())
    const signer = await openRing({
      keys: store.keys,
      clock: store.clock,
      wrapper,
      publishAheadSeconds: config.signer.publishAheadSeconds,
      retainSeconds: retention(config),
      onFault: fault => log.error({ err: fault }, 'the signing keys could not be refreshed'),
    })
    closing.push(() => signer.close())

    const capabilities = toCapabilities(config)
    const policy = await cedarPolicy({
      dir: config.policies.dir,
      capabilities,
      issuers: config.issuers.map(i => i.name),
      genericClaims: genericClaims(config.issuers),
      log,
    })
    const { queue, doorbell, close: closeQueue } = await composeQueue(config, log)
    closing.push(closeQueue)
    const isLive = async (id: CredentialId) => (await store.credentials.live(id)) !== null
    const { engines, reconcilables, close } = await composeEngines(config, {
      signer,
      isLive,
      liveAmong: ids => store.credentials.liveAmong(ids),
      leaseOwners: ids => store.credentials.leaseOwners(ids),
      clock: store.clock,
      log,
    })
    closing.push(close)
    for (const [i, c] of capabilities.entries()) named(`capabilities.${i}.parameters`, () => engines.get(c.engine)?.check(c.parameters))

    const deps: BrokerDeps = {
      serverUrl: config.server.url,
      store,
      attestors: await composeAttestors(config, store, log),
      policy,
      engines,
      reconcilables,
      signer,
      queue,
      publisher: doorbell,
      capabilities: new Map(capabilities.map(c => [c.name, c])),
      audiences: new Map(toAudiences(config).map(a => [a.name, a])),
      issuers: new Map(config.issuers.map(i => [i.name, issuerOf(i)])),
      // What we see ourselves may be said of everybody.
      signals: { ...config.signals, sources: [...config.signals.sources, { name: OURSELVES, issuers: config.issuers.map(i => i.name) }] },
      limits: limitsOf(config.limits, overrides.monotonic),
      nonces: config.server.dpopNonce === 'required' ? dpopNonces(await nonceKey(wrapper)) : null,
      tasks: config.tasks,
      log,
      meter: metrics.meter,
    }
    return {
      config,
      broker: createBroker(deps),
      deps,
      store,
      signer,
      queue,
      doorbell,
      audiences: toAudiences(config).map((a, i) => ({ ...a, secret: config.audiences[i]?.secret ?? null })),
      sealDigest: seal,
      log,
      metrics,
      close: () => closeAll(closing, log),
    }
  } catch (error) {
    await closeAll(closing, log)
    throw error
  }
}

async function composeAttestors(config: Config, store: Store, log: Log): Promise<readonly Attestor[]> {
  const of = <K extends IssuerConfig['kind']>(kind: K) => config.issuers.filter((i): i is Extract<IssuerConfig, { kind: K }> => i.kind === kind)
  const deps = { serverUrl: config.server.url, clock: store.clock, outbound: createOutbound(), readFile: (path: string) => readFile(path, 'utf8'), log }
  return [oidcAttestor(of('oidc'), deps), spiffeAttestor(of('spiffe'), deps), await registeredAttestor(of('registered'), deps)]
}

const limitsOf = (limits: Config['limits'], monotonic = () => performance.now()): Limits => ({
  source: limits.source ? limiter(limits.source) : null,
  identity: limits.identity ? limiter(limits.identity) : null,
  breadth: limits.breadth ? { ...limits.breadth, of: breadth(limits.breadth) } : null,
  told: tally(TELL_MS),
  monotonic,
})

function issuerOf(i: IssuerConfig): Issuer {
  const of = { enabled: i.enabled, maxTtlSeconds: i.maxTtlSeconds, identityPrefix: i.kind === 'spiffe' ? `spiffe://${i.trustDomain}/` : `${i.name}:` }
  switch (i.kind) {
    case 'oidc':
      return { ...of, attests: { kind: 'oidc', profile: i.profile, strength: i.strength, owner: i.owner } }
    case 'spiffe':
      return { ...of, attests: { kind: 'spiffe', profile: 'spiffe', strength: 3, owner: i.owner } }
    case 'registered':
      return { ...of, attests: { kind: 'registered', profile: 'registered', strength: 1, owner: null } }
    default:
      return i satisfies never
  }
}

function genericClaims(issuers: readonly IssuerConfig[]): string[] {
  return issuers.flatMap(i => (i.kind === 'oidc' && i.profile === 'generic' ? [...i.identityClaims, ...i.attributeClaims] : []))
}

/** A refusal of an engine's own parameters, told by the path they stand at. */
function named(path: string, check: () => void): void {
  try {
    check()
  } catch (error) {
    if (error instanceof Error) error.message = `${path}: ${error.message}`
    throw error
  }
}

async function closeAll(closing: (() => Promise<void> | void)[], log: Log): Promise<void> {
  for (const close of closing.splice(0).reverse()) {
    try {
      await close()
    } catch (error) {
      log.warn({ err: error }, 'something did not close in order')
    }
  }
}
