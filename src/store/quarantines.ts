/** Owns quarantines at rest. */
import { CurfewError } from '../domain/errors.js'
import type { NewQuarantine, Quarantine } from '../domain/quarantine.js'
import type { Actor, Selector } from '../domain/revocation.js'
import type { QuarantineStore } from '../ports.js'
import { scopeOf } from './admission.js'
import { writeAudit } from './audit.js'
import { quarantineLifted, quarantineSet } from './events.js'
import { toQuarantine } from './rows.js'
import type { Row, Sql, Tx } from './sql.js'

export const noSuchQuarantine = () => new CurfewError('not_found', 'no such quarantine', { reason: 'not_found' })

/** @param sql as for revocations: it never waits behind issuing for a connection. */
export function quarantineStore(sql: Sql): QuarantineStore {
  return {
    set: (quarantine, context) => sql.tx(tx => insertQuarantine(tx, quarantine, context.actor, null, context.requestId), 'exclusive'),
    async get(id) {
      const [row] = await sql.query('select * from curfew.quarantines where id = $1', [id])
      return row ? toQuarantine(row) : null
    },
    async ofAct(id) {
      const [row] = await sql.query('select * from curfew.quarantines where revocation = $1', [id])
      return row ? toQuarantine(row) : null
    },
    async list({ all, limit }) {
      const rows = await sql.query(
        'select * from curfew.quarantines where $1::boolean or (lifted_at is null and until > (select curfew.now())) order by set_at desc, id desc limit $2',
        [all, limit],
      )
      return rows.map(toQuarantine)
    },
    lift: (id, reason, context) =>
      sql.tx(async tx => {
        const [found] = await tx.query('select * from curfew.quarantines where id = $1 for update', [id])
        if (!found) throw noSuchQuarantine()
        const [row] = await tx.query(
          `update curfew.quarantines q set lifted_at = n.at, lifted_by = $2::jsonb, lift_reason = $3 from (select curfew.now() as at) n
           where q.id = $1 and q.lifted_at is null and q.until > n.at returning q.*`,
          [id, JSON.stringify(context.actor), reason],
        )
        if (!row) return toQuarantine(found)
        const lifted = toQuarantine(row)
        await writeAudit(tx, [quarantineLifted(lifted, context)])
        return lifted
      }),
  }
}

/** The caller holds the cut-off lock. */
export async function insertQuarantine(tx: Tx, q: NewQuarantine, actor: Actor, revocation: string | null, requestId: string | null): Promise<Quarantine> {
  const { kind, key } = q.selector
  const [row] = await tx.query(
    `insert into curfew.quarantines (id, kind, key, scope, filter, message, set_by, set_at, until, revocation)
     select $1, $2, $3, $4, $5::jsonb, $6, $7::jsonb, n.at, n.at + make_interval(secs => $8::double precision), $9 from (select curfew.now() as at) n returning *`,
    [
      q.id,
      kind,
      key,
      await scopeBehind(tx, q.selector),
      q.selector.kind === 'where' ? JSON.stringify(q.selector.where) : null,
      q.message,
      JSON.stringify(actor),
      q.seconds,
      revocation,
    ],
  )
  const quarantine = toQuarantine(row as Row)
  await writeAudit(tx, [quarantineSet(quarantine, requestId)])
  return quarantine
}

/** Where admission looks for it. A single credential cannot be issued again; what stands behind it is its task. */
async function scopeBehind(tx: Tx, selector: Selector): Promise<string | null> {
  if (selector.kind === 'where') return null
  if (selector.kind !== 'credential') return scopeOf(selector.kind, selector.key)
  const [row] = await tx.query<{ task: string }>('select task from curfew.credentials where id = $1', [selector.key])
  return row ? scopeOf('task', row.task) : scopeOf('credential', selector.key)
}
