/** Owns the grants of the token endpoint: which parameters each takes, and what of them is evidence. */
import { looksLikeGrant } from '../broker/grant-token.js'
import { CLIENT_METHODS, type ClientMethod } from '../domain/client-methods.js'
import { CurfewError } from '../domain/errors.js'
import type { Evidence } from '../domain/workload.js'
import { parse } from './route.js'
import { evidenceType, type TokenForm } from './schemas.js'

export const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
export const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer'
export const CLIENT_CREDENTIALS = 'client_credentials'
export const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token'
export const JWT = 'urn:ietf:params:oauth:token-type:jwt'

export interface ShownEvidence {
  readonly evidence: Evidence | null
  /** Of the task above (docs/http-api.md, Delegation). */
  readonly grant: string | null
  /** By the names that the verbs have for these two, those that they have here. */
  readonly names: Readonly<Record<string, string>>
  readonly shownAs?: 'assertion' | 'client_assertion'
}

interface GrantRules {
  readonly takes: readonly (keyof TokenForm)[]
  read(form: TokenForm, methods: readonly ClientMethod[]): ShownEvidence
}

const EVERY: readonly (keyof TokenForm)[] = ['grant_type', 'client_id', 'authorization_details', 'resource', 'audience', 'scope']
const GRANTS: Readonly<Record<string, GrantRules>> = {
  [EXCHANGE]: { takes: ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type'], read: exchanged },
  [JWT_BEARER]: { takes: ['assertion'], read: asserted },
  [CLIENT_CREDENTIALS]: { takes: ['client_assertion', 'client_assertion_type'], read: authenticated },
}

/** Those that can succeed here: without a way to authenticate there are no client credentials. */
export const grantTypes = (methods: readonly ClientMethod[]): readonly string[] =>
  Object.keys(GRANTS).filter(g => g !== CLIENT_CREDENTIALS || methods.length > 0)

/** @param methods those that are switched on. */
export function shownEvidence(form: TokenForm, methods: readonly ClientMethod[]): ShownEvidence {
  const grant = grantTypes(methods).includes(form.grant_type) ? GRANTS[form.grant_type] : undefined
  if (!grant) throw new CurfewError('malformed', 'there is no such grant type here', { reason: 'grant_type_unsupported', field: 'grant_type' })
  if (form.client_secret !== undefined)
    throw new CurfewError('attestation_refused', 'no client here has a secret', {
      reason: 'client_secret_refused',
      field: 'client_secret',
      shownAs: 'client_assertion',
    })
  for (const name of Object.keys(form) as (keyof TokenForm)[]) {
    const isSent = Array.isArray(form[name]) ? form[name].length > 0 : form[name] !== undefined
    if (isSent && !EVERY.includes(name) && !grant.takes.includes(name))
      throw new CurfewError('malformed', 'this parameter is of another grant', { reason: 'parameter_unexpected', field: name })
  }
  return grant.read(form, methods)
}

/** Evidence is a subject token; a grant of ours is one as well, and then the child's evidence is the actor token (RFC 8693 section 2.1). */
function exchanged(form: TokenForm): ShownEvidence {
  const subject = required(form, 'subject_token')
  const type = parse(evidenceType, required(form, 'subject_token_type'), 'subject_token_type')
  const actor = form.actor_token
  if (actor !== undefined) parse(evidenceType, required(form, 'actor_token_type'), 'actor_token_type')
  else if (form.actor_token_type !== undefined)
    throw new CurfewError('malformed', 'there is no actor_token of that type', { reason: 'parameter_unexpected', field: 'actor_token_type' })
  if (actor === undefined && !looksLikeGrant(subject)) return { evidence: { type: 'jwt', token: subject }, grant: null, names: {} }
  if (type !== JWT) throw new CurfewError('malformed', `a grant is of type ${JWT}`, { reason: 'invalid_field', field: 'subject_token_type' })
  return {
    evidence: actor === undefined ? null : { type: 'jwt', token: actor },
    grant: subject,
    names: { parent_grant: 'subject_token', subject_token: 'actor_token' },
  }
}

/** RFC 7523 section 2.1: the same evidence under another name, and with another word for its refusal. */
function asserted(form: TokenForm): ShownEvidence {
  return { evidence: { type: 'jwt', token: required(form, 'assertion') }, grant: null, names: { subject_token: 'assertion' }, shownAs: 'assertion' }
}

/** RFC 7521 section 4.2: the client's authentication is its evidence. */
function authenticated(form: TokenForm, methods: readonly ClientMethod[]): ShownEvidence {
  const refused = (reason: string, message: string, field: string) =>
    new CurfewError('attestation_refused', message, { reason, field, shownAs: 'client_assertion' })
  const token = form.client_assertion
  if (token === undefined) throw refused('client_assertion_missing', 'the client must authenticate', 'client_assertion')
  const type = required(form, 'client_assertion_type')
  const client = methods.find(m => CLIENT_METHODS[m].assertionType === type)
  if (!client) throw refused('client_assertion_type_refused', 'no client authenticates so here', 'client_assertion_type')
  return { evidence: { type: 'jwt', token, client }, grant: null, names: { subject_token: 'client_assertion' }, shownAs: 'client_assertion' }
}

/** The same refusal, by the names that things have at this endpoint. */
export function toldAs(error: unknown, { names, shownAs }: ShownEvidence): unknown {
  if (!(error instanceof CurfewError)) return error
  const { field } = error.facts
  const named = field === undefined ? undefined : (names[field] ?? field)
  return new CurfewError(
    error.code,
    error.message,
    { ...error.facts, ...(named === undefined ? {} : { field: named }), ...(shownAs === undefined ? {} : { shownAs }) },
    { cause: error.cause },
  )
}

function required(form: TokenForm, field: 'subject_token' | 'subject_token_type' | 'actor_token_type' | 'assertion' | 'client_assertion_type'): string {
  const value = form[field]
  if (value === undefined) throw new CurfewError('malformed', 'this parameter is required', { reason: 'parameter_missing', field })
  return value
}
