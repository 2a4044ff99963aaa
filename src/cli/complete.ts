/** Owns `curfew complete`: the end of tasks that `curfew token` opened and kept. */
import { Command } from 'commander'
import { within } from '../domain/deadline.js'
import { CliError, EXIT, usage } from './exit.js'
import { connect, type OutputFlags, type ServerFlags, seconds, withOutput, withServer } from './options.js'
import { type Io, printer } from './output.js'
import type { KeptTask } from './state.js'

interface Flags extends ServerFlags, OutputFlags {
  readonly task?: string
  readonly mine?: boolean
  readonly outcome?: string
  readonly wait?: number
}

const CONFIRM_SECONDS = 5

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const complete = new Command('complete')
    .summary('complete a task that `token` opened')
    .description('Completes a kept task: what it holds is refused at once and destroyed. Without a flag: the only one there is.')
    .option('--task <id>', 'this task')
    .option('--mine', 'every task this user keeps for this broker')
    .option('--outcome <text>', 'how the work went, for the record')
    .option('--wait <time>', 'wait so long for the proof of death, exit 10 without it (default: 5s, exit 0)', seconds)
  withOutput(withServer(complete))
  complete.addHelpText('after', '\nExample:\n  $ curfew complete --mine')
  return complete.action(async (flags: Flags) => done(await act(flags, io)))
}

async function act(flags: Flags, io: Io): Promise<number> {
  const print = printer(io, flags)
  if (flags.task !== undefined && flags.mine) throw usage('--task or --mine, not both')
  const broker = await connect(flags, io)
  const [{ stateIn }, { proofKeyFrom }, holder] = await Promise.all([import('./state.js'), import('./proof.js'), import('./holder.js')])
  const state = stateIn(io.env)
  const results: Record<string, unknown>[] = []
  let exit: number = EXIT.done
  let failure: unknown = null
  for (const kept of chosen(state.list(broker.url), flags, io)) {
    const held = { task: { id: kept.task }, token: kept.token, key: proofKeyFrom(kept.key) }
    try {
      const { task, revocation } = await holder.endTask(broker, held, 'complete', flags.outcome ?? null, within(20_000))
      state.forget(kept.task)
      const waitMs = (flags.wait ?? CONFIRM_SECONDS) * 1000
      const waiting = within(waitMs + 10_000)
      const ending = await holder.untilDead(
        () => holder.listCredentials(broker, { kind: 'holder', ...held }, { task: kept.task }, 200, waiting),
        waitMs,
        waiting,
      )
      const left = [...ending.unconfirmed, ...ending.exposed].map(c => c.id)
      if (flags.wait !== undefined && left.length > 0) exit = EXIT.partly
      results.push({ task: task.id, state: task.state, refused_since: revocation.refused_since, not_confirmed: left })
      print.say(`task ${task.id} ${task.state}: ${holder.tellEnding(revocation, ending)}`)
    } catch (error) {
      // Ended long ago, or its token has: nothing is left to complete.
      if (error instanceof CliError && (error.exit === EXIT.gone || error.problem.reason === 'expired')) {
        state.forget(kept.task)
        results.push({ task: kept.task, state: 'ended' })
        print.say(`task ${kept.task} had ended already`)
      } else failure ??= error
    }
  }
  print.data(
    results,
    () => '',
    results.map(r => r.task as string),
  )
  // One task that cannot be reached must not keep the others alive.
  if (failure !== null) throw failure
  return exit
}

function chosen(kept: readonly KeptTask[], flags: Flags, io: Io): readonly KeptTask[] {
  if (flags.mine) return kept
  const wanted = flags.task ?? (kept.length === 0 ? io.env.CURFEW_TASK : undefined)
  if (wanted !== undefined) {
    const one = kept.find(k => k.task === wanted)
    if (one) return [one]
    const around =
      wanted === io.env.CURFEW_TASK
        ? 'the `curfew run` around this command holds it, and completes it when the command ends'
        : 'this user keeps no such task for this broker'
    throw new CliError(EXIT.gone, {
      code: 'not_found',
      detail: around,
      next: flags.task === undefined ? 'let the command end' : 'an operator ends it with: curfew revoke --task ID --reason T',
    })
  }
  if (kept.length === 1) return kept
  if (kept.length === 0) throw new CliError(EXIT.gone, { code: 'not_found', detail: 'this user keeps no task for this broker' })
  throw usage(
    `there are ${kept.length} tasks: ${kept.map(k => `${k.task} (${k.capabilities.join(', ')})`).join(', ')}`,
    'curfew complete --task ID, or --mine for all',
  )
}
