/** Owns the worker process: `curfew worker`. The loops alone would end everything in time; the queues make it fast. */
import { compose } from '../src/compose.js'
import { loadFromProcess } from '../src/config.js'
import { enter, untilSignalled } from '../src/entry.js'
import { startLoops } from '../src/loops.js'
import { workQueues } from './queues.js'

/** Jobs in hand at the end have so long; then the claim on their rows runs out and another worker goes on. Milliseconds. */
const GRACE_MS = 10_000

await enter(async () => {
  const { config, warnings } = loadFromProcess({ path: process.argv[2] })
  const app = await compose(config)
  for (const warning of warnings) app.log.warn({}, warning)
  const pool = config.queue.kind === 'redis' ? await workQueues(config.queue, app) : null
  if (!pool) app.log.warn({}, 'no redis configured: this worker only sweeps and reconciles')
  const loops = startLoops(app.broker, config.timers, app.log)
  app.log.info({ queues: pool ? pool.queues : [], store: app.store.kind }, 'working')
  untilSignalled(async () => {
    await Promise.all([pool?.close(GRACE_MS), loops.stop()])
    await app.close()
  }, GRACE_MS + 5_000)
})
