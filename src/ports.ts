/**
 * Owns every place where one deployment differs from another, each with what its implementer MUST do.
 * One conformance suite per port runs over every implementation (test/conformance/).
 */
import type { JWK, JWTPayload } from 'jose'
import type { AuditEvent, AuditKind, AuditRow } from './domain/audit.js'
import type { RevocationClass } from './domain/capability.js'
import type { Claim, Closed, Credential, CredentialFilter, CredentialState, Handle, Probe } from './domain/credential.js'
import type { AskParams, Decision, Explanation, Grant, PolicyAnswer, PolicyRequest } from './domain/decision.js'
import type { Attendance, Guard, GuardInstance, Presence } from './domain/guard.js'
import type { CredentialId, DecisionId, GuardId, OperatorId, PlanId, PolicyId, QuarantineId, ReceiptId, RevocationId, SignalId, TaskId } from './domain/ids.js'
import type { Operator, Role } from './domain/operator.js'
import type { Outcome, Plan, Reach } from './domain/plan.js'
import type { NewQuarantine, Quarantine } from './domain/quarantine.js'
import type { Actor, FeedEntry, Reason, Revocation, Selector } from './domain/revocation.js'
import type { EndedRun } from './domain/run.js'
import type { Secret } from './domain/secret.js'
import type { NewSignal, Signal, SignalAct, SignalSubject, Verdict } from './domain/signal.js'
import type { KeyClass, SealedKey, SigningAlg } from './domain/signing-key.js'
import type { NewTask, Task, TaskAttestation, TaskFilter } from './domain/task.js'
import type { Attestation, AttestorKind, Evidence, Mark } from './domain/workload.js'

export type Awaitable<T> = T | Promise<T>

/**
 * Verifies one kind of evidence. `recognizes` chooses on unverified text, by exact look-up in registered issuers, and MUST NOT
 * touch the network; `attest` believes only what it verified, and throws CurfewError(attestation_refused) with a `reason` otherwise.
 */
export interface Attestor {
  readonly kind: AttestorKind
  recognizes(evidence: Evidence): boolean
  attest(evidence: Evidence, signal: AbortSignal): Promise<Attestation>
}

/** Decides. MUST deny on any evaluation error or thrown call, and MUST NOT do I/O while deciding. */
export interface PolicyEngine {
  readonly digest: PolicyId
  decide(request: PolicyRequest): PolicyAnswer
  /** Only for denials: the nearest permit and the first of the caller's own claims that differs. */
  explain(request: PolicyRequest): Explanation
  /** Reads the files again. Atomic: a set that does not validate changes nothing and throws CurfewError(malformed). */
  reload(): Promise<PolicyId>
}

export interface Minted {
  readonly secret: Secret
  /** What to add to the handle (a lease id, a role oid). */
  readonly handle: Handle
  /** The target's own end of life when it is earlier than the grant's. */
  readonly expiresAt: Date | null
  /** The signing key, for kinds that are signed. */
  readonly kid: string | null
}

/**
 * Makes, destroys and probes one kind of credential. Nothing it throws may hold a secret.
 * `local` engines make it by pure computation: they have no `prepare`, `mint` leaves nothing behind, so that a minted secret without
 * a committed row is garbage. All others MUST make everything reachable from the handle that `prepare` returned before `mint` acts.
 */
