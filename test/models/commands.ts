/** Owns the commands of the code twin: what each does to the real world, and what M1 says must come of it. */
import type { AsyncCommand } from 'fast-check'
import { expect } from 'vitest'
import { CurfewError } from '../../src/domain/errors.js'
import type { CredentialId, TaskId } from '../../src/domain/ids.js'
import type { Selector } from '../../src/domain/revocation.js'
import { MAX_ANCESTORS, type Task } from '../../src/domain/task.js'
import { attestation, context, newTask, operator } from '../conformance/store/fixtures.js'
import { type Place, Walk } from './failpoint.js'
import type { Monitor } from './monitor.js'
import { AT_VAULT, type Delivered, LOCAL, type Process, signal, type World } from './world.js'

/** What the twin knows beside M1's state: what was promised to whom. */
export interface Known {
  /** `isCut`: a cut-off has ended it, and its row may say so later. */
  readonly tasks: { readonly task: Task; open: boolean; isCut: boolean }[]
  /** Handed to a caller. */
  readonly delivered: Set<CredentialId>
  /** Named by a committed revocation, themselves or by task or identity; or replaced by another under their key. */
  readonly ended: Set<CredentialId>
  /** By task: what was handed over last under its key. */
  readonly keyed: Map<TaskId, CredentialId>
  /** Asked for again under their key: whoever asks ends them, also when he dies of it. */
  readonly replaced: Set<CredentialId>
  /** Stopped on their way. */
  issuing: Issuing[]
  sealed: boolean
  /** An answer of Vault's may be lost on its way: success is promised no more. */
  faulty: boolean
}
interface Issuing {
  readonly walk: ReturnType<Process['issue']> | ReturnType<Process['bundle']>
  readonly by: Process
  readonly task: Task
  readonly ids: readonly CredentialId[]
  /** Under its task's key. */
  readonly isKeyed: boolean
  /** Seconds. */
  readonly begunAt: number
  stoppedAt: number
}

export interface Real {
  readonly world: World
  readonly monitor: Monitor
  start(): Process
  /** One issues and revokes, the other sweeps, reconciles and works jobs; null is dead. */
  api: Process | null
  worker: Process | null
}

export const nothingKnown = (): Known => ({
  ...{ tasks: [], delivered: new Set(), ended: new Set(), keyed: new Map(), replaced: new Set() },
  ...{ issuing: [], sealed: false, faulty: false },
})

/** A step as it is written down, so that it can be run again whatever becomes of the generator. */
export type Text = readonly [name: string, n: number]
type Act = (m: Known, r: Real, n: number) => Promise<void>

export class Step implements AsyncCommand<Known, Real> {
  constructor(
    readonly text: Text,
    readonly begun: (text: Text) => void = () => {},
  ) {}
  check(): boolean {
    return true
  }
  async run(m: Known, r: Real): Promise<void> {
    const [name, n] = this.text
    this.begun(this.text)
    await (ACTS[name] as Act)(m, r, n)
    await look(m, r)
  }
  toString(): string {
    return JSON.stringify(this.text)
  }
}

const SETTLED: readonly unknown[] = ['issue.5a', 'issue.5b', 'issue.6'] satisfies Place[]
const ISSUE_PLACES: readonly Place[] = ['issue.3', 'issue.4a', 'issue.4b', 'in flight', 'issue.4c', 'issue.5a', 'issue.5b', 'issue.6']
/** Its token is signed when its user has been made. */
const BUNDLE_PLACES: readonly Place[] = [...ISSUE_PLACES.slice(0, 5), 'signed', ...ISSUE_PLACES.slice(5)]
const REVOKE_PLACES: readonly Place[] = ['revoke.1', 'revoke.2']
const DESTROY_PLACES: readonly Place[] = ['revoke.3a', 'revoke.3b', 'revoke.3c', 'revoke.4']
const LOSSES = [/auth\/token\/create/, /database\/creds/, /renew-accessor/, /revoke-accessor/, /leases\/revoke/, /lookup/]
export const IDENTITIES = ['github:repository_id=1', 'github:repository_id=2']
const TTLS = [60, 600, 3_600]
const SECONDS = [1, 6, 12, 25, 35, 70, 130, 400]
/** Less than the mint window, and than the dead man's switch, by far. */
const SOON = 9
const pick = <T>(list: readonly T[], n: number): T => list[n % list.length] as T
const seconds = () => performance.now() / 1000

