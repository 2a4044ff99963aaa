/** Owns the way to the broker: where it is, how long we wait, what is tried again, and what its refusals mean here. */
import { setTimeout as sleep } from 'node:timers/promises'
import { within } from '../domain/deadline.js'
import { withoutTrailing } from '../domain/trailing.js'
import { CliError, EXIT, exitOf, type Problem, usage } from './exit.js'
import type { ProofKey } from './proof.js'

export type Auth =
  | { readonly kind: 'none' }
  /** First contact: a proof of the key that the task will be bound to. */
  | { readonly kind: 'proof'; readonly key: ProofKey }
  | { readonly kind: 'holder'; readonly key: ProofKey; readonly token: string }
  | { readonly kind: 'operator'; readonly token: string }

export interface Call {
  readonly method: 'GET' | 'POST' | 'DELETE'
  readonly path: string
  readonly query?: Readonly<Record<string, string | undefined>>
  readonly auth: Auth
  /** Made anew for every attempt: evidence is good once. Text is sent as it is, all else as JSON. */
  readonly body?: () => unknown
  readonly form?: () => Record<string, string> | Promise<Record<string, string>>
  readonly headers?: (body: string) => Readonly<Record<string, string>>
  /** For one attempt; default 15 s. */
  readonly timeoutMs?: number
  /** Tries after the first; default 4, which is also the most. */
  readonly retries?: number
}

export interface Answer {
  readonly status: number
  readonly body: Readonly<Record<string, unknown>>
  /** The broker's clock as it answered, to the second; null when it does not say, or when a cache answered in its place. */
  readonly clock: Date | null
}

export interface Broker {
  readonly url: string
  /** The server's own name for itself: the audience of evidence and the base of every `htu`. Asked for once. */
  issuer(signal: AbortSignal): Promise<string>
  call(call: Call, signal: AbortSignal): Promise<Answer>
}

export interface BrokerOptions {
  readonly url: string
  /** When the server is reached by another address than its public one: the name that it must give itself. */
  readonly issuer?: string | undefined
  readonly caFile?: string | undefined
  /** Allows plain http to hosts other than this machine. */
  readonly insecureHttp?: boolean
}

interface Sent {
  readonly status: number
  readonly retryAfter: number | null
  readonly date: string | null
  readonly age: string | null
  /** It is the same request that is wanted, with the server's nonce in its proof (RFC 9449 sections 8 and 9). */
  readonly wantsNonce: boolean
  readonly text: string
}

const ATTEMPT_MS = 15_000
const MOST_RETRIES = 4
/** Full jitter below 200 ms, doubling to 3.2 s; a server that asks for more than 10 s is not waited for. */
const JITTER_MS = 200
const LONGEST_RETRY_AFTER_SECONDS = 10
const MAX_ANSWER_BYTES = 1_048_576