export interface CredentialEngine {
  readonly kind: string
  readonly revocation: RevocationClass
  readonly local: boolean
  /** Throws CurfewError(malformed) naming the field when these capability parameters cannot work. Called at load. */
  check(parameters: unknown): void
  /** What a caller may add when it asks, by name, given the capability's parameters. Absent: nothing. */
  takes?(parameters: unknown): Readonly<Record<string, 'required' | 'optional'>>
  /** Judges what was added, whose names are known by then. Throws CurfewError(malformed) naming `params.…`. */
  ask?(params: AskParams, parameters: unknown): Awaitable<void>
  prepare?(grant: Grant, signal: AbortSignal): Promise<Handle>
  mint(grant: Grant, handle: Handle | null, signal: AbortSignal): Promise<Minted>
  /** Lifts the dead man's switch once the row is `active`. Failure means: revoke. */
  extend?(credential: Credential, signal: AbortSignal): Promise<void>
  /** Idempotent: what is gone counts as destroyed. Throws when the backend did not say so plainly. */
  destroy(credential: Credential, signal: AbortSignal): Promise<void>
  /** Looks at the target, not at our own records. */
  probe(credential: Credential, signal: AbortSignal): Promise<Probe>
  /** Only where `destroy` has nothing to do: the same look at many at once, in their order. */
  probeMany?(credentials: readonly Credential[], signal: AbortSignal): Promise<readonly Probe[]>
}

/** What exists upstream under our name, for reconcile: by metadata or by lease, with its age. A user stands at a target that others may share: without a row it may be theirs. */
export interface UpstreamThing {
  readonly kind: 'accessor' | 'lease' | 'user'
  readonly ref: string
  readonly credential: CredentialId | null
  readonly ageSeconds: number
}

/** An engine whose upstream can be listed. Listing MUST be complete or throw. */
export interface Reconcilable {
  /** For people and the audit: `vault`. */
  readonly name: string
  /** The engines whose active credentials are in every listing; one that is not has been lost upstream. */
  readonly engines: readonly string[]
  list(signal: AbortSignal): Promise<readonly UpstreamThing[]>
  destroyUpstream(thing: UpstreamThing, signal: AbortSignal): Promise<void>
}

/** Signs what we made ourselves. MUST NOT export private keys; `kid` is the RFC 7638 thumbprint. */
export interface Signer {
  sign(keyClass: KeyClass, typ: string, claims: JWTPayload, alg: SigningAlg): Promise<{ token: string; kid: string }>
  /** Public keys that verifiers may meet: current, next, and retired ones whose last token may live. */
  jwks(keyClass: KeyClass): Awaitable<{ keys: JWK[] }>
  /** Learns at once what other processes did to the keys. */
  refresh(): Awaitable<void>
}

/** Only the database's time decides; this is the process's best knowledge of it. MUST throw CurfewError(unavailable) when it has none. */
export interface Clock {
  now(): Date
}

/** Early refusal and standalone consumption of one-time things. `claim` is atomic across replicas: exactly one caller wins. */
export interface ReplayGuard {
  /** Look only: true when it was consumed by another holder. */
  seen(mark: Mark): Promise<boolean>
  /** Consumes outside any other transaction (a proof on a read). Throws CurfewError(proof_refused | attestation_refused) on a repeat. */
  claim(marks: readonly Mark[]): Promise<void>
}

/** Who asked, for the audit row of the same transaction. */
export interface Context {
  readonly requestId: string | null
  readonly actor: AuditEvent['actor']
}

/**
 * Every method of the stores is one transaction and writes its own audit rows in it; every transition is compare-and-set; time is
 * the store's own. Methods that consume marks do so in sorted order in the same transaction, and a repeat refuses the whole.
 */
export interface TaskStore {
  /** Refuses with `policy_denied` (reason `tombstoned`, `quarantined`, `cut_off`) or `task_ended` (parent) under the cut-off lock. */
  open(task: NewTask, decisions: readonly Decision[], marks: readonly Mark[], context: Context): Promise<Task>
  get(id: TaskId): Promise<Task | null>
  list(filter: TaskFilter): Promise<readonly Task[]>
  /** Throws `task_ended` when it is not open any more. */
  heartbeat(id: TaskId, marks: readonly Mark[], context: Context): Promise<Task>
  /** Fresh evidence under the same identity. */
  attest(id: TaskId, attestation: TaskAttestation, marks: readonly Mark[], context: Context): Promise<Task>
  /** Open tasks past their deadline, or silent too long: to be ended by one revocation each. */
  due(limit: number): Promise<readonly { id: TaskId; reason: 'deadline' | 'heartbeat_missed' }[]>
  /** Open tasks of this subject and all below them end within so many seconds, or when they would have. Answers how many end sooner. */
  shorten(subject: SignalSubject, seconds: number, context: Context): Promise<number>
}

