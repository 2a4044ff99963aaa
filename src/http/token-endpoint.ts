/** Owns the token endpoint: token exchange (RFC 8693). */
import type { Express } from 'express'
import type { z } from 'zod'
import type { Exchanged } from '../broker/exchange.js'
import { looksLikeGrant } from '../broker/grant-token.js'
import { CurfewError } from '../domain/errors.js'
import { type Doors, parse, route } from './route.js'
import { evidenceType, tokenForm } from './schemas.js'
import { rarType, readTaskObject } from './task-object.js'

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token'
const JWT = 'urn:ietf:params:oauth:token-type:jwt'

export function tokenRoutes(app: Express, doors: Doors): void {
  const { broker, serverUrl } = doors
  const type = rarType(serverUrl)

  route(app, doors, {
    method: 'post',
    path: '/oauth2/token',
    who: 'public',
    oauth: true,
    form: tokenForm,
    answer: async ({ body, presented, requestId, signal }) => {
      if (body.grant_type !== EXCHANGE)
        throw new CurfewError('malformed', `the only grant type here is ${EXCHANGE}`, { reason: 'grant_type_unsupported', field: 'grant_type' })
      const { evidence, grant, told } = presentedTokens(body)
      const task = readTaskObject(type, required(body.authorization_details, 'authorization_details'))
      const exchange = broker.exchange(
        {
          evidence: evidence === null ? null : { type: 'jwt', token: evidence },
          grant,
          presented,
          purpose: task.purpose,
          capabilities: task.capabilities,
          lifeSeconds: task.life_seconds ?? null,
          owner: task.owner ?? null,
          labels: task.labels,
          heartbeatSeconds: task.heartbeat_seconds ?? null,
          resource: body.resource ?? null,
          ttlSeconds: task.ttl ?? null,
        },
        requestId,
        signal,
      )
      const exchanged = await exchange.catch(told)
      return { status: 200, body: tokenAnswer(type, exchanged, doors.store.clock.now(), body.requested_token_type ?? ACCESS_TOKEN) }
    },
  })
}

/**
 * Evidence is a subject token; a grant of ours is one as well, and then the child's evidence is the actor token (RFC 8693 section 2.1).
 * `told` calls the offending field by the name that it has here.
 */
function presentedTokens(body: z.output<typeof tokenForm>): { evidence: string | null; grant: string | null; told: (error: unknown) => never } {
  const subject = required(body.subject_token, 'subject_token')
  const type = parse(evidenceType, required(body.subject_token_type, 'subject_token_type'), 'subject_token_type')
  const actor = body.actor_token ?? null
  if (actor !== null) parse(evidenceType, required(body.actor_token_type, 'actor_token_type'), 'actor_token_type')
  else if (body.actor_token_type !== undefined)
    throw new CurfewError('malformed', 'there is no actor_token of that type', { reason: 'parameter_unexpected', field: 'actor_token_type' })
  if (actor === null && !looksLikeGrant(subject)) return { evidence: subject, grant: null, told: raise }
  if (type !== JWT) throw new CurfewError('malformed', `a grant is of type ${JWT}`, { reason: 'invalid_field', field: 'subject_token_type' })
  const names: Readonly<Record<string, string>> = { parent_grant: 'subject_token', subject_token: 'actor_token' }
  return {
    evidence: actor,
    grant: subject,
    told: error => {
      const field = error instanceof CurfewError ? names[error.facts.field ?? ''] : undefined
      return raise(field === undefined ? error : renamed(error as CurfewError, field))
    },
  }
}

const raise = (error: unknown): never => {
  throw error
}
const renamed = (error: CurfewError, field: string) => new CurfewError(error.code, error.message, { ...error.facts, field }, { cause: error.cause })

function required(value: string | undefined, field: string): string {
  if (value === undefined) throw new CurfewError('malformed', 'this parameter is required', { reason: 'parameter_missing', field })
  return value
}

function tokenAnswer(type: string, { task, taskToken, issued }: Exchanged, now: Date, issuedType: string) {
  const secondsLeft = (until: Date) => Math.max(0, Math.floor((until.getTime() - now.getTime()) / 1000))
  const common = { type, identifier: task.id, purpose: task.purpose }
  if (!issued) {
    return {
      access_token: taskToken.reveal().token,
      issued_token_type: ACCESS_TOKEN,
      token_type: 'DPoP',
      expires_in: secondsLeft(task.deadlineAt),
      authorization_details: [{ ...common, capabilities: task.capabilities, life_seconds: secondsLeft(task.deadlineAt) }],
      task: { id: task.id, deadline_at: task.deadlineAt.toISOString() },
    }
  }
  const { credential, secret, capability } = issued
  return {
    access_token: secret.reveal().token,
    issued_token_type: issuedType === JWT ? JWT : ACCESS_TOKEN,
    token_type: credential.jkt === null ? 'Bearer' : 'DPoP',
    expires_in: secondsLeft(credential.expiresAt),
    scope: capability.scopes.join(' '),
    authorization_details: [
      {
        ...common,
        capabilities: [capability.name],
        actions: capability.scopes,
        locations: credential.audience ? [credential.audience] : [],
        ttl: secondsLeft(credential.expiresAt),
      },
    ],
    credential: credential.id,
    task: { id: task.id, token: taskToken.reveal().token, deadline_at: task.deadlineAt.toISOString() },
  }
}
