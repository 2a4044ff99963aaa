/** Owns looking at credentials, capabilities and decisions, and giving a credential back. */
import type { Express } from 'express'
import { z } from 'zod'
import { notFound } from '../broker/holder.js'
import type { Credential } from '../domain/credential.js'
import { isId } from '../domain/ids.js'
import { type Caller, type Doors, route } from './route.js'
import { credentialQuery, decisionQuery, explainBody, findBody } from './schemas.js'
import { capabilityShape, credentialShape, decisionShape, id, revocationShape } from './shapes.js'
import { capabilityView, credentialView, decisionView, revocationView } from './views.js'

export function credentialRoutes(app: Express, doors: Doors): void {
  const { broker, store } = doors
  const audienceOf = new Map(doors.audiences.map(a => [a.name, a]))

  /** A holder's proof is used up by a read as by a write: a stolen one must not look twice. */
  async function spend(caller: Caller): Promise<void> {
    if (caller.kind === 'holder') await store.replay.claim(caller.holder.marks)
  }

  async function find(caller: Caller, id: string | undefined): Promise<Credential> {
    if (!isId('credential', id)) throw notFound('no such credential')
    if (caller.kind === 'holder') return broker.credentialOfHolder(caller.holder, id)
    const credential = await store.credentials.get(id)
    if (!credential) throw notFound('no such credential')
    return credential
  }

  route(app, doors, {
    method: 'get',
    path: '/v1/capabilities',
    who: { holder: true, operator: 'credentials.read' },
    summary: 'What may be asked for',
    successes: { 200: { body: z.object({ capabilities: z.array(capabilityShape) }) } },
    answer: async ({ caller }) => {
      await spend(caller)
      const seen = caller.kind === 'holder' ? doors.capabilities.filter(c => caller.holder.task.capabilities.includes(c.name)) : doors.capabilities
      return { status: 200, body: { capabilities: seen.map(c => capabilityView(c, audienceOf.get(c.audience ?? ''), doors.paramsOf(c))) } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/credentials',
    who: { holder: true, operator: 'credentials.read' },
    summary: 'Credentials, newest first',
    description: 'A holder sees those of its own task. `next` goes into `after`; null is the last page.',
    query: credentialQuery,
    successes: { 200: { body: z.object({ credentials: z.array(credentialShape), next: id('credential').nullable() }) } },
    answer: async ({ query, caller }) => {
      await spend(caller)
      const { task, ...rest } = query
      const scope = caller.kind === 'holder' ? { task: caller.holder.task.id } : task === undefined ? {} : { task }
      const filter = Object.fromEntries(Object.entries(rest).filter(([, v]) => v !== undefined))
      const credentials = await store.credentials.list({ ...filter, ...scope, limit: query.limit } as Parameters<typeof store.credentials.list>[0])
      const next = credentials.length === query.limit ? (credentials.at(-1)?.id ?? null) : null
      return { status: 200, body: { credentials: credentials.map(credentialView), next } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/credentials/:id',
    who: { holder: true, operator: 'credentials.read' },
    summary: 'A credential',
    params: { id: id('credential') },
    successes: { 200: { body: z.object({ credential: credentialShape }) } },
    refuses: ['not_found'],
    answer: async ({ params, caller }) => {
      await spend(caller)
      return { status: 200, body: { credential: credentialView(await find(caller, params.id)) } }
    },
  })

  route(app, doors, {
    method: 'post',
    path: '/v1/credentials\\:find',
    who: { operator: 'credentials.read' },
    summary: 'Whose is this token?',
    json: findBody,
    successes: { 200: { body: z.object({ credential: credentialShape }) } },
    refuses: ['not_found'],
    answer: async ({ body }) => {
      // By digest: what leaked is not spread further by looking for it.
      const [credential] = await store.credentials.list({ digest: doors.sealDigest(body.digest), limit: 1 })
      if (!credential) throw notFound('no credential of ours has that digest')
      return { status: 200, body: { credential: credentialView(credential) } }
    },
  })

  route(app, doors, {
    method: 'delete',
    path: '/v1/credentials/:id',
    who: { holder: true, operator: 'revocations.write' },
    summary: 'End a credential',
    params: { id: id('credential') },
    successes: {
      202: { what: 'Refused from here on; `revoked` when it is seen dead.', body: z.object({ credential: credentialShape, revocation: revocationShape }) },
      204: { what: 'It was revoked already.' },
    },
    refuses: ['not_found'],
    answer: async ({ params, caller, requestId }) => {
      await spend(caller)
      const credential = await find(caller, params.id)
      if (credential.state === 'revoked') return { status: 204 }
      const act =
        caller.kind === 'operator'
          ? ({ reason: 'requested', actor: { kind: 'operator', id: caller.operator.id } } as const)
          : ({ reason: 'holder_revoked', actor: { kind: 'holder', id: credential.task } } as const)
      const revocation = await broker.revoke({ kind: 'credential', key: credential.id }, act.reason, { actor: act.actor, requestId })
      return { status: 202, body: { credential: credentialView(await find(caller, params.id)), revocation: revocationView(revocation) } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/decisions',
    who: { operator: 'audit.read' },
    summary: 'The latest decisions of policy',
    query: decisionQuery,
    successes: { 200: { body: z.object({ decisions: z.array(decisionShape) }) } },
    answer: async ({ query }) => {
      const decisions = await store.decisions.list({
        limit: query.limit,
        ...(query.identity === undefined ? {} : { identity: query.identity }),
        ...(query.capability === undefined ? {} : { capability: query.capability }),
        ...(query.allowed === undefined ? {} : { allowed: query.allowed === 'true' }),
      })
      return { status: 200, body: { decisions: decisions.map(decisionView) } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/v1/decisions/:id',
    who: { operator: 'audit.read' },
    summary: 'A decision',
    params: { id: id('decision') },
    successes: { 200: { body: z.object({ decision: decisionShape }) } },
    refuses: ['not_found'],
    answer: async ({ params }) => {
      const decision = isId('decision', params.id) ? await store.decisions.get(params.id) : null
      if (!decision) throw notFound('no such decision')
      return { status: 200, body: { decision: decisionView(decision) } }
    },
  })

  route(app, doors, {
    method: 'post',
    // A literal colon: `:explain` is a verb of the collection, not a parameter.
    path: '/v1/decisions\\:explain',
    who: 'public',
    asks: true,
    summary: 'What would policy answer?',
    description: 'Nothing is issued and the evidence is not used up.',
    json: explainBody,
    successes: { 200: { body: z.object({ decision: decisionShape }) } },
    refuses: ['attestation_refused', 'attestation_stale', 'capability_unknown'],
    answer: async ({ body, requestId, signal }) => {
      const decision = await broker.explain(
        {
          evidence: { type: 'jwt', token: body.subject_token },
          capability: body.capability,
          ttlSeconds: body.ttl_seconds ?? null,
          purpose: body.purpose,
          labels: body.labels,
        },
        requestId,
        signal,
      )
      return { status: 200, body: { decision: decisionView(decision) } }
    },
  })
}
