/** Owns a broker for the command line to speak to: the wire of docs/http-api.md over maps in memory, with every DPoP proof checked strictly. */
import { createHash, createHmac, randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { calculateJwkThumbprint, decodeJwt, EmbeddedJWK, type JWK, jwtVerify } from 'jose'
import { type FakeResponder, fakeResponder } from './fake-responder.js'

export interface Seen {
  readonly method: string
  readonly path: string
  readonly query: Readonly<Record<string, string>>
  readonly headers: IncomingMessage['headers']
  readonly text: string
  readonly jkt: string | null
}

export interface FakeCredential {
  id: string
  state: string
  task: string
  identity: string
  issuer: string
  capability: string
  audience: string | null
  engine: string
  revocation: string
  decision: string
  issued_at: string
  expires_at: string
  reason: string | null
  ended_by: string | null
  revoking_at: string | null
  revoked_at: string | null
  exposed_until: string | null
  attempts: number
  failure: string | null
  probe: null
}

interface FakeTask {
  view: Record<string, unknown> & { id: string; state: string; end_reason: string | null; ended_at: string | null; capabilities: string[] }
  token: string
  jkt: string
  beats: number
  outcome: string | null
}

/** What a test wants to happen instead of the answer; used up `times` times. */
export interface Fault {
  readonly when: (seen: Seen) => boolean
  times: number
  readonly status?: number
  readonly body?: unknown
  readonly headers?: Record<string, string>
  /** Closes the connection without an answer; with `after`, the act has happened. */
  readonly drop?: 'before' | 'after'
}

export interface FakeBroker {
  readonly url: string
  readonly seen: Seen[]
  readonly tasks: Map<string, FakeTask>
  readonly credentials: Map<string, FakeCredential>
  readonly faults: Fault[]
  readonly operatorToken: string
  readonly signalSecret: string
  readonly signals: Map<string, Record<string, unknown>>
  readonly responder: FakeResponder
  /** Public URL: what the metadata says, and what every `htu` must be. */
  issuer: string
  /** Milliseconds from `revoking` to `revoked`; null: never. */
  deadAfterMs: number | null
  /** Answers by capability: secret and class. */
  readonly offers: Map<string, { secret: Record<string, string>; revocation: string; bound: boolean; params?: Record<string, 'required' | 'optional'> }>
  allowed: (capability: string) => boolean
  /** What a holder is told of a secret: the offer's, unless a test makes one for each credential. */
  secretOf: (credential: FakeCredential, secret: Record<string, string>) => Record<string, string>
  /** What became of evidence, and how far this broker's clock is ahead, as `/v1/evidence:explain` tells it. */
  use: string
  aheadMs: number
  /** From outside: as if a signal or an operator had ended it. */
  revokeTask(id: string, reason: string): void
  close(): Promise<void>
}

const id = (prefix: string) => `${prefix}_${randomBytes(16).toString('hex').slice(0, 26)}`
const iso = (ms = Date.now()) => new Date(ms).toISOString()

export async function fakeBroker(options: { issuer?: string; operatorToken?: string } = {}): Promise<FakeBroker> {
  const jtis = new Set<string>()
  const idempotent = new Map<string, readonly string[]>()
  const revocations = new Map<string, Record<string, unknown>>()
  const signals = new Map<string, Record<string, unknown>>()
  const decisions = new Map<string, Record<string, unknown>>()

  const refuse = (status: number, code: string, detail: string, more: Record<string, unknown> = {}): never => {
    throw { status, body: { type: `${broker.issuer}/e/${code}`, title: code, status, code, detail, request_id: 'req-12345678', ...more } }
  }

  /** RFC 9449 section 4.3, every step. */
  async function prove(seen: Seen, accessToken: string | null): Promise<string> {
    const proof = seen.headers.dpop
    if (typeof proof !== 'string' || proof.includes(',')) return refuse(401, 'proof_refused', 'exactly one proof', { reason: 'proof_missing' })
    const bad = (reason: string) => refuse(401, 'proof_refused', 'the DPoP proof is not acceptable', { reason })
    const { payload, protectedHeader } = await jwtVerify(proof, EmbeddedJWK, { typ: 'dpop+jwt', algorithms: ['ES256'] }).catch(() => bad('signature_invalid'))
    if (Object.keys(protectedHeader).sort().join() !== 'alg,jwk,typ') return bad('header_refused')
    const jwk = protectedHeader.jwk as JWK
    if ('d' in jwk || Object.keys(jwk).sort().join() !== 'crv,kty,x,y') return bad('key_private')
    if (typeof payload.jti !== 'string' || jtis.has(payload.jti)) return bad('replayed')
    jtis.add(payload.jti)
    if (payload.htm !== seen.method) return bad('htm_mismatch')
    if (payload.htu !== broker.issuer + seen.path) return bad('htu_mismatch')
    if (typeof payload.iat !== 'number' || Math.abs(Date.now() / 1000 - payload.iat) > 60) return bad('proof_old')
    const ath = accessToken === null ? undefined : createHash('sha256').update(accessToken).digest('base64url')
    if (payload.ath !== ath) return bad('ath_mismatch')
    return calculateJwkThumbprint(jwk)
  }

  async function holder(seen: Seen, taskId: string | null): Promise<FakeTask> {
    const token = /^DPoP (\S+)$/.exec(seen.headers.authorization ?? '')?.[1]
    if (token === undefined) return refuse(401, 'attestation_refused', 'a task token is required', { reason: 'credentials_missing' })
    const task = [...broker.tasks.values()].find(t => t.token === token)
    if (!task) return refuse(401, 'attestation_refused', 'this is no task token of this broker', { reason: 'key_unknown' })
    if ((await prove(seen, token)) !== task.jkt) return refuse(401, 'proof_refused', 'another key', { reason: 'key_mismatch' })
    if (taskId !== null && task.view.id !== taskId) return refuse(404, 'not_found', 'no such task')
    return task
  }

  function operator(seen: Seen): void {
    if (seen.headers.authorization !== `Bearer ${broker.operatorToken}`)
      refuse(401, 'attestation_refused', 'an operator token is required', { reason: 'operator_refused' })
  }

  function evidence(token: unknown): string {
    if (typeof token !== 'string') return refuse(400, 'malformed', 'invalid', { field: 'subject_token' })
    const claims = decodeJwt(token)
    if (claims.aud !== broker.issuer) return refuse(401, 'attestation_refused', 'the token is not acceptable', { reason: 'audience_mismatch' })
    return String(claims.sub)
  }

  const strict = (body: Record<string, unknown>, known: readonly string[]) => {
    for (const name of Object.keys(body))
      if (!known.includes(name)) refuse(400, 'malformed', 'this field is not known here', { reason: 'unknown_field', field: name })
  }

  const jsonOf = (seen: Seen, known: readonly string[]): Record<string, unknown> => {
    if (!String(seen.headers['content-type']).startsWith('application/json'))
      refuse(415, 'malformed', 'the body must be application/json', { reason: 'media_type' })
    const body = JSON.parse(seen.text) as Record<string, unknown>
    strict(body, known)
    return body
  }

  function deny(capability: string, identity: string): never {
    const decision = explained(capability, identity)
    return refuse(403, 'policy_denied', `no rule permits this workload to use ${capability}`, {
      title: 'Denied by policy',
      reason: 'no_permit',
      decision_id: decision.id,
      identity,
      nearest_rule: { id: 'ci-orders-main', held: 3, of: 4 },
      failed: [{ claim: 'ref', actual: 'refs/pull/88/merge' }],
      next: 'ask with another ref',
      agent_action: 'request_access',
      retry_after: null,
    })
  }

  function explained(capability: string, identity: string): Record<string, unknown> {
    const allowed = broker.allowed(capability)
    const decision = {
      id: id('dec'),
      at: iso(),
      allowed,
      reason: allowed ? 'permitted' : 'no_permit',
      identity,
      capability,
      policies: allowed ? ['ci-orders-main'] : [],
      obligations: { max_ttl_seconds: null, require_proof: false },
      nearest_rule: allowed ? null : { id: 'ci-orders-main', held: 3, of: 4 },
      failed: allowed ? [] : [{ claim: 'ref', actual: 'refs/pull/88/merge' }],
      forbidden_by: [],
    }
    decisions.set(decision.id, decision)
    return decision
  }

  const offer = (name: string, revocation: string) => ({
    ...{ name, summary: `what ${name} is`, audience: null, scopes: [], ttl_seconds: 300, max_ttl_seconds: 900, max_evidence_age_seconds: 900 },
    ...{ sensitivity: 'medium', intent: 'read', revocation, require_proof: false, evidence: name === 'demo/legacy' ? 'stale' : 'sufficient' },
    params: broker.offers.get(name)?.params ?? {},
  })
  const plainOffer = (name: string) => {
    const { require_proof: _, evidence: __, ...plain } = offer(name, broker.offers.get(name)?.revocation ?? 'instant')
    return plain
  }

  function open(jkt: string, identity: string, ask: Record<string, unknown>): FakeTask {
    const capabilities = ask.capabilities as string[]
    for (const capability of capabilities) {
      if (!broker.offers.has(capability)) refuse(422, 'capability_unknown', 'no such capability', { field: 'capabilities.0' })
      if (!broker.allowed(capability)) deny(capability, identity)
    }
    const life = (ask.life_seconds as number | undefined) ?? 3600
    const task: FakeTask = {
      view: {
        id: id('tsk'),
        state: 'open',
        purpose: ask.purpose,
        capabilities,
        owner: null,
        labels: ask.labels ?? {},
        identity,
        issuer: 'fake',
        opened_at: iso(),
        deadline_at: iso(Date.now() + life * 1000),
        heartbeat_seconds: ask.heartbeat_seconds ?? null,
        heartbeat_at: iso(),
        ended_at: null,
        end_reason: null,
      },
      token: `task-${randomBytes(16).toString('hex')}`,
      jkt,
      beats: 0,
      outcome: null,
    }
    broker.tasks.set(task.view.id, task)
    return task
  }

  function issue(task: FakeTask, capability: string, ttl: number): { credential: FakeCredential; secret: Record<string, string>; bound: boolean } {
    if (task.view.state !== 'open') return refuse(409, 'task_ended', 'this task has ended', { reason: task.view.state })
    const offer = broker.offers.get(capability)
    if (!offer) return refuse(422, 'capability_unknown', 'no such capability')
    if (!task.view.capabilities.includes(capability))
      return refuse(403, 'policy_denied', 'this task was not opened for that capability', { reason: 'not_declared' })
    const credential: FakeCredential = {
      id: id('crd'),
      state: 'active',
      task: task.view.id,
      identity: String(task.view.identity),
      issuer: 'fake',
      capability,
      audience: null,
      engine: 'jwt',
      revocation: offer.revocation,
      decision: id('dec'),
      issued_at: iso(),
      expires_at: iso(Math.min(Date.now() + ttl * 1000, Date.parse(String(task.view.deadline_at)))),
      reason: null,
      ended_by: null,
      revoking_at: null,
      revoked_at: null,
      exposed_until: null,
      attempts: 0,
      failure: null,
      probe: null,
    }
    broker.credentials.set(credential.id, credential)
    return { credential, secret: broker.secretOf(credential, offer.secret), bound: offer.bound }
  }

  function end(credentials: FakeCredential[], tasks: FakeTask[], reason: string, state: string): Record<string, unknown> {
    const revocation: Record<string, unknown> = {
      id: id('rev'),
      seq: revocations.size + 1,
      selector: {},
      reason,
      actor: {},
      message: null,
      refused_since: iso(),
      credentials: 0,
      tasks: 0,
    }
    for (const task of tasks.filter(t => t.view.state === 'open')) {
      Object.assign(task.view, { state, ended_at: iso(), end_reason: reason })
      revocation.tasks = (revocation.tasks as number) + 1
    }
    for (const c of credentials.filter(x => x.state === 'active')) {
      Object.assign(c, {
        state: 'revoking',
        reason,
        ended_by: revocation.id,
        revoking_at: iso(),
        exposed_until: c.revocation === 'expiry-only' ? c.expires_at : null,
      })
      revocation.credentials = (revocation.credentials as number) + 1
      if (broker.deadAfterMs !== null && c.revocation !== 'expiry-only')
        setTimeout(() => Object.assign(c, { state: 'revoked', revoked_at: iso() }), broker.deadAfterMs).unref()
    }
    revocations.set(String(revocation.id), revocation)
    return revocation
  }

  const ofTask = (task: string) => [...broker.credentials.values()].filter(c => c.task === task)

  async function answer(seen: Seen): Promise<{ status: number; body?: unknown }> {
    const { method, path } = seen
    const json = (known: readonly string[]) => jsonOf(seen, known)
    if (path === '/.well-known/oauth-authorization-server')
      return { status: 200, body: { issuer: broker.issuer, token_endpoint: `${broker.issuer}/oauth2/token` } }
    if (method === 'POST' && path === '/v1/tasks') {
      const body = json(['subject_token', 'subject_token_type', 'purpose', 'capabilities', 'life_seconds', 'owner', 'labels', 'heartbeat_seconds'])
      const jkt = await prove(seen, null)
      const task = open(jkt, evidence(body.subject_token), body)
      return { status: 201, body: { task: task.view, token: task.token, token_type: 'DPoP', expires_in: 3600 } }
    }
    if (method === 'POST' && path === '/oauth2/token') {
      const form = Object.fromEntries(new URLSearchParams(seen.text))
      strict(form, ['grant_type', 'subject_token', 'subject_token_type', 'authorization_details', 'resource', 'requested_token_type'])
      const [ask] = JSON.parse(form.authorization_details as string) as Record<string, unknown>[]
      if (ask?.type !== `${broker.issuer}/rar/task/v1`)
        throw { status: 400, body: { error: 'invalid_authorization_details', error_description: 'type', code: 'malformed' } }
      const jkt = await prove(seen, null)
      if (form.resource !== 'https://orders.example/')
        throw {
          status: 400,
          body: { error: 'invalid_target', error_description: 'resource_unknown: no such resource server is registered', code: 'target_unknown' },
        }
      const task = open(jkt, evidence(form.subject_token), ask)
      const { credential, secret, bound } = issue(task, (ask.capabilities as string[])[0] as string, (ask.ttl as number | undefined) ?? 300)
      return {
        status: 200,
        body: {
          access_token: secret.token,
          issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
          token_type: bound ? 'DPoP' : 'Bearer',
          expires_in: (ask.ttl as number | undefined) ?? 300,
          credential: credential.id,
          task: { id: task.view.id, token: task.token, deadline_at: task.view.deadline_at },
        },
      }
    }
    const ofOne = /^\/v1\/tasks\/([^/]+)(?:\/(credentials|heartbeat|complete|cancel))?$/.exec(path)
    if (ofOne) {
      const [, taskId, act] = ofOne as unknown as [string, string, string | undefined]
      if (act === undefined && seen.headers.authorization?.startsWith('Bearer ')) {
        operator(seen)
        const task = broker.tasks.get(taskId)
        return task ? { status: 200, body: { task: task.view } } : refuse(404, 'not_found', 'no such task')
      }
      const task = await holder(seen, taskId)
      if (act === undefined) return { status: 200, body: { task: task.view } }
      if (act === 'credentials') {
        const body = json(['capability', 'capabilities', 'ttl_seconds', 'params', 'subject_token', 'subject_token_type'])
        const parts = (body.capabilities ?? [body]) as readonly { capability: string; ttl_seconds?: number; params?: Record<string, string> }[]
        for (const { capability, params = {} } of parts) {
          const takes = broker.offers.get(capability)?.params ?? {}
          for (const name of Object.keys(params)) if (!takes[name]) refuse(400, 'malformed', 'no such parameter', { field: `params.${name}` })
          for (const name of Object.keys(takes))
            if (takes[name] === 'required' && !params[name])
              refuse(400, 'malformed', 'this capability needs it', { reason: 'parameter_missing', field: `params.${name}` })
        }
        const key = seen.headers['idempotency-key'] as string | undefined
        if (key !== undefined)
          for (const earlier of idempotent.get(`${taskId} ${key}`) ?? [])
            Object.assign(broker.credentials.get(earlier) ?? {}, { state: 'revoked', revoked_at: iso(), reason: 'cancelled' })
        // All or none: what is refused is refused before the first is made.
        for (const [i, part] of parts.entries())
          if (!broker.offers.has(part.capability))
            return refuse(422, 'capability_unknown', 'no such capability', body.capabilities ? { field: `capabilities.${i}`, capability: part.capability } : {})
        const issued = parts.map(part => issue(task, String(part.capability), part.ttl_seconds ?? 300))
        if (key !== undefined)
          idempotent.set(
            `${taskId} ${key}`,
            issued.map(i => i.credential.id),
          )
        const told = issued.map(({ credential, secret, bound }) => ({
          credential,
          secret,
          ...('token' in secret ? { token_type: bound ? 'DPoP' : 'Bearer' } : {}),
        }))
        return { status: 201, body: body.capabilities ? { credentials: told } : told[0] }
      }
      if (act === 'heartbeat') {
        json([])
        if (task.view.state !== 'open') return refuse(409, 'task_ended', 'this task has ended', { reason: task.view.state })
        task.beats++
        return { status: 200, body: { task: task.view } }
      }
      const body = json(['outcome'])
      task.outcome ??= (body.outcome as string | undefined) ?? null
      const revocation = end(ofTask(taskId), [task], act === 'complete' ? 'completed' : 'cancelled', act === 'complete' ? 'completed' : 'cancelled')
      return { status: 200, body: { task: task.view, revocation } }
    }
    if (method === 'GET' && path === '/v1/capabilities') {
      const task = await holder(seen, null)
      return { status: 200, body: { capabilities: task.view.capabilities.map(name => plainOffer(name)) } }
    }
    if (method === 'GET' && path === '/v1/credentials') {
      const limit = Number(seen.query.limit ?? 50)
      let all = [...broker.credentials.values()]
      if (seen.headers.authorization?.startsWith('DPoP ')) {
        const task = await holder(seen, null)
        all = ofTask(task.view.id)
      } else operator(seen)
      for (const name of Object.keys(seen.query))
        if (!['task', 'identity', 'capability', 'state', 'after', 'limit'].includes(name)) refuse(400, 'malformed', 'unknown', { field: name })
      const { task, identity, capability, state, after } = seen.query
      all = all.filter(
        c =>
          (task === undefined || c.task === task) &&
          (identity === undefined || c.identity === identity) &&
          (capability === undefined || c.capability === capability) &&
          (state === undefined || c.state === state || (state === 'live' && ['pending', 'active'].includes(c.state))),
      )
      if (after !== undefined) all = all.slice(all.findIndex(c => c.id === after) + 1)
      const page = all.slice(0, limit)
      return { status: 200, body: { credentials: page, next: page.length === limit && all.length > limit ? page.at(-1)?.id : null } }
    }
    const given = /^\/v1\/credentials\/([^/]+)$/.exec(path)?.[1]
    if (method === 'DELETE' && given !== undefined) {
      const task = await holder(seen, null)
      const credential = ofTask(task.view.id).find(c => c.id === given)
      if (!credential) return refuse(404, 'not_found', 'no such credential')
      if (credential.state === 'revoked') return { status: 204 }
      return { status: 202, body: { credential, revocation: end([credential], [], 'holder_revoked', 'revoked') } }
    }
    const one = /^\/v1\/(credentials|decisions|revocations|signals)\/([^/]+)$/.exec(path)
    if (method === 'GET' && one) {
      operator(seen)
      const [, kind, wanted] = one as unknown as [string, string, string]
      const found = { credentials: broker.credentials, decisions, revocations, signals }[kind]?.get(wanted)
      if (!found) return refuse(404, 'not_found', `no such ${kind.slice(0, -1)}`)
      if (kind !== 'revocations') return { status: 200, body: { [kind.slice(0, -1)]: found } }
      const counts = { revoking: 0, stuck: 0, revoked: 0 }
      for (const c of broker.credentials.values()) if (c.ended_by === wanted && c.state in counts) counts[c.state as 'stuck']++
      return { status: 200, body: { revocation: found, credentials: counts } }
    }
    if (method === 'POST' && path === '/v1/decisions:explain') {
      const body = json(['subject_token', 'subject_token_type', 'capability', 'ttl_seconds', 'purpose', 'labels'])
      return { status: 200, body: { decision: explained(String(body.capability), evidence(body.subject_token)) } }
    }
    if (method === 'POST' && path === '/v1/evidence:explain') {
      const body = json(['subject_token', 'subject_token_type', 'purpose', 'labels'])
      const identity = evidence(body.subject_token)
      const claims = decodeJwt(body.subject_token as string)
      const jkt = seen.headers.dpop === undefined ? null : await prove(seen, null)
      const capabilities = [...broker.offers].filter(([name]) => broker.allowed(name)).map(([name, o]) => offer(name, o.revocation))
      const times = { issued_at: iso((claims.iat ?? 0) * 1000), expires_at: iso((claims.exp ?? 0) * 1000), age_seconds: 4 }
      const known = { profile: 'gitlab', owner: '@orders', strength: 2, attributes: { ref: 'main', context_ids: ['a', 'b'] }, run: 'fake:20:574:302' }
      const seenAs = { identity, issuer: 'fake', ...known, ...times, replay: 'bounded', use: broker.use, jkt }
      return { status: 200, body: { evidence: seenAs, capabilities, now: iso(Date.now() + broker.aheadMs) } }
    }
    const responded = await broker.responder.answer(seen)
    if (responded) return responded
    if (path === '/v1/signals' && method === 'GET') {
      operator(seen)
      return { status: 200, body: { signals: [...signals.values()].filter(s => seen.query.held !== 'true' || s.held) } }
    }
    if (path === '/v1/signals') {
      const body = json(['id', 'type', 'severity', 'subject', 'occurred_at', 'detail'])
      const [, at, mac] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(String(seen.headers['curfew-signature'])) ?? []
      if (mac !== createHmac('sha256', broker.signalSecret).update(`${at}.${seen.text}`).digest('hex'))
        return refuse(401, 'attestation_refused', 'this signal is not signed by a registered source', { reason: 'signature_invalid' })
      const known = [...signals.values()].find(s => s.event_id === body.id)
      const signal = known ?? {
        ...body,
        id: id('sig'),
        source: seen.headers['curfew-source'],
        event_id: body.id,
        received_at: iso(),
        rule: 'high-revokes',
        act: { kind: 'revoke' },
        revocation: id('rev'),
        handled_at: iso(),
      }
      signals.set(String(signal.id), signal)
      return { status: 202, body: { signal } }
    }
    return refuse(404, 'not_found', 'no such route', { reason: 'route_unknown' })
  }

  async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const chunks: Buffer[] = []
    for await (const chunk of req) chunks.push(chunk as Buffer)
    const url = new URL(req.url as string, 'http://fake')
    const seen: Seen = {
      method: req.method as string,
      path: url.pathname,
      query: Object.fromEntries(url.searchParams),
      headers: req.headers,
      text: Buffer.concat(chunks).toString('utf8'),
      jkt: null,
    }
    broker.seen.push(seen)
    const fault = broker.faults.find(f => f.times > 0 && f.when(seen))
    if (fault) fault.times--
    if (fault?.drop === 'before') return void req.socket.destroy()
    let told: { status: number; body?: unknown }
    if (fault?.status !== undefined) told = { status: fault.status, body: fault.body }
    else {
      try {
        told = await answer(seen)
      } catch (thrown) {
        if (typeof thrown !== 'object' || thrown === null || !('status' in thrown)) throw thrown
        told = thrown as { status: number; body: unknown }
      }
    }
    if (fault?.drop === 'after') return void req.socket.destroy()
    res.statusCode = told.status
    for (const [name, value] of Object.entries(fault?.headers ?? {})) res.setHeader(name, value)
    if (typeof told.body === 'string') return void res.end(told.body)
    res.setHeader('Content-Type', 'application/json')
    res.end(told.body === undefined ? '' : JSON.stringify(told.body))
  }

  const server = createServer((req, res) => {
    handle(req, res).catch(error => {
      res.statusCode = 500
      res.end(JSON.stringify({ type: 'about:blank', status: 500, request_id: 'req-500', note: String(error) }))
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`

  const broker: FakeBroker = {
    url,
    seen: [],
    tasks: new Map(),
    credentials: new Map(),
    faults: [],
    operatorToken: options.operatorToken ?? '',
    signalSecret: 'the-secret-of-the-source',
    signals,
    responder: await fakeResponder({
      issuer: () => broker.issuer,
      get credentials() {
        return broker.credentials
      },
      signals,
      revocations,
      tasks: () => [...broker.tasks.values()].map(t => t.view),
      end: (credentials, taskIds) =>
        end(
          credentials,
          [...broker.tasks.values()].filter(t => taskIds.includes(t.view.id)),
          'requested',
          'revoked',
        ),
      operator,
      json: jsonOf,
      refuse,
    }),
    issuer: options.issuer ?? 'https://curfew.example',
    deadAfterMs: 30,
    offers: new Map([
      ['demo/orders-bearer', { secret: { token: `canary-bearer-${randomBytes(8).toString('hex')}` }, revocation: 'instant', bound: false }],
      ['demo/orders-ro', { secret: { token: `canary-bound-${randomBytes(8).toString('hex')}` }, revocation: 'instant', bound: true }],
      ['demo/legacy', { secret: { token: `canary-legacy-${randomBytes(8).toString('hex')}` }, revocation: 'expiry-only', bound: false }],
      [
        'db/orders-ro',
        {
          secret: {
            PGHOST: 'db.example',
            PGPORT: '5432',
            PGDATABASE: 'orders',
            PGUSER: 'curfew_crd-1',
            PGPASSWORD: `canary-password-${randomBytes(8).toString('hex')}`,
            PGAPPNAME: 'curfew',
          },
          revocation: 'backend',
          bound: false,
        },
      ],
    ]),
    allowed: () => true,
    secretOf: (_, secret) => secret,
    use: 'unused',
    aheadMs: 0,
    revokeTask(taskId, reason) {
      const task = broker.tasks.get(taskId)
      if (task) end(ofTask(taskId), [task], reason, 'revoked')
    },
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  return broker
}
