/** Owns `curfew operator`: the people and machines that run Curfew, each with a token that is shown once. */
import { rmSync } from 'node:fs'
import { Command, Option } from 'commander'
import { CliError, EXIT, usage } from './exit.js'
import { type LocalFlags, loadConfig, localContext, openLocal, withConfig } from './local.js'
import { type OutputFlags, withOutput } from './options.js'
import { type Io, printer, table } from './output.js'
import { writeSecret } from './secret-file.js'

type Flags = LocalFlags & OutputFlags
interface AddFlags extends Flags {
  readonly role: 'responder' | 'admin' | 'auditor'
  readonly tokenFile?: string
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const operator = new Command('operator')
    .summary('add, list or disable operators')
    .description('Works on the store itself: whoever may read the configuration may do this.')
  const adding = operator
    .command('add')
    .summary('add one, and print its token once')
    .description('Adds an operator and prints its token, which is kept as a digest only and cannot be shown again.')
    .argument('<name>', 'its name, unique')
    .addOption(new Option('--role <role>', 'what it may do').choices(['responder', 'admin', 'auditor']).makeOptionMandatory())
    .option('--token-file <file>', 'write the token there (0600) instead of stdout')
  withOutput(withConfig(adding))
  adding.addHelpText('after', '\nExample:\n  $ curfew operator add dana --role responder --token-file dana.token')
  adding.action(async (name: string, flags: AddFlags) => {
    await add(name, flags, io)
    done(0)
  })
  const listing = operator.command('list').summary('all operators').description('Lists operators; tokens are never shown.')
  withOutput(withConfig(listing))
  listing.addHelpText('after', '\nExample:\n  $ curfew operator list')
  listing.action(async (flags: Flags) => {
    await list(flags, io)
    done(0)
  })
  const disabling = operator
    .command('disable')
    .summary('refuse its token from now on')
    .description('Refuses the token of an operator from now on.')
    .argument('<name or id>', 'which one')
  withOutput(withConfig(disabling))
  disabling.addHelpText('after', '\nExample:\n  $ curfew operator disable dana')
  disabling.action(async (which: string, flags: Flags) => {
    await disable(which, flags, io)
    done(0)
  })
  return operator
}

async function add(name: string, flags: AddFlags, io: Io): Promise<void> {
  if (!/^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$/.test(name)) throw usage('a name has letters, digits and . _ @ -')
  const print = printer(io, flags)
  const { config } = await loadConfig(flags, io)
  const [{ newId }, { newOperatorToken, operatorTokenDigest }] = await Promise.all([import('../domain/ids.js'), import('../domain/operator-token.js')])
  const local = await openLocal(config, print)
  try {
    const token = newOperatorToken().reveal().token as string
    // The file first: a token that could not be written must not belong to anybody.
    if (flags.tokenFile !== undefined) writeSecret(flags.tokenFile, token)
    const made = await local.store.operators
      .add({ id: newId('operator'), name, role: flags.role }, local.sealDigest(operatorTokenDigest(token)), localContext())
      .catch(error => {
        if (flags.tokenFile !== undefined) rmSync(flags.tokenFile, { force: true })
        throw error
      })
    const shown = flags.tokenFile === undefined ? { token } : { token_file: flags.tokenFile }
    print.data({ id: made.id, name: made.name, role: made.role, ...shown }, () => (flags.tokenFile === undefined ? token : ''), [made.id])
    print.say(`${made.id} ${made.name}, ${made.role}: this token is not shown again`)
  } finally {
    await local.close()
  }
}

async function list(flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const { config } = await loadConfig(flags, io)
  const local = await openLocal(config, print)
  try {
    const all = await local.store.operators.list()
    print.data(
      all.map(o => ({ id: o.id, name: o.name, role: o.role, created_at: o.createdAt.toISOString(), disabled_at: o.disabledAt?.toISOString() ?? null })),
      () =>
        all.length === 0
          ? ''
          : table(
              ['id', 'name', 'role', 'created', 'disabled'],
              all.map(o => [o.id, o.name, o.role, o.createdAt.toISOString(), o.disabledAt?.toISOString()]),
            ),
      all.map(o => o.id),
    )
    if (all.length === 0) print.say('none: add one with `curfew operator add NAME --role admin`')
  } finally {
    await local.close()
  }
}

async function disable(which: string, flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const { config } = await loadConfig(flags, io)
  const local = await openLocal(config, print)
  try {
    const one = (await local.store.operators.list()).find(o => o.name === which || o.id === which)
    if (!one) throw new CliError(EXIT.gone, { code: 'not_found', detail: 'no such operator', next: 'curfew operator list' })
    const done = await local.store.operators.disable(one.id, localContext())
    print.data({ id: done.id, name: done.name, role: done.role, disabled_at: done.disabledAt?.toISOString() ?? null }, () => '', [done.id])
    print.say(`${done.name} is refused from now on`)
  } finally {
    await local.close()
  }
}
