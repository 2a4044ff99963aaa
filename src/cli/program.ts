/** Owns the list of commands and the one place where a failure becomes text and an exit code. Only the command that was asked for is loaded. */
import { Command, CommanderError } from 'commander'
import { version } from '../domain/version.js'
import { CliError, EXIT, exitOf } from './exit.js'
import { type Format, type Io, plain, redact, renderError } from './output.js'

/** @param words what stood behind `--`; @param done tells the exit code. */
type Load = () => Promise<{ command(io: Io, words: readonly string[], done: (exit: number) => void): Command }>

const COMMANDS: readonly { readonly name: string; readonly summary: string; readonly group: string; readonly load: Load }[] = [
  { group: 'Start:', name: 'demo', summary: 'the story, once: everything local, checked, removed', load: () => import('./demo.js') },
  { group: 'Start:', name: 'dev', summary: 'everything local, stays up', load: () => import('./dev.js') },
  { group: 'Start:', name: 'serve', summary: 'the API process', load: () => import('./serve.js') },
  { group: 'Start:', name: 'worker', summary: 'the worker process', load: () => import('./worker.js') },
  { group: 'Start:', name: 'forward-auth', summary: 'a guard beside a proxy, for servers that cannot be changed', load: () => import('./forward-auth.js') },
  { group: 'Get:', name: 'token', summary: 'print a short-lived token', load: () => import('./token.js') },
  { group: 'Get:', name: 'run', summary: 'run a command with credentials that end when it ends', load: () => import('./run.js') },
  { group: 'Get:', name: 'why', summary: 'explain what policy would answer, without asking for it', load: () => import('./why.js') },
  { group: 'Get:', name: 'caps', summary: 'what I may ask for: ceilings, sensitivity, how it is revoked', load: () => import('./caps.js') },
  { group: 'Get:', name: 'whoami', summary: 'what I am to the broker: evidence, identity, attributes, clock', load: () => import('./whoami.js') },
  { group: 'Get:', name: 'complete', summary: 'complete a task that `token` opened', load: () => import('./complete.js') },
  { group: 'Respond:', name: 'list', summary: 'credentials, live and past', load: () => import('./list.js') },
  { group: 'Respond:', name: 'show', summary: 'one thing by its id, whatever it is', load: () => import('./show.js') },
  { group: 'Respond:', name: 'find', summary: 'what a leaked token, a role name or an id is', load: () => import('./find.js') },
  { group: 'Respond:', name: 'revoke', summary: 'end what a selector names, or what a plan foresaw', load: () => import('./revoke.js') },
  { group: 'Respond:', name: 'quarantine', summary: 'refuse new credentials for a time', load: () => import('./quarantine.js') },
  { group: 'Respond:', name: 'receipt', summary: 'the signed evidence of a revocation', load: () => import('./receipt.js') },
  { group: 'Respond:', name: 'signal', summary: 'send a risk signal, look at those received, judge those held', load: () => import('./signal.js') },
  { group: 'Administer:', name: 'doctor', summary: 'checks, each with its remedy', load: () => import('./doctor.js') },
  { group: 'Administer:', name: 'migrate', summary: "bring the store's schema up to this release", load: () => import('./migrate.js') },
  { group: 'Administer:', name: 'config', summary: 'show or check the configuration', load: () => import('./config.js') },
  { group: 'Administer:', name: 'keys', summary: 'list, rotate or retire signing keys', load: () => import('./keys.js') },
  { group: 'Administer:', name: 'guard', summary: 'resource servers that hold the feed: keys, and how far each is', load: () => import('./guard.js') },
  { group: 'Administer:', name: 'operator', summary: 'add, list or disable operators', load: () => import('./operator.js') },
]