export interface IntendOptions {
  readonly marks: readonly Mark[]
  readonly context: Context
  /** Looked at last, under the locks: whether the policies that permitted it are still in force. Absent: nobody changes them. */
  readonly isInForce?: (digest: PolicyId) => boolean
  /** Opens this task in the same transaction; the grant is for it. */
  readonly open?: { readonly task: NewTask; readonly decisions: readonly Decision[] }
  /** Scoped to the task: same key and same request hash closes the earlier credentials; another hash is `conflict`. */
  readonly idempotency?: { readonly key: string; readonly hash: string }
}

/** A `pending` credential and what was made for it. */
export interface Made {
  readonly credential: Credential
  readonly minted: Minted
}

export interface CredentialStore {
  /**
   * Under the shared cut-off lock: task and ancestors FOR SHARE and open; no marker, tombstone or cut-off at or after `iat`; live
   * count below the capability's cap (`rate_limited`); consume marks; insert `pending`. All grants are of one task, and all are
   * intended or none; what refuses one and not the others names it (`ofPart`).
   */
  intend(grants: readonly Grant[], options: IntendOptions): Promise<readonly Credential[]>
  /** Throws as `intend` would now, but for room and marks, and leaves nothing. */
  foresee(grant: Grant, options: Pick<IntendOptions, 'context' | 'open'>): Promise<void>
  /** The same checks for one of a local kind, and `active` at once: the one transaction after signing. */
  record(grant: Grant, minted: Minted, options: IntendOptions): Promise<Credential>
  /** Compare-and-set on `pending`, version and mint window. Null: it was overtaken; destroy what was made and stop. */
  recordHandle(credential: Credential, handle: Handle): Promise<Credential | null>
  /** A late handle of an overtaken credential: noted in any state, never a transition. */
  noteHandle(id: CredentialId, handle: Handle): Promise<void>
  /** `pending → active` with all checks of `intend` again, for all of them or none. Null: one was overtaken, and none has moved. */
  settle(made: readonly Made[], context: Context): Promise<readonly Credential[] | null>
  get(id: CredentialId): Promise<Credential | null>
  list(filter: CredentialFilter): Promise<readonly Credential[]>
  /** The verifier's question: `active`, not expired by database time, task and ancestors open, no cut-off matches. */
  live(id: CredentialId): Promise<Credential | null>
  /** Which of these it would answer. */
  liveAmong(ids: readonly CredentialId[]): Promise<ReadonlySet<CredentialId>>
  counts(): Promise<Readonly<Record<CredentialState, number>> & { readonly overdueSeconds: number }>

  /** Closes, in one act with reason `expired`, at most `limit` active rows whose time is up. */
  expire(limit: number): Promise<readonly Closed[]>
  /** Replaced under their Idempotency-Key, and no act tells verifiers so yet. */
  untold(limit: number): Promise<readonly CredentialId[]>
  /** Closes at most `limit` rows that a standing cut-off, an ended task or a lapsed mint window should have ended. Empty only when none is left but what others have in hand. */
  closeOverdue(limit: number): Promise<readonly Closed[]>
  /** Rows to destroy now, oldest first: for those who enqueue or work. Claims nothing. */
  due(limit: number, engine?: string): Promise<readonly Credential[]>
  /** Fences one due row: version + 1, claimed for CLAIM_MS. Null when another has it, it is not due, or the version is not this. */
  claim(id: CredentialId, version: number | null): Promise<Claim | null>
  /** `revoking | stuck → revoked` at this version. False: overtaken. */
  confirm(claim: Claim, probe: Probe): Promise<boolean>
  /** The same for what needs no destroying and so no claim: each at the version that was looked at, unless another has claimed it. Answers which. */
  confirmMany(dead: readonly { readonly credential: Credential; readonly probe: Probe }[]): Promise<readonly CredentialId[]>
  /** Not dead yet: attempts + 1 unless waiting; `stuck` after STUCK_AFTER or when permanent; next attempt by backoff. */
  postpone(claim: Claim, outcome: { probe: Probe | null; failure: string; waiting: boolean; permanent: boolean }): Promise<Credential | null>
  /** The rows of these ids, in any state: for reconcile. */
  known(ids: readonly CredentialId[]): Promise<ReadonlyMap<CredentialId, Credential>>
  /** Which row recorded each of these leases, in any state: for reconcile. */
  leaseOwners(leaseIds: readonly string[]): Promise<ReadonlyMap<string, CredentialId>>
  activeOf(engine: string, limit: number, after?: CredentialId): Promise<readonly Credential[]>
  /** All of this engine that have been closed and are not dead, and those of class `expiry-only` for KRL_MARGIN_SECONDS after: for lists that targets load. */
  closedOf(engine: string): Promise<readonly CredentialId[]>
}

