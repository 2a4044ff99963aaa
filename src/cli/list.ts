/** Owns `curfew list`: credentials, live and past. */
import { Command, Option } from 'commander'
import { usage } from './exit.js'
import { demandOperatorToken, type OperatorFlags, type OutputFlags, operatorToken, withOperator, withOutput, withServer } from './options.js'
import { clockTime, type Io, printer, table } from './output.js'
import { checkListable, connectSelecting, LISTABLE, type SelectingFlags, withSelectors } from './selectors.js'

interface Flags extends SelectingFlags, OutputFlags, OperatorFlags {
  readonly state?: string
  readonly limit: string
}

const STATES = ['live', 'pending', 'active', 'revoking', 'stuck', 'revoked']

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const list = new Command('list')
    .summary('credentials, live and past')
    .description('Lists credentials, newest first. Operators see all; without an operator token, those of a task kept here (--task).')
  withSelectors(list, LISTABLE).addOption(new Option('--state <state>', 'in this state').choices(STATES)).option('--limit <n>', 'at most so many', '50')
  withOutput(withOperator(withServer(list, '--public-url')))
  list.addHelpText('after', '\nExample:\n  $ curfew list --state stuck')
  return list.action(async (flags: Flags) => {
    await act(flags, io)
    done(0)
  })
}

async function act(flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const most = Number(flags.limit)
  if (!Number.isSafeInteger(most) || most < 1 || most > 10_000) throw usage('--limit is a number from 1 to 10000')
  checkListable(flags)
  const signal = new AbortController().signal
  const broker = await connectSelecting(flags, io)
  const { listCredentials } = await import('./holder.js')
  const { keptAuth } = await import('./kept.js')
  const token = await operatorToken(flags, io, broker)
  const auth =
    token !== null
      ? ({ kind: 'operator', token } as const)
      : ((await keptAuth(flags.task, io, broker)) ?? { kind: 'operator' as const, token: await demandOperatorToken(flags, io, broker) })
  const { task, identity, capability, state } = flags
  const found = await listCredentials(broker, auth, { task, identity, capability, state }, most, signal)
  print.data(
    found,
    () =>
      found.length === 0
        ? ''
        : table(
            ['id', 'state', 'capability', 'identity', 'task', 'class', 'issued', 'ends'],
            found.map(c => [
              c.id,
              c.state,
              c.capability,
              c.identity,
              c.task,
              c.revocation,
              clockTime(c.issued_at),
              c.revoked_at ? `${clockTime(c.revoked_at)} ${c.reason ?? ''}` : clockTime(c.expires_at),
            ]),
          ),
    found.map(c => c.id),
  )
  if (found.length === 0) print.say('none')
}