export function brokerAt(options: BrokerOptions): Broker {
  const url = checkedUrl(options.url, options.insecureHttp === true)
  let issuer: Promise<string> | null = null
  let transport: Promise<typeof fetch> | null = null
  /** The last nonce of each of the two servers that a broker is to its clients. */
  const nonces = new Map<'authorization' | 'resource', string>()

  async function askIssuer(signal: AbortSignal): Promise<string> {
    const { body } = await call({ method: 'GET', path: '/.well-known/oauth-authorization-server', auth: { kind: 'none' } }, signal)
    const named = body.issuer
    if (typeof named !== 'string' || !/^https?:\/\/[^\s/?#]+$/.test(named)) throw notOurs('its metadata names no issuer')
    // RFC 8414 section 3.3: whoever claims another's name collects evidence that is good there. This machine's own ports are trusted with it.
    const expected = options.issuer?.replace(/\/$/, '')
    if (expected === undefined ? named !== url && !isLoopback(new URL(url).hostname) : named !== expected) {
      throw new CliError(EXIT.refused, {
        code: 'issuer_mismatch',
        detail: `the server calls itself ${named}, which is not ${expected ?? 'the address it was asked at'}`,
        next: `if that is its public URL, say so: --issuer ${named} or CURFEW_ISSUER`,
      })
    }
    return named
  }

  async function send(call: Call, signal: AbortSignal): Promise<Sent> {
    const target = new URL(url + call.path)
    for (const [name, value] of Object.entries(call.query ?? {})) if (value !== undefined) target.searchParams.set(name, value)
    const headers: Record<string, string> = { Accept: 'application/json' }
    let body: string | undefined
    if (call.form) {
      body = new URLSearchParams(await call.form()).toString()
      headers['Content-Type'] = 'application/x-www-form-urlencoded'
    } else if (call.body) {
      const value = await call.body()
      body = typeof value === 'string' ? value : JSON.stringify(value)
      headers['Content-Type'] = 'application/json'
    }
    Object.assign(headers, await authHeaders(call, signal), call.headers?.(body ?? ''))
    transport ??= transportFor(options.caFile)
    const response = await (await transport)(target, {
      method: call.method,
      headers,
      // Evidence and tokens go where they were sent, or nowhere.
      redirect: 'error',
      signal: within(call.timeoutMs ?? ATTEMPT_MS, signal),
      ...(body === undefined ? {} : { body }),
    })
    const nonce = response.headers.get('dpop-nonce')
    if (nonce !== null) nonces.set(serverOf(call.path), nonce)
    const after = response.headers.get('retry-after')
    const text = await bounded(response)
    return {
      status: response.status,
      wantsNonce:
        nonce !== null &&
        (response.status === 401
          ? /\berror="use_dpop_nonce"/.test(response.headers.get('www-authenticate') ?? '')
          : response.status === 400 && parseObject(text)?.error === 'use_dpop_nonce'),
      retryAfter: after !== null && /^\d{1,9}$/.test(after) ? Number(after) : null,
      date: response.headers.get('date'),
      age: response.headers.get('age'),
      text,
    }
  }

  async function authHeaders(call: Call, signal: AbortSignal): Promise<Record<string, string>> {
    const { auth } = call
    if (auth.kind === 'none') return {}
    if (auth.kind === 'operator') return { Authorization: `Bearer ${auth.token}` }
    const htu = (await broker.issuer(signal)) + call.path
    const nonce = nonces.get(serverOf(call.path))
    if (auth.kind === 'proof') return { DPoP: await auth.key.proof(call.method, htu, { nonce }) }
    return { Authorization: `DPoP ${auth.token}`, DPoP: await auth.key.proof(call.method, htu, { accessToken: auth.token, nonce }) }
  }

  async function call(call: Call, signal: AbortSignal): Promise<Answer> {
    const most = Math.min(call.retries ?? MOST_RETRIES, MOST_RETRIES)
    let isNonceNew = true
    for (let attempt = 0; ; attempt++) {
      let failure: CliError
      let retryAfter = 0
      let again: boolean
      try {
        const answer = await send(call, signal)
        if (answer.status < 400) return { status: answer.status, body: parsed(answer.text, answer.status), clock: clockOf(answer) }
        if (answer.wantsNonce && isNonceNew) {
          // No try of ours was wasted: it is how a first proof learns of the nonce. A second time it is a refusal like any other.
          isNonceNew = false
          attempt--
          continue
        }
        failure = refusal(answer)
        // Never on a denial: only where the same request may fare better (ux.md 2.1).
        again = answer.status === 429 || answer.status >= 500
        retryAfter = answer.retryAfter ?? 0
      } catch (error) {
        if (error instanceof CliError) throw error
        if (signal.aborted) throw signal.reason
        ;({ failure, again } = networkFailure(error, url))
      }
      if (!again || attempt >= most || retryAfter > LONGEST_RETRY_AFTER_SECONDS) throw failure
      await sleep(Math.max(Math.random() * JITTER_MS * 2 ** attempt, retryAfter * 1000), undefined, { signal })
    }
  }

  const broker: Broker = {
    url,
    issuer(signal) {
      issuer ??= askIssuer(signal).catch(error => {
        issuer = null
        throw error
      })
      return issuer
    },
    call,
  }
  return broker
}

const serverOf = (path: string) => (path.startsWith('/oauth2/') ? 'authorization' : 'resource')

function checkedUrl(text: string, insecureHttp: boolean): string {
  let url: URL
  try {
    url = new URL(text)
  } catch {
    throw usage('the server is not a URL', 'for example --server https://curfew.example.org')
  }
  if (url.protocol !== 'https:' && url.protocol !== 'http:') throw usage('the server must be an https URL')
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') throw usage('the server is a plain URL: no user, query or fragment')
  if (url.protocol === 'http:' && !isLoopback(url.hostname) && !insecureHttp) {
    throw usage('plain http would show evidence and tokens to the network', 'use https, or --insecure-http on a network that you trust')
  }
  return url.origin + withoutTrailing(url.pathname, '/')
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(host)
}

/** The platform's fetch; with a CA of one's own undici's, which is worth its load time only then. */
async function transportFor(caFile: string | undefined): Promise<typeof fetch> {
  if (caFile === undefined) return fetch
  const { readFile } = await import('node:fs/promises')
  const ca = await readFile(caFile, 'utf8').catch(() => {
    throw usage(`the CA file cannot be read: ${caFile}`)
  })
  const { Agent, fetch: undiciFetch } = await import('undici')
  const dispatcher = new Agent({ connect: { ca } })
  return ((input: URL, init: object) => undiciFetch(input, { ...init, dispatcher })) as unknown as typeof fetch
}

async function bounded(response: Response): Promise<string> {
  if (!response.body) return ''
  const decoder = new TextDecoder()
  let text = ''
  let size = 0
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    size += chunk.length
    if (size > MAX_ANSWER_BYTES) throw notOurs('its answer is too large')
    text += decoder.decode(chunk, { stream: true })
  }
  return text + decoder.decode()
}

function parsed(text: string, status: number): Readonly<Record<string, unknown>> {
  if (text === '' || status === 204) return {}
  const value = parseObject(text)
  if (value) return value
  throw notOurs('its answer is no JSON object')
}

function clockOf({ date, age }: Sent): Date | null {
  const at = date === null ? Number.NaN : Date.parse(date)
  return Number.isNaN(at) || (age !== null && age.trim() !== '0') ? null : new Date(at)
}

function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null
  } catch {
    return null
  }
}

