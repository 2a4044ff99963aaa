/** Owns `curfew show`: one thing by its id, whatever kind of id it is. */
import { Command } from 'commander'
import { usage } from './exit.js'
import {
  connect,
  demandOperatorToken,
  type OperatorFlags,
  type OutputFlags,
  operatorToken,
  type ServerFlags,
  withOperator,
  withOutput,
  withServer,
} from './options.js'
import { card, type Io, printer } from './output.js'

interface Flags extends ServerFlags, OutputFlags, OperatorFlags {}

const KINDS: Readonly<Record<string, { readonly path: string; readonly member: string }>> = {
  crd: { path: '/v1/credentials/', member: 'credential' },
  tsk: { path: '/v1/tasks/', member: 'task' },
  rev: { path: '/v1/revocations/', member: 'revocation' },
  dec: { path: '/v1/decisions/', member: 'decision' },
  sig: { path: '/v1/signals/', member: 'signal' },
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const show = new Command('show')
    .summary('one credential, task, revocation, decision or signal')
    .description('Shows one thing by its id: crd_, tsk_, rev_, dec_ or sig_.')
    .argument('<id>', 'its id')
  withOutput(withOperator(withServer(show)))
  show.addHelpText('after', '\nExample:\n  $ curfew show dec_01kaf3q7v0m2x4t6w8y0a1b2c3')
  return show.action(async (id: string, flags: Flags) => {
    await showThing(id, flags, io)
    done(0)
  })
}

export async function showThing(id: string, flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  // Text of an id is case-insensitive (ux.md 10).
  const wanted = id.toLowerCase()
  const kind = /^([a-z]{3})_[0-9a-z]{26}$/.exec(wanted)?.[1]
  const where = kind === undefined ? undefined : KINDS[kind]
  if (!where) throw usage('this is no id of a credential, task, revocation, decision or signal')
  const broker = await connect(flags, io)
  const { keptAuth } = await import('./kept.js')
  const token = await operatorToken(flags, io, broker)
  const auth =
    token !== null
      ? ({ kind: 'operator', token } as const)
      : ((await keptAuth(kind === 'tsk' ? wanted : undefined, io, broker)) ?? {
          kind: 'operator' as const,
          token: await demandOperatorToken(flags, io, broker),
        })
  const { body } = await broker.call({ method: 'GET', path: where.path + wanted, auth }, new AbortController().signal)
  const { member } = await import('./holder.js')
  const thing = member<Record<string, unknown>>(body, where.member)
  // A revocation comes with the count of what it ended.
  const rest = Object.fromEntries(Object.entries(body).filter(([name]) => name !== where.member))
  print.data(body, () => card({ ...thing, ...rest }), [wanted])
}
