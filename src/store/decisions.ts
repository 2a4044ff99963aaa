/** Owns decisions at rest: permits beside what they permitted, denials by themselves. */
import type { Decision } from '../domain/decision.js'
import type { Context, DecisionLog } from '../ports.js'
import { writeAudit } from './audit.js'
import { decided } from './events.js'
import { toDecision } from './rows.js'
import { evidenceJson, type Sql, type Tx } from './sql.js'

/** Each decision once, with one audit row, however often it is acted on: who opens a task and issues on the same permit decided once. */
export async function writeDecisions(tx: Tx, decisions: readonly { decision: Decision; context: Context }[]): Promise<void> {
  if (decisions.length === 0) return
  const rows = await tx.query<{ id: string }>(
    `insert into curfew.decisions (id, at, allowed, identity, issuer, capability, task, policies, digest, obligations, reason, explanation, attributes)
     select id, at, allowed, identity, issuer, capability, task, policies, digest, obligations, reason, explanation, attributes
     from jsonb_populate_recordset(null::curfew.decisions, $1::jsonb) on conflict (id) do nothing returning id`,
    [evidenceJson(decisions.map(d => d.decision))],
  )
  const fresh = new Set(rows.map(r => r.id))
  const events = new Map(decisions.filter(d => fresh.has(d.decision.id)).map(d => [d.decision.id, decided(d.decision, d.context)]))
  await writeAudit(tx, [...events.values()])
}

export function decisionLog(sql: Sql): DecisionLog {
  return {
    deny: (decision, context) => {
      if (decision.allowed) throw new TypeError('a permit is recorded by the transaction that acts on it')
      return sql.tx(tx => writeDecisions(tx, [{ decision, context }]))
    },
    note: (decision, context) => sql.tx(tx => writeDecisions(tx, [{ decision, context }])),
    async get(id) {
      const [row] = await sql.query('select * from curfew.decisions where id = $1', [id])
      return row ? toDecision(row) : null
    },
    async list({ identity, capability, allowed, limit }) {
      const rows = await sql.query(
        `select * from curfew.decisions
         where ($1::text is null or identity = $1) and ($2::text is null or capability = $2) and ($3::boolean is null or allowed = $3)
         order by id desc limit $4`,
        [identity ?? null, capability ?? null, allowed ?? null, limit],
      )
      return rows.map(toDecision)
    },
  }
}
