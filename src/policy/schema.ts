/** Owns the policy schema at load: the claims that the configuration adds to it, and which facts exist at all. */
import { CurfewError } from '../domain/errors.js'
import { isReservedName } from './context.js'

interface CedarType {
  type?: unknown
  name?: unknown
  attributes?: Record<string, CedarType>
  required?: boolean
}
interface Namespace {
  commonTypes?: Record<string, CedarType>
  entityTypes: Record<string, unknown>
  actions: Record<string, { appliesTo?: { context?: CedarType } }>
}
/** Cedar's JSON schema, of which only the nameless namespace is used. */
export type PolicySchema = Record<string, Namespace>

/** The record in `schema.cedarschema` that stands empty there and is filled with the claims of `generic` issuers. */
export const CLAIMS_TYPE = 'OidcClaims'

/** A copy in which every configured claim is an optional text, so that a policy that misspells one does not validate. */
export function withClaims(schema: PolicySchema, claims: readonly string[]): PolicySchema {
  const refuse = (message: string, field: string): never => {
    throw new CurfewError('malformed', message, { reason: 'policies_refused', field })
  }
  const reserved = claims.find(isReservedName)
  if (reserved) return refuse(`a claim called ${reserved} cannot be shown to policy: the name has a meaning of its own there`, 'attributeClaims')
  const copy = structuredClone(schema)
  const record = copy['']?.commonTypes?.[CLAIMS_TYPE]
  if (record?.type !== 'Record')
    return refuse(`the schema needs the line "type ${CLAIMS_TYPE} = {};", which the configuration fills`, 'policies.schema.cedarschema')
  record.attributes = {}
  for (const claim of claims) record.attributes[claim] = { type: 'String', required: false }
  return copy
}

/** Answers whether a path like `['context', 'github', 'ref']` is a fact that the schema knows. */
export function factsKnownTo(schema: PolicySchema, action: string): (path: readonly string[]) => boolean {
  const namespace = schema['']
  const resolve = (type: CedarType | undefined): CedarType | undefined => {
    if (type?.attributes) return type
    const name = type?.name ?? type?.type
    return typeof name === 'string' ? namespace?.commonTypes?.[name] : undefined
  }
  return path => {
    let at = resolve(namespace?.actions[action]?.appliesTo?.context)
    for (const [i, segment] of path.slice(1).entries()) {
      const attributes: Record<string, CedarType> = at?.attributes ?? {}
      if (!Object.hasOwn(attributes, segment)) return false
      if (i < path.length - 2) at = resolve(attributes[segment])
    }
    return true
  }
}