/** M1's invariants, and I1 of all that was ended or is over. */
export async function look(m: Known, { monitor, world }: Real): Promise<void> {
  for (const row of await monitor.look()) {
    if (row.state !== 'active') continue
    if (m.ended.has(row.id) || row.expiresAt.getTime() <= world.store.clock.now().getTime())
      expect(await world.store.credentials.live(row.id), `I1: ${row.id} is over and accepted`).toBeNull()
  }
  // R03: whatever its holder says meanwhile, a task that has ended does not begin again.
  for (const { task, open, isCut } of m.tasks)
    if (!open && !isCut) expect((await world.store.tasks.get(task.id))?.state, `${task.id} was ended`).not.toBe('open')
}

async function taskFor(m: Known, { world: { store } }: Real, n: number): Promise<Task> {
  const open = m.tasks.filter(t => t.open && t.task.deadlineAt.getTime() - store.clock.now().getTime() > 60_000)
  if (open.length > 0 && n % 3 > 0) return pick(open, n).task
  const from = attestation(store, { identity: pick(IDENTITIES, n), evidenceAt: store.clock.now() })
  const capabilities = [AT_VAULT.name, LOCAL.name]
  const task = await store.tasks.open(newTask(store, { attestation: from, capabilities, lifeSeconds: 7_200 }), [], [], context)
  m.tasks.push({ task, open: true, isCut: false })
  return task
}

/** Lets an issuer run until it stops at `until` or has ended; what it then delivers, or does not, is judged. */
async function goOn(m: Known, r: Real, entry: Issuing, place: Place | null): Promise<void> {
  const { walk, task } = entry
  const from = walk.at
  const closed = entry.ids.some(id => r.monitor.seen.get(id)?.st === 'closed')
  const [age, slept] = [seconds() - entry.begunAt, seconds() - entry.stoppedAt]
  const known = new Set(r.monitor.seen.keys())
  await walk.to(place)
  if (!walk.outcome) {
    await r.monitor.look()
    const ids = entry.ids.length > 0 ? entry.ids : [...r.monitor.seen.keys()].filter(k => !known.has(k))
    m.issuing.push({ ...entry, ids, stoppedAt: seconds() })
    return
  }
  const why = `stopped at ${from}, ${Math.round(age)} s old, ${closed ? 'closed' : 'open'}`
  if (walk.outcome.status === 'rejected') {
    expect(walk.outcome.reason, `refused with a reason; ${why}`).toMatchObject({ name: 'CurfewError' })
    if (entry.isKeyed && (await isInFlight(r, task)) && isRefused(walk.outcome.reason, 'in_flight')) return
    const open = m.tasks.some(t => t.task.id === task.id && t.open)
    if (open && !closed && age < SOON && slept < SOON && !m.sealed && !m.faulty) throw new Error(`refused without need; ${why}`, { cause: walk.outcome.reason })
    return
  }
  const issued = [walk.outcome.value].flat() as readonly Delivered[]
  for (const { credential } of issued) {
    const told = await r.world.store.audit.list({ subject: credential.id, kind: 'credential.issued', limit: 2 })
    expect(told, `I4: handed over before it was written down; ${why}`).toHaveLength(1)
  }
  if (closed && !SETTLED.includes(from)) throw new Error(`R13: handed over although its row was closed; ${why}`)
  // At issue.6 it has passed the last look at the clock: what leaves then was active, and is refused if it was ended meanwhile.
  if (SETTLED.includes(from) && from !== 'issue.6' && slept > 10) throw new Error(`R13: handed over by a process that slept; ${why}`)
  if (m.sealed && from === null) throw new Error('handed over while Vault is sealed')
  for (const { credential } of issued) m.delivered.add(credential.id)
  const [only] = issued
  if (!entry.isKeyed || !only) return
  const former = m.keyed.get(task.id)
  if (former) m.ended.add(former)
  m.keyed.set(task.id, only.credential.id)
}

type Asking = NonNullable<Parameters<Process['issue']>[1]>

const isRefused = (error: unknown, reason: string): boolean => error instanceof CurfewError && error.facts.reason === reason
/** Somebody asked under its key, and may still be at it. */
const isInFlight = async ({ world: { store } }: Real, task: Task): Promise<boolean> =>
  (await store.credentials.list({ task: task.id, state: 'pending', limit: 9 })).length > 0

async function issue(m: Known, r: Real, n: number, until: Place | null, what: 'issue' | 'bundle' = 'issue'): Promise<void> {
  if (r.api) await askFor(m, r, await taskFor(m, r, n), { ttlSeconds: pick(TTLS, n) }, until, what)
}

async function askFor(m: Known, r: Real, task: Task, options: Asking, until: Place | null, what: 'issue' | 'bundle' = 'issue'): Promise<void> {
  const { api } = r
  if (!api) return
  const isKeyed = options.key !== undefined
  const former = isKeyed ? m.keyed.get(task.id) : undefined
  if (former) m.replaced.add(former)
  const walk = api[what](task, options)
  await goOn(m, r, { walk, by: api, task, ids: [], isKeyed, begunAt: seconds(), stoppedAt: seconds() }, until)
}

