/** Owns the nouns that the store's suites are told with: workloads, tasks, permits, grants, and what was minted. */
import type { Capability, RevocationClass } from '../../../src/domain/capability.js'
import type { Credential } from '../../../src/domain/credential.js'
import { type Decision, Grant } from '../../../src/domain/decision.js'
import { namedId, newId, type PolicyId } from '../../../src/domain/ids.js'
import type { Selector } from '../../../src/domain/revocation.js'
import { Secret } from '../../../src/domain/secret.js'
import type { NewTask, Task, TaskAttestation } from '../../../src/domain/task.js'
import type { Mark } from '../../../src/domain/workload.js'
import type { Context, IntendOptions, Minted, Store } from '../../../src/ports.js'

/** A store with hands on its clock. */
export interface StoreHouse {
  readonly store: Store
  /** Moves the store's time forward. */
  advance(seconds: number): Promise<void>
}
/** A fresh, empty store for one test. */
export type MakeStore = () => Promise<StoreHouse>

export const DIGEST = 'pol_00000000000000000000000000' as PolicyId
export const context: Context = { requestId: 'req-1', actor: { kind: 'workload', id: 'test' } }
export const operator = { kind: 'operator' as const, id: 'opr_test' }

/** Denies new credentials to one scope. */
export const quarantine = (store: Store, selector: Selector, seconds: number, message: string | null = null) =>
  store.quarantines.set({ id: newId('quarantine'), selector, seconds, message }, { requestId: null, actor: operator })
export const later = (at: Date, seconds: number) => new Date(at.getTime() + seconds * 1000)
export const sealed = (digest: string) => `sealed:${digest}`
export const errorCode = (code: string, reason?: string) => ({ name: 'CurfewError', code, facts: reason === undefined ? expectAny : { ...expectAny, reason } })
const expectAny = {}

let count = 0
export const unique = (prefix: string) => `${prefix}-${++count}`

export function attestation(store: Store, over: Partial<TaskAttestation> = {}): TaskAttestation {
  const identity = over.identity ?? unique('github:repository_id=1')
  const issuer = over.issuer ?? 'github'
  return {
    issuer,
    issuerId: namedId('issuer', issuer),
    kind: 'oidc',
    profile: 'github',
    identity,
    identityId: namedId('identity', identity),
    owner: 'team-a',
    attributes: { ref: 'refs/heads/main', run: 7, protected: true, groups: ['a', 'b'] },
    strength: 2,
    evidenceAt: later(store.clock.now(), -1),
    expiresAt: later(store.clock.now(), 600),
    run: null,
    digest: unique('evidence'),
    ...over,
  }
}

export function newTask(store: Store, over: Partial<NewTask> = {}): NewTask {
  return {
    id: newId('task'),
    purpose: 'nightly build',
    capabilities: ['db/orders-ro'],
    parent: null,
    ancestors: [],
    actors: [],
    owner: 'team-a',
    labels: { ticket: 'OPS-1' },
    lifeSeconds: 3_600,
    heartbeatSeconds: null,
    attestation: attestation(store),
    jkt: 'key-thumbprint',
    ...over,
  }
}

export const childOf = (store: Store, parent: Task, over: Partial<NewTask> = {}): NewTask =>
  newTask(store, { parent: parent.id, ancestors: [parent.id, ...parent.ancestors], attestation: parent.attestation, ...over })

export function permit(task: Pick<NewTask, 'id' | 'attestation'>, capability: string, at: Date): Decision {
  return {
    id: newId('decision'),
    at,
    allowed: true,
    identity: task.attestation.identity,
    issuer: task.attestation.issuer,
    capability,
    task: task.id,
    policies: ['orders-read'],
    digest: DIGEST,
    obligations: { maxTtlSeconds: null, requireProof: false },
    reason: 'permitted',
    explanation: null,
    attributes: { ref: 'refs/heads/main' },
  }
}

export interface CapabilityLike {
  readonly name?: string
  readonly maxLive?: number
  readonly revocation?: RevocationClass
  readonly engine?: string
}

export const capability = ({ name = 'db/orders-ro', maxLive = 1_000, revocation = 'backend', engine = 'fake' }: CapabilityLike = {}): Capability => ({
  name,
  summary: 'read orders',
  engine,
  parameters: {},
  audience: null,
  scopes: [],
  ttlSeconds: 300,
  maxTtlSeconds: 3_600,
  maxEvidenceAgeSeconds: 900,
  sensitivity: 'medium',
  intent: 'read',
  maxLive,
  revocation,
})

type GrantFor = Pick<Task, 'id' | 'ancestors' | 'actors' | 'attestation' | 'jkt'> & { readonly deadlineAt?: Date }

export function grantFor(store: Store, task: GrantFor, over: CapabilityLike & { ttl?: number; decision?: Decision; issuedAt?: Date } = {}): Grant {
  const named = capability(over)
  const now = over.issuedAt ?? store.clock.now()
  return Grant.from(over.decision ?? permit(task, named.name, now), {
    credential: newId('credential'),
    capability: named,
    params: {},
    engineClass: named.revocation,
    audience: null,
    task: task.id,
    ancestors: task.ancestors,
    actors: task.actors,
    attestation: task.attestation,
    jkt: task.jkt,
    askedTtlSeconds: over.ttl ?? null,
    now,
    taskDeadline: task.deadlineAt ?? later(now, 3_600),
    issuerMaxTtlSeconds: 3_600,
  })
}

export const minted = (over: Partial<Minted> = {}): Minted => ({
  secret: Secret.token(unique('secret')),
  handle: { lease: unique('lease') },
  expiresAt: null,
  kid: null,
  ...over,
})

export const mark = (store: Store, over: Partial<Mark> = {}): Mark => ({
  namespace: 'evidence:github',
  id: unique('jti'),
  until: later(store.clock.now(), 600),
  ...over,
})

/** An open task, and a credential of it in the state asked for. */
export const openTask = (store: Store, over: Partial<NewTask> = {}): Promise<Task> => store.tasks.open(newTask(store, over), [], [], context)

export async function active(store: Store, task: Task, over: Parameters<typeof grantFor>[2] & { minted?: Partial<Minted> } = {}) {
  return store.credentials.record(grantFor(store, task, over), minted(over.minted), { marks: [], context })
}
export const pending = (store: Store, task: Task, over: Parameters<typeof grantFor>[2] = {}) =>
  intendOne(store, grantFor(store, task, over), { marks: [], context })

/** A bundle of one. */
export const intendOne = async (store: Store, grant: Grant, options: IntendOptions) => (await store.credentials.intend([grant], options))[0] as Credential
export const settleOne = async (store: Store, credential: Credential, made: Minted) =>
  (await store.credentials.settle([{ credential, minted: made }], context))?.[0] ?? null
