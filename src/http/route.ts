/** Owns the one way a route is written: who may call it, what it takes, one function that answers. */

import { randomUUID } from 'node:crypto'
import type { Express, Request, Response } from 'express'
import type { z } from 'zod'
import type { Broker } from '../broker/broker.js'
import type { Log } from '../broker/deps.js'
import type { Holder } from '../broker/holder.js'
import { type Presented, realmOf } from '../broker/prove.js'
import type { HookSource } from '../broker/run-ended.js'
import type { AuditKind } from '../domain/audit.js'
import type { Audience, Capability } from '../domain/capability.js'
import type { ClientMethod } from '../domain/client-methods.js'
import { within } from '../domain/deadline.js'
import type { Nonces } from '../domain/dpop-nonce.js'
import { CurfewError } from '../domain/errors.js'
import type { Guard } from '../domain/guard.js'
import { may, type Operator, type Right } from '../domain/operator.js'
import { looksLikeGuardKey, operatorTokenDigest } from '../domain/operator-token.js'
import type { Secret } from '../domain/secret.js'
import { sourceOf } from '../domain/source.js'
import type { Feed, Signer, Store } from '../ports.js'
import { type Declaration, declare, type Shown, type Successes } from './declaration.js'
import { type Told, tell } from './problem.js'
import { authorization, formBody, headerValues, jsonBody, singleHeader } from './request.js'

/** What the HTTP room is given. */
export interface Doors {
  readonly broker: Broker
  readonly store: Store
  readonly signer: Signer
  readonly serverUrl: string
  readonly audiences: readonly (Audience & { readonly secret: Secret | null })[]
  readonly capabilities: readonly Capability[]
  /** What a caller may add when it asks for one, by name. */
  readonly paramsOf: (capability: Capability) => Readonly<Record<string, 'required' | 'optional'>>
  /** How a client may authenticate at the token endpoint. */
  readonly clientMethods: readonly ClientMethod[]
  readonly signalSources: readonly { readonly name: string; readonly secret: Secret; readonly maxAgeSeconds: number }[]
  readonly hooks: readonly (HookSource & { readonly kind: 'github' | 'gitlab' | 'gitlab-token' | 'buildkite'; readonly secret: Secret })[]
  readonly hookCounted: (source: string, result: string) => void
  /** Null: a proof needs none. */
  readonly nonces: Nonces | null
  /** Seals a digest as the store keeps it: a stolen database must not help to guess a token (security.md 4, secrets at rest). */
  readonly sealDigest: (digest: string) => string
  readonly feed: Feed
  readonly readiness: () => Promise<Readiness>
  readonly log: Log
}

export interface Readiness {
  readonly status: 'ok' | 'degraded' | 'down'
  readonly lines: readonly { readonly name: string; readonly status: 'ok' | 'degraded' | 'down'; readonly detail: string }[]
}

/** The caller, as the route demanded it. */
export type Caller =
  | { readonly kind: 'anyone' }
  | { readonly kind: 'holder'; readonly holder: Holder }
  | { readonly kind: 'operator'; readonly operator: Operator }
  | { readonly kind: 'guard'; readonly guard: Guard }

export interface Call<B, Q, H extends Headers = Headers> {
  readonly body: B
  readonly raw: Buffer
  readonly query: Q
  /** Those that the route declares, judged. */
  readonly headers: { readonly [N in keyof H]: z.output<H[N]> }
  readonly params: Readonly<Record<string, string>>
  readonly caller: Caller
  readonly presented: Presented
  readonly requestId: string
  readonly req: Request
  readonly signal: AbortSignal
}

export interface Answer {
  readonly status: number
  /** A string goes out as it is, under the Content-Type that `headers` give it. */
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
  /** Takes the response over, for what has no end of its own. */
  readonly stream?: (res: Response) => void
}

/** An answer that the route has declared: another status, or a body of another shape, does not compile. */
type Answered<S extends Successes> = { [N in keyof S]: OneOf<N, S[N]> }[keyof S]
type OneOf<Status, D> =
  | (D extends { readonly body: infer Z extends z.ZodType } ? { readonly status: Status; readonly body: Shown<z.output<Z>> } & Headed<D> : never)
  | (D extends { readonly text: unknown } ? { readonly status: Status; readonly body?: string; readonly stream?: (res: Response) => void } & Headed<D> : never)
  | (D extends { readonly body: unknown } | { readonly text: unknown } ? never : { readonly status: Status } & Headed<D>)
type Headed<D> = D extends { readonly headers: infer H }
  ? { readonly headers: { readonly [N in keyof H]: string } & Readonly<Record<string, string>> }
  : { readonly headers?: Readonly<Record<string, string>> }

type Headers = Readonly<Record<string, z.ZodType>>

