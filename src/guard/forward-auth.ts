/** Owns forward-auth beside a proxy: the dialects and answers of the broker's own door, with a verdict that comes from a guard and its feed. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { CurfewError } from '../domain/errors.js'
import { askedByEnvoy, ENVOY_PATH, FORWARD_PATH, identityHeaders, originalRequest } from '../domain/original-request.js'
import { GuardError } from './errors.js'
import type { Guard, Health } from './guard.js'
import type { Seen } from './seen.js'
import type { GuardLog } from './settings.js'

export interface ForwardAuthOptions {
  readonly guard: Pick<Guard, 'verify' | 'health'>
  /** As the proxy may call the audience that is asked about: its URI, and its name at Curfew where it is known. Any other is refused. */
  readonly audiences: readonly string[]
  /** Needed of every request, whatever the proxy asks for besides. */
  readonly scopes: readonly string[]
  /** That of the guard: no verdict is kept beyond it. Milliseconds. */
  readonly maxStaleMs: number
  readonly log: GuardLog
}

const HEALTH = '/healthz'
/** A proxy may keep a verdict for so long, where the feed leaves as much. Seconds. */
const KEEP = 2

/** For `createServer` of node:http. It answers every request, and no fault of it is a pass. */
export function forwardAuthHandler(options: ForwardAuthOptions): (req: IncomingMessage, res: ServerResponse) => Promise<void> {
  return async (req, res) => {
    // A body is not asked for and not waited for.
    req.resume()
    res.setHeader('Cache-Control', 'no-store')
    try {
      await answer(req, res, options)
    } catch (error) {
      refuse(req, res, error, options.log)
    }
  }
}

async function answer(req: IncomingMessage, res: ServerResponse, options: ForwardAuthOptions): Promise<void> {
  const [path = '', query = ''] = split(req.url ?? '')
  const isRead = req.method === 'GET' || req.method === 'HEAD'
  if (path === HEALTH && isRead) return told(res, options.guard.health())
  const isEnvoy = path === ENVOY_PATH || path.startsWith(`${ENVOY_PATH}/`)
  if (!isEnvoy && path !== FORWARD_PATH) return send(res, 404, problem(404, 'not_found', 'there is nothing here'))
  if (!isEnvoy && !isRead) {
    res.setHeader('Allow', 'GET, HEAD')
    return send(res, 405, problem(405, 'method_not_allowed', 'ask with GET or HEAD'))
  }
  // Envoy's own path carries the client's query: what is asked for stands in headers that the proxy sets.
  const asked = isEnvoy ? askedByHeaders(req) : askedByQuery(query)
  if (asked.audience !== null && !options.audiences.includes(asked.audience))
    malformed('audience_unknown', 'audience', 'this process does not answer for that audience')
  const own = isEnvoy ? askedByEnvoy(req.method ?? '', path) : null
  const { method, path: url } = originalRequest(name => valuesOf(req, name), own)
  const seen = await options.guard.verify({ method, url, headers: req.headers, rawHeaders: req.rawHeaders }, { scope: [...options.scopes, ...asked.scopes] })
  const { credential, subject, task, scopes } = seen
  for (const [name, value] of Object.entries(identityHeaders({ credential, subject, task, scope: scopes.join(' ') }))) res.setHeader(name, value)
  const seconds = keepable(seen, options.maxStaleMs)
  if (seconds > 0) res.setHeader('Cache-Control', `private, max-age=${seconds}`)
  res.statusCode = 200
  res.end()
}

/** With what the proxy keeps, a revocation is not later than the guard itself may be. Whole seconds, rounded down. */
function keepable({ expiresAt, staleMs }: Seen, maxStaleMs: number): number {
  const left = (expiresAt.getTime() - Date.now()) / 1000
  const fresh = staleMs === null ? KEEP : (maxStaleMs - staleMs) / 1000
  return Math.max(0, Math.floor(Math.min(KEEP, left, fresh)))
}

