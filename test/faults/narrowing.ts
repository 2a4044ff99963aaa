/** Owns reading what I7 is judged by, after every run. */
import { type Capabilities, type CredentialRow, outlives, type TaskRow, widened } from '../narrowing.js'
import type { Ledger } from './ledger.js'
import { AUDIENCE, DB, JWT, NEVER_MADE, TLS, type World } from './world.js'

/** As the configuration and the policies of the world have it: what a capability is good for, and the one rule that permits it. */
export const CAPABILITIES: Capabilities = {
  [DB]: { audience: null, rule: 'ci-db' },
  [JWT]: { audience: AUDIENCE, rule: 'ci-jwt' },
  [TLS]: { audience: null, rule: 'ci-tls' },
  [NEVER_MADE]: { audience: null, rule: 'ci-never' },
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
  return [...widened(tasks, credentials, bounds, CAPABILITIES), ...outlives(tasks, credentials)]
}
