/** Owns the life of a child process of ours: start with a log file, wait until it is ready, end exactly that one. */
import { spawn } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { within } from '../domain/deadline.js'
import { inherited } from './find.js'

/** Enough to find a process again after we are gone, and to see that the number was not given to another since. */
export interface ProcessMark {
  readonly name: string
  readonly pid: number
  /** Start time in clock ticks since boot, from /proc. */
  readonly started: string
  /** What ends it in order. */
  readonly signal: NodeJS.Signals
}

export interface Child {
  readonly mark: ProcessMark
  readonly log: string
  /** Becomes true when it ends, by whatever cause. */
  hasEnded(): boolean
  stop(): Promise<void>
}

export interface Start {
  readonly name: string
  readonly command: string
  readonly args: readonly string[]
  /** Where the log file goes. */
  readonly dir: string
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** As whom, when we are root and the program refuses to be. */
  readonly user?: { readonly uid: number; readonly gid: number } | undefined
  /** May throw: that counts as "not yet". */
  readonly ready: (signal: AbortSignal) => Promise<boolean>
  readonly deadlineMs?: number
  readonly stopWith?: NodeJS.Signals
  readonly stopWithinMs?: number
  /** It outlives us (`npm run real -- up`); all others die with us at the latest. */
  readonly keep?: boolean | undefined
  readonly signal?: AbortSignal | undefined
}

const mine = new Set<ProcessMark>()
let isGuarded = false

export async function startProcess(start: Start): Promise<Child> {
  start.signal?.throwIfAborted()
  mkdirSync(start.dir, { recursive: true })
  const log = join(start.dir, `${start.name}.log`)
  const from = sizeOf(log)
  const output = openSync(log, 'a', 0o600)
  // In a session of its own: Ctrl-C reaches us alone, and we end our children in order.
  const child = spawn(start.command, start.args, {
    detached: true,
    stdio: ['ignore', output, output],
    env: inherited(start.env),
    ...(start.cwd && { cwd: start.cwd }),
    ...start.user,
  })
  closeSync(output)
  const spawned = new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
  let ended = ''
  child.once('exit', (code, signal) => {
    ended = `ended with ${signal ?? code}`
  })
  await spawned
  child.unref()
  const pid = child.pid ?? 0
  const mark = { name: start.name, pid, started: startOf(pid) ?? '', signal: start.stopWith ?? 'SIGTERM' }
  if (!start.keep) guard(mark)
  const stop = async () => {
    await endProcess(mark, start.stopWithinMs, () => ended !== '')
    mine.delete(mark)
  }
  try {
    await until(start.ready, {
      what: start.name,
      deadlineMs: start.deadlineMs ?? 30_000,
      signal: start.signal,
      givesUp: () => ended,
    })
  } catch (cause) {
    await stop()
    const reason = start.signal?.aborted ? 'was called off' : cause instanceof Error ? cause.message : 'is not ready'
    throw new Error(`${start.name}: ${reason}; the end of ${log}:\n${tail(log, from)}`, { cause })
  }
  return { mark, log, hasEnded: () => ended !== '', stop }
}

export interface Waiting {
  readonly what: string
  readonly deadlineMs: number
  readonly everyMs?: number
  readonly signal?: AbortSignal | undefined
  /** A text, once waiting has no sense any more. */
  readonly givesUp?: () => string
}

/** Asks until it is so. A thrown error is a "not yet"; the last one is the cause when time is up. */
export async function until(isSo: (signal: AbortSignal) => Promise<boolean>, waiting: Waiting): Promise<void> {
  const end = performance.now() + waiting.deadlineMs
  for (let last: unknown; ; ) {
    waiting.signal?.throwIfAborted()
    const gaveUp = waiting.givesUp?.()
    if (gaveUp) throw new Error(gaveUp)
    const left = end - performance.now()
    if (left <= 0) throw new Error(`${waiting.what} was not ready within ${waiting.deadlineMs / 1000} s`, { cause: last })
    try {
      if (await isSo(within(Math.ceil(Math.min(left, 5_000)), waiting.signal))) return
    } catch (cause) {
      last = cause
    }
    await pause(waiting.everyMs ?? 50)
  }
}

export const pause = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

/** The polite signal, then time, then SIGKILL for it and what it left in its group (Vault's plug-ins). Ends nothing but that very process. */
export async function endProcess(mark: ProcessMark, withinMs = 10_000, hasEnded = () => false): Promise<'ended' | 'killed' | 'was gone'> {
  const isGone = () => hasEnded() || !isRunning(mark)
  if (isGone()) return 'was gone'
  send(mark.pid, mark.signal)
  for (const end = performance.now() + withinMs; performance.now() < end; await pause(20)) if (isGone()) return 'ended'
  // A hung one ignores everything else (SPIRE with a socket path that is too long).
  send(-mark.pid, 'SIGKILL')
  for (const end = performance.now() + 5_000; performance.now() < end; await pause(20)) if (isGone()) return 'killed'
  throw new Error(`${mark.name} (process ${mark.pid}) does not end`)
}

/** Signal 0 succeeds on zombies and on a stranger with the same number; this does not. */
export const isRunning = (mark: ProcessMark): boolean => mark.started !== '' && startOf(mark.pid) === mark.started

/** proc(5): the name in field 2 may hold anything, so count from its closing bracket; state is field 3, start time field 22. */
function startOf(pid: number): string | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return HAS_PROC ? undefined : reachable(pid)
  }
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19]
}

/** Elsewhere than on Linux a number must do. */
const HAS_PROC = existsSync('/proc/self/stat')

function reachable(pid: number): string | undefined {
  try {
    process.kill(pid, 0)
    return 'unknown'
  } catch {
    return undefined
  }
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It ended in between.
  }
}

/** The last net: whatever way we end, no child of ours stays, unless it was meant to. */
function guard(mark: ProcessMark): void {
  mine.add(mark)
  if (isGuarded) return
  isGuarded = true
  process.on('exit', () => {
    for (const each of mine) if (isRunning(each)) send(each.pid, each.signal)
  })
}

function sizeOf(path: string): number {
  try {
    return statSync(path).size
  } catch {
    return 0
  }
}

const tail = (path: string, from: number): string => readFileSync(path).subarray(from).toString('utf8').trimEnd().split('\n').slice(-15).join('\n')
