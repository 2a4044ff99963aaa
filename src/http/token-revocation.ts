/** Owns giving a token back (RFC 7009). */
import type { Express } from 'express'
import { type Doors, route } from './route.js'
import { tokenQueryForm } from './schemas.js'

export function tokenRevocationRoutes(app: Express, doors: Doors): void {
  route(app, doors, {
    method: 'post',
    path: '/oauth2/revoke',
    who: 'public',
    oauth: true,
    form: tokenQueryForm,
    answer: async ({ body, presented, requestId }) => {
      await doors.broker.giveBack(body.token, presented, requestId)
      return { status: 200 }
    },
  })
}
