/** Owns guards at rest: of a key only the sealed digest, and what each of their processes has applied. */
import { CurfewError } from '../domain/errors.js'
import { type Attendance, GONE_AFTER, type Guard, type GuardInstance } from '../domain/guard.js'
import type { GuardId } from '../domain/ids.js'
import type { GuardStore } from '../ports.js'
import { writeAudit } from './audit.js'
import { guardEvent } from './events.js'
import { type Row, rowsJson, type Sql } from './sql.js'

const toGuard = (r: Row): Guard => ({
  id: r.id as GuardId,
  name: r.name as string,
  createdAt: r.created_at as Date,
  disabledAt: r.disabled_at as Date | null,
})
const toInstance = (r: Row): GuardInstance => ({
  guard: r.guard as GuardId,
  instance: r.instance as string,
  seq: r.seq as number,
  lagMs: r.lag_ms as number | null,
  seenAt: r.seen_at as Date,
})

export function guardStore(sql: Sql): GuardStore {
  return {
    add: ({ id, name }, keyDigest, context) =>
      sql.tx(async tx => {
        const [row] = await tx.query(
          'insert into curfew.guards (id, name, key_digest, created_at) values ($1, $2, $3, curfew.now()) on conflict do nothing returning *',
          [id, name, keyDigest],
        )
        if (!row) throw guardNameTaken()
        await writeAudit(tx, [guardEvent('guard.added', id, { name }, context)])
        return toGuard(row)
      }),
    async byKey(keyDigest) {
      const [row] = await sql.query('select * from curfew.guards where key_digest = $1', [keyDigest])
      return row ? toGuard(row) : null
    },
    async list() {
      return (await sql.query('select * from curfew.guards order by id')).map(toGuard)
    },
    disable: (id, context) =>
      sql.tx(async tx => {
        const [disabled] = await tx.query('update curfew.guards set disabled_at = curfew.now() where id = $1 and disabled_at is null returning *', [id])
        if (disabled) await writeAudit(tx, [guardEvent('guard.disabled', id, {}, context)])
        const [row] = disabled ? [disabled] : await tx.query('select * from curfew.guards where id = $1', [id])
        if (!row) throw noSuchGuard()
        return toGuard(row)
      }),
    async seen(instances) {
      if (instances.length === 0) return []
      // Sorted: two replicas that hear of the same instances must not deadlock.
      const rows = [...instances].sort((a, b) => (`${a.guard} ${a.instance}` < `${b.guard} ${b.instance}` ? -1 : 1))
      await sql.query(
        `insert into curfew.guard_instances as g (guard, instance, seq, lag_ms, seen_at)
         select m.guard, m.instance, m.seq, m."lagMs", n.at from jsonb_to_recordset($1::jsonb) as m(guard text, instance text, seq bigint, "lagMs" float8), (select curfew.now() as at) n
         on conflict (guard, instance) do update set seq = greatest(g.seq, excluded.seq), lag_ms = coalesce(excluded.lag_ms, g.lag_ms), seen_at = excluded.seen_at`,
        [rowsJson(rows)],
      )
      const known = await sql.query<{ id: GuardId; is_disabled: boolean; instances: number }>(
        `select g.id, g.disabled_at is not null as is_disabled, count(i.guard)::int as instances
         from curfew.guards g left join curfew.guard_instances i on i.guard = g.id and i.seen_at > (select curfew.now()) - make_interval(secs => $2::double precision)
         where g.id = any($1::text[]) group by g.id order by g.id`,
        [[...new Set(instances.map(i => i.guard))], GONE_AFTER],
      )
      return known.map(r => ({ guard: r.id, isDisabled: r.is_disabled, instances: r.instances }))
    },
    async instances() {
      return (await sql.query('select * from curfew.guard_instances order by guard, instance')).map(toInstance)
    },
    async attendance(seq) {
      const [row] = await sql.query<{ applied: number; of: number; slowest: number | null }>(
        `select count(*) filter (where i.seq >= $1)::int as applied, count(*)::int as of, max(i.lag_ms) filter (where i.seq >= $1) as slowest
         from curfew.guard_instances i join curfew.guards g on g.id = i.guard
         where g.disabled_at is null and i.seen_at > (select curfew.now()) - make_interval(secs => $2::double precision)`,
        [seq, GONE_AFTER],
      )
      return { applied: row?.applied ?? 0, of: row?.of ?? 0, slowestMs: row?.slowest ?? null } satisfies Attendance
    },
  }
}

export const guardNameTaken = () => new CurfewError('conflict', 'a guard of that name exists', { reason: 'name_taken', field: 'name' })
export const noSuchGuard = () => new CurfewError('not_found', 'no such guard', { reason: 'not_found' })
