/** Owns the task routes: open, look, ask for a credential, heartbeat, end. */
import { createHash } from 'node:crypto'
import type { Express } from 'express'
import type { Holder } from '../broker/holder.js'
import { notFound } from '../broker/holder.js'
import { isId } from '../domain/ids.js'
import { singleHeader } from './request.js'
import { type Caller, type Doors, parse, route } from './route.js'
import { credentialBody, emptyBody, grantBody, idempotencyKey, openTaskBody, outcomeBody } from './schemas.js'
import { credentialView, revocationView, taskView } from './views.js'

export function taskRoutes(app: Express, doors: Doors): void {
  const { broker, store } = doors

  route(app, doors, {
    method: 'post',
    path: '/v1/tasks',
    who: 'public',
    json: openTaskBody,
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
        body: { task: taskView(task), token: token.reveal().token, token_type: 'DPoP', expires_in: expires },
      }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/tasks/:task',
    who: { holder: true, operator: 'credentials.read' },
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
    json: credentialBody,
    answer: async ({ body, caller, req, requestId, signal }) => {
      const key = parse(idempotencyKey.optional(), singleHeader(req, 'idempotency-key'), 'Idempotency-Key')
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
      const token = 'token' in secret.reveal() ? { token_type: credential.jkt === null ? 'Bearer' : 'DPoP' } : {}
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
    json: grantBody,
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
      return { status: 201, body: { grant: grant.reveal().token, expires_in: expiresInSeconds } }
    },
  })

  route(app, doors, {
    method: 'post',
    path: '/v1/tasks/:task/heartbeat',
    who: { holder: true },
    json: emptyBody,
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
      json: outcomeBody,
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