export interface RevocationLog {
  /**
   * The one way in. Under the exclusive cut-off lock, by `clock_timestamp()`: insert the revocation with its `seq`; move the rows of
   * a credential or a task's whole subtree to `revoking`, first reason wins; end the tasks; tombstone the run when for cause.
   * Attributes are resolved to open tasks in chunks, each a commit with a `seq` of its own; it answers after the last.
   * A repeated act on what has already ended is a revocation that moved nothing. Throws `not_found` for an unknown credential or task,
   * `conflict` for a plan that has lapsed or was executed, and for an idempotency key that was used for something else.
   */
  commit(selector: Selector, reason: Reason, options: CommitOptions): Promise<Revocation>
  get(id: RevocationId): Promise<Revocation | null>
  /** The `seq` of the last committed act: what `since` answers afterwards holds everything up to it. */
  seq(): Promise<number>
  byReceipt(id: ReceiptId): Promise<Revocation | null>
  /** The act that ended this credential or task. */
  endedBy(selector: Selector): Promise<Revocation | null>
  list(limit: number): Promise<readonly Revocation[]>
  /** Entries with a greater `seq`, in order, whose `until` lies ahead; of at most `limit` acts, each whole. */
  since(seq: number, limit: number): Promise<readonly FeedEntry[]>
  /** What a commit would hit now. Ends nothing. */
  reach(selector: Selector): Promise<Reach>
  /** What has become of all that an act moved, its parts included. Throws `not_found`. */
  outcome(id: RevocationId): Promise<Outcome>
}

export interface CommitOptions {
  readonly actor: Actor
  readonly message?: string
  readonly marks?: readonly Mark[]
  readonly requestId?: string | null
  /** The outcome the holder told, kept with the task. */
  readonly outcome?: string
  /** Executes this plan: once, while it is valid. */
  readonly plan?: PlanId
  /** Refuses new credentials of the same selector from the same commit on. */
  readonly quarantine?: NewQuarantine
  /**
   * Of a `key`, for one that others may hold: from the same commit on it is not published, and what bears it is refused whatever its `iat`.
   * Throws `conflict` while it signs, and `not_found` for no key of ours.
   */
  readonly withdraw?: true
  /**
   * Of `all`, on a store that was restored from a backup: its `seq` lies beyond every one that guards heard before, so that none
   * skips what comes now because it bears a number that they have already.
   */
  readonly restored?: true
  /** Scoped to the actor. The same key and request once more answers the first act and does nothing. */
  readonly idempotency?: { readonly key: string; readonly hash: string }
}

/** Job runs that their provider says are over. */
export interface RunStore {
  /**
   * Under the exclusive cut-off lock: consumes the marks, tombstones the run, and notes it as `due` when tasks of it are open. What
   * was opened before is seen; what comes later is refused. A repeated mark refuses the whole.
   */
  end(run: EndedRun, marks: readonly Mark[], context: Context): Promise<void>
  /** Ended, and tasks of it may still be open. */
  due(limit: number): Promise<readonly EndedRun[]>
  /** Its open tasks that are below no other of them. */
  open(run: EndedRun): Promise<readonly TaskId[]>
  /** Nothing of it is open any more. */
  settled(run: EndedRun): Promise<void>
}

