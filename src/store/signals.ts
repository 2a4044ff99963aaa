/** Owns signals at rest: each statement once, by its source and its source's own id. */
import { CurfewError } from '../domain/errors.js'
import { isWaiting } from '../domain/signal.js'
import type { SignalStore } from '../ports.js'
import { writeAudit } from './audit.js'
import { signalHandled, signalHeld, signalJudged, signalReceived } from './events.js'
import { toSignal } from './rows.js'
import type { Row, Sql } from './sql.js'

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
        return { signal: toSignal(first as Row), fresh: false }
      }),
    async get(id) {
      const [row] = await sql.query('select * from curfew.signals where id = $1', [id])
      return row ? toSignal(row) : null
    },
    async list(limit, waiting = false) {
      const rows = await sql.query(
        'select * from curfew.signals where not $2::boolean or (held is not null and verdict is null and handled_at is null) order by id desc limit $1',
        [limit, waiting],
      )
      return rows.map(toSignal)
    },
    async due(limit) {
      const rows = await sql.query(
        'select * from curfew.signals where act is not null and handled_at is null and (held is null or verdict is not null) order by received_at limit $1',
        [limit],
      )
      return rows.map(toSignal)
    },
    handled: (id, { revocation, quarantine }) =>
      sql.tx(async tx => {
        const [row] = await tx.query<{ source: string }>(
          'update curfew.signals set handled_at = curfew.now(), revocation = $2, quarantine = $3 where id = $1 and handled_at is null returning source',
          [id, revocation, quarantine],
        )
        if (row) await writeAudit(tx, [signalHandled(id, row.source, { revocation, quarantine })])
      }),
    hold: (id, reach) =>
      sql.tx(async tx => {
        const [row] = await tx.query<{ source: string }>(
          'update curfew.signals set held = $2::jsonb where id = $1 and handled_at is null and held is null returning source',
          [id, JSON.stringify(reach)],
        )
        if (row) await writeAudit(tx, [signalHeld(id, row.source, reach)])
      }),
    judge: (id, verdict, context) =>
      sql.tx(async tx => {
        const [found] = await tx.query('select * from curfew.signals where id = $1 for update', [id])
        if (!found) throw noSuchSignal()
        if (!isWaiting(toSignal(found))) throw notWaiting()
        const [row] = await tx.query(
          `update curfew.signals set verdict = $2::jsonb, handled_at = case when $3::boolean then curfew.now() end where id = $1 returning *`,
          [id, JSON.stringify(verdict), verdict.kind === 'dismissed'],
        )
        await writeAudit(tx, [signalJudged(id, verdict, context)])
        return toSignal(row as Row)
      }),
  }
}

export const noSuchSignal = () => new CurfewError('not_found', 'no such signal', { reason: 'not_found' })
export const notWaiting = () => new CurfewError('conflict', 'this signal does not wait for anybody', { reason: 'signal_not_held' })
