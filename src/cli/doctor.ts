/** Owns `curfew doctor`: checks of a deployment, each with its remedy. */
import { Command } from 'commander'
import { EXIT } from './exit.js'
import { type LocalFlags, withConfig } from './local.js'
import { type OutputFlags, withOutput } from './options.js'
import { type Io, plain, printer, redact } from './output.js'

export type Verdict = 'ok' | 'warn' | 'FAIL'

export interface Finding {
  readonly verdict: Verdict
  readonly area: string
  /** One line for people. */
  readonly detail: string
  /** A command, or what to change. */
  readonly fix?: string
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const doctor = new Command('doctor')
    .summary('checks, each with its remedy')
    .description(
      'Checks Node, configuration, policies, store, clock, migrations, Redis, Vault, keys and overdue work. Exit 9 on a failure.\nWith VAULT_TOKEN of somebody who may read roles it also looks whether what they make can be ended.',
    )
  withOutput(withConfig(doctor))
  doctor.addHelpText('after', '\nExample:\n  $ curfew doctor --config /etc/curfew/curfew.yaml')
  return doctor.action(async (flags: LocalFlags & OutputFlags) => done(await act(flags, io)))
}

async function act(flags: LocalFlags & OutputFlags, io: Io): Promise<number> {
  const print = printer(io, flags)
  const { examine } = await import('./checks.js')
  const findings: Finding[] = []
  for await (const finding of examine(flags, io)) {
    findings.push(finding)
    // Each as it is found: a check that waits for a dead server must not hide the others.
    if (print.format === 'table') io.out(`${line(finding)}\n`)
  }
  const count = (verdict: Verdict) => findings.filter(f => f.verdict === verdict).length
  if (print.format !== 'table')
    print.data(
      findings,
      () => '',
      findings.filter(f => f.verdict !== 'ok').map(f => f.area),
    )
  const plural = (n: number, word: string) => `${n} ${word}${n === 1 ? '' : 's'}`
  const exit = count('FAIL') > 0 ? EXIT.degraded : EXIT.done
  print.say(`${plural(count('warn'), 'warning')}, ${plural(count('FAIL'), 'failure')}: exit ${exit}`)
  return exit
}

function line(f: Finding): string {
  const head = `${f.verdict.padEnd(4)}  ${f.area.padEnd(9)}  ${plain(f.detail)}`
  return redact(f.fix === undefined ? head : `${head}\n      fix: ${plain(f.fix)}`)
}