/** `who`: `public` is anyone, or a caller that the answer itself authenticates; `holder`: a task token; a right: an operator; several: any of them. */
export interface Route<B, Q, H extends Headers, S extends Successes> extends Declaration {
  readonly method: 'get' | 'post' | 'delete'
  readonly json?: z.ZodType<B>
  readonly form?: z.ZodType<B>
  /** Parameters of the form that may come several times. */
  readonly repeats?: readonly string[]
  /** Reads the bytes of a body that the answer judges itself. */
  readonly raw?: (req: Request) => Promise<Buffer>
  readonly query?: z.ZodType<Q>
  readonly headers?: H
  readonly successes: S
  readonly answer: (call: Call<B, Q, H>) => Promise<Answered<S>>
}

/** A request may take this long in all; what it has begun at a backend has its own deadlines. */
const REQUEST_MS = 20_000

export function route<B = undefined, Q = undefined, const H extends Headers = Record<never, never>, const S extends Successes = Record<never, never>>(
  app: Express,
  doors: Doors,
  spec: Route<B, Q, H, S>,
): void {
  declare(app, spec)
  app[spec.method](spec.path, async (req: Request, res: Response) => {
    const requestId = res.locals.requestId as string
    try {
      const signal = within(REQUEST_MS)
      const presented: Presented = { proofs: headerValues(req, 'dpop'), method: req.method, path: req.path }
      // With every answer to a proof, so that the next one has a fresh nonce (RFC 9449 section 8.2); what may be kept by a cache takes no proof.
      if (doors.nonces && presented.proofs.length > 0 && (spec.who !== 'public' || spec.method !== 'get'))
        res.setHeader('DPoP-Nonce', doors.nonces.current(realmOf(presented.path), doors.store.clock.now()))
      // Before any signature is looked at: it is the caller who pays for asking (H08). No header says where a request comes from.
      if (spec.asks) doors.broker.rationSource(sourceOf(req.socket.remoteAddress))
      const query = parse(spec.query, spec.query ? { ...req.query } : undefined, 'query')
      if (!spec.query && Object.keys(req.query).length > 0)
        throw new CurfewError('malformed', 'this route takes no query parameters', { reason: 'unknown_field', field: 'query' })
      const params = req.params as Record<string, string>
      const caller = await callerOf(doors, spec.who, req, presented, params.task ?? null)
      const headers = headersOf(req, spec.headers) as Call<B, Q, H>['headers']
      const { value, raw } = spec.json
        ? await jsonBody(req)
        : { value: spec.form ? await formBody(req, spec.repeats) : undefined, raw: spec.raw ? await spec.raw(req) : Buffer.alloc(0) }
      const body = parse(spec.json ?? spec.form, value, 'body')
      send(res, (await spec.answer({ body: body as B, raw, query: query as Q, headers, params, caller, presented, requestId, req, signal })) as Answer)
    } catch (error) {
      await refuse(doors, spec, req, res, requestId, error)
    }
  })
}

export function nameRequest(req: Request, res: Response, next: () => void): void {
  const given = req.headers['x-request-id']
  // To AuthZEN it is an arbitrary text that comes back as it was.
  const shape = req.path.startsWith('/access/') ? /^[\x20-\x7e]{1,256}$/ : /^[A-Za-z0-9._-]{8,64}$/
  const requestId = typeof given === 'string' && shape.test(given) ? given : randomUUID()
  res.locals.requestId = requestId
  res.setHeader('X-Request-ID', requestId)
  res.setHeader('Cache-Control', 'no-store')
  next()
}

function send(res: Response, answer: Answer): void {
  for (const [name, value] of Object.entries(answer.headers ?? {})) res.setHeader(name, value)
  if (answer.stream) answer.stream(res.status(answer.status))
  else if (answer.body === undefined) res.status(answer.status).end()
  else if (typeof answer.body === 'string') res.status(answer.status).end(answer.body)
  else res.status(answer.status).json(answer.body)
}

function headersOf(req: Request, schemas: Headers = {}): Record<string, unknown> {
  return Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, parse(schema, singleHeader(req, name.toLowerCase()), name)]))
}

/** One refusal, one audit row (I6, K7): what was denied by policy has its decision already. If it cannot be written, nothing else is said. */
export async function refuse(
  doors: Doors,
  spec: { path: string; oauth?: true; plain?: true },
  req: Request,
  res: Response,
  requestId: string,
  error: unknown,
  /** In the place of those that the error brings. */
  headers: Readonly<Record<string, string>> = {},
): Promise<void> {
  const told = await toldOf(doors, spec, req, requestId, error)
  if (!req.complete) res.setHeader('Connection', 'close')
  send(res, { ...told, headers: { ...told.headers, ...headers } })
}

