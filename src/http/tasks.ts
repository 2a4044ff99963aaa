/** Owns the task routes: open, look, ask for a credential, heartbeat, end. */
import { createHash } from 'node:crypto'
import type { Express } from 'express'
import { z } from 'zod'
import type { PartAsk } from '../broker/grant.js'
import type { Holder } from '../broker/holder.js'
import { notFound } from '../broker/holder.js'
import type { Issued } from '../broker/make.js'
import { isId } from '../domain/ids.js'
import { type Caller, type Doors, route } from './route.js'
import { credentialBody, emptyBody, grantBody, idempotencyKey, openTaskBody, outcomeBody } from './schemas.js'
import { type As, id, issuedShape, locationShape, revocationShape, taskShape } from './shapes.js'
import { credentialView, revocationView, taskView } from './views.js'

export function taskRoutes(app: Express, doors: Doors): void {
  const { broker, store } = doors

  route(app, doors, {
    method: 'post',
    path: '/v1/tasks',
    who: 'public',
    asks: true,
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
    asks: true,
    summary: 'Ask for a credential under a task, or for several, all or none',
    description:
      'Each secret is shown once. The same Idempotency-Key ends what the first answer issued and makes it anew. Several are issued in one transaction; a refusal names the part that it is about.',
    params: { task: id('task') },
    headers: { 'Idempotency-Key': idempotencyKey.optional() },
    json: credentialBody,
    successes: { 201: { body: z.union([issuedShape, z.object({ credentials: z.array(issuedShape) })]), headers: { Location: locationShape } } },
    refuses: ['attestation_stale', 'policy_denied', 'capability_unknown', 'task_ended', 'conflict', 'engine_failed'],
    answer: async ({ body, caller, headers, requestId, signal }) => {
      const parts = ('capabilities' in body ? body.capabilities : [body]).map(p => ({
        capability: p.capability,
        ttlSeconds: p.ttl_seconds ?? null,
        params: p.params,
      }))
      const key = headers['Idempotency-Key']
      const terms = {
        evidence: body.subject_token === undefined ? null : { type: 'jwt' as const, token: body.subject_token },
        idempotency: key === undefined ? null : { key, hash: hashOf(parts) },
      }
      if ('capabilities' in body) {
        const issued = await broker.issueBundle(holderOf(caller), { parts, ...terms }, requestId, signal)
        return { status: 201, headers: { Location: `/v1/credentials?task=${holderOf(caller).task.id}` }, body: { credentials: issued.map(issuedView) } }
      }
      const issued = await broker.issue(holderOf(caller), { ...(parts[0] as PartAsk), ...terms }, requestId, signal)
      return { status: 201, headers: { Location: `/v1/credentials/${issued.credential.id}` }, body: issuedView(issued) }
    },
  })

  route(app, doors, {
    method: 'post',
    path: '/v1/tasks/:task/grants',
    who: { holder: true },
    asks: true,
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

/** What an Idempotency-Key stands for: the parts in their order, each with all that it was asked with. */
function hashOf(parts: readonly PartAsk[]): string {
  const written = parts.map(p => [p.capability, p.ttlSeconds, ...Object.entries(p.params).sort()])
  return createHash('sha256').update(JSON.stringify(written)).digest('base64url')
}

/** The only place where these secrets are revealed. */
function issuedView({ credential, secret }: Issued): As<typeof issuedShape> {
  const fields = secret.reveal()
  return {
    credential: credentialView(credential),
    secret: fields,
    ...('token' in fields ? { token_type: credential.jkt === null ? 'Bearer' : 'DPoP' } : {}),
  }
}

export function holderOf(caller: Caller): Holder {
  if (caller.kind !== 'holder') throw new TypeError('this route demands a holder')
  return caller.holder
}
