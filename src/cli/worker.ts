/** Owns `curfew worker`: the worker process, started as a process of its own. */
import { Command } from 'commander'
import { startEntry } from './entries.js'
import type { Io } from './output.js'

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  return new Command('worker')
    .summary('the worker process')
    .description('Runs a worker process: destroys and probes what was revoked. Signals and exit code pass through.')
    .option('--config <file>', 'the configuration (CURFEW_CONFIG, curfew.yaml)')
    .addHelpText('after', '\nExample:\n  $ curfew worker --config /etc/curfew/curfew.yaml')
    .action(async (flags: { readonly config?: string }) => done(await startEntry('worker', flags.config === undefined ? [] : [flags.config], io)))
}
