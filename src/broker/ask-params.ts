/** Owns what a caller adds to its asking: the names by what the engine takes, the values by the engine's own judgement. */
import type { Capability } from '../domain/capability.js'
import type { AskParams } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { CredentialEngine } from '../ports.js'

/** Throws `malformed` for a name that the engine does not take, one that it needs and was not given, and a value that it refuses. */
export async function judgeParams(engine: CredentialEngine, capability: Capability, params: AskParams): Promise<void> {
  const takes = new Map(Object.entries(engine.takes?.(capability.parameters) ?? {}))
  const refuse = (reason: string, name: string, message: string) => {
    throw new CurfewError('malformed', message, { reason, field: `params.${name}` })
  }
  for (const name of Object.keys(params)) if (!takes.has(name)) refuse('unknown_field', name, 'this capability takes no such parameter')
  for (const [name, need] of takes) if (need === 'required' && params[name] === undefined) refuse('parameter_missing', name, 'this capability needs it')
  await engine.ask?.(params, capability.parameters)
}
