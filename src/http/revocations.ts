/** Owns the responder's routes: plans, revocations and their receipts. */
import { createHash } from 'node:crypto'
import type { Express } from 'express'
import { z } from 'zod'
import { notFound } from '../broker/holder.js'
import { isId, newId, type PlanId } from '../domain/ids.js'
import { type Doors, operatorOf, route } from './route.js'
import { idempotencyKey, pageQuery, planBody, revocationBody } from './schemas.js'
import { demandQuarantinable, selectorOf } from './selectors.js'
import { type As, id, jwksShape, locationShape, planShape, receiptShape, revocationShape } from './shapes.js'
import { planView, revocationView } from './views.js'

export function revocationRoutes(app: Express, doors: Doors): void {
  const { broker, store } = doors

  route(app, doors, {
    method: 'post',
    path: '/v1/plans',
    who: { operator: 'revocations.write' },
    summary: 'Count what a revocation would hit',
    description: 'Nothing is ended. The plan is good for five minutes and is executed by naming it in a revocation.',
    json: planBody,
    successes: { 201: { body: z.object({ plan: planShape }), headers: { Location: locationShape } } },
    answer: async ({ body, caller, requestId }) => {
      const selector = selectorOf(body.selector, store.clock.now())
      const actor = { kind: 'operator', id: operatorOf(caller).id } as const
      const plan = await store.plans.make({ id: newId('plan'), selector, reason: body.reason ?? null }, { actor, requestId })
      return { status: 201, headers: { Location: `/v1/plans/${plan.id}` }, body: { plan: planView(plan) } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/plans/:id',
    who: { operator: 'revocations.read' },
    summary: 'A plan as it was made',
    params: { id: id('plan') },
    successes: { 200: { body: z.object({ plan: planShape }) } },
    refuses: ['not_found'],
    answer: async ({ params }) => {
      const plan = isId('plan', params.id) ? await store.plans.get(params.id) : null
      if (!plan) throw notFound('no such plan')
      return { status: 200, body: { plan: planView(plan) } }
    },
  })

  route(app, doors, {
    method: 'post',
    path: '/v1/revocations',
    who: { operator: 'revocations.write' },
    summary: 'End what a selector or a plan names',
    description: 'Everything named is refused by introspection before the answer; that it is dead at its target is said by the receipt.',
    headers: { 'Idempotency-Key': idempotencyKey.optional() },
    json: revocationBody,
    successes: {
      202: {
        body: z.object({
          revocation: revocationShape,
          receipt: id('receipt'),
          newcomers: z.array(id('credential')).optional(),
          quarantine: id('quarantine').optional(),
        }),
        headers: { Location: locationShape },
      },
    },
    refuses: ['not_found', 'conflict'],
    answer: async ({ body, raw, caller, headers, requestId }) => {
      const key = headers['Idempotency-Key']
      const what = body.selector ? { selector: selectorOf(body.selector, store.clock.now()) } : { plan: body.plan as PlanId }
      if (body.quarantine) {
        const meant = 'plan' in what ? (await store.plans.get(what.plan))?.selector : what.selector
        if (meant) demandQuarantinable(meant)
      }
      const { revocation, newcomers, quarantine } = await broker.respond(
        operatorOf(caller).id,
        {
          what,
          message: body.message ?? body.reason ?? null,
          quarantine: body.quarantine ? { seconds: body.quarantine.ttl_seconds, message: body.quarantine.message ?? null } : null,
          idempotency: key === undefined ? null : { key, hash: createHash('sha256').update(raw).digest('base64url') },
        },
        requestId,
      )
      return {
        status: 202,
        headers: { Location: `/v1/revocations/${revocation.id}` },
        body: {
          revocation: revocationView(revocation),
          receipt: revocation.receipt,
          ...(newcomers ? { newcomers } : {}),
          ...(quarantine ? { quarantine } : {}),
        },
      }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/revocations',
    who: { operator: 'revocations.read' },
    summary: 'The latest revocations',
    query: pageQuery,
    successes: { 200: { body: z.object({ revocations: z.array(revocationShape) }) } },
    answer: async ({ query }) => ({ status: 200, body: { revocations: (await store.revocations.list(query.limit)).map(revocationView) } }),
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/revocations/:id',
    who: { operator: 'revocations.read' },
    summary: 'A revocation, and what became of its credentials',
    params: { id: id('revocation') },
    successes: {
      200: {
        body: z.object({
          revocation: revocationShape,
          receipt: id('receipt'),
          credentials: z.object({ revoking: z.int(), stuck: z.int(), revoked: z.int() }),
        }),
      },
    },
    refuses: ['not_found'],
    answer: async ({ params }) => {
      const revocation = isId('revocation', params.id) ? await store.revocations.get(params.id) : null
      if (!revocation) throw notFound('no such revocation')
      const { revoking, stuck, revoked } = await store.revocations.outcome(revocation.id)
      return { status: 200, body: { revocation: revocationView(revocation), receipt: revocation.receipt, credentials: { revoking, stuck, revoked } } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/receipts/:id',
    who: { operator: 'revocations.read' },
    summary: 'The signed receipt of a revocation',
    description: 'True of its `iat`; `final` says that nothing is left to do. `receipt` is a compact JWS over `claims`.',
    params: { id: z.union([id('receipt'), id('revocation')]) },
    successes: { 200: { body: z.object({ receipt: z.string(), claims: receiptShape }) } },
    refuses: ['not_found'],
    answer: async ({ params }) => {
      const { signed, claims } = await broker.receipt(params.id as string)
      return { status: 200, body: { receipt: signed, claims: claims as As<typeof receiptShape> } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/receipt-keys',
    who: 'public',
    summary: 'The keys that receipts are signed with',
    successes: { 200: { body: jwksShape } },
    answer: async () => ({ status: 200, body: (await doors.signer.jwks('receipt')) as As<typeof jwksShape> }),
  })
}
