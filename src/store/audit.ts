/** Owns writing evidence: the rows of one act, in the act's own transaction. */
import type { AuditEvent } from '../domain/audit.js'
import type { AuditLog } from '../ports.js'
import { toAuditRow } from './rows.js'
import { evidenceJson, type Sql, type Tx } from './sql.js'

/** One statement however many rows: an act on a hundred credentials writes its hundred rows at once. */
export async function writeAudit(tx: Pick<Tx, 'query'>, events: readonly AuditEvent[]): Promise<void> {
  if (events.length === 0) return
  const rows = events.map(e => ({ kind: e.kind, actor: e.actor, subject: e.subject, reason: e.reason, request_id: e.requestId, data: e.data }))
  await tx.query(
    `insert into curfew.audit (at, kind, actor, subject, reason, request_id, data)
     select n.at, e.kind, e.actor, e.subject, e.reason, e.request_id, e.data
     from (select curfew.now() as at) n, jsonb_to_recordset($1::jsonb) as e(kind text, actor jsonb, subject text, reason text, request_id text, data jsonb)`,
    [evidenceJson(rows)],
  )
}

/**
 * The rows of `credentialClosed` for all that a statement moved, written by that statement. The suite of every store holds it to the words of events.ts.
 * @param moved the name of a query of it; actor and request are placeholders.
 */
export const auditClosed = (moved: string, actor: string, request: string): string =>
  `insert into curfew.audit (at, kind, actor, subject, reason, request_id, data)
   select revoking_at, 'credential.revoking', ${actor}::jsonb, id, reason, ${request}::text, jsonb_build_object('task', task, 'capability', capability, 'revocation', revocation)
   from ${moved}`

/** The same of `credentialDead`. */
export const auditDead = (moved: string, actor: string): string =>
  `insert into curfew.audit (at, kind, actor, subject, reason, request_id, data)
   select revoked_at, 'credential.revoked', ${actor}::jsonb, id, reason, null, jsonb_build_object('looked', probe->'looked', 'attempts', attempts, 'revocation', revocation)
   from ${moved}`

export function auditLog(sql: Sql): AuditLog {
  return {
    append: event => writeAudit(sql, [event]),
    async list({ kind, subject, limit }) {
      const rows = await sql.query(
        `select * from curfew.audit where ($1::text is null or kind = $1) and ($2::text is null or subject = $2) order by id desc limit $3`,
        [kind ?? null, subject ?? null, limit],
      )
      return rows.map(toAuditRow)
    },
  }
}
