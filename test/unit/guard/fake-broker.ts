/** Owns a broker for the guard's tests, over node:http: what docs/http-api.md says of feed, keys and introspection, and a hand on everything that may go wrong. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface WireEntry {
  readonly kind: string
  readonly key: string
  readonly issued_before?: string
  readonly until: string
}

export const KEY = 'curfew_guard_of_the_tests'
export const LATER = '2999-01-01T00:00:00.000Z'

export interface FakeBroker {
  readonly url: string
  /** What it publishes and says; a test changes it. */
  keys: unknown[]
  staleMs: number
  seq: number
  /** Everything that stands, by `seq`. */
  acts: { seq: number; entries: WireEntry[] }[]
  active: boolean
  /** Beats go out every so many ms; 0: none. */
  beatEvery: number
  /** Status of the feed instead of a stream. */
  feedStatus: number
  /** What it answers acknowledgements with; null: an older one, which answers 204. */
  instances: number | null
  introspectStatus: number
  jwksStatus: number
  metadata: Record<string, unknown>
  /** Its time, written on what it says; null: an older one, which writes none. */
  time: (() => number) | null
  /** What it sends over streams is under way for so long. Answers come at once. */
  lagMs: number
  /** Of its host's clock. */
  date: string | null
  /** A replica whose `seq` lies below a guard's goes on as if nothing were amiss, instead of sending everything. */
  resumesBehind: boolean
  /** What a stream begins with, instead of what stands. */
  opening: string | null
  readonly seen: { lastEventIds: (string | null)[]; acks: number[]; instances: Set<string>; introspections: number; jwks: number; feeds: number }
  revoke(...entries: WireEntry[]): number
  beat(): void
  write(text: string): void
  breakStreams(): void
  close(): Promise<void>
}

const event = (name: string, data: unknown, id?: number) => `${id === undefined ? '' : `id: ${id}\n`}event: ${name}\ndata: ${JSON.stringify(data)}\n\n`

export async function fakeBroker(): Promise<FakeBroker> {
  const streams = new Set<ServerResponse>()
  const server = createServer((req, res) => void answer(req, res))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  let beating: NodeJS.Timeout | null = null

  const broker: FakeBroker = {
    url,
    keys: [],
    staleMs: 0,
    seq: 0,
    acts: [],
    active: true,
    get beatEvery() {
      return 0
    },
    set beatEvery(ms: number) {
      if (beating) clearInterval(beating)
      beating = ms > 0 ? setInterval(() => broker.beat(), ms) : null
    },
    feedStatus: 200,
    instances: null,
    introspectStatus: 200,
    jwksStatus: 200,
    metadata: { issuer: url, jwks_uri: `${url}/.well-known/jwks.json`, introspection_endpoint: `${url}/oauth2/introspect` },
    time: null,
    lagMs: 0,
    date: null,
    resumesBehind: false,
    opening: null,
    seen: { lastEventIds: [], acks: [], instances: new Set(), introspections: 0, jwks: 0, feeds: 0 },
    revoke(...entries) {
      broker.seq++
      broker.acts.push({ seq: broker.seq, entries })
      broker.write(event('revoked', { seq: broker.seq, entries }, broker.seq))
      return broker.seq
    },
    beat: () => broker.write(beat()),
    write(text) {
      for (const stream of streams) {
        if (broker.lagMs > 0) setTimeout(() => stream.write(text), broker.lagMs)
        else stream.write(text)
      }
    },
    breakStreams() {
      for (const stream of streams) stream.destroy()
      streams.clear()
    },
    close: () =>
      new Promise(resolve => {
        if (beating) clearInterval(beating)
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  broker.beatEvery = 50
  const at = () => (broker.time ? { at: broker.time() } : {})
  const beat = () => event('beat', { seq: broker.seq, stale_ms: broker.staleMs, ...at() })

  function stream(req: IncomingMessage, res: ServerResponse): void {
    const last = (req.headers['last-event-id'] as string | undefined) ?? null
    broker.seen.lastEventIds.push(last)
    broker.seen.instances.add(String(req.headers['curfew-guard-instance']))
    res.writeHead(200, {
      'content-type': 'text/event-stream',
      ...(broker.date ? { date: broker.date } : {}),
      ...(broker.time ? { 'curfew-time': String(broker.time()) } : {}),
    })
    if (broker.opening !== null) {
      res.flushHeaders()
      res.write(broker.opening)
      return
    }
    const after = last === null ? null : Number(last)
    if (after === null || (after > broker.seq && !broker.resumesBehind)) {
      for (const act of broker.acts) res.write(event('entries', { entries: act.entries }))
      res.write(event('ready', { seq: broker.seq }, broker.seq))
    } else for (const act of broker.acts) if (act.seq > after) res.write(event('revoked', act, act.seq))
    res.write(beat())
    streams.add(res)
    res.on('close', () => streams.delete(res))
  }

  async function answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const json = (status: number, value: unknown) => {
      res.writeHead(status, { 'content-type': 'application/json' })
      res.end(JSON.stringify(value))
    }
    let body = ''
    for await (const chunk of req) body += chunk
    const isGuard = req.headers.authorization === `Bearer ${KEY}`
    switch (`${req.method} ${req.url}`) {
      case 'GET /.well-known/oauth-authorization-server':
        return json(200, broker.metadata)
      case 'GET /.well-known/jwks.json':
        broker.seen.jwks++
        return json(broker.jwksStatus, { keys: broker.keys })
      case 'POST /oauth2/introspect': {
        broker.seen.introspections++
        const token = new URLSearchParams(body).get('token') ?? ''
        const claims = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())
        const isKnown = req.headers.authorization === `Basic ${Buffer.from('orders:s3cret').toString('base64')}`
        return json(isKnown ? broker.introspectStatus : 401, broker.active ? { ...claims, active: true } : { active: false })
      }
      case 'GET /v1/feed':
        broker.seen.feeds++
        if (!isGuard || broker.feedStatus !== 200) return json(isGuard ? broker.feedStatus : 401, {})
        return stream(req, res)
      case 'POST /v1/feed/acks':
        if (!isGuard) return json(401, {})
        broker.seen.acks.push((JSON.parse(body) as { seq: number }).seq)
        if (broker.instances !== null || broker.time) return json(200, { instances: broker.instances, ...at() })
        res.writeHead(204)
        res.end()
        return
      default:
        return json(404, {})
    }
  }
  return broker
}

/** Waits until it holds. */
export async function until(what: () => boolean, ms = 8_000): Promise<void> {
  const since = performance.now()
  while (!what()) {
    if (performance.now() - since > ms) throw new Error(`did not come to hold within ${ms} ms: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}
