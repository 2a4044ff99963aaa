/** Owns the token endpoint: token exchange (RFC 8693), assertion grants (RFC 7523), client credentials (RFC 6749 section 4.4), one pipeline for all. */
import type { Express, Request } from 'express'
import type { Exchanged } from '../broker/exchange.js'
import { CurfewError } from '../domain/errors.js'
import { tokenShape } from './oauth-shapes.js'
import { headerValues } from './request.js'
import { type Doors, route } from './route.js'
import { type TokenForm, tokenForm } from './schemas.js'
import type { As } from './shapes.js'
import { rarType, readTaskObject } from './task-object.js'
import { ACCESS_TOKEN, EXCHANGE, shownEvidence, toldAs } from './token-grants.js'

export function tokenRoutes(app: Express, doors: Doors): void {
  const type = rarType(doors.serverUrl)

  route(app, doors, {
    method: 'post',
    path: '/oauth2/token',
    who: 'public',
    asks: true,
    oauth: true,
    shows: [['proof']],
    summary: 'Evidence for a task token or an access token (RFC 8693, RFC 7523)',
    description: 'docs/http-api.md has the grants, the parameters of each, and the task object in authorization_details.',
    form: tokenForm,
    successes: { 200: { body: tokenShape } },
    repeats: ['resource', 'audience'],
    answer: async ({ body, presented, req, requestId, signal }) => {
      refuseAuthorization(req)
      const shown = shownEvidence(body, doors.clientMethods)
      const object = body.authorization_details === undefined ? null : readTaskObject(type, body.authorization_details)
      const exchange = doors.broker.exchange(
        {
          evidence: shown.evidence,
          grant: shown.grant,
          presented,
          clientId: body.client_id ?? null,
          task: object?.task ?? null,
          target: {
            resources: body.resource,
            audiences: body.audience,
            scopes: body.scope?.split(' ') ?? null,
            locations: object?.locations ?? [],
            actions: object?.actions ?? null,
          },
        },
        requestId,
        signal,
      )
      const exchanged = await exchange.catch(error => {
        throw toldAs(error, shown)
      })
      return { status: 200, body: tokenAnswer(type, exchanged, doors.store.clock.now(), body) }
    },
  })
}

/** RFC 6749 section 2.3: a client authenticates in one way, and by a header in none of ours. */
function refuseAuthorization(req: Request): void {
  if (headerValues(req, 'authorization').length === 0) return
  throw new CurfewError('attestation_refused', 'no client authenticates by this header here', { reason: 'authorization_refused', field: 'Authorization' })
}

function tokenAnswer(type: string, { task, taskToken, issued }: Exchanged, now: Date, form: TokenForm): As<typeof tokenShape> {
  const secondsLeft = (until: Date) => Math.max(0, Math.floor((until.getTime() - now.getTime()) / 1000))
  const common = { type, identifier: task.id, purpose: task.purpose }
  // RFC 8693 section 2.2.1: of what was asked for; a token of ours is a JWT by either name.
  const issuedType = form.grant_type === EXCHANGE ? { issued_token_type: form.requested_token_type ?? ACCESS_TOKEN } : {}
  if (!issued) {
    return {
      access_token: taskToken.reveal().token as string,
      ...issuedType,
      token_type: 'DPoP',
      expires_in: secondsLeft(task.deadlineAt),
      authorization_details: [{ ...common, capabilities: task.capabilities, life_seconds: secondsLeft(task.deadlineAt) }],
      task: { id: task.id, deadline_at: task.deadlineAt.toISOString() },
    }
  }
  const { credential, secret, capability } = issued
  return {
    access_token: secret.reveal().token as string,
    ...issuedType,
    token_type: credential.jkt === null ? 'Bearer' : 'DPoP',
    expires_in: secondsLeft(credential.expiresAt),
    // Absent when none was granted: an empty one is no scope at all (RFC 6749 section 3.3).
    ...(capability.scopes.length > 0 ? { scope: capability.scopes.join(' ') } : {}),
    // RFC 9396 section 7: as granted, of what was asked only that which is for this server.
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
    task: { id: task.id, token: taskToken.reveal().token as string, deadline_at: task.deadlineAt.toISOString() },
  }
}
