/** Owns how an engine refuses the parameters of a capability that cannot work, by name, and the shapes that the Vault kinds have in common. */
import { z } from 'zod'
import { CurfewError } from '../domain/errors.js'

/** One segment of a path at Vault: a mount, a role, an issuer. */
export const segment = z.string().regex(/^[A-Za-z0-9_-]{1,100}$/, 'must be letters, digits, _ and -')
/** The policy that the per-issuance token is given; the token role admits no other. */
export const tokenPolicy = z.string().regex(/^curfew-cap-[a-z0-9-]{1,80}$/, 'must begin with curfew-cap-')

export function checkParameters(kind: string, shape: z.ZodType, parameters: unknown): void {
  const result = shape.safeParse(parameters)
  if (result.success) return
  const issue = result.error.issues[0]
  const unknown = issue?.code === 'unrecognized_keys' ? issue.keys.slice(0, 1) : []
  throw new CurfewError('malformed', unknown.length > 0 ? `the ${kind} engine has no such parameter` : (issue?.message ?? 'invalid'), {
    reason: unknown.length > 0 ? 'unknown_field' : 'invalid_field',
    field: ['parameters', ...(issue?.path ?? []), ...unknown].join('.'),
  })
}
