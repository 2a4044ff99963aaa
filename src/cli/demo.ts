/** Owns `curfew demo`: everything local, started as a process of its own. */
import { Command } from 'commander'
import { startEntry } from './entries.js'
import type { Io } from './output.js'

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  return new Command('demo')
    .summary('the story, once: everything local, checked, removed')
    .description('Tells the story once, checks every line of it, and removes what it started. Words behind it go to it.')
    .argument('[words...]', 'for the process itself')
    .allowUnknownOption()
    .passThroughOptions()
    .addHelpText('after', '\nExample:\n  $ curfew demo')
    .action(async (words: string[]) => done(await startEntry('dev', ['demo', ...words], io)))
}
