/** Owns the routes that deny what is new: set, look, lift. */
import type { Express } from 'express'
import { z } from 'zod'
import { notFound } from '../broker/holder.js'
import { isId, newId } from '../domain/ids.js'
import { type Doors, operatorOf, route } from './route.js'
import { quarantineBody, quarantineQuery, reasonBody } from './schemas.js'
import { demandQuarantinable, selectorOf } from './selectors.js'
import { id, locationShape, quarantineShape } from './shapes.js'
import { quarantineView } from './views.js'

export function quarantineRoutes(app: Express, doors: Doors): void {
  const { quarantines, clock } = doors.store

  route(app, doors, {
    method: 'post',
    path: '/v1/quarantines',
    who: { operator: 'revocations.write' },
    summary: 'Deny new credentials to a selector, for a time',
    json: quarantineBody,
    successes: { 201: { body: z.object({ quarantine: quarantineShape }), headers: { Location: locationShape } } },
    answer: async ({ body, caller, requestId }) => {
      const selector = selectorOf(body.selector, clock.now())
      demandQuarantinable(selector)
      const asked = { id: newId('quarantine'), selector, seconds: body.ttl_seconds, message: body.message ?? null }
      const quarantine = await quarantines.set(asked, { actor: { kind: 'operator', id: operatorOf(caller).id }, requestId })
      return { status: 201, headers: { Location: `/v1/quarantines/${quarantine.id}` }, body: { quarantine: quarantineView(quarantine) } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/quarantines',
    who: { operator: 'revocations.read' },
    summary: 'The quarantines in force, or all',
    query: quarantineQuery,
    successes: { 200: { body: z.object({ quarantines: z.array(quarantineShape) }) } },
    answer: async ({ query }) => ({
      status: 200,
      body: { quarantines: (await quarantines.list({ all: query.all === 'true', limit: query.limit })).map(quarantineView) },
    }),
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/quarantines/:id',
    who: { operator: 'revocations.read' },
    summary: 'A quarantine',
    params: { id: id('quarantine') },
    successes: { 200: { body: z.object({ quarantine: quarantineShape }) } },
    refuses: ['not_found'],
    answer: async ({ params }) => {
      const quarantine = isId('quarantine', params.id) ? await quarantines.get(params.id) : null
      if (!quarantine) throw notFound('no such quarantine')
      return { status: 200, body: { quarantine: quarantineView(quarantine) } }
    },
  })

  route(app, doors, {
    method: 'delete',
    path: '/v1/quarantines/:id',
    who: { operator: 'revocations.write' },
    summary: 'Lift a quarantine',
    params: { id: id('quarantine') },
    json: reasonBody,
    successes: { 200: { body: z.object({ quarantine: quarantineShape }) } },
    refuses: ['not_found'],
    answer: async ({ params, body, caller, requestId }) => {
      if (!isId('quarantine', params.id)) throw notFound('no such quarantine')
      const lifted = await quarantines.lift(params.id, body.reason, { actor: { kind: 'operator', id: operatorOf(caller).id }, requestId })
      return { status: 200, body: { quarantine: quarantineView(lifted) } }
    },
  })
}