function told(res: ServerResponse, health: Health): void {
  const { ok, mode, staleMs, seq, entries, keysAgeMs, connected, instances, replay } = health
  res.setHeader('Content-Type', 'application/json')
  send(res, ok ? 200 : 503, JSON.stringify({ ok, mode, stale_ms: staleMs, seq, entries, keys_age_ms: keysAgeMs, connected, instances, replay }))
}

interface Asked {
  readonly audience: string | null
  readonly scopes: readonly string[]
}

/** Nothing but these two, and each once. */
function askedByQuery(query: string): Asked {
  const given = new URLSearchParams(query)
  for (const name of new Set(given.keys())) {
    if (name !== 'audience' && name !== 'scope') malformed('unknown', /^[a-z_]{1,40}$/.test(name) ? name : 'query', 'only audience and scope may be asked for')
    if (given.getAll(name).length > 1) malformed('parameter_repeated', name, 'a parameter may come once only')
  }
  return { audience: given.get('audience'), scopes: scopesOf(given.get('scope')) }
}

function askedByHeaders(req: IncomingMessage): Asked {
  const one = (name: string) => {
    const values = valuesOf(req, name)
    if (values.length > 1) malformed('header_repeated', name, 'this header may come once only')
    return values[0] ?? null
  }
  return { audience: one('x-curfew-audience'), scopes: scopesOf(one('x-curfew-scope')) }
}

/** RFC 6749 section 3.3. One that is asked for and says nothing asks for nothing: that would be a proxy's mistake, and a pass. */
function scopesOf(text: string | null): string[] {
  if (text === null) return []
  if (!/^[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*$/.test(text) || text.length > 200)
    return malformed('scope_invalid', 'scope', 'must be scopes with a space between them')
  return text.split(' ')
}

/** Every value that was sent, never joined. */
const valuesOf = (req: IncomingMessage, name: string): string[] => req.headersDistinct[name] ?? []

const split = (url: string): string[] => {
  const at = url.indexOf('?')
  return at < 0 ? [url] : [url.slice(0, at), url.slice(at + 1)]
}

const malformed = (reason: string, field: string, message: string): never => {
  throw new CurfewError('malformed', message, { reason, field })
}

/** RFC 9457, as the broker has it. Nothing of the request stands in it. */
const problem = (status: number, code: string, detail: string, facts: { reason?: string; field?: string } = {}): string =>
  JSON.stringify({ title: status === 400 ? 'Malformed request' : 'Refused', status, code, detail, ...facts })

function refuse(req: IncomingMessage, res: ServerResponse, error: unknown, log: GuardLog): void {
  if (!req.complete) res.setHeader('Connection', 'close')
  if (error instanceof GuardError) {
    // What was wanted and what was seen is for whoever runs the proxy: behind one, nothing else explains a `htu`.
    const { code, expected, actual, cause } = error
    log.warn(
      { code, ...(expected === undefined ? {} : { expected }), ...(actual === undefined ? {} : { actual }), ...(cause ? { err: cause } : {}) },
      'a request was refused',
    )
    for (const [name, value] of Object.entries(error.headers())) res.setHeader(name, value)
    send(res, error.status, error.body(), null)
  } else if (error instanceof CurfewError && error.code === 'malformed') {
    const { reason, field } = error.facts
    log.warn({ code: error.code, reason, field }, 'a request was refused')
    send(res, 400, problem(400, error.code, error.message, { ...(reason ? { reason } : {}), ...(field ? { field } : {}) }))
  } else {
    log.error({ err: error }, 'a request failed on our side')
    send(res, 500, problem(500, 'internal', 'the request could not be judged'))
  }
}

function send(res: ServerResponse, status: number, body: string, type: string | null = 'application/problem+json'): void {
  res.statusCode = status
  if (type !== null && !res.hasHeader('Content-Type')) res.setHeader('Content-Type', type)
  res.setHeader('Content-Length', Buffer.byteLength(body))
  res.end(body)
}
