/** Owns runs that are over at rest: the tombstone, and the note that tasks of them are still to be ended. */
import type { TaskId } from '../domain/ids.js'
import { type EndedRun, isAttempt } from '../domain/run.js'
import type { RunStore } from '../ports.js'
import { runKey } from './admission.js'
import { writeAudit } from './audit.js'
import { TOMBSTONE_SECONDS } from './closing.js'
import { runEnded } from './events.js'
import { consume } from './marks.js'
import type { Sql, Tx } from './sql.js'

/** @param sql connections of its own, as for revocations: what is over does not wait behind issuing. */
export function runStore(sql: Sql): RunStore {
  return {
    // Whoever opens a task of it now holds the lock shared: it is seen here, or meets the tombstone.
    end: (run, marks, context) =>
      sql.tx(async tx => {
        await consume(tx, marks)
        const left = (await openOf(tx, run)).length > 0
        await tx.query(
          `insert into curfew.tombstones as s (run, until, source, conclusion, ending)
           select $1, n.at + make_interval(secs => $2::double precision), $3, $4, $5 from (select curfew.now() as at) n
           on conflict (run) do update set until = greatest(s.until, excluded.until), source = coalesce(s.source, excluded.source),
                                           conclusion = coalesce(s.conclusion, excluded.conclusion), ending = s.ending or excluded.ending`,
          [runKey(run.issuerId, run.run), TOMBSTONE_SECONDS, run.source, run.conclusion, left],
        )
        await writeAudit(tx, [runEnded(run, left, context)])
      }, 'exclusive'),

    async due(limit) {
      return sql.query<EndedRun & Record<string, unknown>>(
        `select split_part(run, ' ', 1) as "issuerId", substr(run, strpos(run, ' ') + 1) as run, source, conclusion
         from curfew.tombstones where ending order by curfew.tombstones.run limit $1`,
        [limit],
      )
    },

    open: run => openOf(sql, run),

    async settled(run) {
      await sql.query('update curfew.tombstones set ending = false where run = $1 and ending', [runKey(run.issuerId, run.run)])
    },
  }
}

/** By bytes, so that the attempt's name is the beginning of a range: `;` is the character after `:`. */
async function openOf(sql: Pick<Tx, 'query'>, { issuerId, run }: EndedRun): Promise<TaskId[]> {
  const name = isAttempt(run) ? run.slice(0, -1) : run
  const meant = isAttempt(run) ? `run collate "C" >= $2 and run collate "C" < $3` : `run collate "C" = $2`
  const rows = await sql.query<{ id: TaskId }>(
    `with hit as (select id, ancestors from curfew.tasks where state = 'open' and run is not null and issuer_id = $1 and ${meant})
     select id from hit where not exists (select 1 from hit above where above.id = any(hit.ancestors)) order by id`,
    [issuerId, name, ...(isAttempt(run) ? [`${name.slice(0, -1)};`] : [])],
  )
  return rows.map(r => r.id)
}
