/** Owns the people and machines that run Curfew: a name, a role, a token of which only a digest is kept. */
import type { OperatorId } from './ids.js'

export const ROLES = ['responder', 'admin', 'auditor'] as const
export type Role = (typeof ROLES)[number]

export interface Operator {
  readonly id: OperatorId
  readonly name: string
  readonly role: Role
  readonly createdAt: Date
  readonly disabledAt: Date | null
}

export const RIGHTS = {
  'credentials.read': ['responder', 'admin', 'auditor'],
  'revocations.write': ['responder', 'admin'],
  'revocations.read': ['responder', 'admin', 'auditor'],
  'decisions.evaluate': ['responder', 'admin', 'auditor'],
  'audit.read': ['admin', 'auditor', 'responder'],
  'signals.read': ['responder', 'admin', 'auditor'],
  'keys.write': ['admin'],
  'operators.write': ['admin'],
  'guards.write': ['admin'],
} as const satisfies Record<string, readonly Role[]>
export type Right = keyof typeof RIGHTS

export function may(role: Role, right: Right): boolean {
  return (RIGHTS[right] as readonly Role[]).includes(role)
}
