/** Owns how a process begins: hardened first, and a refusal to start told in words instead of a stack. */
import { CurfewError } from './domain/errors.js'
import { harden } from './hardening.js'

/** Runs `begin`; what stops it is printed and ends the process with 2 for a wrong configuration, 1 for anything else. */
export async function enter(begin: () => Promise<void>): Promise<void> {
  harden()
  try {
    await begin()
  } catch (error) {
    if (!(error instanceof CurfewError)) throw error
    process.stderr.write(`error[${error.facts.reason ?? error.code}] ${error.message}\n${error.facts.next ? `  try  ${error.facts.next}\n` : ''}`)
    process.exit(error.code === 'malformed' ? 2 : 1)
  }
}

type Ending = 'SIGTERM' | 'SIGINT'

/** Calls `end` once for the first signal, and goes at once for the second; whatever hangs, the process is gone after `withinMs`. */
export function untilSignalled(end: (signal: Ending) => Promise<void>, withinMs: number): void {
  let ending = false
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.on(name, async () => {
      if (ending) process.exit(1)
      ending = true
      // Rows, claims and other processes do not depend on a polite goodbye.
      setTimeout(() => process.exit(1), withinMs).unref()
      await end(name)
      process.exit(0)
    })
  }
}
