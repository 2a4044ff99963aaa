/** Owns the listeners: limits against slow and idle clients (H06), and the internal one for metrics and the whole truth about health. */
import { createServer, type Server, type ServerResponse } from 'node:http'
import express, { type Express } from 'express'
import { oneReading } from './framing.js'
import type { Doors } from './route.js'
import { nameRequest } from './route.js'

export interface Listener {
  readonly address: string
  /** Goes on listening and answering; each answer says that it is the last on its connection. */
  retire(): void
  /** Listens no more, answers what is in hand, and ends. */
  close(): Promise<void>
}

export async function listen(app: Express, at: string, maxConnections: number): Promise<Listener> {
  const server = createServer(
    {
      headersTimeout: 5_000,
      requestTimeout: 10_000,
      keepAliveTimeout: 15_000,
      connectionsCheckingInterval: 1_000,
      maxHeaderSize: 16_384,
      insecureHTTPParser: false,
      // Node would answer and go on with what stands behind it; `oneReading` does not.
      requireHostHeader: false,
    },
    app,
  )
  server.maxConnections = maxConnections
  server.maxRequestsPerSocket = 10_000
  const { host, port } = split(at)
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve()
    })
  })
  const bound = server.address()
  let isRetired = false
  const retire = () => {
    if (isRetired) return
    isRetired = true
    // A kept connection would be served on and cut in the middle of something (F41).
    server.prependListener('request', (_req, res: ServerResponse) => res.setHeader('Connection', 'close'))
  }
  return {
    address: typeof bound === 'object' && bound ? `${host}:${bound.port}` : at,
    retire,
    close() {
      retire()
      return drained(server)
    },
  }
}

/** For operators and scrapers on a private address: it asks for no credentials, so it must never be public (H26). */
export function createInternalApp(doors: Pick<Doors, 'readiness'>, metrics: () => Promise<string>): Express {
  const app = express()
  app.disable('x-powered-by')
  app.set('query parser', 'simple')
  app.use(nameRequest)
  app.use(oneReading((_req, res, error) => res.status(400).json({ detail: error.message })))
  app.get('/livez', (_req, res) => void res.json({ status: 'ok' }))
  app.get('/readyz', async (req, res) => {
    const { status, lines } = await doors.readiness()
    res.status(status === 'down' ? 503 : 200).json('verbose' in req.query ? { status, lines } : { status })
  })
  app.get('/metrics', async (_req, res) => void res.type('text/plain; version=0.0.4').send(await metrics()))
  return app
}

function split(at: string): { host: string; port: number } {
  const colon = at.lastIndexOf(':')
  return { host: at.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(at.slice(colon + 1)) }
}

/** Requests in flight get a moment; then the sockets are closed. */
function drained(server: Server): Promise<void> {
  return new Promise(resolve => {
    const idle = setInterval(() => server.closeIdleConnections(), 100)
    const timer = setTimeout(() => server.closeAllConnections(), 5_000)
    server.close(() => {
      clearInterval(idle)
      clearTimeout(timer)
      resolve()
    })
    server.closeIdleConnections()
  })
}
