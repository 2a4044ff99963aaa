/** Owns one-time things: consumed in the transaction that acts, exactly once, whatever else forgets. */
import { CurfewError } from '../domain/errors.js'
import { GRANT_NAMESPACE, type Mark, secondKey } from '../domain/workload.js'
import type { ReplayGuard } from '../ports.js'
import { rowsJson, type Sql, type Tx } from './sql.js'

/** A mark outlives its `until` by this much: whoever judged the thing allowed for clocks. Seconds. */
export const MARK_MARGIN = 60

/** The refusal of a mark that another has consumed. */
export function replayed({ namespace, holder }: Mark): CurfewError {
  if (namespace === GRANT_NAMESPACE)
    return new CurfewError('attestation_refused', 'this grant was used before', {
      reason: 'replayed',
      field: 'parent_grant',
      next: 'ask the holder of the task above for another',
    })
  if (holder !== undefined) return secondKey()
  return namespace.startsWith('dpop:')
    ? new CurfewError('proof_refused', 'this proof was used before', { reason: 'replayed', field: 'DPoP' })
    : new CurfewError('attestation_refused', 'this evidence was used before', {
        reason: 'replayed',
        field: 'subject_token',
        next: 'ask the provider for a new token',
      })
}

export const markKey = (mark: Pick<Mark, 'namespace' | 'id'>): string => JSON.stringify([mark.namespace, mark.id])

/** May this mark be presented by somebody when `holder` has it already. Bounded evidence may, by its own holder; nothing else. */
export const mayMeet = (mark: Mark, holder: string | null): boolean => mark.holder !== undefined && mark.holder === holder

/**
 * Consumes the marks of several callers, in sorted order. Answers the refusal of each caller that met a consumed one, or null; what a
 * refused caller had consumed is given back, so that a refusal burns nothing.
 */
export async function consumeAll(tx: Tx, callers: readonly (readonly Mark[])[]): Promise<(CurfewError | null)[]> {
  const refusals: (CurfewError | null)[] = callers.map(() => null)
  const wanted = new Map<string, Mark>()
  callers.forEach((marks, i) => {
    // Within one batch the first comes first, as it would outside; whether he keeps it is judged below.
    const met = marks.find(m => wanted.has(markKey(m)) && !mayMeet(m, wanted.get(markKey(m))?.holder ?? null))
    if (met) refusals[i] = replayed(met)
    else for (const mark of marks) wanted.set(markKey(mark), mark)
  })
  if (wanted.size === 0) return refusals
  const rows = await tx.query<{ namespace: string; id: string; fresh: boolean }>(
    `insert into curfew.marks as m (namespace, id, holder, until)
     select namespace, id, holder, until from jsonb_populate_recordset(null::curfew.marks, $1::jsonb) order by namespace, id
     on conflict (namespace, id) do update set until = greatest(m.until, excluded.until) where m.holder = excluded.holder
     returning namespace, id, xmax = 0 as fresh`,
    [rowsJson([...wanted.values()])],
  )
  const won = new Map(rows.map(r => [markKey(r), r.fresh]))
  const kept = new Set<string>()
  callers.forEach((marks, i) => {
    if (refusals[i]) return
    const lost = marks.find(m => !won.has(markKey(m)))
    if (lost) refusals[i] = replayed(lost)
    else for (const mark of marks) kept.add(markKey(mark))
  })
  const burnt = [...wanted.entries()].filter(([key]) => won.get(key) === true && !kept.has(key)).map(([, mark]) => ({ namespace: mark.namespace, id: mark.id }))
  if (burnt.length > 0) {
    await tx.query(
      'delete from curfew.marks m using jsonb_to_recordset($1::jsonb) as b(namespace text, id text) where m.namespace = b.namespace and m.id = b.id',
      [rowsJson(burnt)],
    )
  }
  return refusals
}

/** Throws on a repeat; the caller's transaction then undoes the rest. */
export async function consume(tx: Tx, marks: readonly Mark[]): Promise<void> {
  const [refusal] = await consumeAll(tx, [marks])
  if (refusal) throw refusal
}

export function replayGuard(sql: Sql): ReplayGuard {
  return {
    async seen(mark) {
      const [met] = await sql.query<{ holder: string | null }>('select holder from curfew.marks where namespace = $1 and id = $2', [mark.namespace, mark.id])
      return met !== undefined && !mayMeet(mark, met.holder)
    },
    claim: marks => sql.tx(tx => consume(tx, marks)),
  }
}

/** At most `limit` marks whose thing cannot be presented any more. */
export async function forgetMarks(sql: Sql, limit: number): Promise<number> {
  const rows = await sql.query(
    `delete from curfew.marks where ctid = any(array(
       select ctid from curfew.marks where until < (select curfew.now()) - make_interval(secs => $2::double precision) order by until limit $1 for update skip locked))
     returning id`,
    [limit, MARK_MARGIN],
  )
  return rows.length
}
