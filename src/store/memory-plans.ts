/** Owns plans and quarantines in memory, and what selectors mean over plain maps. */
import { MINT_WINDOW_MS } from '../domain/credential.js'
import type { RevocationId } from '../domain/ids.js'
import { EXPOSED_TOLD, type Exposed, OWNERS_TOLD, PLAN_SECONDS, type Plan, type Reach } from '../domain/plan.js'
import type { NewQuarantine, Quarantine } from '../domain/quarantine.js'
import type { Actor, Selector } from '../domain/revocation.js'
import { holdsFor, type Where } from '../domain/where.js'
import type { PlanStore, QuarantineStore } from '../ports.js'
import { scopeOf } from './admission.js'
import { ENDS_TASKS } from './closing.js'
import { planMade, quarantineLifted, quarantineSet } from './events.js'
import { after, type CredentialRow, hits, isInForce, isOpen, newestFirst, type State, type TaskRow, taskFacts, write } from './memory-state.js'
import { noSuchQuarantine } from './quarantines.js'

export function memoryPlans(state: State): PlanStore {
  return {
    async make({ id, selector, reason }, context) {
      const madeAt = state.now()
      const plan: Plan = {
        id,
        selector,
        reason,
        reach: reachInMemory(state, selector),
        madeBy: context.actor,
        madeAt,
        validUntil: after(madeAt, PLAN_SECONDS),
        revocation: null,
      }
      state.plans.set(id, plan)
      write(state, [planMade(plan, context)])
      return plan
    },
    get: async id => state.plans.get(id) ?? null,
    async newcomers(id, limit) {
      const plan = state.plans.get(id)
      if (!plan?.revocation) return []
      const seen = plan.madeAt.getTime() + MINT_WINDOW_MS
      const fresh = [...state.credentials.values()].filter(c => c.revocation === plan.revocation && c.deadlineAt.getTime() > seen)
      return fresh
        .map(c => c.id)
        .sort()
        .slice(0, limit)
    },
  }
}

export function memoryQuarantines(state: State): QuarantineStore {
  const shown = ({ scope: _scope, ...q }: Quarantine & { scope: string | null }): Quarantine => q
  return {
    set: async (quarantine, context) => setQuarantine(state, quarantine, context.actor, null, context.requestId),
    async get(id) {
      const q = state.quarantines.get(id)
      return q ? shown(q) : null
    },
    async ofAct(id) {
      const q = [...state.quarantines.values()].find(x => x.revocation === id)
      return q ? shown(q) : null
    },
    async list({ all, limit }) {
      const now = state.now()
      return [...state.quarantines.values()]
        .filter(q => all || isInForce(q, now))
        .sort((a, b) => b.setAt.getTime() - a.setAt.getTime() || newestFirst(a, b))
        .slice(0, limit)
        .map(shown)
    },
    async lift(id, reason, context) {
      const q = state.quarantines.get(id)
      if (!q) throw noSuchQuarantine()
      if (!isInForce(q, state.now())) return shown(q)
      const lifted = { ...q, liftedAt: state.now(), liftedBy: context.actor, liftReason: reason }
      state.quarantines.set(id, lifted)
      write(state, [quarantineLifted(shown(lifted), context)])
      return shown(lifted)
    },
  }
}

export function setQuarantine(state: State, q: NewQuarantine, actor: Actor, revocation: RevocationId | null, requestId: string | null): Quarantine {
  const setAt = state.now()
  const quarantine: Quarantine = {
    id: q.id,
    selector: q.selector.kind === 'where' ? q.selector : ({ kind: q.selector.kind, key: q.selector.key } as Selector),
    message: q.message,
    setBy: actor,
    setAt,
    until: after(setAt, q.seconds),
    revocation,
    liftedAt: null,
    liftedBy: null,
    liftReason: null,
  }
  state.quarantines.set(q.id, { ...quarantine, scope: scopeBehind(state, q.selector) })
  write(state, [quarantineSet(quarantine, requestId)])
  return quarantine
}

function scopeBehind(state: State, selector: Selector): string | null {
  if (selector.kind === 'where') return null
  const task = selector.kind === 'credential' ? state.credentials.get(selector.key)?.task : undefined
  return task ? scopeOf('task', task) : scopeOf(selector.kind, selector.key)
}

