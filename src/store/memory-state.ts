/** Owns what the store in memory knows, and the acts that its parts share; each runs to its end without waiting, which is its transaction. */
import type { AuditEvent, AuditRow } from '../domain/audit.js'
import type { Credential } from '../domain/credential.js'
import type { Decision } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { GuardInstance } from '../domain/guard.js'
import type { TaskId } from '../domain/ids.js'
import type { Operator } from '../domain/operator.js'
import type { Plan } from '../domain/plan.js'
import type { Quarantine } from '../domain/quarantine.js'
import { type Actor, isForCause, type Reason, type Revocation, taskStateAfter } from '../domain/revocation.js'
import type { EndedRun } from '../domain/run.js'
import type { Signal } from '../domain/signal.js'
import type { SealedKey } from '../domain/signing-key.js'
import type { Task } from '../domain/task.js'
import type { Mark } from '../domain/workload.js'
import type { Context } from '../ports.js'
import { type Facts, runKey, type TaskFacts } from './admission.js'
import { type Act, type CutOff, ENDS_TASKS, TOMBSTONE_SECONDS } from './closing.js'
import { credentialClosed, decided, type EndedTask, taskEndedEvents } from './events.js'
import { markKey, mayMeet, replayed } from './marks.js'
import { evidenceJson } from './sql.js'

export interface CredentialRow extends Credential {
  readonly claimedUntil: Date | null
  readonly digest: string | null
}
export interface TaskRow extends Task {
  readonly dueAt: Date
  readonly revocation: Revocation['id'] | null
}
export interface RevocationRow {
  readonly revocation: Revocation
  readonly issuedBefore: Date | null
  readonly until: Date
  /** Tasks that attributes named. */
  readonly named: readonly TaskId[]
  readonly idempotency: { readonly key: string; readonly hash: string } | null
  closed: boolean
}

export interface State {
  readonly now: () => Date
  readonly tasks: Map<string, TaskRow>
  readonly credentials: Map<string, CredentialRow>
  readonly decisions: Map<string, Decision>
  /** In the order of their seq. */
  readonly revocations: RevocationRow[]
  readonly plans: Map<string, Plan>
  readonly quarantines: Map<string, Quarantine & { readonly scope: string | null }>
  readonly tombstones: Map<string, Date>
  /** By the key of the run, while open tasks of it may be left. */
  readonly ending: Map<string, EndedRun>
  readonly marks: Map<string, Mark>
  readonly idempotency: Map<string, { readonly hash: string; readonly credentials: readonly string[] }>
  readonly audit: AuditRow[]
  readonly signals: Map<string, Signal>
  readonly operators: Map<string, Operator & { readonly tokenDigest: string }>
  readonly guardInstances: Map<string, GuardInstance>
  readonly keys: Map<string, SealedKey>
}

export const emptyState = (now: () => Date): State => ({
  now,
  tasks: new Map(),
  credentials: new Map(),
  decisions: new Map(),
  revocations: [],
  plans: new Map(),
  quarantines: new Map(),
  tombstones: new Map(),
  ending: new Map(),
  marks: new Map(),
  idempotency: new Map(),
  audit: [],
  signals: new Map(),
  operators: new Map(),
  guardInstances: new Map(),
  keys: new Map(),
})

export const after = (at: Date, seconds: number): Date => new Date(at.getTime() + seconds * 1000)
export const earliest = (...dates: (Date | null)[]): Date => new Date(Math.min(...dates.flatMap(d => (d ? [d.getTime()] : []))))
export const newestFirst = (a: { id: string }, b: { id: string }): number => (a.id < b.id ? 1 : -1)
export const isOpen = (c: Credential): boolean => c.state === 'pending' || c.state === 'active'
const byAge = (a: { issuedAt: Date }, b: { issuedAt: Date }): number => a.issuedAt.getTime() - b.issuedAt.getTime()

/** As PostgreSQL refuses it, so that the two tell the same. */
export function refuseUnstorable(value: unknown): void {
  if (evidenceJson(value) !== JSON.stringify(value)) {
    throw new CurfewError('malformed', 'the request holds a character that cannot be stored', { reason: 'character_refused' })
  }
}

export function write(state: State, events: readonly AuditEvent[]): void {
  for (const e of events) state.audit.push({ ...(JSON.parse(evidenceJson(e)) as AuditEvent), id: String(state.audit.length + 1), at: state.now() })
}

export function writeDecisions(state: State, decisions: readonly Decision[], context: Context): void {
  for (const d of decisions) {
    if (state.decisions.has(d.id)) continue
    state.decisions.set(d.id, structuredClone(d))
    write(state, [decided(d, context)])
  }
}

export function factsOf(state: State): Facts {
  const now = state.now()
  const cutOffs = new Map<string, Date>()
  for (const { revocation, issuedBefore } of state.revocations) {
    if (!issuedBefore) continue
    const scope = `${revocation.selector.kind}:${revocation.selector.key}`
    const known = cutOffs.get(scope)
    if (!known || known < issuedBefore) cutOffs.set(scope, issuedBefore)
  }
  const standing = (until: ReadonlyMap<string, Date>) => new Set([...until].filter(([, end]) => end > now).map(([key]) => key))
  const tasks = new Map([...state.tasks].map(([id, t]) => [id, taskFacts(t)]))
  const inForce = [...state.quarantines.values()].filter(q => isInForce(q, now))
  return {
    now,
    tasks,
    cutOffs,
    quarantines: new Map(inForce.flatMap(q => (q.scope === null ? [] : [[q.scope, q.message]]))),
    filters: inForce.flatMap(q => (q.selector.kind === 'where' ? [{ where: q.selector.where, message: q.message }] : [])),
    tombstones: standing(state.tombstones),
  }
}

