/** Owns signals at rest: each statement once, by its source and its source's own id. */
import type { SignalStore } from '../ports.js'
import { writeAudit } from './audit.js'
import { signalHandled, signalReceived } from './events.js'
import { toSignal } from './rows.js'
import type { Sql } from './sql.js'

export function signalStore(sql: Sql): SignalStore {
  return {
    accept: (signal, decided, context) =>
      sql.tx(async tx => {
        const [row] = await tx.query(
          `insert into curfew.signals (id, source, event_id, type, severity, subject, occurred_at, received_at, detail, rule, act)
           values ($1, $2, $3, $4, $5, $6::jsonb, $7, curfew.now(), $8, $9, $10::jsonb) on conflict (source, event_id) do nothing returning *`,
          [
            signal.id,
            signal.source,
            signal.eventId,
            signal.type,
            signal.severity,
            JSON.stringify(signal.subject),
            signal.occurredAt,
            signal.detail,
            decided.rule,
            decided.act ? JSON.stringify(decided.act) : null,
          ],
        )
        if (row) {
          await writeAudit(tx, [signalReceived(signal, decided, context)])
          return { signal: toSignal(row), fresh: true }
        }
        const [first] = await tx.query('select * from curfew.signals where source = $1 and event_id = $2', [signal.source, signal.eventId])
        return { signal: toSignal(first as Record<string, unknown>), fresh: false }
      }),
    async get(id) {
      const [row] = await sql.query('select * from curfew.signals where id = $1', [id])
      return row ? toSignal(row) : null
    },
    async list(limit) {
      return (await sql.query('select * from curfew.signals order by id desc limit $1', [limit])).map(toSignal)
    },
    async due(limit) {
      return (await sql.query('select * from curfew.signals where act is not null and handled_at is null order by received_at limit $1', [limit])).map(toSignal)
    },
    handled: (id, revocation) =>
      sql.tx(async tx => {
        const rows = await tx.query<{ source: string }>(
          'update curfew.signals set handled_at = curfew.now(), revocation = $2 where id = $1 and handled_at is null returning source',
          [id, revocation],
        )
        const [row] = rows
        if (row) await writeAudit(tx, [signalHandled(id, row.source, revocation)])
      }),
  }
}
