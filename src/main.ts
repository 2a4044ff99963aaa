/** Owns the API process: `curfew serve`. */
import { compose } from './compose.js'
import { loadFromProcess } from './config.js'
import { enter, untilSignalled } from './entry.js'
import { reloadPolicies, serve } from './serve.js'

/** Requests in flight are answered, then everything is closed. Milliseconds. */
const GOODBYE_MS = 15_000

await enter(async () => {
  const { config, warnings } = loadFromProcess({ path: process.argv[2] })
  const app = await compose(config)
  for (const warning of warnings) app.log.warn({}, warning)
  const serving = await serve(app)
  // Trust, capabilities and audiences are read at start; the policies, which change most, also on SIGHUP.
  process.on('SIGHUP', () => void reloadPolicies(app).catch(error => app.log.error({ err: error }, 'the policies could not be reloaded')))
  untilSignalled(async () => {
    await serving.stop()
    await app.close()
  }, GOODBYE_MS)
})
