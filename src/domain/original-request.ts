/** Owns what a proxy says of the request that it asks about: one reading for every dialect, and a refusal where two of them differ. */
import { CurfewError } from './errors.js'

/** Where proxies ask, at the broker and at a process beside them. Envoy asks with the request's own method, under its own path. */
export const FORWARD_PATH = '/v1/forward-auth'
export const ENVOY_PATH = `${FORWARD_PATH}/envoy`

/** What Envoy's own asking says of the request. */
export const askedByEnvoy = (method: string, path: string): OriginalRequest => ({ method, path: path.slice(ENVOY_PATH.length) || '/' })

/** What the proxy hands on; it strips the same names from what clients send. */
export const identityHeaders = (who: { credential: string; subject: string; task: string; scope: string }): Readonly<Record<string, string>> => ({
  'X-Curfew-Credential': who.credential,
  'X-Curfew-Subject': who.subject,
  'X-Curfew-Task': who.task,
  'X-Curfew-Scope': who.scope,
})

export interface OriginalRequest {
  readonly method: string
  /** Without query. Begins with `/`. */
  readonly path: string
}

/** nginx (as its documentation sets them), Traefik and Caddy. Envoy asks with the method and under the path of the request itself. */
const METHOD = ['x-original-method', 'x-forwarded-method'] as const
const URI = ['x-original-uri', 'x-forwarded-uri'] as const

const refuse = (reason: string, field: string): never => {
  throw new CurfewError('malformed', 'the proxy must say once which request it asks about', { reason, field })
}

/**
 * @param values every value of a header, by its lower-case name.
 * @param own what the proxy asked with, for the dialect that has no headers of its own.
 */
export function originalRequest(values: (name: string) => readonly string[], own: OriginalRequest | null): OriginalRequest {
  const method = one(values, METHOD) ?? own?.method ?? refuse('original_missing', 'X-Original-Method')
  const uri = one(values, URI) ?? own?.path ?? refuse('original_missing', 'X-Original-URI')
  if (!/^[A-Z]{1,20}$/.test(method)) return refuse('original_invalid', 'X-Original-Method')
  if (!/^\/[\x21-\x22\x24-\x7e]{0,4096}$/.test(uri)) return refuse('original_invalid', 'X-Original-URI')
  return { method, path: uri.split('?')[0] as string }
}

/** Of all names one value: a client that smuggles a second in must not choose which counts. */
function one(values: (name: string) => readonly string[], names: readonly string[]): string | null {
  const given = new Set(names.flatMap(name => values(name)))
  if (given.size > 1) return refuse('original_ambiguous', names[0] as string)
  return [...given][0] ?? null
}
