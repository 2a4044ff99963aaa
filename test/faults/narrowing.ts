/** Owns the checker of I7: what stands below a task is no wider and lives no longer, whatever broke while it was made; and that it ends with what stands above it (I1). */
import type { Bounds, Ledger } from './ledger.js'
import { AUDIENCE, DB, JWT, NEVER_MADE, TLS, type World } from './world.js'

export interface TaskRow {
  readonly id: string
  readonly parent: string | null
  readonly ancestors: readonly string[]
  readonly capabilities: readonly string[]
  readonly owner: string | null
  readonly identity: string
  /** Whose work it does, nearest first. */
  readonly actors: readonly string[]
  readonly jkt: string
  readonly state: string
  /** Epoch milliseconds. */
  readonly openedAt: number
  readonly deadlineAt: number
}

export interface CredentialRow {
  readonly id: string
  readonly task: string
  readonly ancestors: readonly string[]
  readonly capability: string
  readonly audience: string | null
  readonly identity: string
  readonly jkt: string | null
  readonly state: string
  readonly expiresAt: number
  /** Its decision: what it permitted, to whom, by which rules. */
  readonly decided: { readonly allowed: boolean; readonly capability: string; readonly identity: string; readonly policies: readonly string[] } | null
}

const MAX_ABOVE = 5
/** As the configuration and the policies of the world have it: what a capability is good for, and the one rule that permits it. */
export const CAPABILITIES: Readonly<Record<string, { readonly audience: string | null; readonly rule: string }>> = {
  [DB]: { audience: null, rule: 'ci-db' },
  [JWT]: { audience: AUDIENCE, rule: 'ci-jwt' },
  [TLS]: { audience: null, rule: 'ci-tls' },
  [NEVER_MADE]: { audience: null, rule: 'ci-never' },
}

/** @param bounds by task, what its grant let it be, where its client told. */
export function widened(tasks: readonly TaskRow[], credentials: readonly CredentialRow[], bounds: ReadonlyMap<string, Bounds>): string[] {
  const byId = new Map(tasks.map(t => [t.id, t]))
  return [...tasks.flatMap(t => widerTask(t, byId, bounds.get(t.id))), ...credentials.flatMap(c => widerCredential(c, byId))].map(text => `I7 ${text}`)
}

const isSame = (a: readonly string[], b: readonly string[]) => a.join() === b.join()

function widerTask(task: TaskRow, byId: ReadonlyMap<string, TaskRow>, bounds: Bounds | undefined): string[] {
  if (task.parent === null)
    return task.ancestors.length + task.actors.length === 0 ? [] : [`${task.id} has nothing above it and names ${task.ancestors} ${task.actors}`]
  const parent = byId.get(task.parent)
  if (!parent) return [`${task.id} is below ${task.parent}, which is no task`]
  const wrong: string[] = []
  const more = task.capabilities.filter(name => !parent.capabilities.includes(name))
  if (more.length > 0) wrong.push(`${task.id} may do ${more}, which ${parent.id} above it may not`)
  if (task.deadlineAt > parent.deadlineAt) wrong.push(`${task.id} ends ${task.deadlineAt - parent.deadlineAt} ms after ${parent.id} above it`)
  if (!isSame(task.ancestors, [parent.id, ...parent.ancestors])) wrong.push(`${task.id} is not recorded below all that is above it`)
  if (task.ancestors.length > MAX_ABOVE) wrong.push(`${task.id} has ${task.ancestors.length} tasks above it`)
  if (task.owner !== parent.owner) wrong.push(`${task.id} is of another owner than ${parent.id} above it`)
  const carriesOn = task.identity === parent.identity && isSame(task.actors, parent.actors)
  if (!carriesOn && !isSame(task.actors, [parent.identity, ...parent.actors])) wrong.push(`${task.id} acts for ${task.actors}`)
  if (!bounds) return wrong
  if (task.jkt !== bounds.jkt) wrong.push(`${task.id} is bound to another key than its grant`)
  if (!task.capabilities.every(name => bounds.capabilities.includes(name))) wrong.push(`${task.id} may do more than its grant`)
  if (task.deadlineAt - task.openedAt > bounds.lifeSeconds * 1000) wrong.push(`${task.id} lives longer than its grant lets it`)
  return wrong
}

