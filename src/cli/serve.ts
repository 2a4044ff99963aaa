/** Owns `curfew serve`: the API process, started as a process of its own. */
import { Command } from 'commander'
import { startEntry } from './entries.js'
import type { Io } from './output.js'

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  return new Command('serve')
    .summary('the API process')
    .description('Runs the API process: listens, sweeps, answers. Signals and exit code pass through.')
    .option('--config <file>', 'the configuration (CURFEW_CONFIG, curfew.yaml)')
    .addHelpText('after', '\nExample:\n  $ curfew serve --config /etc/curfew/curfew.yaml')
    .action(async (flags: { readonly config?: string }) => done(await startEntry('serve', flags.config === undefined ? [] : [flags.config], io)))
}
