/** Owns the guard's own way out: every request has a deadline that includes its body, a bound on what is read, and follows no redirect. */
import { untilAborted } from '../domain/deadline.js'

export type Fetch = (input: string, init: RequestInit) => Promise<Response>

export interface Outward {
  readonly fetch: Fetch
  readonly signal: AbortSignal
}

export interface Ask {
  readonly method?: 'GET' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  /** Milliseconds for all of it. */
  readonly withinMs: number
  readonly maxBytes: number
}

const late = (reason: unknown): Error => (reason instanceof Error ? reason : new Error('the request was ended'))

/** Status and bytes. @throws whatever went wrong on the way; the message names no token. */
export async function ask(out: Outward, url: string, request: Ask): Promise<{ status: number; bytes: Uint8Array }> {
  // By hand and not by AbortSignal.any: that keeps a trace of every request in the guard's own signal for as long as there is a guard (Node 20).
  const own = new AbortController()
  const stop = () => own.abort(out.signal.reason)
  const timer = setTimeout(() => own.abort(new DOMException(`not done within ${request.withinMs} ms`, 'TimeoutError')), request.withinMs)
  out.signal.addEventListener('abort', stop, { once: true })
  if (out.signal.aborted) stop()
  try {
    return await untilAborted(exchange(out, url, request, own.signal), own.signal, late)
  } finally {
    clearTimeout(timer)
    out.signal.removeEventListener('abort', stop)
  }
}

async function exchange(out: Outward, url: string, request: Ask, signal: AbortSignal): Promise<{ status: number; bytes: Uint8Array }> {
  const response = await out.fetch(url, {
    method: request.method ?? 'GET',
    headers: { accept: 'application/json', ...request.headers },
    ...(request.body === undefined ? {} : { body: request.body }),
    redirect: 'error',
    signal,
  })
  return { status: response.status, bytes: await bounded(response, request.maxBytes) }
}

async function bounded(response: Response, maxBytes: number): Promise<Uint8Array> {
  if (!response.body) return new Uint8Array()
  const parts: Uint8Array[] = []
  let size = 0
  const reader = response.body.getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      size += value.byteLength
      if (size > maxBytes) throw new Error(`the answer holds more than ${maxBytes} bytes`)
      parts.push(value)
    }
  } finally {
    // What is not wanted is not waited for.
    reader.cancel().catch(() => {})
  }
  return Buffer.concat(parts)
}
