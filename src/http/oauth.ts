/** Owns the OAuth endpoints: token exchange (RFC 8693), introspection (RFC 7662), revocation (RFC 7009). */
import { timingSafeEqual } from 'node:crypto'
import type { Express, Request } from 'express'
import type { z } from 'zod'
import type { Exchanged } from '../broker/exchange.js'
import { looksLikeGrant } from '../broker/grant-token.js'
import type { Audience } from '../domain/capability.js'
import { CurfewError } from '../domain/errors.js'
import { parseStrict } from '../domain/json.js'
import { Secret } from '../domain/secret.js'
import { authorization } from './request.js'
import { type Doors, parse, route } from './route.js'
import { evidenceType, rarTask, tokenForm, tokenQueryForm } from './schemas.js'

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token'
const JWT = 'urn:ietf:params:oauth:token-type:jwt'

export const rarType = (serverUrl: string) => `${serverUrl}/rar/task/v1`

export function oauthRoutes(app: Express, doors: Doors): void {
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

  route(app, doors, {
    method: 'post',
    path: '/oauth2/introspect',
    who: 'public',
    oauth: true,
    form: tokenQueryForm,
    answer: async ({ body, req }) => {
      const audience = resourceServer(doors, req)
      const live = await broker.introspect(audience, body.token)
      if (!live) return { status: 200, body: { active: false } }
      const { nbf: _nbf, ...claims } = live.claims
      return { status: 200, body: { active: true, token_type: live.credential.jkt === null ? 'Bearer' : 'DPoP', ...claims } }
    },
  })

  route(app, doors, {
    method: 'post',
    path: '/oauth2/revoke',
    who: 'public',
    oauth: true,
    form: tokenQueryForm,
    answer: async ({ body, presented, requestId }) => {
      await broker.giveBack(body.token, presented, requestId)
      return { status: 200 }
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

/** RFC 9396: one array, and in it exactly one task object. */
function readTaskObject(type: string, text: string) {
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

/** RFC 7662 section 2.1: the resource server must authenticate; here by HTTP Basic with its audience's name. */
function resourceServer(doors: Doors, req: Request): Audience {
  const refused = () =>
    new CurfewError('attestation_refused', 'a registered resource server must authenticate', { reason: 'client_unauthenticated', field: 'Authorization' })
  const given = authorization(req)
  if (given?.scheme !== 'basic') throw refused()
  const text = Buffer.from(given.value, 'base64').toString('utf8')
  const at = text.indexOf(':')
  const plain = [text.slice(0, at), text.slice(at + 1)] as const
  // As RFC 7617 joins them, and form-encoded before (RFC 6749 section 2.3.1): stock clients encode even the `-` of a name.
  const audiences = [plain, plain.map(formDecoded) as [string, string]].map(([name, secret]) => authenticated(doors, name, secret))
  const audience = audiences.find(a => a !== null)
  if (!audience) throw refused()
  return audience
}

function authenticated(doors: Doors, name: string, secret: string): Audience | null {
  const audience = doors.audiences.find(a => a.name === name)
  // Compared as digests in constant time, also when there is no such server: absence must not be faster than a wrong secret (H24).
  const shown = Buffer.from(Secret.token(secret || 'none').digest())
  const wanted = Buffer.from(audience?.secret?.digest() ?? Secret.token('absent').digest())
  return timingSafeEqual(shown, wanted) && audience?.secret ? audience : null
}

function formDecoded(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return text
  }
}
