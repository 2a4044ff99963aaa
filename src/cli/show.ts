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
import type { PlanView } from './plan.js'

interface Flags extends ServerFlags, OutputFlags, OperatorFlags {}

const KINDS: Readonly<Record<string, { readonly path: string; readonly member: string }>> = {
  crd: { path: '/v1/credentials/', member: 'credential' },
  tsk: { path: '/v1/tasks/', member: 'task' },
  rev: { path: '/v1/revocations/', member: 'revocation' },
  dec: { path: '/v1/decisions/', member: 'decision' },
  sig: { path: '/v1/signals/', member: 'signal' },
  pln: { path: '/v1/plans/', member: 'plan' },
  rcp: { path: '/v1/receipts/', member: 'claims' },
  qrn: { path: '/v1/quarantines/', member: 'quarantine' },
}

const THINGS = 'credential, task, revocation, receipt, plan, quarantine, decision or signal'

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const show = new Command('show')
    .summary('one thing by its id, whatever it is')
    .description(`Shows one ${THINGS} by its id: crd_, tsk_, rev_, rcp_, pln_, qrn_, dec_ or sig_.`)
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
  if (!where) throw usage(`this is no id of a ${THINGS}`)
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
  const text = await told(kind as string, thing)
  print.data(body, () => text ?? card({ ...thing, ...rest }), [wanted])
}

/** Null: a card of its members says it. */
async function told(kind: string, thing: unknown): Promise<string | null> {
  if (kind === 'pln') return (await import('./plan.js')).tellPlan(thing as PlanView)
  if (kind !== 'rcp') return null
  const { claimsOf, tellReceipt } = await import('./receipt-claims.js')
  return tellReceipt(claimsOf(thing), { signature: 'not checked here: curfew receipt show' })
}
