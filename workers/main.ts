/** Owns the worker process: `curfew worker`. The loops alone would end everything in time; the queues make it fast. */
import { compose } from '../src/compose.js'
import { loadFromProcess } from '../src/config.js'
import { harden } from '../src/hardening.js'
import { startLoops } from '../src/loops.js'
import { workQueues } from './queues.js'

/** Jobs in hand at the end have so long; then the claim on their rows runs out and another worker goes on. Milliseconds. */
const GRACE_MS = 10_000

harden()
const { config, warnings } = loadFromProcess({ path: process.argv[2] })
const app = await compose(config)
for (const warning of warnings) app.log.warn({}, warning)

const pool = config.queue.kind === 'redis' ? await workQueues(config.queue, app) : null
if (!pool) app.log.warn({}, 'no redis configured: this worker only sweeps and reconciles')
const loops = startLoops(app.broker, config.timers, app.log)
app.log.info({ queues: pool ? pool.queues : [], store: app.store.kind }, 'working')

let ending = false
for (const name of ['SIGTERM', 'SIGINT'] as const) {
  process.on(name, async () => {
    // A second signal does not wait for anything.
    if (ending) process.exit(1)
    ending = true
    // Whatever hangs, the process ends: rows, claims and the other workers do not depend on a polite goodbye.
    setTimeout(() => process.exit(1), GRACE_MS + 5_000).unref()
    await Promise.all([pool?.close(GRACE_MS), loops.stop()])
    await app.close()
  })
}
