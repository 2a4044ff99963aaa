/** Owns what a selector means in rows: the tasks that attributes name, and everything that an act would hit. */
import { EXPOSED_TOLD, OWNERS_TOLD, type Reach } from '../domain/plan.js'
import type { Selector } from '../domain/revocation.js'
import { ATTESTED, type Where } from '../domain/where.js'
import { ENDS_TASKS, MATCHES } from './closing.js'
import { toReach } from './rows.js'
import { inState, type Tx } from './sql.js'

/** A statement that grows with its parameters: `add` answers the placeholder of a value. */
interface Params {
  readonly values: unknown[]
  add(value: unknown): string
}

function params(): Params {
  const values: unknown[] = []
  return { values, add: value => `$${values.push(value)}` }
}

/** Instants that credentials carry are whole seconds. */
const second = (at: Date) => new Date(Math.floor(at.getTime() / 1000) * 1000)

/** Which open tasks `t` are meant. All conditions must hold. */
function taskConditions(where: Where, p: Params): string[] {
  const is = (column: string, value: string | undefined) => (value === undefined ? [] : [`${column} = ${p.add(value)}`])
  const attested = Object.entries(ATTESTED).flatMap(([name, facts]) => {
    const wanted = where[name as keyof typeof ATTESTED]
    if (wanted === undefined) return []
    const value = p.add(wanted)
    return [`(${facts.map(fact => `t.attestation->'attributes'->>'${fact}' = ${value}`).join(' or ')})`]
  })
  return [
    `t.state = 'open'`,
    ...is('t.identity', where.identity),
    ...(where.issuer === undefined ? [] : [`${p.add(where.issuer)} in (t.issuer, t.issuer_id)`]),
    ...(where.capability === undefined ? [] : [`${p.add(where.capability)} = any(t.capabilities)`]),
    ...is('t.owner', where.owner),
    ...(where.labels === undefined ? [] : [`t.labels @> ${p.add(JSON.stringify(where.labels))}::jsonb`]),
    ...attested,
    ...credentialConditions(where, p, is),
  ]
}

/** What is asked of a live credential of the task; one credential must answer all of it. */
function credentialConditions(where: Where, p: Params, is: (column: string, value: string | undefined) => string[]): string[] {
  const [from, to] = [where.issuedAfter, where.issuedBefore]
  const times = (column: string) => [...(from ? [`${column} >= ${p.add(second(from))}`] : []), ...(to ? [`${column} <= ${p.add(to)}`] : [])]
  const own = [...is('c.audience', where.audience), ...is('c.engine', where.engine)]
  const asked = [...own, ...times('c.issued_at')]
  if (asked.length === 0) return []
  const live = `exists (select 1 from curfew.credentials c where c.task = t.id and ${inState('c.state', 'pending', 'active')} and ${asked.join(' and ')})`
  // A task that was opened in the time holds a task token of that time, whatever else it holds.
  return [own.length === 0 ? `(${live} or (${times('t.opened_at').join(' and ')}))` : live]
}

/** The next tasks that these attributes name, in id order. */
export async function tasksWhere(tx: Tx, where: Where, after: string, limit: number): Promise<string[]> {
  const p = params()
  const conditions = taskConditions(where, p)
  const rows = await tx.query<{ id: string }>(
    `select t.id from curfew.tasks t where ${conditions.join(' and ')} and t.id > ${p.add(after)} order by t.id limit ${p.add(limit)}`,
    p.values,
  )
  return rows.map(r => r.id)
}

/** Two queries of ids: the tasks at the top of what ends, and the credentials that are hit whatever their task. */
function tops(selector: Selector, p: Params): { tasks: string; credentials: string } {
  const none = 'select null::text collate "C" as id where false'
  switch (selector.kind) {
    case 'credential':
      return { tasks: none, credentials: `select id from curfew.credentials where id = ${p.add(selector.key)}` }
    case 'task':
      return { tasks: `select id from curfew.tasks where id = ${p.add(selector.key)}`, credentials: none }
    case 'where':
      return { tasks: `select t.id from curfew.tasks t where ${taskConditions(selector.where, p).join(' and ')}`, credentials: none }
    default: {
      // The key is the first parameter here, as in every statement about a scope.
      p.add(selector.key)
      const until = selector.issuedBefore ? p.add(selector.issuedBefore) : '(select curfew.now())'
      const hit = MATCHES[selector.kind]
      return {
        tasks: ENDS_TASKS.has(selector.kind) ? `select id from curfew.tasks where ${hit} and opened_at <= ${until} and state = 'open'` : none,
        credentials: `select id from curfew.credentials where ${hit} and issued_at <= ${until} and state in ('pending', 'active')`,
      }
    }
  }
}

/** What a commit would hit now, counted in one statement and so at one moment. */
export async function reachOf(tx: Tx, selector: Selector): Promise<Reach> {
  const p = params()
  const top = tops(selector, p)
  const [row] = await tx.query<{ reach: unknown }>(
    `with recursive top as (${top.tasks}),
       tree as (select id from top union select t.id from curfew.tasks t join tree on t.parent = tree.id),
       ending as materialized (select t.id, t.owner from curfew.tasks t join tree on tree.id = t.id where ${inState('t.state', 'open')}),
       direct as (${top.credentials}),
       hit as materialized (
         select c.id, c.class, c.engine, c.capability, c.expires_at from curfew.credentials c
         where ${inState('c.state', 'pending', 'active')} and c.id in (select id from direct union select c.id from curfew.credentials c join tree on c.task = tree.id))
     select json_build_object(
       'credentials', (select count(*) from hit),
       'classes', json_build_object('instant', (select count(*) from hit where class = 'instant'), 'backend', (select count(*) from hit where class = 'backend'),
                                    'expiry-only', (select count(*) from hit where class = 'expiry-only')),
       'engines', (select coalesce(json_object_agg(engine, n), '{}') from (select engine, count(*) as n from hit group by engine) e),
       'capabilities', (select count(distinct capability) from hit),
       'tasks', (select count(*) from ending),
       'owners', (select coalesce(json_agg(o), '[]') from (select owner, count(*) as tasks from ending group by owner order by 2 desc, 1 limit ${OWNERS_TOLD}) o),
       'exposed', (select coalesce(json_agg(x), '[]') from (select id as credential, capability, expires_at as until from hit where class = 'expiry-only'
                                                            order by expires_at desc, id limit ${EXPOSED_TOLD}) x),
       'exposedUntil', (select max(expires_at) from hit where class = 'expiry-only')) as reach`,
    p.values,
  )
  return toReach(row?.reach)
}
