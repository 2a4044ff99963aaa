/** Owns decisions at rest: permits beside what they permitted, denials by themselves. */
import type { Decision } from '../domain/decision.js'
import type { Context, DecisionLog } from '../ports.js'
import { writeAudit } from './audit.js'
import { toDecision } from './rows.js'
import type { Sql, Tx } from './sql.js'

export async function writeDecisions(tx: Tx, decisions: readonly Decision[], context: Context): Promise<void> {
  for (const d of decisions) {
    await tx.query(
      `insert into curfew.decisions (id, at, allowed, identity, issuer, capability, task, policies, digest, obligations, reason, explanation, attributes)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11, $12::jsonb, $13::jsonb)`,
      [
        d.id,
        d.at,
        d.allowed,
        d.identity,
        d.issuer,
        d.capability,
        d.task,
        d.policies,
        d.digest,
        JSON.stringify(d.obligations),
        d.reason,
        d.explanation ? JSON.stringify(d.explanation) : null,
        JSON.stringify(d.attributes),
      ],
    )
  }
  await writeAudit(
    tx,
    decisions.map(d => ({
      kind: d.allowed ? ('decision.permitted' as const) : ('decision.denied' as const),
      actor: context.actor,
      subject: d.id,
      reason: d.reason,
      requestId: context.requestId,
      data: { capability: d.capability, identity: d.identity, policies: d.policies, digest: d.digest },
    })),
  )
}

export function decisionLog(sql: Sql): DecisionLog {
  return {
    deny: (decision, context) => sql.tx(tx => writeDecisions(tx, [decision], context)),
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
