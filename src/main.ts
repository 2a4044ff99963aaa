/** Owns the API process: `curfew serve`. */
import { compose } from './compose.js'
import { loadFromProcess } from './config.js'
import { enter, untilSignalled } from './entry.js'
import { reloadPolicies, serve } from './serve.js'

/** Requests in flight are answered, then everything is closed. Milliseconds. */
const GOODBYE_MS = 15_000
/** Balancers commonly ask every few seconds. */
const DRAIN_MS = 5_000

await enter(async () => {
  const { config, warnings } = loadFromProcess({ path: process.argv[2] })
  const app = await compose(config)
  for (const warning of warnings) app.log.warn({}, warning)
  const serving = await serve(app)
  // Trust, capabilities and audiences are read at start; the policies, which change most, also on SIGHUP.
  process.on('SIGHUP', () => void reloadPolicies(app).catch(error => app.log.error({ err: error }, 'the policies could not be reloaded')))
  const drainMs = config.server.drainMs ?? (config.mode === 'dev' ? 0 : DRAIN_MS)
  untilSignalled(async signal => {
    // Whoever ends it at a terminal waits for no balancer.
    await serving.stop(signal === 'SIGTERM' ? drainMs : 0)
    await app.close()
  }, drainMs + GOODBYE_MS)
})
