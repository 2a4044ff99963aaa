/** Owns the task object of RFC 9396: its type, and reading it strictly. */
import type { z } from 'zod'
import type { OpenTaskObject, TaskObject } from '../broker/exchange.js'
import { CurfewError } from '../domain/errors.js'
import { parseStrict } from '../domain/json.js'
import { parse } from './route.js'
import { rarOpenTask, rarTask } from './schemas.js'

export const rarType = (serverUrl: string) => `${serverUrl}/rar/task/v1`

export interface ReadTaskObject {
  readonly task: TaskObject | OpenTaskObject
  readonly locations: readonly string[]
  readonly actions: readonly string[] | null
}

/** RFC 9396: one array, and in it exactly one task object. With `identifier` it is of a task that is open: what we answer with may be sent again. */
export function readTaskObject(type: string, text: string): ReadTaskObject {
  const object = onlyObject(text)
  if (typeof object === 'object' && object !== null && 'identifier' in object) {
    const { identifier, purpose, capabilities, ttl, locations, actions } = judged(rarOpenTask(type), object)
    return { task: { identifier, purpose: purpose ?? null, capabilities, ttlSeconds: ttl ?? null }, locations: locations ?? [], actions: actions ?? null }
  }
  const { purpose, capabilities, life_seconds, owner, labels, heartbeat_seconds, ttl, locations, actions } = judged(rarTask(type), object)
  return {
    task: {
      purpose,
      capabilities,
      lifeSeconds: life_seconds ?? null,
      owner: owner ?? null,
      labels,
      heartbeatSeconds: heartbeat_seconds ?? null,
      ttlSeconds: ttl ?? null,
    },
    locations: locations ?? [],
    actions: actions ?? null,
  }
}

function onlyObject(text: string): unknown {
  const list = (() => {
    try {
      return parseStrict(text, { maxDepth: 6, maxMembers: 64 })
    } catch (error) {
      const reason = error instanceof CurfewError ? (error.facts.reason ?? 'not_json') : 'not_json'
      throw new CurfewError('malformed', 'must be a JSON array', { reason, field: 'authorization_details' })
    }
  })()
  if (Array.isArray(list) && list.length === 1) return list[0]
  throw new CurfewError('malformed', 'must hold exactly one task object', { reason: 'one_task_object', field: 'authorization_details' })
}

function judged<T>(schema: z.ZodType<T>, object: unknown): T {
  try {
    return parse(schema, object, '') as T
  } catch (error) {
    if (!(error instanceof CurfewError)) throw error
    throw new CurfewError(error.code, error.message, { ...error.facts, field: `authorization_details.0${error.facts.field ? `.${error.facts.field}` : ''}` })
  }
}