export interface PlanStore {
  /** Counts what the selector would hit and keeps the count for PLAN_SECONDS. */
  make(plan: { id: PlanId; selector: Selector; reason: string | null }, context: Context & { actor: Actor }): Promise<Plan>
  get(id: PlanId): Promise<Plan | null>
  /** Of what the plan's act moved, what had not been made when it was counted. */
  newcomers(id: PlanId, limit: number): Promise<readonly CredentialId[]>
}

export interface QuarantineStore {
  /** Under the exclusive cut-off lock: whoever passed before it has settled before it, or is refused after it. */
  set(quarantine: NewQuarantine, context: Context & { actor: Actor }): Promise<Quarantine>
  get(id: QuarantineId): Promise<Quarantine | null>
  /** The one that was set with this act. */
  ofAct(id: RevocationId): Promise<Quarantine | null>
  /** In force, newest first; with `all` also the lapsed and the lifted. */
  list(filter: { all: boolean; limit: number }): Promise<readonly Quarantine[]>
  /** Ends it early. One that has ended stays as it is. Throws `not_found`. */
  lift(id: QuarantineId, reason: string, context: Context & { actor: Actor }): Promise<Quarantine>
}

export interface AuditLog {
  /** For what has no transaction of its own: refusals. Throws when it cannot be written, and then nothing was done. */
  append(event: AuditEvent): Promise<void>
  list(filter: { kind?: AuditKind; subject?: string; limit: number }): Promise<readonly AuditRow[]>
}

export interface DecisionLog {
  /** A denial (permits are written by the transaction that acts on them). */
  deny(decision: Decision, context: Context): Promise<void>
  /** The answer to a question, permit or denial, on which nobody acts here. */
  note(decision: Decision, context: Context): Promise<void>
  get(id: DecisionId): Promise<Decision | null>
  list(filter: { identity?: string; capability?: string; allowed?: boolean; limit: number }): Promise<readonly Decision[]>
}

export interface SignalStore {
  /** Idempotent by source and event id: a repeat answers the first signal and `fresh: false`. */
  accept(signal: NewSignal, decided: { rule: string | null; act: SignalAct | null }, context: Context): Promise<{ signal: Signal; fresh: boolean }>
  get(id: SignalId): Promise<Signal | null>
  /** Newest first; with `waiting` only those that are held for a person. */
  list(limit: number, waiting?: boolean): Promise<readonly Signal[]>
  /** Accepted, a rule matched, neither handled nor waiting: for worker and sweep. */
  due(limit: number): Promise<readonly Signal[]>
  handled(id: SignalId, did: { revocation: RevocationId | null; quarantine: QuarantineId | null }): Promise<void>
  /** It would end this much, more than its rule may: nothing is done until somebody judges. */
  hold(id: SignalId, reach: Reach): Promise<void>
  /** Approved it is due again; dismissed it is handled and did nothing. The first word stands. Throws `not_found`, and `conflict` when it does not wait. */
  judge(id: SignalId, verdict: Verdict, context: Context): Promise<Signal>
}

export interface OperatorStore {
  add(operator: { id: OperatorId; name: string; role: Role }, tokenDigest: string, context: Context): Promise<Operator>
  byToken(tokenDigest: string): Promise<Operator | null>
  list(): Promise<readonly Operator[]>
  disable(id: OperatorId, context: Context): Promise<Operator>
}

export interface KeyStore {
  list(): Promise<readonly SealedKey[]>
  /** Inserts; of two processes that create the first key of a class and alg at once, one wins and both read it. */
  add(key: Omit<SealedKey, 'createdAt' | 'activatesAt' | 'retiresAt'> & { activatesInSeconds: number }, context: Context): Promise<SealedKey>
  /** `next → current` when its time has come, or `early`; the former current is `retired` until `retainSeconds` from now. */
  promote(kid: string, retainSeconds: number, context: Context, options?: { readonly early?: boolean }): Promise<void>
}

