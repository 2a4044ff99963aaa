/** Owns what is judged again under the locks, right before a row is written: pure rules over facts that cannot change meanwhile. */
import type { Credential } from '../domain/credential.js'
import type { Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { TaskId } from '../domain/ids.js'
import type { SelectorKind } from '../domain/revocation.js'
import { attemptOf } from '../domain/run.js'
import { MAX_ANCESTORS, type NewTask, type TaskAttestation, type TaskState } from '../domain/task.js'
import { type Workload as Attested, holdsFor, type Where } from '../domain/where.js'

/** What these rules look at of a task. */
export interface TaskFacts {
  readonly id: TaskId
  readonly state: TaskState
  readonly ancestors: readonly TaskId[]
  readonly openedAt: Date
  readonly deadlineAt: Date
  readonly identity: string
  readonly issuer: string
  readonly issuerId: string
  readonly run: string | null
  /** Of tasks above another, and only where attributes are compared. */
  readonly attestation?: Attested
}

/** Read under the cut-off lock; `tasks` also under their row locks. */
export interface Facts {
  readonly now: Date
  readonly tasks: ReadonlyMap<string, TaskFacts>
  /** By scope: the latest `issuedBefore` of any revocation of it. */
  readonly cutOffs: ReadonlyMap<string, Date>
  /** Scopes for which new credentials are denied now, each with what its workloads are told. */
  readonly quarantines: ReadonlyMap<string, string | null>
  /** The same by attributes. */
  readonly filters: readonly { readonly where: Where; readonly message: string | null }[]
  /** Runs that may begin nothing any more. */
  readonly tombstones: ReadonlySet<string>
}

export const scopeOf = (kind: SelectorKind, key: string): string => `${kind}:${key}`
/** Two providers may count their runs alike. */
export const runKey = (issuerId: string, run: string): string => `${issuerId} ${run}`
/** What a run is refused by: a tombstone of its own, and one of its whole attempt. */
export const runKeys = ({ issuerId, run }: { issuerId: string; run: string | null }): string[] =>
  run === null ? [] : [runKey(issuerId, run), runKey(issuerId, attemptOf(run))]

type Workload = Pick<TaskFacts, 'identity' | 'issuer' | 'issuerId'>

/** An issuer is called by its name and by its id; a cut-off of either means it. */
export const workloadScopes = (w: Workload): string[] => [
  scopeOf('identity', w.identity),
  scopeOf('issuer', w.issuer),
  scopeOf('issuer', w.issuerId),
  scopeOf('all', '*'),
]

export const openScopes = (task: NewTask): string[] => [
  ...workloadScopes(task.attestation),
  ...task.capabilities.map(c => scopeOf('capability', c)),
  ...task.ancestors.map(a => scopeOf('task', a)),
]

type Issue = Workload & {
  readonly task: TaskId
  readonly ancestors: readonly TaskId[]
  readonly capability: string
  readonly kid: string | null
  readonly issuedAt: Date
  readonly run: string | null
}

export const issueScopes = (i: Issue): string[] => [
  ...workloadScopes(i),
  scopeOf('capability', i.capability),
  ...[i.task, ...i.ancestors].map(t => scopeOf('task', t)),
  ...(i.kid === null ? [] : [scopeOf('key', i.kid)]),
]

export const issueOfGrant = (grant: Grant, kid: string | null): Issue => ({
  ...workloadOf(grant.terms.attestation),
  task: grant.terms.task,
  ancestors: grant.terms.ancestors,
  capability: grant.terms.capability.name,
  kid,
  issuedAt: new Date(grant.issuedAt * 1000),
})

export const issueOfRow = (c: Credential, kid: string | null, run: string | null): Issue => ({ ...c, kid, run })

const workloadOf = (a: TaskAttestation) => ({ identity: a.identity, issuer: a.issuer, issuerId: a.issuerId, run: a.run })

const barred = (reason: string, message: string, next: string) => new CurfewError('policy_denied', message, { reason, next })
export const taskEnded = (reason: string) => new CurfewError('task_ended', 'this task has ended', { reason })
export const noSuchTask = () => new CurfewError('not_found', 'no such task', { reason: 'not_found' })

/** What filters look at: absent when a row that passed them is judged again. */
interface Asking {
  readonly attestation: TaskAttestation
  readonly capabilities: readonly string[]
}

/** Throws `policy_denied` when a tombstone, a quarantine, or a cut-off at or after `since` hits. Tombstones and quarantines hit all below as well. */
function refuseBarred(
  facts: Facts,
  w: { issuerId: string; run: string | null; ancestors: readonly TaskId[] },
  own: readonly string[],
  since: Date,
  asking: Asking | null,
): void {
  const above = w.ancestors.flatMap(a => facts.tasks.get(a) ?? [])
  if ([w, ...above].flatMap(runKeys).some(key => facts.tombstones.has(key)))
    throw barred('tombstoned', 'this job run is over or was revoked: it may not begin anything new', 'start a new run')
  const scope = [...own, ...above.flatMap(workloadScopes)].find(s => facts.quarantines.has(s))
  const filter =
    asking && facts.filters.find(f => [asking, ...above].some(({ attestation: a }) => a !== undefined && holdsFor(f.where, a, asking.capabilities)))
  if (scope !== undefined || filter) {
    const message = (scope !== undefined ? facts.quarantines.get(scope) : filter?.message) ?? null
    throw barred('quarantined', `new credentials are denied for this workload for now${message === null ? '' : `: ${message}`}`, 'ask a responder')
  }
  if (isCut(facts, own, since)) throw barred('cut_off', 'what this rests on was revoked', 'attest again with new evidence')
}

/** The verifiers' own rule (architecture.md section 7): at the cut-off is before it. */
export const isCut = (facts: Facts, scopes: readonly string[], since: Date): boolean =>
  scopes.some(s => (facts.cutOffs.get(s)?.getTime() ?? Number.NEGATIVE_INFINITY) >= since.getTime())

/** Throws `not_found` or `task_ended` unless the task and all above it are open, in time, and opened after every cut-off of their workload. */
export function refuseEnded(facts: Facts, id: TaskId): TaskFacts {
  const task = facts.tasks.get(id)
  if (!task) throw noSuchTask()
  for (const t of [task, ...task.ancestors.map(a => facts.tasks.get(a))]) {
    if (!t) throw new TypeError('the ancestors of a task are read with it')
    if (t.state !== 'open') throw taskEnded(t === task ? t.state : 'parent_ended')
    if (t.deadlineAt.getTime() <= facts.now.getTime()) throw taskEnded('deadline')
    // Its row is closed behind the cut-off, in batches; it has ended all the same.
    if (isCut(facts, workloadScopes(t), t.openedAt)) throw taskEnded('cut_off')
  }
  return task
}

export interface Opening {
  readonly deadlineAt: Date
  readonly ancestors: readonly TaskId[]
}

/** A child's ancestors are its parent and the parent's own, all open, and it ends no later than they (P57). */
export function judgeOpening(facts: Facts, task: NewTask): Opening {
  const a = task.attestation
  const parent = task.parent === null ? null : refuseEnded(facts, task.parent)
  refuseBarred(facts, { ...workloadOf(a), ancestors: task.ancestors }, openScopes(task), a.evidenceAt, { attestation: a, capabilities: task.capabilities })
  // Evidence of an issuer whose clock runs fast is no way around a cut-off.
  if (isCut(facts, workloadScopes(a), facts.now)) throw barred('cut_off', 'what this rests on was revoked', 'attest again with new evidence')
  const ancestors = parent ? [parent.id, ...parent.ancestors] : []
  if (ancestors.length > MAX_ANCESTORS || ancestors.join() !== task.ancestors.join()) {
    throw new CurfewError('malformed', 'the task does not fit below its parent', { reason: 'ancestors_invalid', field: 'parent' })
  }
  const wanted = facts.now.getTime() + task.lifeSeconds * 1000
  return { deadlineAt: new Date(Math.min(wanted, parent?.deadlineAt.getTime() ?? wanted)), ancestors }
}

export function judgeAttesting(facts: Facts, id: TaskId, fresh: TaskAttestation): void {
  const task = refuseEnded(facts, id)
  if (fresh.identity !== task.identity || fresh.issuerId !== task.issuerId) {
    throw new CurfewError('attestation_refused', 'this evidence is of another workload than the task', { reason: 'identity_mismatch', field: 'subject_token' })
  }
  const scopes = [...workloadScopes(fresh), scopeOf('task', id)]
  refuseBarred(facts, { ...workloadOf(fresh), ancestors: task.ancestors }, scopes, fresh.evidenceAt, { attestation: fresh, capabilities: [] })
}

/** All that `intend` and `record` check. Answers when the credential ends at the latest. */
export function judgeIssue(facts: Facts, grant: Grant, kid: string | null): Date {
  const issue = issueOfGrant(grant, kid)
  const expiresAt = judgeStanding(facts, issue, { attestation: grant.terms.attestation, capabilities: [grant.terms.capability.name] })
  if (grant.expiresAt.getTime() <= facts.now.getTime())
    throw new CurfewError('unavailable', 'it took too long to issue the credential', { reason: 'issued_late', retryAfterSeconds: 1 })
  return new Date(Math.min(expiresAt.getTime(), grant.expiresAt.getTime()))
}

/** What must hold whenever a credential becomes live. Answers the end of its task. */
export function judgeStanding(facts: Facts, issue: Issue, asking: Asking | null): Date {
  const task = refuseEnded(facts, issue.task)
  if (task.identity !== issue.identity || task.ancestors.join() !== issue.ancestors.join())
    throw new TypeError('a grant is for the identity and the ancestors of its task')
  // A cut-off refuses what was issued up to it: an `iat` that the database has not reached yet would escape one that is committed next.
  if (issue.issuedAt.getTime() > facts.now.getTime())
    throw new CurfewError('unavailable', 'the clocks of the broker and of its store are apart', { reason: 'clock_skew', retryAfterSeconds: 1 })
  // Another process has taken the key out of use, and this one signed with it before it had heard: nothing is wrong with the caller.
  if (issue.kid !== null && isCut(facts, [scopeOf('key', issue.kid)], issue.issuedAt))
    throw new CurfewError('unavailable', 'the key that signed this was revoked meanwhile', { reason: 'key_revoked', retryAfterSeconds: 1 })
  refuseBarred(facts, issue, issueScopes(issue), issue.issuedAt, asking)
  const ends = [task, ...task.ancestors.map(a => facts.tasks.get(a) as TaskFacts)].map(t => t.deadlineAt.getTime())
  return new Date(Math.min(...ends))
}

/** Back-pressure before the target feels it: a thousand database users are an outage of their own. */
export const capabilityFull = () =>
  new CurfewError('rate_limited', 'this capability has as many live credentials as it may have', {
    reason: 'capability_full',
    retryAfterSeconds: 5,
    next: 'complete tasks that are done',
  })
