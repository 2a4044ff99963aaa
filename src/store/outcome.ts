/** Owns the count of what has become of all that one act moved: the numbers of a receipt. */
import { RECORDS_ABOUT } from '../domain/credential.js'
import { CurfewError } from '../domain/errors.js'
import type { Exposed } from '../domain/plan.js'
import { EXPOSED_TOLD, type Outcome } from '../domain/plan.js'
import type { Tx } from './sql.js'

interface Counted {
  readonly revoking: number
  readonly stuck: number
  readonly revoked: number
  readonly looked: Record<string, number>
  readonly not_probed: number
  readonly exposed: (Omit<Exposed, 'until'> & { until: string })[]
  readonly exposed_total: number
  readonly exposed_until: string | null
  readonly closed: boolean
}

/** In one statement, and so of one moment. @throws {CurfewError} `not_found`. */
export async function outcomeOf(tx: Tx, id: string): Promise<Outcome> {
  const [row] = await tx.query<{ known: boolean; outcome: Counted }>(
    `with acts as materialized (select id, closed_at from curfew.revocations where id = $1 or part_of = $1),
       moved as materialized (select c.* from acts cross join lateral (
         select id, state, class, capability, expires_at, probe from curfew.credentials where revocation = acts.id offset 0) c),
       looks as (select l.what, count(*) as n from moved, jsonb_array_elements_text(moved.probe->'looked') as l(what) where moved.state = 'revoked' group by l.what)
     select exists (select 1 from acts) as known, json_build_object(
       'revoking', (select count(*) from moved where state = 'revoking'),
       'stuck', (select count(*) from moved where state = 'stuck'),
       'revoked', (select count(*) from moved where state = 'revoked'),
       'looked', (select coalesce(json_object_agg(what, n), '{}') from looks),
       'not_probed', (select count(*) from moved where state = 'revoked' and (probe is null or probe->'looked' = '[]'
                        or (class = 'backend' and (probe->'looked') - $2::text[] = '[]'))),
       'exposed', (select coalesce(json_agg(x), '[]') from (select id as credential, capability, expires_at as until from moved
                     where class = 'expiry-only' and state <> 'revoked' order by expires_at desc, id limit ${EXPOSED_TOLD}) x),
       'exposed_total', (select count(*) from moved where class = 'expiry-only' and state <> 'revoked'),
       'exposed_until', (select max(expires_at) from moved where class = 'expiry-only' and state <> 'revoked'),
       'closed', not exists (select 1 from acts where closed_at is null)
                 and not exists (select 1 from curfew.tasks t where not t.drained and t.revocation in (select id from acts))) as outcome`,
    [id, RECORDS_ABOUT],
  )
  if (!row?.known) throw new CurfewError('not_found', 'no such revocation', { reason: 'not_found' })
  const { not_probed, exposed, exposed_total, exposed_until, ...rest } = row.outcome
  return {
    ...rest,
    notProbed: not_probed,
    exposed: exposed.map(e => ({ ...e, until: new Date(e.until) })),
    exposedTotal: exposed_total,
    exposedUntil: exposed_until === null ? null : new Date(exposed_until),
  }
}
