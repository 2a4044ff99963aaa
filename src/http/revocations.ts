/** Owns the responder's routes: plans, revocations and their receipts. */
import { createHash } from 'node:crypto'
import type { Express } from 'express'
import { notFound } from '../broker/holder.js'
import { isId, newId, type PlanId } from '../domain/ids.js'
import { singleHeader } from './request.js'
import { type Doors, operatorOf, parse, route } from './route.js'
import { idempotencyKey, pageQuery, planBody, revocationBody } from './schemas.js'
import { demandQuarantinable, selectorOf } from './selectors.js'
import { planView, revocationView } from './views.js'

export function revocationRoutes(app: Express, doors: Doors): void {
  const { broker, store } = doors

  route(app, doors, {
    method: 'post',
    path: '/v1/plans',
    who: { operator: 'revocations.write' },
    json: planBody,
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
    json: revocationBody,
    answer: async ({ body, raw, caller, req, requestId }) => {
      const key = parse(idempotencyKey.optional(), singleHeader(req, 'idempotency-key'), 'Idempotency-Key')
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
    query: pageQuery,
    answer: async ({ query }) => ({ status: 200, body: { revocations: (await store.revocations.list(query.limit)).map(revocationView) } }),
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/revocations/:id',
    who: { operator: 'revocations.read' },
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
    answer: async ({ params }) => {
      const { signed, claims } = await broker.receipt(params.id as string)
      return { status: 200, body: { receipt: signed, claims } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/receipt-keys',
    who: 'public',
    answer: async () => ({ status: 200, body: await doors.signer.jwks('receipt') }),
  })
}