export const notOurs = (why: string) =>
  new CliError(EXIT.unexpected, { code: 'unexpected_answer', detail: `this does not answer like a Curfew server: ${why}` })

/** RFC 9457 and OAuth errors in one shape. What is neither comes from something between us and the broker, and is not quoted. */
function refusal({ status, text, date }: { status: number; text: string; date: string | null }): CliError {
  const body = parseObject(text) ?? {}
  const said = (name: string) => (typeof body[name] === 'string' ? (body[name] as string) : undefined)
  const code = said('code') ?? said('error') ?? `http_${status}`
  const detail = said('detail') ?? said('error_description') ?? (status >= 500 ? `the server failed (${status})` : `the server answered ${status}`)
  const next = said('next') ?? adviceOf(code, said('reason'), date)
  const problem: Problem = { ...body, status, code, detail, ...(next === null ? {} : { next }) }
  return new CliError(exitOf(code, status), problem)
}

function adviceOf(code: string, reason: string | undefined, date: string | null): string | null {
  if (reason === 'proof_old' || reason === 'proof_in_future') return clockAdvice(date)
  return code === 'capability_unknown' ? 'curfew caps' : null
}

/** Proofs carry this machine's time: say how far it is off, by the server's own `Date`. */
function clockAdvice(date: string | null): string {
  const there = date === null ? Number.NaN : Date.parse(date)
  if (Number.isNaN(there)) return "check this machine's clock"
  const off = Math.round((Date.now() - there) / 1000)
  return `set this machine's clock: it is ${Math.abs(off)} s ${off > 0 ? 'ahead of' : 'behind'} the server's`
}

const TLS_CODES = /^(ERR_TLS_|CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_)/

function networkFailure(error: unknown, url: string): { failure: CliError; again: boolean } {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  const code = (cause as NodeJS.ErrnoException | null)?.code
  const timedOut = error instanceof Error && error.name === 'TimeoutError'
  const tls = typeof code === 'string' && TLS_CODES.test(code)
  const moved = cause instanceof Error && cause.message.includes('redirect')
  const why = timedOut ? 'no answer in time' : moved ? 'it redirects, which is not followed' : typeof code === 'string' ? code : 'the connection failed'
  return {
    again: !tls && !moved,
    failure: new CliError(
      EXIT.unreachable,
      {
        code: 'unreachable',
        detail: `the broker at ${url} cannot be reached (${why})`,
        next: tls ? 'name the CA of its certificate: --ca-cert FILE' : 'check --server (CURFEW_URL), and that the broker runs',
      },
      { cause: error },
    ),
  }
}
