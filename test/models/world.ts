/** Owns the world of the models: one store, one Vault, one queue, and processes with the real broker that die and come again over them. */
import { setTimeout as sleep } from 'node:timers/promises'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { type Broker, createBroker } from '../../src/broker/broker.js'
import type { BrokerDeps } from '../../src/broker/deps.js'
import { createVault, type VaultClient } from '../../src/clients/vault.js'
import type { Audience } from '../../src/domain/capability.js'
import type { Credential } from '../../src/domain/credential.js'
import type { CredentialId } from '../../src/domain/ids.js'
import { Secret } from '../../src/domain/secret.js'
import type { Task } from '../../src/domain/task.js'
import type { Evidence, Mark } from '../../src/domain/workload.js'
import { jwtEngine } from '../../src/engines/jwt.js'
import { DATABASE_PARAMETERS, vaultDatabaseEngine } from '../../src/engines/vault-database.js'
import { vaultUpstream } from '../../src/engines/vault-upstream.js'
import type { Attestor, CredentialEngine, PolicyEngine, Signer, Store } from '../../src/ports.js'
import { type MemoryQueue, memoryQueue } from '../../src/queue/memory.js'
import { capability, DIGEST, mark, unique } from '../conformance/store/fixtures.js'
import { type FakeVault, fakeVault } from '../fake-vault.js'
import { FAILPOINTS, type Place, reached, Walk, wanted } from './failpoint.js'
import { childJkt, type EvidenceDesk, evidenceDesk, presentedBy } from './holder.js'
import { Life, type Order, sessionOf } from './life.js'
import type { Time } from './stores.js'

const quiet = { debug() {}, info() {}, warn() {}, error() {} }
const meter = new Proxy({}, { get: () => () => {} }) as BrokerDeps['meter']
/** Deadlines of the verbs are tested elsewhere. */
export const signal = () => new AbortController().signal

/** What a process is put together from, for those that put it together otherwise on purpose. */
export interface Parts {
  readonly store: Store
  readonly engine: CredentialEngine
  readonly policy: PolicyEngine
}
export type Mistake = (parts: Parts) => Parts

export interface World {
  readonly store: Store
  readonly vault: FakeVault
  /** Redis: it outlives the processes. */
  readonly queue: MemoryQueue
  readonly evidence: EvidenceDesk
  readonly clients: { readonly issuer: VaultClient; readonly revoker: VaultClient; readonly reconciler: VaultClient }
  /** A new process; the dead keep nothing. */
  start(options?: { mistake?: Mistake; order?: Order }): Process
  /** Moves the one time. A read that Vault has begun ends within Vault's own limit. */
  advance(seconds: number): Promise<void>
  /** Reads that Vault has begun are answered, whether or not somebody still waits. */
  letReadsGo(): Promise<void>
  close(): Promise<void>
}

export type Delivered = { readonly credential: Credential; readonly fields: Readonly<Record<string, string>> }

export interface Process {
  readonly broker: Broker
  /** Now and for good: what it awaits never comes, what it sent has been sent. */
  die(): Promise<void>
  /** @param options.evidence made freshly. @param options.key asks again for what was asked for under it. */
  issue(task: Task, options?: { ttlSeconds?: number; capability?: string; proof?: Mark; evidence?: Evidence; key?: string }): Walk<Delivered>
  /** A database user and a token: all or none. Its audit rows bear a request id of its own, which begins with BUNDLE. */
  bundle(task: Task, options?: { ttlSeconds?: number; proof?: Mark }): Walk<readonly Delivered[]>
  heartbeat(task: Task): Walk<Task>
  /** A task below for another key, without evidence of its own: the grant, and the opening with it. */
  delegate(task: Task, options?: { capabilities?: readonly string[]; lifeSeconds?: number }): Walk<Task>
  /** Works everything that waits in the queue. */
  work(): Promise<void>
}

export const BUNDLE = 'bundle'
export const AT_VAULT = capability({ name: 'db/orders-ro', engine: 'vault-database' })
/** Made by a local computation: recorded in the one transaction after signing. */
export const LOCAL = { ...capability({ name: 'api/orders-ro', engine: 'jwt', revocation: 'instant' }), audience: 'orders' }
export const ORDERS: Audience = { name: 'orders', uri: 'https://orders.example/', alg: 'ES256', senderConstrained: true, introspects: true }
const PARAMETERS = DATABASE_PARAMETERS.parse({ role: 'orders-ro', policy: 'curfew-cap-orders-ro', connection: { host: 'db.example', database: 'orders' } })