/** R03: a sign of life, fresh evidence with what is asked for, or the same asked for again; of a task that may have ended long ago. */
async function renew(m: Known, r: Real, n: number): Promise<void> {
  const { api } = r
  if (!api || m.tasks.length === 0) return
  const { task, open } = pick(m.tasks, n >> 3)
  // About to end by itself: either answer is right.
  if (open && task.deadlineAt.getTime() - r.world.store.clock.now().getTime() < 60_000) return
  if (n % 2 === 0) {
    const { outcome } = await api.heartbeat(task).to(null)
    if (open) expect(outcome, 'a sign of life of an open task').toMatchObject({ status: 'fulfilled' })
    else expect(outcome, 'R03: a sign of life of what has ended').toMatchObject({ status: 'rejected', reason: { code: 'task_ended' } })
    return
  }
  const options = { ttlSeconds: 600, ...(n & 2 ? { key: 'again' } : { evidence: r.world.evidence.of(task) }) }
  if (open) return askFor(m, r, task, options, n & 4 ? pick(ISSUE_PLACES, n >> 3) : null)
  const { outcome } = await api.issue(task, options).to(null)
  expect(outcome, 'R03: its task has ended').toMatchObject({ status: 'rejected', reason: { name: 'CurfewError' } })
}

/** A task below one that may have ended, or may be too deep. */
async function delegate(m: Known, r: Real, n: number): Promise<void> {
  const { api } = r
  if (!api || m.tasks.length === 0) return
  const { task, open } = pick(m.tasks, n >> 1)
  const left = (task.deadlineAt.getTime() - r.world.store.clock.now().getTime()) / 1000
  const { outcome } = await api.delegate(task, { lifeSeconds: pick([600, 7_200], n) }).to(null)
  if (outcome?.status === 'fulfilled') {
    expect(open && task.ancestors.length < MAX_ANCESTORS, 'a task below one that has ended, or is as deep as may be').toBe(true)
    expect(outcome.value.ancestors, 'all that is above it').toEqual([task.id, ...task.ancestors])
    m.tasks.push({ task: outcome.value, open: true, isCut: false })
  } else if (open && left > 60) {
    expect(task.ancestors.length, 'refused without need').toBe(MAX_ANCESTORS)
    expect(outcome?.reason).toMatchObject({ code: 'policy_denied', facts: { reason: 'too_deep' } })
  } else expect(outcome?.reason, 'refused with a reason').toMatchObject({ name: 'CurfewError' })
}

async function die(m: Known, r: Real, which: 'api' | 'worker'): Promise<void> {
  const dead = r[which]
  r[which] = null
  await dead?.die()
  m.issuing = m.issuing.filter(i => i.by !== dead)
}

function selectorFor(m: Known, r: Real, n: number): Selector | null {
  const ids = [...r.monitor.seen.keys()]
  if (n % 8 === 0) return { kind: 'identity', key: pick(IDENTITIES, n >> 3) }
  if (n % 2) return ids.length > 0 ? { kind: 'credential', key: pick(ids, n) } : null
  return m.tasks.length > 0 ? { kind: 'task', key: pick(m.tasks, n).task.id } : null
}

/** @param until the process dies there: what it committed stands all the same. */
async function end(m: Known, r: Real, selector: Selector | null, reason: 'completed' | 'requested', until: Place | null): Promise<void> {
  const { api } = r
  if (!selector || !api) return
  const walk = await new Walk(() => api.broker.revoke(selector, reason, { actor: operator })).to(until)
  if (walk.outcome?.status === 'rejected') throw walk.outcome.reason
  if (!walk.outcome) await die(m, r, 'api')
  for (const c of await r.world.store.credentials.list({ limit: 1_000 }))
    if ([c.id, c.task, c.identity, ...c.ancestors].includes(selector.key as never)) m.ended.add(c.id)
  for (const t of m.tasks) {
    if (![t.task.id, t.task.attestation.identity, ...t.task.ancestors].includes(selector.key as never)) continue
    t.isCut ||= t.open && selector.kind === 'identity'
    t.open = false
  }
  for (const id of m.ended) expect(await r.world.store.credentials.live(id), `I1: ${id} was just ended`).toBeNull()
  // What is issued in the second of a cut-off is behind it.
  if (selector.kind === 'identity') await r.world.advance(1.1)
}

