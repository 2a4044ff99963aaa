/** Owns plans at rest: what was counted, for whom, and the act that followed. */
import { MINT_WINDOW_MS } from '../domain/credential.js'
import type { CredentialId } from '../domain/ids.js'
import { PLAN_SECONDS } from '../domain/plan.js'
import type { PlanStore } from '../ports.js'
import { writeAudit } from './audit.js'
import { planMade } from './events.js'
import { toPlan } from './rows.js'
import { reachOf } from './selecting.js'
import type { Row, Sql } from './sql.js'

export function planStore(sql: Sql): PlanStore {
  return {
    make: ({ id, selector, reason }, context) =>
      sql.tx(async tx => {
        const reach = await reachOf(tx, selector)
        const scoped = selector.kind !== 'credential' && selector.kind !== 'task' && selector.kind !== 'where'
        const [row] = await tx.query(
          `insert into curfew.plans (id, kind, key, issued_before, filter, reason, reach, made_by, made_at, valid_until)
           select $1, $2, $3, $4, $5::jsonb, $6, $7::jsonb, $8::jsonb, n.at, n.at + make_interval(secs => $9::double precision) from (select curfew.now() as at) n returning *`,
          [
            id,
            selector.kind,
            selector.key,
            scoped ? (selector.issuedBefore ?? null) : null,
            selector.kind === 'where' ? JSON.stringify(selector.where) : null,
            reason,
            JSON.stringify(reach),
            JSON.stringify(context.actor),
            PLAN_SECONDS,
          ],
        )
        const plan = toPlan(row as Row)
        await writeAudit(tx, [planMade(plan, context)])
        return plan
      }),
    async get(id) {
      const [row] = await sql.query('select * from curfew.plans where id = $1', [id])
      return row ? toPlan(row) : null
    },
    async newcomers(id, limit) {
      // A row's mint window begins when it is written: its `iat` is whole seconds, and would take a neighbour of the plan for an older one.
      const rows = await sql.query<{ id: CredentialId }>(
        `select c.id from curfew.plans p join curfew.revocations r on r.id = p.revocation or r.part_of = p.revocation join curfew.credentials c on c.revocation = r.id
         where p.id = $1 and c.deadline_at > p.made_at + make_interval(secs => $2::double precision) order by c.id limit $3`,
        [id, MINT_WINDOW_MS / 1000, limit],
      )
      return rows.map(r => r.id)
    },
  }
}