export const isInForce = (q: Quarantine, now: Date): boolean => q.liftedAt === null && q.until > now

export const taskFacts = (t: Task): TaskFacts => ({
  ...t,
  identity: t.attestation.identity,
  issuer: t.attestation.issuer,
  issuerId: t.attestation.issuerId,
  run: t.attestation.run,
})

/** Throws on a repeat, before anything is consumed. Called last of all checks and first of all changes. */
export function consume(state: State, marks: readonly Mark[]): void {
  for (const mark of marks) {
    const met = state.marks.get(markKey(mark))
    if (met && !mayMeet(mark, met.holder ?? null)) throw replayed(mark)
  }
  for (const mark of marks)
    state.marks.set(markKey(mark), { ...mark, until: new Date(Math.max(mark.until.getTime(), state.marks.get(markKey(mark))?.until.getTime() ?? 0)) })
}

/** `pending | active → revoking`; the first reason wins. */
export function closeRows(
  state: State,
  rows: readonly CredentialRow[],
  reasonOf: (c: CredentialRow) => Reason,
  revocation: (c: CredentialRow) => Revocation['id'] | null,
  actor: Actor,
  requestId: string | null,
): Credential[] {
  const at = state.now()
  const moved: Credential[] = []
  for (const c of rows.filter(isOpen)) {
    const nextAttemptAt = c.revocationClass === 'expiry-only' && c.state === 'active' && c.expiresAt > at ? c.expiresAt : at
    const closed: CredentialRow = {
      ...c,
      state: 'revoking',
      version: c.version + 1,
      reason: reasonOf(c),
      revocation: revocation(c),
      revokingAt: at,
      claimedUntil: null,
      nextAttemptAt,
    }
    state.credentials.set(c.id, closed)
    write(state, [credentialClosed(closed, actor, requestId)])
    moved.push(bare(closed))
  }
  return moved
}

/** Ends these tasks for the act's reason and everything below them because its parent ended; the first end stands. */
export function endTasks(state: State, roots: readonly string[], act: Act): { all: Set<string>; ended: EndedTask[] } {
  const named = new Set(roots)
  const all = new Set([...state.tasks.values()].filter(t => named.has(t.id) || t.ancestors.some(a => named.has(a))).map(t => t.id as string))
  const ended: EndedTask[] = []
  const at = state.now()
  for (const id of all) {
    const t = state.tasks.get(id) as TaskRow
    if (isForCause(act.reason)) bury(state, t)
    if (t.state !== 'open') continue
    const endReason: Reason = named.has(id) ? act.reason : 'parent_ended'
    state.tasks.set(id, {
      ...t,
      state: taskStateAfter(act.reason),
      endReason,
      endedBy: act.actor,
      endedAt: at,
      revocation: act.id as Revocation['id'],
      version: t.version + 1,
    })
    ended.push({ id, reason: endReason, revocation: act.id, outcome: named.has(id) ? act.outcome : null })
  }
  write(
    state,
    ended.flatMap(t => taskEndedEvents(t, act.actor, act.requestId)),
  )
  return { all, ended }
}

export function bury(state: State, task: Task): void {
  if (task.attestation.run !== null) state.tombstones.set(runKey(task.attestation.issuerId, task.attestation.run), after(state.now(), TOMBSTONE_SECONDS))
}

/** The credentials of tasks that have ended, each for its task's reason. */
export function closeCredentialsOf(state: State, tasks: ReadonlySet<string> | null, limit: number, actor: Actor, requestId: string | null): Credential[] {
  const taskOf = (c: CredentialRow) => state.tasks.get(c.task) as TaskRow
  const rows = [...state.credentials.values()].filter(c => isOpen(c) && (tasks === null || tasks.has(c.task)) && taskOf(c).state !== 'open').slice(0, limit)
  return closeRows(
    state,
    rows,
    c => taskOf(c).endReason as Reason,
    c => taskOf(c).revocation,
    actor,
    requestId,
  )
}

export function hits(
  cut: Pick<CutOff, 'kind' | 'key'>,
  w: { identity: string; issuer: string; issuerId: string; kid?: string | null; capability?: string },
): boolean {
  switch (cut.kind) {
    case 'identity':
      return w.identity === cut.key
    case 'issuer':
      return w.issuer === cut.key || w.issuerId === cut.key
    case 'key':
      return w.kid === cut.key
    case 'capability':
      return w.capability === cut.key
    case 'all':
      return true
    default:
      return false
  }
}

/** One batch of what a cut-off hits. */
export function closeBehind(state: State, cut: CutOff, limit: number): { credentials: Credential[]; tasks: EndedTask[]; done: boolean } {
  const { act } = cut
  const rows = [...state.credentials.values()]
    .filter(c => isOpen(c) && c.issuedAt <= cut.issuedBefore && hits(cut, c))
    .sort(byAge)
    .slice(0, limit)
  const credentials = closeRows(
    state,
    rows,
    () => act.reason,
    () => act.id as Revocation['id'],
    act.actor,
    act.requestId,
  )
  if (credentials.length >= limit) return { credentials, tasks: [], done: false }
  const roots = ENDS_TASKS.has(cut.kind)
    ? [...state.tasks.values()].filter(t => t.state === 'open' && t.openedAt <= cut.issuedBefore && hits(cut, taskFacts(t)))
    : []
  const { ended } = endTasks(
    state,
    roots.map(t => t.id),
    act,
  )
  return { credentials, tasks: ended, done: rows.length === 0 && roots.length === 0 }
}

/** The row as others see it. */
export function bare({ claimedUntil: _claimed, digest: _digest, ...credential }: CredentialRow): Credential {
  return credential
}
export function bareTask({ dueAt: _due, revocation: _revocation, ...task }: TaskRow): Task {
  return task
}