async function toldOf(doors: Doors, spec: { path: string; oauth?: true; plain?: true }, req: Request, requestId: string, error: unknown): Promise<Told> {
  const where = { serverUrl: doors.serverUrl, requestId, form: spec.oauth ? 'oauth' : spec.plain ? 'plain' : 'problem' } as const
  if (!(error instanceof CurfewError)) {
    doors.log.error({ err: error, requestId, route: spec.path }, 'a request failed on our side')
    return tell(error, where)
  }
  const { reason, field, repeats } = error.facts
  // Whoever is refused ten thousand times a second must not write the log and the evidence at that rate.
  if (repeats?.untold === null) return tell(error, where)
  doors.log.warn({ code: error.code, reason, field, requestId, route: spec.path, ...(error.cause ? { err: error.cause } : {}) }, 'a request was refused')
  if (error.code === 'unavailable' || error.facts.decision) return tell(error, where)
  try {
    await doors.store.audit.append({
      kind: auditKind(error),
      actor: repeats?.limit === 'identity' ? { kind: 'workload', id: repeats.key } : { kind: 'stranger', id: req.ip ?? 'unknown' },
      subject: null,
      reason: reason ?? error.code,
      requestId,
      data: {
        code: error.code,
        route: `${req.method} ${spec.path}`,
        ...(field ? { field } : {}),
        ...(repeats ? { limit: repeats.limit, key: repeats.key, suppressed: repeats.untold } : {}),
      },
    })
  } catch (cause) {
    return tell(new CurfewError('unavailable', 'the audit log cannot be written', { reason: 'audit_unavailable' }, { cause }), where)
  }
  return tell(error, where)
}

function auditKind(error: CurfewError): AuditKind {
  if (error.facts.reason === 'operator_refused') return 'operator.refused'
  if (error.code === 'attestation_refused' || error.code === 'attestation_stale') return 'attestation.refused'
  if (error.code === 'proof_refused') return 'proof.refused'
  return 'request.refused'
}

async function callerOf(doors: Doors, who: Declaration['who'], req: Request, presented: Presented, taskId: string | null): Promise<Caller> {
  if (who === 'public') return { kind: 'anyone' }
  const given = authorization(req)
  if (who.holder && given?.scheme === 'dpop') return { kind: 'holder', holder: await doors.broker.recognizeHolder(given.value, presented, taskId) }
  if (who.guard && given?.scheme === 'bearer') return { kind: 'guard', guard: await guardBy(doors, given.value) }
  if (who.operator && given?.scheme === 'bearer') return { kind: 'operator', operator: await operatorBy(doors, given.value, who.operator) }
  const wanted = who.holder ? 'a task token and a proof of its key are required' : who.guard ? 'a guard key is required' : 'an operator token is required'
  throw new CurfewError('attestation_refused', wanted, {
    reason: 'credentials_missing',
    field: 'Authorization',
  })
}

async function guardBy(doors: Doors, key: string): Promise<Guard> {
  const guard = looksLikeGuardKey(key) ? await doors.store.guards.byKey(doors.sealDigest(operatorTokenDigest(key))) : null
  if (!guard || guard.disabledAt)
    throw new CurfewError('attestation_refused', 'this is no guard key of this broker', { reason: 'guard_refused', field: 'Authorization' })
  return guard
}

export async function operatorBy(doors: Doors, token: string, right: Right): Promise<Operator> {
  const operator = await doors.store.operators.byToken(doors.sealDigest(operatorTokenDigest(token)))
  if (!operator || operator.disabledAt)
    throw new CurfewError('attestation_refused', 'this is no operator token of this broker', { reason: 'operator_refused', field: 'Authorization' })
  if (!may(operator.role, right)) throw new CurfewError('forbidden', `the role ${operator.role} may not do this`, { reason: 'role_insufficient' })
  return operator
}

/** The operator that the route demanded. */
export function operatorOf(caller: Caller): Operator {
  if (caller.kind !== 'operator') throw new TypeError('this route demands an operator')
  return caller.operator
}

/** Of several shapes that would do, what is wrong with the one that its members fit best, of equals the first; unless the schema says itself what would do. */
function meant(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union' || issue.message !== 'Invalid input') return issue
  const misfits = (branch: readonly z.core.$ZodIssue[]) => branch.filter(i => i.path.length <= 1).length
  const best = issue.errors.reduce((a, b) => (misfits(b) < misfits(a) ? b : a))[0]
  return best ? meant({ ...best, path: [...issue.path, ...best.path] }) : issue
}

/** Names the field and the rule; never the value. */
export function parse<T>(schema: z.ZodType<T> | undefined, value: unknown, where: string): T | undefined {
  if (!schema) return undefined
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues.map(meant)[0]
  const unknown = issue?.code === 'unrecognized_keys' ? issue.keys[0] : undefined
  // Names of members are the caller's own text: what is none is not repeated.
  const path = [...(issue?.path ?? []), ...(unknown !== undefined ? [unknown] : [])].map(p => (/^[\w.-]{1,60}$/.test(String(p)) ? p : '?')).join('.')
  throw new CurfewError('malformed', unknown !== undefined ? 'this field is not known here' : (issue?.message ?? 'invalid'), {
    reason: unknown !== undefined ? 'unknown_field' : 'invalid_field',
    field: path || where,
  })
}
