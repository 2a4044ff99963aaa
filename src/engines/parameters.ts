/** Owns how an engine judges its part of a capability: strictly, and by the name of the field that cannot work. */
import type { z } from 'zod'
import { CurfewError } from '../domain/errors.js'

/** Throws CurfewError(malformed) with the dotted path of the first field that does not fit; the message quotes no value. */
export function parametersOf<S extends z.ZodType>(schema: S, parameters: unknown): z.output<S> {
  const parsed = schema.safeParse(parameters)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  const path = [...(issue?.path ?? []), ...(issue?.code === 'unrecognized_keys' ? issue.keys.slice(0, 1) : [])]
  const unknown = issue?.code === 'unrecognized_keys'
  throw new CurfewError('malformed', unknown ? 'this engine has no such parameter' : 'this engine parameter cannot work', {
    reason: unknown ? 'parameter_unknown' : 'parameter_invalid',
    field: ['parameters', ...path].map(String).join('.'),
  })
}
