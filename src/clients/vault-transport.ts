/** Owns what travels between us and Vault: our own transport under node-vault's shape (security.md 3.2), and the one import of node-vault. */
import nodeVault from 'node-vault'
import { Agent, request } from 'undici'
import { within } from '../domain/deadline.js'
import { parseStrictBytes } from '../domain/json.js'

/**
 * The closed set of outcomes. `absent` only when an unsealed server said so in its own words; `denied` our identity may not;
 * `refused` it understood and would not; `ambiguous` nobody knows what happened; `down` it was not reached or is sealed.
 */
export type VaultOutcome = 'absent' | 'denied' | 'refused' | 'ambiguous' | 'down'

/** Rebuilt from status, method and the path's template: bodies, headers, lease ids and accessors never travel on. */
export class VaultError extends Error {
  override readonly name = 'VaultError'
  constructor(
    readonly outcome: VaultOutcome,
    readonly status: number | null,
    method: string,
    template: string,
    options: { cause?: unknown } = {},
  ) {
    super(`vault: ${method} ${template} ${status === null ? 'got no answer' : `answered ${status}`} (${outcome})`, options)
  }
}

export interface CallOptions {
  /** The path with its variable parts named, for people: `auth/token/create/<role>`. */
  readonly template: string
  readonly token?: string
  readonly deadlineMs?: number
  readonly maxBytes?: number
  readonly signal?: AbortSignal
  /** What a 400 means here when its text holds these words. */
  readonly absentWords?: string
}

export interface Transport {
  read(path: string, options: CallOptions): Promise<unknown>
  write(path: string, body: object, options: CallOptions): Promise<unknown>
  list(path: string, options: CallOptions): Promise<unknown>
}

export type Data = Record<string, unknown>

/** What an answer holds. */
export const dataOf = (answer: unknown): Data => ((answer as { data?: Data } | null)?.data ?? {}) as Data
/** A member that must be there. @param what for people: "the lease". */
export function textOf(value: unknown, what: string): string {
  if (typeof value !== 'string' || value === '') throw new VaultError('ambiguous', 200, 'READ', `${what}, which is missing in the answer`)
  return value
}

const DEADLINE_MS = 1_500
const MAX_BYTES = 1_048_576
/** Checked on the raw path, before any URL parser has made something else of it: Vault decodes `%2e%2e` and follows it (real-parts.md 2). */
const PATH = /^\/v1(\/[A-Za-z0-9._~@-]+)+(\?list=1)?$/

interface Asked extends CallOptions {
  readonly method: string
  readonly uri: string
  readonly path: string
  readonly headers: Record<string, string>
  readonly json?: object
}

export function createTransport(options: { address: string; namespace?: string | undefined; ca?: string }): Transport & { close(): Promise<void> } {
  const origin = new URL(options.address).origin
  const agent = new Agent({ connect: { timeout: DEADLINE_MS, ...(options.ca ? { ca: options.ca } : {}) }, connections: 32 })
  const client = nodeVault({
    endpoint: origin,
    noCustomHTTPVerbs: true,
    // Its own would print bodies under DEBUG.
    debug: () => {},
    'request-promise': { defaults: () => (asked: Asked) => send(asked, origin, agent) },
  } as never)
  // What the environment says must not win over what the configuration leaves empty.
  Object.assign(client, { token: '', pathPrefix: '', namespace: options.namespace ?? '', endpoint: origin })

  // A path with `&#x2F;` would be changed by node-vault before our check: segments are checked here first.
  const checked = (path: string, call: CallOptions): string => {
    if (!PATH.test(`/v1/${path}`) || path.split('/').some(s => s === '.' || s === '..'))
      throw new VaultError('refused', null, 'CALL', `${call.template}, whose path is not acceptable`)
    return path
  }
  const own = (call: CallOptions) => ({ ...call, headers: call.token === undefined ? {} : { 'X-Vault-Token': call.token } }) as never
  return {
    read: async (path, call) => client.read(checked(path, call), own(call)),
    write: async (path, body, call) => client.write(checked(path, call), body, own(call)),
    list: async (path, call) => client.list(checked(path, call), own(call)),
    close: () => agent.close(),
  }
}

/** What node-vault takes for a request library: one call, one deadline for connect, headers and body, no redirect. */
async function send(asked: Asked, origin: string, agent: Agent): Promise<{ statusCode: number; body: unknown; request: { path: string } }> {
  const fail = (outcome: VaultOutcome, status: number | null, cause?: unknown) => new VaultError(outcome, status, asked.method, asked.template, { cause })
  const raw = asked.uri.slice(origin.length)
  if (!asked.uri.startsWith(`${origin}/`) || !PATH.test(raw)) throw fail('refused', null)
  const answer = await exchange(asked, raw, origin, agent, within(asked.deadlineMs ?? DEADLINE_MS, asked.signal)).catch(cause => {
    if (cause instanceof VaultError) throw cause
    // Not reached at all is `down`; anything later may have been done.
    const code = (cause as { code?: string }).code
    throw fail(code === 'ECONNREFUSED' || code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ENOTFOUND' ? 'down' : 'ambiguous', null, cause)
  })
  const { status, body } = answer
  const errors = (body as { errors?: unknown } | null)?.errors
  const said = Array.isArray(errors) ? errors.filter(e => typeof e === 'string').join(' ') : ''
  if (status === 200 || status === 204) {
    const { auth, data } = (body ?? {}) as { auth?: unknown; data?: unknown }
    // A secret and an error in one answer: something was made, and something went wrong (F29).
    if (said !== '' && (auth || data)) throw fail('ambiguous', status)
    return { statusCode: 200, body, request: { path: raw } }
  }
  // So Vault tells an empty listing. Any other 404 (a proxy's, of a wrong mount) is none: a listing is complete or an error.
  if (status === 404 && raw.endsWith('?list=1') && Array.isArray(errors) && errors.length === 0)
    return { statusCode: 200, body: { data: { keys: [] } }, request: { path: raw } }
  if (status === 202) return { statusCode: 200, body: { accepted: true }, request: { path: raw } }
  if (status === 400 && asked.absentWords !== undefined && said.includes(asked.absentWords)) throw fail('absent', status)
  if (status === 403) throw fail('denied', status)
  if (status === 503 || status === 429 || status === 472 || status === 473) throw fail('down', status)
  if (status >= 300 && status < 400) throw fail('down', status)
  throw fail(status >= 500 ? 'ambiguous' : 'refused', status)
}

async function exchange(asked: Asked, path: string, origin: string, agent: Agent, signal: AbortSignal): Promise<{ status: number; body: unknown }> {
  const { statusCode, body } = await request(origin + path, {
    dispatcher: agent,
    method: asked.method as 'GET',
    headers: { ...asked.headers, 'X-Vault-Request': 'true', ...(asked.json ? { 'content-type': 'application/json' } : {}) },
    ...(asked.json ? { body: JSON.stringify(asked.json) } : {}),
    signal,
  })
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of body) {
    size += (chunk as Buffer).length
    if (size > (asked.maxBytes ?? MAX_BYTES)) throw new VaultError('ambiguous', statusCode, asked.method, `${asked.template}, too long an answer`)
    chunks.push(chunk as Buffer)
  }
  if (size === 0) return { status: statusCode, body: null }
  try {
    return { status: statusCode, body: parseStrictBytes(Buffer.concat(chunks), { maxDepth: 16, maxMembers: 1_000_000 }) }
  } catch {
    throw new VaultError('ambiguous', statusCode, asked.method, `${asked.template}, an unreadable answer`)
  }
}