const SERVER = 'https://curfew.example'
const proofMark = (store: Store) => mark(store, { namespace: 'dpop:k' })

/** Just below Vault's own limit on a request. */
const READ_SECONDS = 89
const monotonic = () => performance.now() / 1000

export async function makeWorld(store: Store, time: Time): Promise<World> {
  const vault = await fakeVault({ roleTtlSeconds: 20_000 })
  const identity = (name: string) => ({ method: 'token' as const, token: Secret.token(vault.tokenWith(`curfew-${name}`)) })
  const config = { address: vault.address, tokenRole: 'curfew', issuer: identity('issuer'), revoker: identity('revoker'), reconciler: identity('reconciler') }
  const client = (name: 'issuer' | 'revoker' | 'reconciler') => createVault(config, name, { log: quiet })
  const clients = { issuer: client('issuer'), revoker: client('revoker'), reconciler: client('reconciler') }
  const queue = memoryQueue()
  const evidence = evidenceDesk(store)
  const locks = new Map<string, Life>()
  const held: { open(): void; readonly answered: Promise<unknown>; readonly begunAt: number }[] = []

  /** Stops a read that Vault has begun: what it registers in the end does not ask whether its token still lives. */
  const stoppable = (usual: VaultClient): VaultClient['readDynamic'] => {
    return async (...args) => {
      if (!wanted('in flight')) return usual.readDynamic(...args)
      const open = vault.holdReads()
      const before = vault.seen.length
      // Not by way of the process: a dead one would be waited for until this answer came.
      const answer = clients.issuer.readDynamic(...args)
      const answered = answer.catch(() => {})
      while (vault.seen.length === before) await sleep(1)
      await sleep(1)
      // Later reads pass: this one waits at a gate of its own.
      vault.holdReads()()
      held.push({ open, answered, begunAt: monotonic() })
      await reached('in flight')
      open()
      return answer
    }
  }
  async function letGo(seconds: number): Promise<void> {
    for (const read of held.filter(h => monotonic() - h.begunAt >= seconds)) {
      held.splice(held.indexOf(read), 1)
      read.open()
      await read.answered
    }
  }

  return {
    store,
    vault,
    queue,
    evidence,
    clients,
    start({ mistake = (parts: Parts) => parts, order } = {}) {
      const life = new Life(order)
      const own = sessionOf(store, life, locks)
      const upstream = vaultUpstream({
        reconciler: life.guard(clients.reconciler),
        clock: store.clock,
        engines: ['vault-database'],
        paths: [{ capability: AT_VAULT.name, prefix: `${PARAMETERS.mount}/creds/${PARAMETERS.role}` }],
        credentialOf: ids => own.credentials.leaseOwners(ids),
      })
      const issuer = life.guard(clients.issuer)
      const engine = vaultDatabaseEngine({
        issuer: { ...issuer, readDynamic: stoppable(issuer) },
        revoker: life.guard(clients.revoker),
        clock: store.clock,
        targetOf: () => null,
        parametersOf: () => PARAMETERS,
        issuanceTokenSeconds: 90,
        clearSince: name => upstream.clearSince(name),
      })
      const broker = createBroker(depsOf(mistake({ store: own, engine, policy: permits }), queue, [upstream], evidence.attestor))
      return processOver(broker, life, store, queue)
    },
    letReadsGo: () => letGo(0),
    async advance(seconds) {
      for (let left = seconds; left > 0; ) {
        const next = Math.min(left, ...held.map(h => Math.max(h.begunAt + READ_SECONDS - monotonic(), 0.001)))
        time.advance(next)
        left -= next
        await letGo(READ_SECONDS)
      }
      await store.ping()
    },
    async close() {
      await letGo(0)
      await Promise.all(Object.values(clients).map(c => c.close()))
      await vault.close()
    },
  }
}

const permits: PolicyEngine = {
  digest: DIGEST,
  decide: () => ({ allowed: true, policies: ['orders-read'], obligations: { maxTtlSeconds: null, requireProof: false }, digest: DIGEST, fault: null }),
  explain: () => ({ nearestRule: null, failed: [], forbiddenBy: [] }),
  reload: async () => DIGEST,
}

const key = generateKeyPair('ES256', { extractable: true })
const signer: Signer = {
  sign: async (_class, typ, claims, alg) => ({
    token: await new SignJWT(claims).setProtectedHeader({ alg, typ, kid: 'k1' }).sign((await key).privateKey),
    kid: 'k1',
  }),
  jwks: async () => ({ keys: [{ ...(await exportJWK((await key).publicKey)), kid: 'k1', alg: 'ES256', use: 'sig' }] }),
  refresh: () => {},
}

