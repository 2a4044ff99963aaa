/** Verb: a provider says that a job run is over. The run begins nothing any more, and what it still has open ends as completed. */
import { CurfewError } from '../domain/errors.js'
import { namedId } from '../domain/ids.js'
import { type EndedRun, type JobRun, LONGEST_RUN_SECONDS, nameRun } from '../domain/run.js'
import type { BrokerDeps } from './deps.js'
import { revoke } from './revoke.js'

/** A registered source: about whose runs it may speak, of which trust issuer. */
export interface HookSource {
  readonly name: string
  readonly issuer: string
  /** `JobRun.owner` of the runs that it may end. */
  readonly owners: readonly string[]
}

export interface RunReport extends JobRun {
  readonly conclusion: string
  /** Where the event names the owner, for the refusal. */
  readonly ownerField: string
  /** Names of the delivery, each of them unique to it: one that was seen before makes it a repeat. */
  readonly delivery: readonly string[]
}

/**
 * @param source authenticated by the caller. A run that we never saw is tombstoned all the same, and answered alike.
 * The tombstone comes first: a runner that lives on meets it however early it asks again (T71).
 */
export async function runEnded(deps: BrokerDeps, source: HookSource, report: RunReport, requestId: string | null): Promise<'accepted' | 'repeated'> {
  if (!source.owners.includes(report.owner))
    throw new CurfewError('forbidden', 'this source may not speak about runs of that owner', { reason: 'hook_out_of_scope', field: report.ownerField })
  const { name, issuer } = source
  const run: EndedRun = { issuerId: namedId('issuer', issuer), run: nameRun(issuer, report), source: name, conclusion: report.conclusion }
  const until = new Date(deps.store.clock.now().getTime() + LONGEST_RUN_SECONDS * 1000)
  const marks = report.delivery.map(id => ({ namespace: `hook:${name}`, id, until }))
  try {
    await deps.store.runs.end(run, marks, { requestId, actor: { kind: 'signal', id: name } })
  } catch (error) {
    if (error instanceof CurfewError && error.facts.reason === 'replayed') return 'repeated'
    throw error
  }
  try {
    await finishRun(deps, run)
  } catch (error) {
    deps.log.error({ err: error, run: run.run, source: name }, 'the tasks of a run that is over could not be ended at once; the sweep will')
  }
  return 'accepted'
}

/** Ends what an ended run still has open; harmless when nothing is. */
export async function finishRun(deps: BrokerDeps, run: EndedRun): Promise<void> {
  for (const task of await deps.store.runs.open(run)) {
    const actor = { kind: 'signal', id: run.source } as const
    const { tasks } = await revoke(deps, { kind: 'task', key: task }, 'completed', { actor, outcome: run.conclusion })
    // Its holder may have come first after all.
    if (tasks === 0) continue
    deps.meter.abandoned(run.source)
    deps.log.warn(
      { task, run: run.run, source: run.source, conclusion: run.conclusion },
      'a run ended and its holder had not completed its task: a step may be missing, killed or tampered with',
    )
  }
  await deps.store.runs.settled(run)
}