/** @returns the exit code (ux.md 3.2). Never throws. */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  if (argv[0] === 'help') return run([...argv.slice(1, 2), '--help'], io)
  const wanted = COMMANDS.find(c => c.name === argv[0])
  // Behind `--` stands another's command line, which is not ours to read.
  const cut = wanted?.name === 'run' ? argv.indexOf('--') : -1
  const own = cut === -1 ? argv : argv.slice(0, cut)
  const words = cut === -1 ? [] : argv.slice(cut + 1)
  let exit: number = EXIT.done
  try {
    const program = rootCommand(io)
    for (const entry of COMMANDS) {
      if (entry === wanted) {
        const { command } = await entry.load()
        program.addCommand(
          settled(
            command(io, words, code => (exit = code)),
            io,
          ).helpGroup(entry.group),
        )
      } else program.command(entry.name, { noHelp: false }).summary(entry.summary).description(entry.summary).helpGroup(entry.group)
    }
    await program.parseAsync([...own], { from: 'user' })
    return exit
  } catch (error) {
    return told(error, io, formatOf(own), wanted?.name === 'run')
  }
}

function rootCommand(io: Io): Command {
  const program = settled(new Command('curfew'), io)
    .description('Credentials with a curfew: attested, task-scoped, short-lived, and proven dead.')
    .usage('<command> [options] | --version | --help')
    .enablePositionalOptions()
    .version(version(), '-V, --version')
    .helpCommand(false)
    // Both stand in the usage: the list of commands is to fit on one screen.
    .configureHelp({ visibleOptions: () => [] })
  program.addHelpText(
    'after',
    "\nExit 0 done 2 usage 3 unproven 4 denied 5 ask 6 gone 7 limit 8 down 9 degraded 10 partly 11 conflict\nExample:\n  $ curfew run db/orders-ro -- psql -Atc 'select count(*) from orders'",
  )
  return program
}

/** Errors are thrown, not exited on; help is as wide everywhere, so that it can be compared. */
function settled(command: Command, io: Io): Command {
  for (const each of [command, ...command.commands]) {
    each.exitOverride()
    each.configureOutput({
      writeOut: io.out,
      writeErr: io.err,
      getOutHelpWidth: () => 100,
      getErrHelpWidth: () => 100,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    each.showSuggestionAfterError(true)
  }
  return command
}

function told(error: unknown, io: Io, format: Format, isRun: boolean): number {
  if (error instanceof CommanderError) {
    // Help and version end in an exception of code 0; what commander refuses, it has said already.
    return error.exitCode === 0 ? EXIT.done : isRun ? EXIT.ours : EXIT.usage
  }
  const failure = error instanceof CliError ? error : fromDomain(error)
  if (failure === null) {
    io.err(
      redact(
        `error[unexpected] ${plain(error instanceof Error ? error.message : 'something failed')}\n  this is a bug of ours; with CURFEW_DEBUG=1 it says where\n`,
      ),
    )
    if (io.env.CURFEW_DEBUG === '1' && error instanceof Error) io.err(redact(`${error.stack ?? ''}\n`))
    return isRun ? EXIT.ours : EXIT.unexpected
  }
  const { annotation, ...problem } = failure.problem
  if (typeof annotation === 'string') io.err(`${redact(plain(annotation))}\n`)
  else io.err(renderError(new CliError(failure.exit, problem as CliError['problem']), format, io.colour))
  return isRun ? EXIT.ours : failure.exit
}

/** Commands that work on the store meet the inner errors; their exit codes are the same. */
function fromDomain(error: unknown): CliError | null {
  if (!(error instanceof Error) || error.name !== 'CurfewError') return null
  const { code, facts = {}, message } = error as Error & { code: string; facts?: { reason?: string; field?: string; next?: string } }
  return new CliError(exitOf(code, 500), { code, detail: message, ...facts })
}

function formatOf(argv: readonly string[]): Format {
  return argv.includes('--json') ||
    argv.includes('--output=json') ||
    argv.some((word, i) => word === 'json' && (argv[i - 1] === '-o' || argv[i - 1] === '--output'))
    ? 'json'
    : 'table'
}