/** No rule of these runs shortens a task: what was issued before would outlive its new deadline, until a sweep. */
function widerCredential(c: CredentialRow, byId: ReadonlyMap<string, TaskRow>): string[] {
  const task = byId.get(c.task)
  const capability = CAPABILITIES[c.capability]
  if (!task || !capability) return [`${c.id} is of ${c.task} for ${c.capability}, and there is no such thing`]
  const above = task.ancestors.flatMap(id => byId.get(id) ?? [])
  const wrong: string[] = []
  for (const t of [task, ...above]) {
    if (!t.capabilities.includes(c.capability)) wrong.push(`${c.id} is for ${c.capability}, which ${t.id} may not do`)
    if (c.expiresAt > t.deadlineAt) wrong.push(`${c.id} expires ${c.expiresAt - t.deadlineAt} ms after the end of ${t.id}`)
  }
  if (!isSame(c.ancestors, task.ancestors)) wrong.push(`${c.id} is not recorded below all that is above its task`)
  if (c.identity !== task.identity) wrong.push(`${c.id} is of ${c.identity}, its task of ${task.identity}`)
  if (c.jkt !== task.jkt) wrong.push(`${c.id} is bound to ${c.jkt === null ? 'no key' : 'another key than its task'}`)
  if (c.audience !== capability.audience) wrong.push(`${c.id} is for the audience ${c.audience}`)
  const { decided } = c
  if (!decided?.allowed || decided.capability !== c.capability || decided.identity !== c.identity || !isSame(decided.policies, [capability.rule]))
    wrong.push(`${c.id} rests on ${decided ? `a decision on ${decided.capability} by ${decided.policies}` : 'no decision'}`)
  return wrong
}

/** At rest: nothing lives on below what has ended (I1). */
export function outlives(tasks: readonly TaskRow[], credentials: readonly CredentialRow[]): string[] {
  const ended = new Set(tasks.filter(t => t.state !== 'open').map(t => t.id))
  return [
    ...tasks.filter(t => !ended.has(t.id) && t.ancestors.some(a => ended.has(a))).map(t => `I1 ${t.id} is open, and a task above it has ended`),
    ...credentials
      .filter(c => c.state === 'active' && [c.task, ...c.ancestors].some(t => ended.has(t)))
      .map(c => `I1 ${c.id} is active, and its task has ended`),
  ]
}

const ms = (column: string, as: string) => `extract(epoch from ${column})::float8 * 1000 as "${as}"`

export async function narrowing(world: World, ledger: Ledger): Promise<string[]> {
  const own = [...new Set([...ledger.entries, ...ledger.hostile].map(e => e.task).filter(t => t !== ''))]
  const tasks = await world.rows<TaskRow>(
    'store',
    `select id, parent, ancestors, capabilities, owner, identity, jkt, state, ${ms('opened_at', 'openedAt')}, ${ms('deadline_at', 'deadlineAt')},
            array(select a->>'identity' from jsonb_array_elements(actors) a) as actors
     from curfew.tasks where id = any($1::text[]) or ancestors && $1::text[]`,
    [own],
  )
  const credentials = await world.rows<CredentialRow>(
    'store',
    `select c.id, c.task, c.ancestors, c.capability, c.audience, c.identity, c.jkt, c.state, ${ms('c.expires_at', 'expiresAt')},
            (select jsonb_build_object('allowed', d.allowed, 'capability', d.capability, 'identity', d.identity, 'policies', to_jsonb(d.policies))
             from curfew.decisions d where d.id = c.decision) as decided
     from curfew.credentials c where c.task = any($1::text[])`,
    [tasks.map(t => t.id)],
  )
  const bounds = new Map(ledger.held.flatMap(h => (h.below ? [[h.task, h.below.bounds] as const] : [])))
  return [...widened(tasks, credentials, bounds), ...outlives(tasks, credentials)]
}
