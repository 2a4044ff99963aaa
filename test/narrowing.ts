/** Owns the rules of I7 over rows, whoever read them: what stands below a task is no wider and lives no longer, and ends with what stands above it (I1). */

/** What a grant let its child be. */
export interface Bounds {
  readonly jkt: string
  readonly capabilities: readonly string[]
  readonly lifeSeconds: number
}

/** What a capability is good for, and the one rule that permits it. */
export type Capabilities = Readonly<Record<string, { readonly audience: string | null; readonly rule: string }>>

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

/** @param bounds by task, what its grant let it be, where its client told. */
export function widened(
  tasks: readonly TaskRow[],
  credentials: readonly CredentialRow[],
  bounds: ReadonlyMap<string, Bounds>,
  capabilities: Capabilities,
): string[] {
  const byId = new Map(tasks.map(t => [t.id, t]))
  return [...tasks.flatMap(t => widerTask(t, byId, bounds.get(t.id))), ...credentials.flatMap(c => widerCredential(c, byId, capabilities[c.capability]))].map(
    text => `I7 ${text}`,
  )
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
function widerCredential(c: CredentialRow, byId: ReadonlyMap<string, TaskRow>, capability: Capabilities[string] | undefined): string[] {
  const task = byId.get(c.task)
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