function depsOf({ store, engine, policy }: Parts, queue: MemoryQueue, reconcilables: BrokerDeps['reconcilables'], attestor: Attestor): BrokerDeps {
  const serverUrl = SERVER
  const signs = jwtEngine({ issuerUrl: serverUrl, signer, clock: store.clock, isLive: async id => (await store.credentials.live(id)) !== null })
  const local: CredentialEngine = {
    ...signs,
    async mint(...args) {
      const minted = await signs.mint(...args)
      await reached('signed')
      return minted
    },
  }
  return {
    serverUrl,
    store,
    attestors: [attestor],
    policy,
    engines: new Map([engine, local].map(e => [e.kind, e])),
    reconcilables,
    signer,
    queue,
    publisher: { publish: async () => {}, close: async () => {} },
    capabilities: new Map([AT_VAULT, LOCAL].map(c => [c.name, { ...c, maxEvidenceAgeSeconds: 86_400 }])),
    audiences: new Map([[ORDERS.name, ORDERS]]),
    issuers: new Map([
      ['github', { enabled: true, maxTtlSeconds: 7_200, identityPrefix: 'github:', attests: { kind: 'oidc', profile: 'github', strength: 3, owner: null } }],
    ]),
    nonces: null,
    signals: { sources: [], rules: [] },
    limits: { source: null, identity: null, breadth: null, told: { tell: () => null }, monotonic: () => 0 },
    tasks: { maxLifeSeconds: 86_400, defaultLifeSeconds: 3_600 },
    log: quiet,
    meter,
  }
}

/** A failed issue ends in a revocation of its own, which is no part of its walk. */
const ISSUE_PLACES: readonly Place[] = [...FAILPOINTS.filter(f => f.startsWith('issue.')), 'signed', 'judged']

function processOver(broker: Broker, life: Life, store: Store, queue: MemoryQueue): Process {
  const handlers = {
    expire: async () => void (await broker.expireDue(signal())),
    destroy: (job: { credential: CredentialId; version: number }) => broker.destroy(job.credential, job.version, signal()),
    signal: () => {},
  }
  return {
    broker,
    die: () => life.end(),
    issue: (task, { ttlSeconds = 600, capability = AT_VAULT.name, proof = proofMark(store), evidence = null, key } = {}) =>
      new Walk(async () => {
        const idempotency = key === undefined ? null : { key, hash: `${capability} ${ttlSeconds}` }
        const ask = { capability, ttlSeconds, params: {}, evidence, idempotency }
        const { credential, secret } = await broker.issue({ task, jkt: task.jkt, marks: [proof] }, ask, null, signal())
        return { credential, fields: secret.reveal() }
      }, ISSUE_PLACES),
    bundle: (task, { ttlSeconds = 600, proof = mark(store, { namespace: 'dpop:k' }) } = {}) =>
      new Walk(async () => {
        const parts = [AT_VAULT, LOCAL].map(c => ({ capability: c.name, ttlSeconds, params: {} }))
        const ask = { parts, evidence: null, idempotency: null }
        const issued = await broker.issueBundle({ task, jkt: task.jkt, marks: [proof] }, ask, unique(BUNDLE), signal())
        return issued.map(({ credential, secret }) => ({ credential, fields: secret.reveal() }))
      }, ISSUE_PLACES),
    heartbeat: task => new Walk(() => broker.heartbeat({ task, jkt: task.jkt, marks: [proofMark(store)] }, null), []),
    delegate: (task, { capabilities = task.capabilities, lifeSeconds = 3_600 } = {}) =>
      new Walk(async () => {
        const to = { identity: null, jkt: await childJkt }
        const { grant } = await broker.delegate({ task, jkt: task.jkt, marks: [proofMark(store)] }, { capabilities, to, lifeSeconds, purpose: null }, null)
        const presented = await presentedBy(store, SERVER, '/v1/tasks')
        const ask = { evidence: null, grant: grant.reveal().token as string, presented, purpose: 'below', capabilities, lifeSeconds }
        const { task: child } = await broker.openTask({ ...ask, owner: null, labels: {}, heartbeatSeconds: null }, null, signal())
        return child
      }, []),
    work: async () => void (await queue.run(handlers, { until: store.clock.now(), limit: 500 })),
  }
}
