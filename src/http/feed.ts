/** Owns the feed's doors: what is revoked, to those who refuse by themselves; their acknowledgements; and their keys. */
import { once } from 'node:events'
import type { Express, Response } from 'express'
import { z } from 'zod'
import { notFound } from '../broker/holder.js'
import { CurfewError } from '../domain/errors.js'
import { GONE_AFTER, type Guard, type GuardInstance } from '../domain/guard.js'
import { isId, newId } from '../domain/ids.js'
import { newGuardKey, operatorTokenDigest } from '../domain/operator-token.js'
import { writtenEntry } from '../domain/selector.js'
import type { Follower } from '../ports.js'
import { singleHeader } from './request.js'
import { type Caller, type Doors, operatorOf, route } from './route.js'
import { ackBody, guardBody, guardInstance, lastEventId } from './schemas.js'
import { type As, feedEntryShape, guardShape, id, locationShape } from './shapes.js'

/** What may wait for one guard before it is taken for lost: it comes again and is sent everything. Bytes. */
const BACKLOG = 4_194_304

export function feedRoutes(app: Express, doors: Doors): void {
  const { feed, store } = doors

  route(app, doors, {
    method: 'get',
    path: '/v1/feed',
    who: { guard: true },
    summary: 'What is revoked now, and what comes after',
    description:
      'As JSON what stands. As text/event-stream that, and then every act as it is committed; for a stream the instance is required. docs/http-api.md has the events.',
    headers: { 'Curfew-Guard-Instance': guardInstance.optional(), 'Last-Event-ID': lastEventId.optional() },
    successes: {
      200: { body: z.object({ seq: z.int(), stale_ms: z.int(), entries: z.array(feedEntryShape) }), text: ['text/event-stream'] },
    },
    answer: async ({ caller, headers, req }) => {
      const guard = guardOf(caller)
      if (!/\btext\/event-stream\b/.test(singleHeader(req, 'accept') ?? '')) {
        return { status: 200, body: { seq: feed.seq, stale_ms: Math.round(feed.staleMs()), entries: [...feed.entries()].map(writtenEntry) } }
      }
      const instance = headers['Curfew-Guard-Instance']
      if (instance === undefined)
        throw new CurfewError('malformed', 'a stream must name its process', { reason: 'instance_missing', field: 'Curfew-Guard-Instance' })
      const after = headers['Last-Event-ID'] === undefined ? null : Number(headers['Last-Event-ID'])
      const time = feed.time()
      return {
        status: 200,
        headers: { 'Content-Type': 'text/event-stream', 'X-Accel-Buffering': 'no', ...(time === null ? {} : { 'Curfew-Time': String(time) }) },
        stream: res => {
          // The first byte tells that the line stands, before there is anything to say.
          res.flushHeaders()
          const gone = feed.follow(followerOf(res, guard, instance), after)
          res.on('close', gone)
        },
      }
    },
  })

  route(app, doors, {
    method: 'post',
    path: '/v1/feed/acks',
    who: { guard: true },
    summary: 'This instance refuses everything up to that seq',
    headers: { 'Curfew-Guard-Instance': guardInstance },
    json: ackBody,
    successes: { 200: { body: z.object({ instances: z.int().nullable(), at: z.int().nullable() }) } },
    answer: async ({ caller, body, headers }) => {
      const instances = feed.acknowledge(guardOf(caller).id, headers['Curfew-Guard-Instance'], Math.min(body.seq, feed.seq))
      return { status: 200, body: { instances, at: feed.time() } }
    },
  })

  route(app, doors, {
    method: 'post',
    path: '/v1/guards',
    who: { operator: 'guards.write' },
    summary: 'Add a guard; its key is shown once',
    json: guardBody,
    successes: { 201: { body: z.object({ guard: guardShape, key: z.string() }), headers: { Location: locationShape } } },
    refuses: ['conflict'],
    answer: async ({ body, caller, requestId }) => {
      const key = newGuardKey()
      const context = { requestId, actor: { kind: 'operator', id: operatorOf(caller).id } } as const
      const text = key.reveal().token as string
      const guard = await store.guards.add({ id: newId('guard'), name: body.name }, doors.sealDigest(operatorTokenDigest(text)), context)
      return { status: 201, headers: { Location: `/v1/guards/${guard.id}` }, body: { guard: guardView(guard, [], doors), key: text } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/guards',
    who: { operator: 'credentials.read' },
    summary: 'The guards, their instances and how far each is',
    successes: { 200: { body: z.object({ seq: z.int(), guards: z.array(guardShape) }) } },
    answer: async () => {
      const [guards, instances] = await Promise.all([store.guards.list(), store.guards.instances()])
      return { status: 200, body: { seq: await store.revocations.seq(), guards: guards.map(g => guardView(g, instances, doors)) } }
    },
  })

  route(app, doors, {
    method: 'delete',
    path: '/v1/guards/:id',
    who: { operator: 'guards.write' },
    summary: 'Refuse a guard from here on',
    params: { id: id('guard') },
    successes: { 200: { body: z.object({ guard: guardShape }) } },
    refuses: ['not_found'],
    answer: async ({ params, caller, requestId }) => {
      if (!isId('guard', params.id)) throw notFound('no such guard')
      const guard = await store.guards.disable(params.id, { requestId, actor: { kind: 'operator', id: operatorOf(caller).id } })
      return { status: 200, body: { guard: guardView(guard, [], doors) } }
    },
  })
}

function guardOf(caller: Caller): Guard {
  if (caller.kind !== 'guard') throw new TypeError('this route demands a guard')
  return caller.guard
}

const followerOf = (res: Response, guard: Guard, instance: string): Follower => ({
  guard: guard.id,
  instance,
  send(text) {
    if (res.destroyed || res.writableEnded || res.writableLength > BACKLOG) return false
    res.write(text)
    return true
  },
  drained: async () => {
    if (res.writableNeedDrain && !res.destroyed) await Promise.race([once(res, 'drain'), once(res, 'close')])
  },
  end: () => void res.destroy(),
})

function guardView(g: Guard, instances: readonly GuardInstance[], doors: Doors): As<typeof guardShape> {
  const gone = doors.store.clock.now().getTime() - GONE_AFTER * 1000
  return {
    id: g.id,
    name: g.name,
    created_at: g.createdAt.toISOString(),
    disabled_at: g.disabledAt?.toISOString() ?? null,
    instances: instances
      .filter(i => i.guard === g.id)
      .map(i => ({
        instance: i.instance,
        seq: i.seq,
        lag_ms: i.lagMs === null ? null : Math.round(i.lagMs),
        seen_at: i.seenAt.toISOString(),
        live: i.seenAt.getTime() > gone,
      })),
  }
}
