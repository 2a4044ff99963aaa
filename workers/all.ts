/** Owns the process that is API and worker at once: for `dev` and the demo, whose embedded store admits one process only. */
import { readFileSync } from 'node:fs'
import { type App, compose } from '../src/compose.js'
import { loadFromProcess } from '../src/config.js'
import { within } from '../src/domain/deadline.js'
import { CurfewError } from '../src/domain/errors.js'
import { newId } from '../src/domain/ids.js'
import { operatorTokenDigest } from '../src/domain/operator-token.js'
import { enter, untilSignalled } from '../src/entry.js'
import type { MemoryQueue } from '../src/queue/memory.js'
import { serve } from '../src/serve.js'
import { workQueues } from './queues.js'

/** Everything here is somebody's to end at once: what is in hand, the rows remember. Milliseconds. */
const GRACE_MS = 1_000
const JOB_MS = 15_000

await enter(async () => {
  const [path, tokenFile] = process.argv.slice(2)
  const { config } = loadFromProcess({ path })
  if (config.mode !== 'dev')
    throw new CurfewError('malformed', 'API and worker in one process is for dev mode', { reason: 'dev_only', next: 'run curfew serve and curfew worker' })
  const app = await compose(config)
  if (tokenFile) await addOperator(app, tokenFile)
  const serving = await serve(app)
  const pool = config.queue.kind === 'redis' ? await workQueues(config.queue, app) : null
  if (!pool) driveInProcess(app)
  untilSignalled(async () => {
    await Promise.all([pool?.close(GRACE_MS), serving.stop()])
    await app.close()
  }, GRACE_MS * 4)
})

/** Without a Redis the jobs run here: the same verbs, and a sweep behind them all the same. */
function driveInProcess({ broker, queue, store, log }: App): void {
  const memory = queue as MemoryQueue
  memory.drive(
    {
      expire: async () => void (await broker.expireDue(within(JOB_MS))),
      destroy: job => broker.destroy(job.credential, job.version, within(JOB_MS)),
      signal: async job => void (await broker.handleSignal(job.signal)),
    },
    { now: () => store.clock.now(), onFault: (fault, job) => log.warn({ err: fault, job: job.name }, 'a job failed; the sweep will find its row') },
  )
}

/** The embedded store admits no second process that could run `curfew operator add`: the first operator's token lies in a file that only its owner reads. */
async function addOperator(app: App, tokenFile: string): Promise<void> {
  const token = readFileSync(tokenFile, 'utf8').trim()
  const context = { requestId: null, actor: { kind: 'broker', id: 'dev' } } as const
  await app.store.operators.add({ id: newId('operator'), name: 'dev', role: 'admin' }, app.sealDigest(operatorTokenDigest(token)), context)
}
