/** Owns what the API answers. Who may ask, and until when, is the guard's; a handler reads `req.curfew` and nothing else. */
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Guard } from 'curfew/guard'
import express, { type Express } from 'express'
import type { Order, Orders } from './orders.js'

export function ordersApi(guard: Guard, orders: Orders, path: string): Express {
  const app = express()
  app.disable('x-powered-by')

  // For a load balancer: a guard that could say yes to nobody is no server.
  app.get('/healthz', (_req, res) => {
    const health = guard.health()
    res.status(health.ok ? 200 : 503).json(health)
  })

  app.get(path, guard.express({ scope: 'orders:read' }), async (req, res) => {
    res.json({ for: req.curfew.subject, mode: req.curfew.mode, staleMs: req.curfew.staleMs, orders: await orders.all() })
  })

  // Before `/:id`, which would take it.
  app.get(`${path}/export`, guard.express({ scope: 'orders:read' }), async (req, res) => {
    const { signal } = req.curfew
    const pages = Readable.from(exported(await orders.all(), signal))
    res.type('application/x-ndjson')
    // Cut and not ended: a client must not take what it has for the whole. It is told by its connection, there is no status any more.
    await pipeline(pages, res, { signal }).catch(() => {})
  })

  app.get(`${path}/:id`, guard.express({ scope: 'orders:read', resource: req => `order/${req.params.id}` }), async (req, res) => {
    const order = (await orders.all()).find(o => String(o.id) === req.params.id)
    if (order) res.json({ order })
    else res.status(404).json({ error: 'not_found' })
  })
  return app
}

const PAGES = 10_000
const DAYS_ON_A_PAGE = 100
/** As long as a page would take to be read somewhere. Milliseconds. */
const PAGE_MS = 20

/** Every order on every day: about 10 KB a page, some minutes for all of it. */
async function* exported(orders: readonly Order[], signal: AbortSignal): AsyncGenerator<string> {
  for (let page = 0; page < PAGES; page++) {
    const days = Array.from({ length: DAYS_ON_A_PAGE }, (_, i) => page * DAYS_ON_A_PAGE + i)
    yield days.flatMap(day => orders.map(order => `${JSON.stringify({ day, ...order })}\n`)).join('')
    await sleep(PAGE_MS, undefined, { signal })
  }
}
