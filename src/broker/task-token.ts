/** Owns the task token: what the holder of a task shows to Curfew itself, in a token class of its own. */
import { CurfewError } from '../domain/errors.js'
import { isId, type TaskId } from '../domain/ids.js'
import { Secret } from '../domain/secret.js'
import type { Task } from '../domain/task.js'
import { readAddressedToken } from './addressed-token.js'
import type { BrokerDeps } from './deps.js'

/** No verifier accepts two types, and task keys are not published: an access token can never pass for a task token, nor the reverse (T16, T69). */
export const TASK_TYP = 'curfew-task+jwt'

export async function signTaskToken(deps: BrokerDeps, task: Task): Promise<Secret> {
  const { token } = await deps.signer.sign(
    'task',
    TASK_TYP,
    {
      iss: deps.serverUrl,
      aud: deps.serverUrl,
      sub: task.attestation.identity,
      jti: task.id,
      task: { id: task.id, ancestors: [...task.ancestors] },
      trust_issuer: task.attestation.issuerId,
      cnf: { jkt: task.jkt },
      iat: Math.floor(task.openedAt.getTime() / 1000),
      exp: Math.floor(task.deadlineAt.getTime() / 1000),
    },
    'ES256',
  )
  return Secret.token(token)
}

export interface TaskClaims {
  readonly task: TaskId
  readonly jkt: string
}

/** Verifies signature, class, issuer, audience and time; whether the task is open is the store's to say. */
export async function readTaskToken(deps: BrokerDeps, token: string): Promise<TaskClaims> {
  const refuse = (reason: string) => new CurfewError('attestation_refused', 'this is no task token of this broker', { reason, field: 'Authorization' })
  const payload = await readAddressedToken(deps, token, { algorithms: ['ES256'], types: [TASK_TYP] }, refuse)
  const jkt = (payload.cnf as { jkt?: unknown } | undefined)?.jkt
  if (!isId('task', payload.jti) || typeof jkt !== 'string') throw refuse('claim_invalid')
  return { task: payload.jti, jkt }
}
