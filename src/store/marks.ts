/** Owns one-time things: consumed in the transaction that acts, exactly once, whatever else forgets. */
import { CurfewError } from '../domain/errors.js'
import type { Mark } from '../domain/workload.js'
import type { ReplayGuard } from '../ports.js'
import type { Sql, Tx } from './sql.js'

/** The refusal of a mark that another has consumed. */
export function replayed(namespace: string): CurfewError {
  return namespace.startsWith('dpop:')
    ? new CurfewError('proof_refused', 'this proof was used before', { reason: 'replayed', field: 'DPoP' })
    : new CurfewError('attestation_refused', 'this evidence was used before', { reason: 'replayed', field: 'subject_token', next: 'ask the provider for a new token' })
}

export function inOrder(marks: readonly Mark[]): Mark[] {
  // Sorted, like the tasks' locks, so that two transactions with the same marks wait for each other instead of deadlocking.
  return [...marks].sort((a, b) => (a.namespace + a.id < b.namespace + b.id ? -1 : 1))
}

/** A unique violation is a replay; the row of a bounded mark may be met again by its own holder only. */
export async function consume(tx: Tx, marks: readonly Mark[]): Promise<void> {
  for (const mark of inOrder(marks)) {
    const inserted = await tx.query('insert into curfew.marks (namespace, id, holder, until) values ($1, $2, $3, $4) on conflict do nothing returning id', [
      mark.namespace,
      mark.id,
      mark.holder ?? null,
      mark.until,
    ])
    if (inserted.length > 0) continue
    if (mark.holder === undefined) throw replayed(mark.namespace)
    const [met] = await tx.query<{ holder: string | null }>('select holder from curfew.marks where namespace = $1 and id = $2', [mark.namespace, mark.id])
    if (met?.holder !== mark.holder) throw replayed(mark.namespace)
  }
}

export function replayGuard(sql: Sql): ReplayGuard {
  return {
    async seen(mark) {
      const [met] = await sql.query<{ holder: string | null }>('select holder from curfew.marks where namespace = $1 and id = $2', [mark.namespace, mark.id])
      return met !== undefined && (mark.holder === undefined || met.holder !== mark.holder)
    },
    claim: marks => sql.tx(tx => consume(tx, marks)),
  }
}
