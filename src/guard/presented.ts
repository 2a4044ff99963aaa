/** Owns what a request presents: one token under one scheme, its proofs, and the address that the caller used, which is never built from the Host header. */
import { type GuardCode, refuse, type Scheme } from './errors.js'

type HeaderValue = string | readonly string[] | undefined

/** A web `Request`, a request of node:http, or anything that looks like one. */
export interface RequestLike {
  readonly method?: string | undefined
  readonly url?: string | undefined
  /** Express: before a router took its part off. */
  readonly originalUrl?: string
  readonly headers: Headers | Readonly<Record<string, HeaderValue>>
  /** Node: name and value in turn, as they were sent. */
  readonly rawHeaders?: readonly string[]
}

export interface Presented {
  readonly scheme: Scheme
  readonly token: string
  readonly proofs: readonly string[]
}

/** Every value that was sent. Node keeps the first of two `Authorization` headers and joins two `DPoP` headers (P52), so the raw ones are asked first. */
export function valuesOf({ headers, rawHeaders }: RequestLike, name: string): string[] {
  if (Array.isArray(rawHeaders)) {
    const values: string[] = []
    for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
      const given = rawHeaders[i] as string
      if (given.length === name.length && given.toLowerCase() === name) values.push(rawHeaders[i + 1] as string)
    }
    return values
  }
  if (isHeaders(headers)) {
    const value = headers.get(name)
    return value === null ? [] : [value]
  }
  return Object.entries(headers).flatMap(([key, value]) => (key.toLowerCase() !== name || value === undefined ? [] : value)) as string[]
}

const isHeaders = (headers: RequestLike['headers']): headers is Headers => typeof (headers as Headers).get === 'function'

/** RFC 6750 section 2.1 and RFC 9449 section 7.1: in the `Authorization` header, once. Not in the query and not in a form. */
export function present(request: RequestLike): Presented {
  const given = valuesOf(request, 'authorization')
  if (given.length === 0) return refuse('token_missing')
  if (given.length > 1) return refuse('token_malformed')
  const text = given[0] as string
  const head = /^(dpop|bearer) +/i.exec(text)
  const token = head ? text.slice(head[0].length) : ''
  if (!head || token.includes(' ')) return refuse(/^(?:dpop|bearer)\b/i.test(text) ? 'token_malformed' : 'token_missing')
  return { scheme: head[1]?.length === 4 ? 'DPoP' : 'Bearer', token, proofs: valuesOf(request, 'dpop') }
}

/** The scheme that was tried, for the challenge. */
export function schemeOf(request: RequestLike): Scheme | null {
  const given = valuesOf(request, 'authorization')[0] ?? ''
  return /^dpop\b/i.test(given) ? 'DPoP' : /^bearer\b/i.test(given) ? 'Bearer' : null
}

/** The address that the proof must name: the configured one and the path, or what a trusted proxy says. */
export function addressOf(request: RequestLike, publicUrl: string, trustProxy: boolean): string {
  const path = pathOf(request.originalUrl ?? request.url ?? '')
  if (trustProxy) {
    const [proto, ...protos] = valuesOf(request, 'x-forwarded-proto')
    const [host, ...hosts] = valuesOf(request, 'x-forwarded-host')
    // Exactly one plain value each: of a list nobody could say which was the proxy's and which the caller's.
    if (
      protos.length === 0 &&
      hosts.length === 0 &&
      /^https?$/.test(proto ?? '') &&
      /^[A-Za-z0-9.-]+(:\d{1,5})?$|^\[[0-9A-Fa-f:]+\](:\d{1,5})?$/.test(host ?? '')
    )
      return `${proto}://${host}${path}`
  }
  return publicUrl + path
}

/** As it was sent, without query and fragment; of a whole URL, what follows its authority. */
function pathOf(url: string): string {
  const plain = url.replace(/[?#].*$/s, '')
  if (plain.startsWith('/')) return plain
  const whole = /^https?:\/\/[^/]*(\/.*)?$/is.exec(plain)
  return whole ? (whole[1] ?? '/') : refuse('proof_htu_mismatch' satisfies GuardCode)
}
