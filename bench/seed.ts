/** Owns rows by the hundred thousand: copies of a credential that was really issued, so that no column is forgotten. */
import type pg from 'pg'

export interface Seed {
  /** The credential that is copied, with its task. */
  readonly like: string
  readonly credentials: number
  /** How many of them share a task. */
  readonly perTask: number
  /** Seconds since the epoch; default an hour ahead. */
  readonly expiresAt?: number
  /** Default: that of the original. */
  readonly identity?: string
}

let runs = 0

/** Active credentials under open tasks. Answers how many a second could be written. */
export async function seed(db: pg.Pool, s: Seed): Promise<number> {
  const began = performance.now()
  // Ids begin with the time, as real ones do; the tag keeps runs apart.
  const tag = `0${String(++runs).padStart(3, '0')}`
  const id = (prefix: string, n: string) => `'${prefix}_' || '${tag}' || lpad(to_hex(${n}), 8, '0') || substr(md5(${n}::text || '${tag}'), 1, 14)`
  await db.query(
    `insert into curfew.tasks select (jsonb_populate_record(t, jsonb_build_object('id', ${id('tsk', 'n')}, 'identity', coalesce($3, t.identity), 'run', null,
       'deadline_at', now() + interval '6 hours', 'due_at', now() + interval '6 hours'))).*
     from curfew.tasks t join curfew.credentials c on c.task = t.id, generate_series(1, $2::int) n where c.id = $1`,
    [s.like, Math.ceil(s.credentials / s.perTask), s.identity ?? null],
  )
  const CHUNK = 20_000
  for (let from = 1; from <= s.credentials; from += CHUNK) {
    await db.query(
      `insert into curfew.credentials select (jsonb_populate_record(c, jsonb_build_object('id', ${id('crd', 'n')}, 'task', ${id('tsk', '((n - 1) / $4::int + 1)')},
         'identity', coalesce($5, c.identity), 'digest', md5(n::text || '${tag}'), 'expires_at', to_timestamp($6::float8)))).*
       from curfew.credentials c, generate_series($2::int, $3::int) n where c.id = $1`,
      [s.like, from, Math.min(from + CHUNK - 1, s.credentials), s.perTask, s.identity ?? null, s.expiresAt ?? Math.floor(Date.now() / 1000) + 3_600],
    )
  }
  await db.query('analyze curfew.tasks, curfew.credentials')
  return s.credentials / ((performance.now() - began) / 1000)
}

/** Everything that was issued and ended; operators and keys stay. */
export async function emptied(db: pg.Pool): Promise<void> {
  await db.query(
    'truncate curfew.credentials, curfew.tasks, curfew.audit, curfew.decisions, curfew.idempotency, curfew.revocations, curfew.marks, curfew.tombstones cascade',
  )
}
