/** Owns giving a token back (RFC 7009). */
import type { Express } from 'express'
import { CurfewError } from '../domain/errors.js'
import { authorization } from './request.js'
import { type Doors, route } from './route.js'
import { giveBackForm } from './schemas.js'

export function tokenRevocationRoutes(app: Express, doors: Doors): void {
  route(app, doors, {
    method: 'post',
    path: '/oauth2/revoke',
    who: 'public',
    oauth: true,
    shows: [['proof'], ['taskToken', 'proof'], []],
    summary: 'Give a token back (RFC 7009)',
    description:
      'A bound token wants a proof of its key. 200 also for a token that is unknown, expired or revoked already. What is below a task token goes along.',
    form: giveBackForm,
    successes: { 200: {} },
    answer: async ({ body, presented, req, requestId }) => {
      const given = authorization(req)
      if (given && given.scheme !== 'dpop')
        throw new CurfewError('attestation_refused', 'no client authenticates so here', { reason: 'authorization_refused', field: 'Authorization' })
      await doors.broker.giveBack({ token: body.token, clientId: body.client_id ?? null, holder: given?.value ?? null }, presented, requestId)
      return { status: 200 }
    },
  })
}
