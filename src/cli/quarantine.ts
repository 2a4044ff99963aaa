/** Owns `curfew quarantine`: refusing what is new, for a time, with a message; and lifting it early. */
import { Command } from 'commander'
import { usage } from './exit.js'
import type { Auth } from './http.js'
import {
  connect,
  demandOperatorToken,
  type OperatorFlags,
  type OutputFlags,
  type ServerFlags,
  seconds,
  withOperator,
  withOutput,
  withServer,
} from './options.js'
import { clockTime, type Io, printer, table } from './output.js'
import { checkQuarantinable, connectSelecting, resolved, type SelectingFlags, selectorOf, tellSelector, withSelectors } from './selectors.js'

interface QuarantineView {
  readonly id: string
  readonly selector: unknown
  readonly message: string | null
  readonly set_by: unknown
  readonly set_at: string
  readonly until: string
  /** The act that it was set with. */
  readonly revocation?: string | null
  readonly lifted_at: string | null
  readonly lifted_by: unknown
  readonly lift_reason: string | null
}

interface SetFlags extends SelectingFlags, OutputFlags, OperatorFlags {
  readonly ttl: number
  readonly message: string
}
interface ListFlags extends ServerFlags, OutputFlags, OperatorFlags {
  readonly all?: boolean
}
interface LiftFlags extends ServerFlags, OutputFlags, OperatorFlags {
  readonly reason: string
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const quarantine = new Command('quarantine')
    .summary('refuse new credentials for a time')
    .description('Refuses new credentials; what lives goes on living, and is ended by `curfew revoke`. Without a subcommand: set.')
  const setting = quarantine
    .command('set', { isDefault: true })
    .summary('set one: curfew quarantine --identity … --ttl 2h --message T')
    .description('Refuses new credentials of what is named, until its time is up or it is lifted.')
  withSelectors(setting, 'quarantine')
    .requiredOption('--ttl <time>', 'for so long', seconds)
    .requiredOption('--message <text>', 'what the refused workload is told')
  withOutput(withOperator(withServer(setting, '--public-url')))
  setting.addHelpText('after', '\nExample:\n  $ curfew quarantine --identity github:repository_id=456789 --ttl 2h --message "INC-204, ask @security"')
  setting.action(async (flags: SetFlags) => {
    await set(flags, io)
    done(0)
  })

  const listing = quarantine
    .command('list')
    .summary('those in force')
    .description('Lists quarantines, newest first.')
    .option('--all', 'also the lapsed and the lifted')
  withOutput(withOperator(withServer(listing)))
  listing.addHelpText('after', '\nExample:\n  $ curfew quarantine list')
  listing.action(async (flags: ListFlags) => {
    await list(flags, io)
    done(0)
  })

  const lifting = quarantine
    .command('lift')
    .summary('end one early')
    .description('Ends a quarantine before its time; new credentials are judged by policy again.')
    .argument('<id>', 'its id (qrn_)')
    .requiredOption('--reason <text>', 'why')
  withOutput(withOperator(withServer(lifting)))
  lifting.addHelpText('after', '\nExample:\n  $ curfew quarantine lift qrn_01kaf3q7v0m2x4t6w8y0a1b2c3 --reason "INC-204 closed"')
  lifting.action(async (id: string, flags: LiftFlags) => {
    await lift(id, flags, io)
    done(0)
  })
  return quarantine
}

async function set(flags: SetFlags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const wanted = selectorOf(flags)
  checkQuarantinable(flags)
  const signal = new AbortController().signal
  const broker = await connectSelecting(flags, io)
  const auth: Auth = { kind: 'operator', token: await demandOperatorToken(flags, io, broker) }
  const selector = await resolved(wanted, broker, signal)
  const { member } = await import('./holder.js')
  const { body } = await broker.call(
    { method: 'POST', path: '/v1/quarantines', auth, body: () => ({ selector, ttl_seconds: flags.ttl, message: flags.message }) },
    signal,
  )
  const made = member<QuarantineView>(body, 'quarantine')
  print.data(made, () => table(HEAD, [row(made, null)]), [made.id])
  print.say(`lift it early: curfew quarantine lift ${made.id} --reason T`)
}

async function list(flags: ListFlags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const broker = await connect(flags, io)
  const auth: Auth = { kind: 'operator', token: await demandOperatorToken(flags, io, broker) }
  const { body, clock } = await broker.call(
    { method: 'GET', path: '/v1/quarantines', query: { all: flags.all ? 'true' : undefined }, auth },
    new AbortController().signal,
  )
  const found = Array.isArray(body.quarantines) ? (body.quarantines as QuarantineView[]) : []
  print.data(
    found,
    () =>
      found.length === 0
        ? ''
        : table(
            HEAD,
            found.map(q => row(q, clock)),
          ),
    found.map(q => q.id),
  )
  if (found.length === 0) print.say('none')
}

async function lift(text: string, flags: LiftFlags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const id = text.toLowerCase()
  if (!/^qrn_[0-9a-z]{26}$/.test(id)) throw usage('this is no id of a quarantine (qrn_…)')
  const broker = await connect(flags, io)
  const auth: Auth = { kind: 'operator', token: await demandOperatorToken(flags, io, broker) }
  const { member } = await import('./holder.js')
  const { body } = await broker.call(
    { method: 'DELETE', path: `/v1/quarantines/${id}`, auth, body: () => ({ reason: flags.reason }) },
    new AbortController().signal,
  )
  const lifted = member<QuarantineView>(body, 'quarantine')
  print.data(lifted, () => table(HEAD, [row(lifted, null)]), [lifted.id])
}

const HEAD = ['id', 'state', 'until', 'selector', 'message']

/** @param clock the broker's: what has lapsed is its to say. */
function row(q: QuarantineView, clock: Date | null): (string | null)[] {
  const lapsed = clock !== null && Date.parse(q.until) <= clock.getTime()
  const state = q.lifted_at ? `lifted${q.lift_reason ? `: ${q.lift_reason}` : ''}` : lapsed ? 'lapsed' : 'in force'
  return [q.id, state, `${q.until.slice(0, 10)} ${clockTime(q.until)}Z`, tellSelector(q.selector), q.message]
}
