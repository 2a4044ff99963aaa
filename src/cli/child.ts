/** Owns one child process: how it is started, which signals it gets from us, and how it ended. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { EXIT, exitOfSignal } from './exit.js'

export type ChildEnd =
  | { readonly kind: 'exited'; readonly code: number }
  | { readonly kind: 'killed'; readonly signal: NodeJS.Signals }
  | { readonly kind: 'not_started'; readonly code: string }

export interface Child {
  readonly ended: Promise<ChildEnd>
  kill(signal: NodeJS.Signals): void
  /** SIGTERM, then SIGKILL when it is still there after so long. Asked twice, the earlier end holds. */
  end(graceMs: number): void
}

/** It shares our streams and our process group, so that a terminal treats it as if it had been started without us. */
export function startChild(command: string, args: readonly string[], env: Readonly<Record<string, string | undefined>>): Child {
  const child: ChildProcess = spawn(command, [...args], { stdio: 'inherit', env: env as NodeJS.ProcessEnv })
  let over = false
  let killer: NodeJS.Timeout | undefined
  const ended = new Promise<ChildEnd>(resolve => {
    child.once('error', error => {
      if (child.pid !== undefined) return
      over = true
      resolve({ kind: 'not_started', code: (error as NodeJS.ErrnoException).code ?? 'unknown' })
    })
    child.once('exit', (code, signal) => {
      over = true
      clearTimeout(killer)
      resolve(signal === null ? { kind: 'exited', code: code ?? EXIT.ours } : { kind: 'killed', signal })
    })
  })
  const kill = (signal: NodeJS.Signals) => {
    if (!over) child.kill(signal)
  }
  return {
    ended,
    kill,
    end(graceMs) {
      kill('SIGTERM')
      killer ??= setTimeout(() => kill('SIGKILL'), graceMs)
    },
  }
}

/** The child's own code, 128 + n for a death by signal, 126 and 127 where it never ran. */
export async function exitOfChild(end: ChildEnd): Promise<number> {
  if (end.kind === 'exited') return end.code
  if (end.kind === 'killed') return exitOfSignal(end.signal)
  return end.code === 'ENOENT' ? EXIT.notFound : EXIT.cannotExecute
}

/**
 * True when a terminal's kernel would send Ctrl-C to us and the child alike: we are in its foreground process group. Forwarding it then
 * would give the child the same signal twice, which many programs read as "at once" (doppler#142).
 */
export function inTerminalForeground(): boolean {
  try {
    // Fields 5 and 8 of /proc/self/stat; the command name before them may hold spaces and parentheses.
    const stat = readFileSync('/proc/self/stat', 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[2] === fields[5]
  } catch {
    return [process.stdin, process.stdout, process.stderr].some(stream => stream.isTTY)
  }
}

/** Those that a terminal sends to the whole group by itself. SIGTERM is never among them. */
export const TERMINAL_SIGNALS: ReadonlySet<string> = new Set(['SIGINT', 'SIGQUIT', 'SIGHUP'])

/** Starts a process of ours (an entry file) and becomes nothing but its name: signals and exit code pass through. */
export async function passThrough(file: string, args: readonly string[], env: Readonly<Record<string, string | undefined>>): Promise<number> {
  const child = startChild(process.execPath, [file, ...args], env)
  const forward = (signal: NodeJS.Signals) => {
    if (TERMINAL_SIGNALS.has(signal) && inTerminalForeground()) return
    child.kill(signal)
  }
  const signals = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR2'] as const
  for (const signal of signals) process.on(signal, forward)
  try {
    return await exitOfChild(await child.ended)
  } finally {
    for (const signal of signals) process.off(signal, forward)
  }
}