export interface GuardStore {
  /** Throws `conflict` for a name that is taken. */
  add(guard: { id: GuardId; name: string }, keyDigest: string, context: Context): Promise<Guard>
  byKey(keyDigest: string): Promise<Guard | null>
  list(): Promise<readonly Guard[]>
  disable(id: GuardId, context: Context): Promise<Guard>
  /** Notes what instances have applied, each never backwards. Answers what is known of their guards. */
  seen(instances: readonly Omit<GuardInstance, 'seenAt'>[]): Promise<readonly Presence[]>
  instances(): Promise<readonly GuardInstance[]>
  /** Of the instances that are there, how many have applied this `seq`. */
  attendance(seq: number): Promise<Attendance>
}

/** The durable truth. */
export interface Store {
  readonly kind: 'postgres' | 'pglite' | 'memory'
  readonly tasks: TaskStore
  readonly credentials: CredentialStore
  readonly revocations: RevocationLog
  readonly runs: RunStore
  readonly plans: PlanStore
  readonly quarantines: QuarantineStore
  readonly audit: AuditLog
  readonly decisions: DecisionLog
  readonly signals: SignalStore
  readonly operators: OperatorStore
  readonly guards: GuardStore
  readonly keys: KeyStore
  readonly replay: ReplayGuard
  readonly clock: Clock
  /** Runs `fn` when this process holds the named lock, else answers false at once: one sweeper of a kind at a time. */
  withLock(name: string, fn: () => Promise<void>): Promise<boolean>
  /** Throws when the store does not answer within its deadline, or its migrations are not ours. */
  ping(): Promise<void>
  /** Removes what can matter to nobody any more (marks past their life); at most a batch. */
  forget(limit: number): Promise<number>
  close(): Promise<void>
}

export type Job =
  | { readonly name: 'expire'; readonly second: number }
  | { readonly name: 'destroy'; readonly engine: string; readonly credential: CredentialId; readonly version: number }
  | { readonly name: 'signal'; readonly signal: SignalId }

/**
 * Hurries; guarantees nothing. `enqueue` is given deterministic ids, MUST NOT throw or wait longer than its deadline, and answers
 * whether the job was taken; whoever calls it has already committed the row that the sweep would find.
 */
export interface JobQueue {
  enqueue(job: Job, at?: Date): Promise<boolean>
  health(): Promise<{ ok: boolean; detail: string }>
  close(): Promise<void>
}

/** The doorbell: tells replicas that a new `seq` exists. MUST NOT throw or wait, and carries no content. */
export interface RevocationPublisher {
  publish(seq: number): Promise<void>
  close(): Promise<void>
}

/** Those who follow a replica's feed: what they are sent is text of the feed's own format (docs/http-api.md, Feed). */
export interface Follower {
  readonly guard: GuardId
  readonly instance: string
  /** False when it cannot keep up: it is ended, and comes again. */
  send(text: Buffer): boolean
  /** Waits until what was sent has gone out. */
  drained(): Promise<void>
  end(): void
}

/** One replica's view of what has been revoked: read from the truth by `seq`, hurried by the doorbell. */
export interface Feed {
  readonly seq: number
  /** Those who follow this replica now. */
  readonly followers: number
  /** Since the truth was last read, in milliseconds. */
  staleMs(): number
  /** What is written on each word of the feed: the store's time, in milliseconds since the epoch; null while it is not known. */
  time(): number | null
  entries(): Iterable<FeedEntry>
  /** Sends what came after `seq`, or everything when that is null or too long ago, and then every act as it comes. Answers how to stop. */
  follow(follower: Follower, after: number | null): () => void
  /** An instance says that it has applied everything up to `seq`. Answers how many there are of its guard; null while that is not known here. */
  acknowledge(guard: GuardId, instance: string, seq: number): number | null
}
