/** Owns the task routes: open, look, ask for a credential, heartbeat, end. */
import { createHash } from 'node:crypto'
import type { Express } from 'express'
import { z } from 'zod'
import type { Holder } from '../broker/holder.js'
import { notFound } from '../broker/holder.js'
import { isId } from '../domain/ids.js'
import { type Caller, type Doors, route } from './route.js'
import { credentialBody, emptyBody, grantBody, idempotencyKey, openTaskBody, outcomeBody } from './schemas.js'
import { credentialShape, id, locationShape, revocationShape, secretShape, taskShape, tokenTypeShape } from './shapes.js'
import { credentialView, revocationView, taskView } from './views.js'

export function taskRoutes(app: Express, doors: Doors): void {
  const { broker, store } = doors

  route(app, doors, {
    method: 'post',
    path: '/v1/tasks',
    who: 'public',
    shows: [['proof']],
    summary: 'Open a task',
    description: 'The evidence is `subject_token`; the task is bound to the key of the proof. The token is for the task itself: audience Curfew.',
    json: openTaskBody,
    successes: {
      201: {
        body: z.object({ task: taskShape, token: z.string(), token_type: z.literal('DPoP'), expires_in: z.int() }),
        headers: { Location: locationShape },
      },
    },
    refuses: ['attestation_refused', 'attestation_stale', 'policy_denied', 'capability_unknown', 'task_ended', 'not_found'],
    answer: async ({ body, presented, requestId, signal }) => {
      const { task, token } = await broker.openTask(
        {
          evidence: body.subject_token === undefined ? null : { type: 'jwt', token: body.subject_token },
          grant: body.parent_grant ?? null,
          presented,
          purpose: body.purpose,
          capabilities: body.capabilities,
          lifeSeconds: body.life_seconds ?? null,
          owner: body.owner ?? null,
          labels: body.labels,
          heartbeatSeconds: body.heartbeat_seconds ?? null,
        },
        requestId,
        signal,
      )
      const expires = Math.floor((task.deadlineAt.getTime() - store.clock.now().getTime()) / 1000)
      return {
        status: 201,
        headers: { Location: `/v1/tasks/${task.id}` },
        body: { task: taskView(task), token: token.reveal().token as string, token_type: 'DPoP', expires_in: expires },
      }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/tasks/:task',
    who: { holder: true, operator: 'credentials.read' },
    summary: 'A task',
    params: { task: id('task') },
    successes: { 200: { body: z.object({ task: taskShape }) } },
    refuses: ['not_found'],
    answer: async ({ params, caller }) => {
      if (caller.kind === 'holder') {
        await store.replay.claim(caller.holder.marks)
        return { status: 200, body: { task: taskView(caller.holder.task) } }
      }
      const task = isId('task', params.task) ? await store.tasks.get(params.task) : null
      if (!task) throw notFound('no such task')
      return { status: 200, body: { task: taskView(task) } }
    },
  })

  route(app, doors, {
    method: 'post',
    path: '/v1/tasks/:task/credentials',
    who: { holder: true },
    summary: 'Ask for a credential under a task',
    description: 'The secret is shown once. The same Idempotency-Key ends the credential of the first answer and makes a new one.',
    params: { task: id('task') },
    headers: { 'Idempotency-Key': idempotencyKey.optional() },
    json: credentialBody,
    successes: {
      201: {
        body: z.object({ credential: credentialShape, secret: secretShape, token_type: tokenTypeShape.optional() }),
        headers: { Location: locationShape },
      },
    },
    refuses: ['attestation_stale', 'policy_denied', 'capability_unknown', 'task_ended', 'conflict', 'rate_limited', 'engine_failed'],
    answer: async ({ body, caller, headers, requestId, signal }) => {
      const key = headers['Idempotency-Key']
      const hash = createHash('sha256')
        .update(JSON.stringify([body.capability, body.ttl_seconds ?? null, ...Object.entries(body.params).sort()]))
        .digest('base64url')
      const { credential, secret } = await broker.issue(
        holderOf(caller),
        {
          capability: body.capability,
          ttlSeconds: body.ttl_seconds ?? null,
          params: body.params,
          evidence: body.subject_token === undefined ? null : { type: 'jwt', token: body.subject_token },
          idempotency: key === undefined ? null : { key, hash },
        },
        requestId,
        signal,
      )
      const token = 'token' in secret.reveal() ? { token_type: credential.jkt === null ? ('Bearer' as const) : ('DPoP' as const) } : {}
      return {
        status: 201,
        headers: { Location: `/v1/credentials/${credential.id}` },
        body: { credential: credentialView(credential), secret: secret.reveal(), ...token },
      }
    },
  })

  route(app, doors, {
    method: 'post',
    path: '/v1/tasks/:task/grants',
    who: { holder: true },
    summary: 'Hand a part of a task on',
    params: { task: id('task') },
    json: grantBody,
    successes: { 201: { body: z.object({ grant: z.string(), expires_in: z.int() }) } },
    refuses: ['policy_denied', 'capability_unknown', 'task_ended'],
    answer: async ({ body, caller, requestId }) => {
      const { grant, expiresInSeconds } = await broker.delegate(
        holderOf(caller),
        {
          capabilities: body.capabilities,
          to: { identity: body.to.identity ?? null, jkt: body.to.jkt ?? null },
          lifeSeconds: body.life_seconds ?? null,
          purpose: body.purpose ?? null,
        },
        requestId,
      )
      return { status: 201, body: { grant: grant.reveal().token as string, expires_in: expiresInSeconds } }
    },
  })

  route(app, doors, {
    method: 'post',
    path: '/v1/tasks/:task/heartbeat',
    who: { holder: true },
    summary: 'The holder lives',
    params: { task: id('task') },
    json: emptyBody,
    successes: { 200: { body: z.object({ task: taskShape }) } },
    refuses: ['task_ended'],
    answer: async ({ caller, requestId }) => ({ status: 200, body: { task: taskView(await broker.heartbeat(holderOf(caller), requestId)) } }),
  })

  for (const [path, reason] of [
    ['complete', 'completed'],
    ['cancel', 'cancelled'],
  ] as const) {
    route(app, doors, {
      method: 'post',
      path: `/v1/tasks/:task/${path}`,
      who: { holder: true },
      summary: reason === 'completed' ? 'The work is done' : 'The work is given up',
      description: 'Everything below the task is refused from here on.',
      params: { task: id('task') },
      json: outcomeBody,
      successes: { 200: { body: z.object({ task: taskShape, revocation: revocationShape }) } },
      answer: async ({ body, caller, requestId }) => {
        const { task, revocation } = await broker.endTask(holderOf(caller), reason, body.outcome ?? null, requestId)
        return { status: 200, body: { task: taskView(task), revocation: revocationView(revocation) } }
      },
    })
  }
}

export function holderOf(caller: Caller): Holder {
  if (caller.kind !== 'holder') throw new TypeError('this route demands a holder')
  return caller.holder
}
