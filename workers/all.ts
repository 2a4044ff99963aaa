/** Owns the process that is API and worker at once: for `dev` and the demo, whose embedded store admits one process only. */
import { readFileSync } from 'node:fs'
import { compose } from '../src/compose.js'
import { loadFromProcess } from '../src/config.js'
import { newId } from '../src/domain/ids.js'
import { operatorTokenDigest } from '../src/domain/operator-token.js'
import { harden } from '../src/hardening.js'
import type { MemoryQueue } from '../src/queue/memory.js'
import { serve } from '../src/serve.js'
import { workQueues } from './queues.js'

/** Everything here is somebody's to end at once: what is in hand, the rows remember. Milliseconds. */
const GRACE_MS = 1_000

harden()
const { config } = loadFromProcess({ path: process.argv[2] })
if (config.mode !== 'dev') throw new Error('API and worker in one process is for dev mode: run curfew serve and curfew worker')
const app = await compose(config)
if (process.argv[3]) await addOperator(process.argv[3])
const serving = await serve(app)
const pool = config.queue.kind === 'redis' ? await workQueues(config.queue, app) : null
if (!pool) driveInProcess(app.queue as MemoryQueue)

/** Without a Redis the jobs run here: the same verbs, and a sweep behind them all the same. */
function driveInProcess(queue: MemoryQueue): void {
  queue.drive(
    {
      expire: async () => void (await app.broker.expireDue(AbortSignal.timeout(5_000))),
      destroy: job => app.broker.destroy(job.credential, job.version, AbortSignal.timeout(15_000)),
      signal: async job => void (await app.broker.handleSignal(job.signal)),
    },
    { now: () => app.store.clock.now(), onFault: (fault, job) => app.log.warn({ err: fault, job: job.name }, 'a job failed; the sweep will find its row') },
  )
}

/** The embedded store admits no second process that could run `curfew operator add`: the first operator's token lies in a file that only its owner reads. */
async function addOperator(tokenFile: string): Promise<void> {
  const token = readFileSync(tokenFile, 'utf8').trim()
  const context = { requestId: null, actor: { kind: 'broker', id: 'dev' } } as const
  await app.store.operators.add({ id: newId('operator'), name: 'dev', role: 'admin' }, app.sealDigest(operatorTokenDigest(token)), context)
}

// Whoever started us reads this line, and nothing else, to know where we are.
process.stdout.write(`${JSON.stringify({ event: 'ready', address: serving.address, internal: serving.internal })}\n`)

let ending = false
for (const name of ['SIGTERM', 'SIGINT'] as const) {
  process.on(name, async () => {
    if (ending) process.exit(1)
    ending = true
    setTimeout(() => process.exit(1), GRACE_MS * 2).unref()
    await Promise.all([pool?.close(GRACE_MS), serving.stop()])
    await app.close()
    process.exit(0)
  })
}
