/** Owns the answer to "may traffic come here": line by line, honest about what works without. */
import type { App } from './compose.js'
import type { Readiness } from './http/route.js'
import type { Feed } from './ports.js'

/** Guards refuse everything past their own bound, 5 s by default. */
const FEED_STALE_MS = 3_000

type Line = Readiness['lines'][number]

/** Without the store nothing can be issued or revoked: down, and so is a replica that goes. Everything else degrades, since the way to revoke must stay in rotation. */
export async function readinessOf(app: App, feed: Feed, isDraining = false): Promise<Readiness> {
  const lines: Line[] = await Promise.all([
    line('listener', 'down', async () => {
      if (isDraining) throw new Error('this replica is going: it answers what still comes, send nothing new')
      return 'accepts'
    }),
    line('store', 'down', async () => {
      await app.store.ping()
      return app.store.kind === 'postgres' ? 'answers, migrations are ours' : `${app.store.kind}: one process, survives its death, not the loss of power`
    }),
    line('clock', 'down', async () => `store time ${app.store.clock.now().toISOString()}`),
    line('signing key', 'down', async () => `${(await app.signer.jwks('access')).keys.length} public keys`),
    line('queue', 'degraded', async () => {
      const { ok, detail } = await app.queue.health()
      if (!ok) throw new Error(`${detail}: revocations ride on the sweep`)
      return detail
    }),
    line('feed', 'degraded', async () => {
      const staleMs = feed.staleMs()
      if (staleMs > FEED_STALE_MS)
        throw new Error(`the truth was not read for ${Number.isFinite(staleMs) ? `${Math.round(staleMs / 1000)} s` : 'ever'}: guards here grow stale`)
      const { applied, of, slowestMs } = await app.store.guards.attendance(feed.seq)
      return `seq ${feed.seq}, guards ${applied}/${of}${slowestMs === null ? '' : `, slowest ${Math.round(slowestMs)} ms`}`
    }),
    line('overdue', 'degraded', async () => {
      const { overdueSeconds, stuck, revoking } = await app.store.credentials.counts()
      if (overdueSeconds > 5 || stuck > 0) throw new Error(`overdue ${overdueSeconds.toFixed(1)} s, stuck ${stuck}`)
      return `overdue 0, stuck 0, revoking ${revoking}`
    }),
  ])
  const worst = lines.some(l => l.status === 'down') ? 'down' : lines.some(l => l.status === 'degraded') ? 'degraded' : 'ok'
  return { status: worst, lines }
}

async function line(name: string, whenFailing: 'degraded' | 'down', ask: () => Promise<string>): Promise<Line> {
  try {
    return { name, status: 'ok', detail: await ask() }
  } catch (error) {
    return { name, status: whenFailing, detail: error instanceof Error ? error.message : 'does not answer' }
  }
}
