/** Verb: sweep. Finds by rows alone everything that a lost job, a lost key or a dead process left behind. */
import type { Credential } from '../domain/credential.js'
import { within } from '../domain/deadline.js'
import { byBroker } from '../domain/revocation.js'
import type { BrokerDeps } from './deps.js'
import { destroy } from './destroy.js'
import { closeBehindActs, expireDue } from './expire.js'
import { revoke } from './revoke.js'
import { finishRun } from './run-ended.js'
import { settleLocal } from './settle-local.js'
import { handleSignal } from './signal.js'
import { tellReplaced } from './tell-replaced.js'

const BATCH = 200
/** Destructions of one engine in flight: a sick backend holds its own few and starves no other. */
const PER_ENGINE = 8
const DESTROY_MS = 15_000
/** A round begins none later than this: the next round of all engines must not wait for the sick one's thousands. */
const ROUND_MS = 10_000

/** Closes under a lock, one replica at a time; destroys outside it, every replica what it can claim. */
export async function sweep(deps: BrokerDeps, signal: AbortSignal): Promise<void> {
  await deps.store.withLock('sweep', () => closeAll(deps, signal))
  await Promise.all([settleLocal(deps, signal), destroyDue(deps, signal)])
  deps.meter.swept()
}

async function closeAll(deps: BrokerDeps, signal: AbortSignal): Promise<void> {
  for (const task of await deps.store.tasks.due(BATCH)) {
    if (signal.aborted) return
    await revoke(deps, { kind: 'task', key: task.id }, task.reason, { actor: byBroker('sweep') })
  }
  await expireDue(deps, signal)
  await closeBehindActs(deps, signal)
  await tellReplaced(deps)
  for (const due of await deps.store.signals.due(BATCH)) {
    if (signal.aborted) return
    await handleSignal(deps, due.id)
  }
  for (const run of await deps.store.runs.due(BATCH)) {
    if (signal.aborted) return
    await finishRun(deps, run)
  }
  await deps.store.forget(5_000)
}

async function destroyDue(deps: BrokerDeps, signal: AbortSignal): Promise<void> {
  const round = within(ROUND_MS, signal)
  // One question an engine: a backend with thousands of failing rows must not fill the batch that another's single row is in.
  await Promise.all([...deps.engines.values()].filter(engine => !engine.probeMany).map(({ kind }) => destroyDueOf(deps, kind, round, signal)))
}

/** Until nothing is due: without queues this is all that destroys. @param round when no other is begun; those in hand go on. */
async function destroyDueOf(deps: BrokerDeps, kind: string, round: AbortSignal, signal: AbortSignal): Promise<void> {
  for (let isMore = true; isMore && !round.aborted; ) {
    const due = await deps.store.credentials.due(BATCH, kind)
    isMore = due.length === BATCH
    await inParallel(due, PER_ENGINE, async c => {
      if (!round.aborted) await destroyOne(deps, c, signal)
    })
  }
}

async function destroyOne(deps: BrokerDeps, credential: Credential, signal: AbortSignal): Promise<void> {
  try {
    await destroy(deps, credential.id, null, within(DESTROY_MS, signal))
  } catch (error) {
    deps.log.warn({ err: error, credential: credential.id }, 'the sweep leaves a credential to its next round')
  }
}

async function inParallel<T>(items: readonly T[], width: number, act: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values()
  await Promise.all(
    Array.from({ length: Math.min(width, items.length) }, async () => {
      for (const item of queue) await act(item)
    }),
  )
}
