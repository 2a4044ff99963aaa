/** Owns `curfew dev`: everything local, started as a process of its own. */
import { Command } from 'commander'
import { startEntry } from './entries.js'
import type { Io } from './output.js'

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  return new Command('dev')
    .summary('everything local, stays up')
    .description('Starts all that is needed here: broker, worker, store, queue, a built-in issuer and a small protected API. Words behind it go to it.')
    .argument('[words...]', 'for the process itself')
    .allowUnknownOption()
    .passThroughOptions()
    .addHelpText('after', '\nExample:\n  $ curfew dev')
    .action(async (words: string[]) => done(await startEntry('dev', ['dev', ...words], io)))
}
