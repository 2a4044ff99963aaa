/** Owns `curfew guard`: the resource servers that hold the feed, their keys, and how far each of their processes is. */
import { existsSync } from 'node:fs'
import { Command } from 'commander'
import { CliError, EXIT, usage } from './exit.js'
import type { Auth, Broker } from './http.js'
import { connect, demandOperatorToken, type OperatorFlags, type OutputFlags, type ServerFlags, withOperator, withOutput, withServer } from './options.js'
import { clockTime, type Io, printer, table } from './output.js'
import { writeSecret } from './secret-file.js'

type Flags = ServerFlags & OutputFlags & OperatorFlags
interface AddFlags extends Flags {
  readonly keyFile?: string
}

interface GuardView {
  readonly id: string
  readonly name: string
  readonly disabled_at: string | null
  readonly instances: readonly {
    readonly instance: string
    readonly seq: number
    readonly lag_ms: number | null
    readonly seen_at: string
    readonly live: boolean
  }[]
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const guard = new Command('guard')
    .summary('resource servers that hold the feed: keys, and how far each is')
    .description('A guard refuses revoked credentials by itself, in milliseconds; its key lets it follow the feed.')
  const adding = guard
    .command('add')
    .summary('add one, and print its key once')
    .description('Adds a guard and prints its key, which is kept as a digest only and cannot be shown again. Admins only.')
    .argument('<name>', 'its name, unique')
    .option('--key-file <file>', 'write the key there (0600) instead of stdout')
  withOutput(withOperator(withServer(adding)))
  adding.addHelpText('after', '\nExample:\n  $ curfew guard add orders --key-file orders.key')
  adding.action(async (name: string, flags: AddFlags) => {
    await add(name, flags, io)
    done(0)
  })
  const listing = guard.command('list').summary('all guards, and how far their processes are').description('Lists guards; keys are never shown.')
  withOutput(withOperator(withServer(listing)))
  listing.addHelpText('after', '\nExample:\n  $ curfew guard list')
  listing.action(async (flags: Flags) => {
    await list(flags, io)
    done(0)
  })
  const disabling = guard
    .command('disable')
    .summary('refuse its key, and cut its line')
    .description('Refuses the key of a guard from now on and cuts the lines that it holds. Admins only.')
    .argument('<name or id>', 'which one')
  withOutput(withOperator(withServer(disabling)))
  disabling.addHelpText('after', '\nExample:\n  $ curfew guard disable orders')
  disabling.action(async (which: string, flags: Flags) => {
    await disable(which, flags, io)
    done(0)
  })
  return guard
}

async function reach(flags: Flags, io: Io): Promise<{ broker: Broker; auth: Auth }> {
  const broker = await connect(flags, io)
  return { broker, auth: { kind: 'operator', token: await demandOperatorToken(flags, io, broker) } }
}

async function add(name: string, flags: AddFlags, io: Io): Promise<void> {
  // Before anything is made: a key that cannot be written belongs to nobody.
  if (flags.keyFile !== undefined && existsSync(flags.keyFile)) throw usage(`${flags.keyFile} is there already`)
  const print = printer(io, flags)
  const { broker, auth } = await reach(flags, io)
  const { member } = await import('./holder.js')
  const { body } = await broker.call({ method: 'POST', path: '/v1/guards', auth, body: () => ({ name }) }, new AbortController().signal)
  const guard = member<GuardView>(body, 'guard')
  const key = (body as { key?: unknown }).key
  if (typeof key !== 'string') throw new CliError(EXIT.unexpected, { code: 'answer_malformed', detail: 'the broker answered without a key' })
  if (flags.keyFile !== undefined) writeSecret(flags.keyFile, key)
  print.data(
    { id: guard.id, name: guard.name, ...(flags.keyFile === undefined ? { key } : { key_file: flags.keyFile }) },
    () => (flags.keyFile === undefined ? key : ''),
    [guard.id],
  )
  print.say(`${guard.id} ${guard.name}: this key is not shown again; the resource server reads it from CURFEW_GUARD_KEY`)
}

async function guardsOf(broker: Broker, auth: Auth): Promise<{ seq: number; guards: readonly GuardView[] }> {
  const { body } = await broker.call({ method: 'GET', path: '/v1/guards', auth }, new AbortController().signal)
  return { seq: (body as { seq: number }).seq, guards: (body as { guards: readonly GuardView[] }).guards }
}

async function list(flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const { broker, auth } = await reach(flags, io)
  const { seq, guards } = await guardsOf(broker, auth)
  const rows = guards.flatMap(g =>
    (g.instances.length === 0 ? [null] : g.instances).map(i => [
      g.id,
      g.name,
      g.disabled_at ? 'disabled' : i === null ? 'never seen' : i.live ? 'there' : 'gone',
      i?.instance,
      i ? `${i.seq} of ${seq}` : undefined,
      i === null || i.lag_ms === null ? undefined : `${i.lag_ms} ms`,
      i ? clockTime(i.seen_at) : undefined,
    ]),
  )
  print.data(
    { seq, guards },
    () => (rows.length === 0 ? '' : table(['id', 'name', 'state', 'process', 'applied', 'lag', 'seen'], rows)),
    guards.map(g => g.id),
  )
  if (guards.length === 0) print.say('none: add one with `curfew guard add NAME`')
}

async function disable(which: string, flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const { broker, auth } = await reach(flags, io)
  const one = (await guardsOf(broker, auth)).guards.find(g => g.name === which || g.id === which.toLowerCase())
  if (!one) throw new CliError(EXIT.gone, { code: 'not_found', detail: 'no such guard', next: 'curfew guard list' })
  await broker.call({ method: 'DELETE', path: `/v1/guards/${one.id}`, auth }, new AbortController().signal)
  print.data({ id: one.id, name: one.name, disabled: true }, () => '', [one.id])
  print.say(`${one.name} is refused from now on`)
}
