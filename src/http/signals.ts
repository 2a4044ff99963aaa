/** Owns the intake of risk signals, and what people see and decide of them. */
import { createHmac, timingSafeEqual } from 'node:crypto'
import type { Express } from 'express'
import { z } from 'zod'
import { notFound } from '../broker/holder.js'
import { CurfewError } from '../domain/errors.js'
import { isId } from '../domain/ids.js'
import { singleHeader } from './request.js'
import { type Doors, operatorOf, route } from './route.js'
import { reasonBody, signalBody, signalQuery, subjectOf } from './schemas.js'
import { id, locationShape, signalShape } from './shapes.js'
import { signalView } from './views.js'

export function signalRoutes(app: Express, doors: Doors): void {
  const { broker, store } = doors

  route(app, doors, {
    method: 'post',
    path: '/v1/signals',
    who: 'public',
    shows: [['signalSource']],
    summary: 'Take a statement of risk',
    description: 'A rule of the configuration decides what it does; it can shorten a life, never lengthen one. The same `id` of a source is taken once.',
    headers: { 'Curfew-Source': z.string().optional() },
    json: signalBody,
    successes: { 202: { body: z.object({ signal: signalShape }), headers: { Location: locationShape } } },
    refuses: ['forbidden'],
    answer: async ({ body, raw, headers, req, requestId }) => {
      const source = authenticSource(doors, headers['Curfew-Source'], singleHeader(req, 'curfew-signature'), raw)
      const signal = await broker.acceptSignal(
        source,
        {
          eventId: body.id,
          type: body.type,
          severity: body.severity,
          subject: subjectOf(body.subject),
          occurredAt: body.occurred_at,
          detail: body.detail ?? null,
        },
        requestId,
      )
      return { status: 202, headers: { Location: `/v1/signals/${signal.id}` }, body: { signal: signalView(signal) } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/signals',
    who: { operator: 'signals.read' },
    summary: 'The latest signals, or those that wait for a person',
    query: signalQuery,
    successes: { 200: { body: z.object({ signals: z.array(signalShape) }) } },
    answer: async ({ query }) => ({ status: 200, body: { signals: (await store.signals.list(query.limit, query.held === 'true')).map(signalView) } }),
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/signals/:id',
    who: { operator: 'signals.read' },
    summary: 'A signal, its rule, and what it did',
    params: { id: id('signal') },
    successes: { 200: { body: z.object({ signal: signalShape }) } },
    refuses: ['not_found'],
    answer: async ({ params }) => {
      const signal = isId('signal', params.id) ? await store.signals.get(params.id) : null
      if (!signal) throw notFound('no such signal')
      return { status: 200, body: { signal: signalView(signal) } }
    },
  })

  for (const [path, kind] of [
    ['approve', 'approved'],
    ['dismiss', 'dismissed'],
  ] as const) {
    route(app, doors, {
      method: 'post',
      path: `/v1/signals/:id/${path}`,
      who: { operator: 'revocations.write' },
      summary: kind === 'approved' ? 'Let a held signal act' : 'Let a held signal do nothing',
      params: { id: id('signal') },
      json: reasonBody,
      successes: { 200: { body: z.object({ signal: signalShape }) } },
      refuses: ['not_found', 'conflict'],
      answer: async ({ params, body, caller, requestId }) => {
        if (!isId('signal', params.id)) throw notFound('no such signal')
        const verdict = { kind, by: { kind: 'operator', id: operatorOf(caller).id }, reason: body.reason } as const
        return { status: 200, body: { signal: signalView(await broker.judgeSignal(params.id, verdict, requestId)) } }
      },
    })
  }
}

/** Signed over the bytes as they came and the time they were sent at, so that an old statement cannot be sent again (H30). */
function authenticSource(doors: Doors, name: string | undefined, signature: string | undefined, raw: Buffer): string {
  const refused = (reason: string) =>
    new CurfewError('attestation_refused', 'this signal is not signed by a registered source', { reason, field: 'Curfew-Signature' })
  const source = doors.signalSources.find(s => s.name === name)
  const parts = /^t=(\d{1,12}),v1=([0-9a-f]{64})$/.exec(signature ?? '')
  if (!source || !parts) throw refused(source ? 'signature_malformed' : 'source_unknown')
  const [, sentAt, given] = parts as unknown as [string, string, string]
  const wanted = createHmac('sha256', source.secret.reveal().token as string)
    .update(`${sentAt}.`)
    .update(raw)
    .digest()
  if (!timingSafeEqual(Buffer.from(given, 'hex'), wanted)) throw refused('signature_invalid')
  const age = doors.store.clock.now().getTime() / 1000 - Number(sentAt)
  if (age > source.maxAgeSeconds || age < -60) throw refused('signature_old')
  return source.name
}
