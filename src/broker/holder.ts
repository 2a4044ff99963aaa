/** Verb: the holder of a task shows its token and its key. Another's task answers exactly like one that does not exist (T57). */
import { CurfewError } from '../domain/errors.js'
import type { Task } from '../domain/task.js'
import type { Mark } from '../domain/workload.js'
import type { BrokerDeps } from './deps.js'
import { type Presented, prove } from './prove.js'
import { readTaskToken } from './task-token.js'

export interface Holder {
  readonly task: Task
  readonly jkt: string
  /** The proof's mark, for the transaction that acts. */
  readonly marks: readonly Mark[]
}

/** @param taskId from the path; null where the route names no task. */
export async function recognizeHolder(deps: BrokerDeps, token: string, presented: Presented, taskId: string | null): Promise<Holder> {
  const claims = await readTaskToken(deps, token)
  const proven = await prove(deps, presented, token)
  if (proven.jkt !== claims.jkt)
    throw new CurfewError('proof_refused', 'the proof is by another key than the token is bound to', { reason: 'key_mismatch', field: 'DPoP' })
  const task = taskId === null || taskId === claims.task ? await deps.store.tasks.get(claims.task) : null
  if (!task) throw notFound('no such task')
  return { task, jkt: proven.jkt, marks: [proven.mark] }
}

export function notFound(message: string): CurfewError {
  return new CurfewError('not_found', message, { reason: 'not_found' })
}
