/** Owns letting open tasks end sooner than they would have; never later. */
import type { SignalSubject } from '../domain/signal.js'
import type { Context } from '../ports.js'
import { writeAudit } from './audit.js'
import { tasksShortened } from './events.js'
import { inState, type Tx } from './sql.js'

const ROOTS: Readonly<Record<SignalSubject['kind'], string>> = {
  credential: 'select task as id from curfew.credentials where id = $1',
  task: 'select id from curfew.tasks where id = $1',
  identity: `select id from curfew.tasks where identity = $1 and state = 'open'`,
}

/**
 * What is below a task ends no later than it (P57). The task's end, when it comes, is an act like any other: verifiers hear of it.
 * @param tx under the exclusive cut-off lock: whoever is opening a child has settled its deadline before this, or sees the shorter one.
 */
export async function shortenTasks(tx: Tx, subject: SignalSubject, seconds: number, context: Context): Promise<number> {
  const rows = await tx.query<{ id: string }>(
    `with recursive tree as (${ROOTS[subject.kind]} union select t.id from curfew.tasks t join tree on t.parent = tree.id),
       meant as materialized (select t.id from curfew.tasks t join tree on tree.id = t.id where ${inState('t.state', 'open')} order by t.id for update of t)
     update curfew.tasks t set deadline_at = least(t.deadline_at, n.until), due_at = least(t.due_at, n.until), version = t.version + 1
     from meant, (select curfew.now() + make_interval(secs => $2::double precision) as until) n
     where t.id = meant.id and t.deadline_at > n.until returning t.id`,
    [subject.key, seconds],
  )
  await writeAudit(tx, [tasksShortened(subject, rows.length, seconds, context)])
  return rows.length
}
