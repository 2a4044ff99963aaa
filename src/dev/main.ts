/** Owns the entry of `curfew demo` and `curfew dev`. */
import { demo } from './demo.js'
import { dev } from './dev.js'

const [what, ...words] = process.argv.slice(2)
const ending = new AbortController()
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => ending.abort())

process.exitCode = what === 'dev' ? await dev(ending.signal) : await demo({ json: words.includes('--json') }, ending.signal)