/** Open tasks that these attributes name, in id order. */
export function tasksWhereInMemory(state: State, where: Where): TaskRow[] {
  const within = (at: Date) =>
    (!where.issuedAfter || at >= new Date(Math.floor(where.issuedAfter.getTime() / 1000) * 1000)) && (!where.issuedBefore || at <= where.issuedBefore)
  const asked = where.audience !== undefined || where.engine !== undefined
  const timed = where.issuedAfter !== undefined || where.issuedBefore !== undefined
  const fits = (c: CredentialRow) =>
    isOpen(c) &&
    (where.audience === undefined || c.audience === where.audience) &&
    (where.engine === undefined || c.engine === where.engine) &&
    within(c.issuedAt)
  const holds = (t: TaskRow) => {
    if (t.state !== 'open') return false
    if (!holdsFor({ ...where, ...(where.owner === undefined ? {} : { owner: where.owner }) }, { ...t.attestation, owner: t.owner }, t.capabilities))
      return false
    if (!Object.entries(where.labels ?? {}).every(([name, value]) => t.labels[name] === value)) return false
    if (!asked && !timed) return true
    if ([...state.credentials.values()].some(c => c.task === t.id && fits(c))) return true
    return !asked && within(t.openedAt)
  }
  return [...state.tasks.values()].filter(holds).sort((a, b) => (a.id < b.id ? -1 : 1))
}

export function exposedOf(rows: readonly CredentialRow[]): { exposed: Exposed[]; exposedUntil: Date | null } {
  const exposed = rows
    .filter(c => c.revocationClass === 'expiry-only')
    .map(c => ({ credential: c.id, capability: c.capability, until: c.expiresAt }))
    .sort((a, b) => b.until.getTime() - a.until.getTime() || (a.credential < b.credential ? -1 : 1))
  return { exposed: exposed.slice(0, EXPOSED_TOLD), exposedUntil: exposed[0]?.until ?? null }
}

export function reachInMemory(state: State, selector: Selector): Reach {
  const tops = topsOf(state, selector)
  const below = (id: string, ancestors: readonly string[]) => tops.has(id) || ancestors.some(a => tops.has(a))
  const ending = [...state.tasks.values()].filter(t => t.state === 'open' && below(t.id, t.ancestors))
  const hit = [...state.credentials.values()].filter(c => isOpen(c) && (below(c.task, c.ancestors) || isDirect(state, selector, c)))
  const owners = [...new Set(ending.map(t => t.owner))].map(owner => ({ owner, tasks: ending.filter(t => t.owner === owner).length }))
  return {
    credentials: hit.length,
    classes: { instant: 0, backend: 0, 'expiry-only': 0, ...tally(hit.map(c => c.revocationClass)) },
    engines: tally(hit.map(c => c.engine)),
    capabilities: new Set(hit.map(c => c.capability)).size,
    tasks: ending.length,
    // As the database sorts: no owner last.
    owners: owners.sort((a, b) => b.tasks - a.tasks || ((a.owner ?? '\uffff') < (b.owner ?? '\uffff') ? -1 : 1)).slice(0, OWNERS_TOLD),
    ...exposedOf(hit),
  }
}

export function tally(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

function topsOf(state: State, selector: Selector): ReadonlySet<string> {
  const { kind } = selector
  if (kind === 'task') return new Set([selector.key])
  if (kind === 'where') return new Set(tasksWhereInMemory(state, selector.where).map(t => t.id))
  if (kind === 'credential' || !ENDS_TASKS.has(kind)) return new Set()
  const until = selector.issuedBefore ?? state.now()
  const hit = [...state.tasks.values()].filter(t => t.state === 'open' && t.openedAt <= until && hits({ kind, key: selector.key }, taskFacts(t)))
  return new Set(hit.map(t => t.id))
}

function isDirect(state: State, selector: Selector, c: CredentialRow): boolean {
  const { kind, key } = selector
  if (kind === 'credential') return c.id === key
  if (kind === 'task' || kind === 'where') return false
  return c.issuedAt <= (selector.issuedBefore ?? state.now()) && hits({ kind, key }, c)
}
