/** Owns the task object of RFC 9396: its type, and reading it strictly. */
import type { z } from 'zod'
import { CurfewError } from '../domain/errors.js'
import { parseStrict } from '../domain/json.js'
import { parse } from './route.js'
import { rarTask } from './schemas.js'

export const rarType = (serverUrl: string) => `${serverUrl}/rar/task/v1`

/** RFC 9396: one array, and in it exactly one task object. */
export function readTaskObject(type: string, text: string) {
  const list = (() => {
    try {
      return parseStrict(text, { maxDepth: 6, maxMembers: 64 })
    } catch (error) {
      const reason = error instanceof CurfewError ? (error.facts.reason ?? 'not_json') : 'not_json'
      throw new CurfewError('malformed', 'must be a JSON array', { reason, field: 'authorization_details' })
    }
  })()
  if (!Array.isArray(list) || list.length !== 1)
    throw new CurfewError('malformed', 'must hold exactly one task object', { reason: 'one_task_object', field: 'authorization_details' })
  try {
    return parse(rarTask(type), list[0], '') as z.output<ReturnType<typeof rarTask>>
  } catch (error) {
    if (!(error instanceof CurfewError)) throw error
    throw new CurfewError(error.code, error.message, { ...error.facts, field: `authorization_details.0${error.facts.field ? `.${error.facts.field}` : ''}` })
  }
}