const byWorker = async (r: Real, verb: 'sweep' | 'reconcile') => {
  const { worker } = r
  if (!worker) return
  await worker.broker[verb](signal())
  if (verb === 'reconcile') return
  const [now, rows] = [r.world.store.clock.now(), await r.world.store.credentials.list({ limit: 1_000 })]
  const late = rows.filter(c => (c.state === 'pending' && c.deadlineAt < now) || (c.state === 'active' && c.expiresAt < now))
  expect(
    late.map(c => c.id),
    'a sweep closes what is over',
  ).toEqual([])
}

async function crash(m: Known, r: Real, n: number, what: 'issue' | 'bundle'): Promise<void> {
  const { api } = r
  await issue(m, r, n >> 3, pick(what === 'issue' ? ISSUE_PLACES : BUNDLE_PLACES, n), what)
  if (api && m.issuing.at(-1)?.by === api) await die(m, r, 'api')
}

const ACTS: Readonly<Record<string, Act>> = {
  issue: (m, r, n) => issue(m, r, n, null),
  /** Stops somewhere: slow, or stopped by SIGSTOP. */
  stall: (m, r, n) => issue(m, r, n >> 3, pick(ISSUE_PLACES, n)),
  async resume(m, r, n) {
    const entry = m.issuing.length > 0 ? pick(m.issuing, n) : null
    if (!entry) return
    m.issuing = m.issuing.filter(i => i !== entry)
    await goOn(m, r, entry, n % 2 ? null : pick(ISSUE_PLACES, n >> 1))
  },
  renew,
  delegate,
  complete: (m, r, n) => end(m, r, m.tasks.length > 0 ? { kind: 'task', key: pick(m.tasks, n).task.id } : null, 'completed', null),
  revoke: (m, r, n) => end(m, r, selectorFor(m, r, n), 'requested', null),
  crashIssuing: (m, r, n) => crash(m, r, n, 'issue'),
  bundle: (m, r, n) => issue(m, r, n, null, 'bundle'),
  stallBundle: (m, r, n) => issue(m, r, n >> 3, pick(BUNDLE_PLACES, n), 'bundle'),
  crashBundle: (m, r, n) => crash(m, r, n, 'bundle'),
  crashRevoking: (m, r, n) => end(m, r, selectorFor(m, r, n >> 1), 'requested', pick(REVOKE_PLACES, n)),
  async crashDestroying(m, r, n) {
    const { worker } = r
    if (!worker) return
    const walk = await new Walk(() => worker.broker.sweep(signal())).to(pick(DESTROY_PLACES, n))
    if (!walk.outcome) await die(m, r, 'worker')
  },
  async restart(m, r, n) {
    const which = n % 2 ? 'api' : 'worker'
    await die(m, r, which)
    r[which] = r.start()
  },
  sweep: (_m, r) => byWorker(r, 'sweep'),
  reconcile: (_m, r) => byWorker(r, 'reconcile'),
  work: async (_m, r) => r.worker?.work(),
  advanceClock: (_m, r, n) => r.world.advance(pick(SECONDS, n)),
  async flushRedis(_m, { world: { queue } }) {
    while (queue.take());
  },
  async sealVault(m, { world: { vault } }, n) {
    m.sealed = n % 2 === 1
    if (m.sealed) return vault.seal()
    m.faulty = false
    vault.behave()
    vault.unseal()
  },
  async loseAnswer(m, { world: { vault } }, n) {
    m.faulty = true
    vault.misbehave(pick(LOSSES, n), 'lost')
  },
  letReadsGo: async (_m, { world }) => world.letReadsGo(),
}

/** How often each comes: much of what the walk is about, little of what ends it. */
export const WEIGHTS: Readonly<Record<string, number>> = {
  issue: 4,
  stall: 4,
  resume: 4,
  renew: 4,
  delegate: 2,
  complete: 2,
  revoke: 4,
  crashIssuing: 3,
  bundle: 2,
  stallBundle: 3,
  crashBundle: 2,
  crashRevoking: 1,
  crashDestroying: 2,
  restart: 5,
  sweep: 4,
  reconcile: 3,
  work: 2,
  advanceClock: 4,
  flushRedis: 1,
  sealVault: 2,
  loseAnswer: 1,
  letReadsGo: 1,
}

/** Everything is well again, and every issuer goes on to its end. */
export async function heal(m: Known, r: Real): Promise<void> {
  r.world.vault.behave()
  r.world.vault.unseal()
  m.sealed = false
  m.faulty = true
  await r.world.letReadsGo()
  for (const which of ['api', 'worker'] as const) r[which] ??= r.start()
  for (const entry of m.issuing.splice(0)) await goOn(m, r, entry, null)
  await look(m, r)
}

export async function endAll(m: Known, r: Real): Promise<void> {
  for (const { task } of m.tasks.filter(t => t.open)) await end(m, r, { kind: 'task', key: task.id }, 'completed', null)
}
