/** Owns the API process: `curfew serve`. */
import { compose } from './compose.js'
import { loadFromProcess } from './config.js'
import { harden } from './hardening.js'
import { serve } from './serve.js'

harden()
const { config, warnings } = loadFromProcess({ path: process.argv[2] })
const app = await compose(config)
for (const warning of warnings) app.log.warn({}, warning)
const serving = await serve(app)

let ending = false
for (const name of ['SIGTERM', 'SIGINT'] as const) {
  process.on(name, async () => {
    if (ending) return
    ending = true
    await serving.stop()
    await app.close()
  })
}
