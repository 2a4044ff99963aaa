/**
 * Owns what becomes of credentials whose command outlives them: asked for anew in time and handed over by a restart or a signal, where
 * `--on-replace` says so; else told when they have run out. A refused replacement ends nothing but the attempt.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { within } from '../domain/deadline.js'
import { CliError, EXIT } from './exit.js'
import { giveBack, type Held, type Issued } from './holder.js'
import type { Broker } from './http.js'
import { clockTime, duration, type Printer } from './output.js'
import type { RunCommand, Running } from './running.js'

/** A signal: the files are rewritten, then the command is sent it. */
export type OnReplace = 'none' | 'restart' | 'SIGHUP' | 'SIGUSR1' | 'SIGUSR2'

export interface Replacing {
  readonly broker: Broker
  readonly print: Printer
  readonly onReplace: OnReplace
  readonly graceMs: number
  /** All of them or none. @param isAgain under a task whose evidence may have grown too old meanwhile. */
  issue(held: Held, signal: AbortSignal, isAgain: boolean): Promise<readonly Issued[]>
  command(held: Held, issued: readonly Issued[]): RunCommand
}

/** What counts as the grace at least, so that no `--grace 0s` makes a command that does nothing but start. Milliseconds. */
const SHORTEST_GRACE_MS = 1_000
const BACKOFF_MS = 1_000
const LONGEST_BACKOFF_MS = 30_000
const GIVE_BACK_MS = 15_000

/**
 * When to ask anew, in milliseconds after the issue: in the tenth of the life before two thirds of it, anywhere, so that commands that
 * began together do not ask together. Null: never. The third that is left must outlast the grace in which the old child may still use
 * what it holds, and a command that worked less than twice as long as it takes to stop would be stopping for ever. By default (a grace of
 * 10 s) what lives 30 s is replaced, at the earliest after 17 s, and what lives a minute after 34 to 40 s.
 */
export function replaceAfter(lifeMs: number, graceMs: number, random: () => number = Math.random): number | null {
  if (lifeMs < 3 * Math.max(graceMs, SHORTEST_GRACE_MS)) return null
  return lifeMs * (2 / 3 - random() / 10)
}

/** @param over aborted when nothing is to be replaced any more: the command has ended, or we were told to end it. */
export async function outlast(plan: Replacing, held: Held, running: Running, first: readonly Issued[], over: AbortSignal): Promise<void> {
  let issued = first
  let since = performance.now()
  try {
    for (;;) {
      const next = await askInTime(plan, held, issued, since, over)
      if (next === 'task_ended') return
      if (next === null) return await warnOfExpiry(plan, held, issued, since, over)
      const got = performance.now()
      const how = await handOver(plan, held, running, issued, next, over)
      if (how === 'over') return
      if (how === 'failed') return await warnOfExpiry(plan, held, issued, since, over)
      tell(plan, issued, next)
      issued = next
      since = got
    }
  } catch (error) {
    // Whatever else it is, the command must not be lost over it.
    if (!over.aborted) plan.print.warn(`curfew: nothing is replaced any more (${error instanceof CliError ? error.problem.code : 'unexpected'})`)
  }
}

/** Waits until it is time, and asks until there is an answer or the old ones have ended. Null: they stay what the command has. */
async function askInTime(
  plan: Replacing,
  held: Held,
  issued: readonly Issued[],
  since: number,
  over: AbortSignal,
): Promise<readonly Issued[] | 'task_ended' | null> {
  if (plan.onReplace === 'none') return null
  const { credential, lifeMs } = soonest(issued)
  // What is issued anew ends with the task at the latest: then there is nothing to gain.
  if (Date.parse(held.task.deadline_at) - Date.parse(credential.expires_at) <= Math.max(plan.graceMs, SHORTEST_GRACE_MS)) return null
  const afterMs = replaceAfter(lifeMs, plan.graceMs)
  if (afterMs === null) {
    plan.print.warn(
      `curfew: ${credential.id} is not replaced: it lives ${duration(lifeMs / 1000)}, which is less than three times the --grace of ${duration(plan.graceMs / 1000)}`,
    )
    return null
  }
  const left = () => lifeMs - (performance.now() - since)
  await sleep(Math.max(0, afterMs - (performance.now() - since)), undefined, { signal: over })
  for (let attempt = 0; ; attempt++) {
    try {
      return await plan.issue(held, within(left(), over), true)
    } catch (error) {
      if (over.aborted) throw error
      // Whoever hears the heartbeat tells it, and does what --on-revoke says.
      if (error instanceof CliError && error.problem.code === 'task_ended') return 'task_ended'
      const again = isWorthAgain(error)
      if (attempt === 0) plan.print.warn(refused(credential, error, again))
      const pauseMs = pauseOf(error, attempt)
      if (!again || pauseMs >= left()) return null
      await sleep(pauseMs, undefined, { signal: over })
    }
  }
}

/** By what the broker says to do, and where nobody of ours answered by how it failed. */
function isWorthAgain(error: unknown): boolean {
  if (!(error instanceof CliError)) return false
  const { agent_action: action, code } = error.problem
  if (typeof action === 'string') return action === 'retry'
  return error.exit === EXIT.unreachable || error.exit === EXIT.limited || error.exit === EXIT.degraded || code === 'evidence_unavailable'
}

function pauseOf(error: unknown, attempt: number): number {
  const asked = error instanceof CliError && typeof error.problem.retry_after === 'number' ? error.problem.retry_after * 1000 : 0
  return Math.max(asked, Math.min(BACKOFF_MS * 2 ** attempt, LONGEST_BACKOFF_MS) * (0.5 + Math.random() / 2))
}

function refused(credential: Issued['credential'], error: unknown, again: boolean): string {
  const { code, reason, detail, next } =
    error instanceof CliError ? error.problem : { code: 'unexpected', reason: undefined, detail: 'no answer in time', next: undefined }
  const why = `${code}${typeof reason === 'string' && reason !== code ? `, ${reason}` : ''}: ${detail}${typeof next === 'string' ? `; ${next}` : ''}`
  const end = `${clockTime(credential.expires_at)}Z`
  return `curfew: ${credential.id} is not replaced (${why}); ${again ? `asked again until it ends at ${end}` : `the command has it until it ends at ${end}`}`
}

async function handOver(
  plan: Replacing,
  held: Held,
  running: Running,
  old: readonly Issued[],
  next: readonly Issued[],
  over: AbortSignal,
): Promise<'done' | 'over' | 'failed'> {
  let command: RunCommand | null = null
  try {
    if (plan.onReplace === 'restart') command = plan.command(held, next)
    else running.rewrite(next)
  } catch (error) {
    // A full disk is no reason to lose the command.
    plan.print.warn(`curfew: what was issued anew cannot be handed over (${(error as NodeJS.ErrnoException).code ?? 'unexpected'})`)
    await returned(plan, held, next, over)
    return 'failed'
  }
  if (command === null) {
    // The old ones are left to their own end: the command may have connections open that were made with them.
    running.kill(plan.onReplace as NodeJS.Signals)
    return 'done'
  }
  if (!(await running.restart(command, plan.graceMs))) return 'over'
  await returned(plan, held, old, over)
  return 'done'
}

/** What nobody uses any more ends now. What cannot be given back ends by itself, or with the task. */
async function returned(plan: Replacing, held: Held, issued: readonly Issued[], over: AbortSignal): Promise<void> {
  const signal = within(GIVE_BACK_MS, over)
  const results = await Promise.allSettled(issued.map(i => giveBack(plan.broker, held, i.credential.id, signal)))
  const failed = issued.filter((_, i) => results[i]?.status === 'rejected').map(i => i.credential.id)
  if (failed.length > 0 && !over.aborted) plan.print.warn(`curfew: ${failed.join(', ')} could not be given back; without that it ends at its own time`)
}

function tell({ print, onReplace }: Replacing, old: readonly Issued[], next: readonly Issued[]): void {
  const { credential } = soonest(next)
  const ids = next.map(i => i.credential.id)
  if (print.format === 'json') print.say(JSON.stringify({ event: 'replaced', credentials: ids, expires_at: credential.expires_at }))
  else
    print.say(
      `${old.map(i => i.credential.id).join(', ')} replaced by ${ids.join(', ')}, until ${clockTime(credential.expires_at)}Z; ${onReplace === 'restart' ? 'the command was started again' : `the command was told (${onReplace})`}`,
    )
}

/** An environment cannot change in place: say when what it holds has run out. */
async function warnOfExpiry({ print, onReplace }: Replacing, held: Held, issued: readonly Issued[], since: number, over: AbortSignal): Promise<void> {
  for (const { credential: c } of [...issued].sort((a, b) => a.credential.expires_at.localeCompare(b.credential.expires_at))) {
    await sleep(Math.max(0, lifeOf(c) - (performance.now() - since)), undefined, { signal: over })
    const withTask = Date.parse(held.task.deadline_at) - Date.parse(c.expires_at) <= SHORTEST_GRACE_MS
    const next = withTask
      ? ': its task is over, see --task-life'
      : onReplace === 'none'
        ? '; next time --on-replace restart, or a longer --ttl where one is allowed'
        : ''
    print.warn(`curfew: ${c.id} has expired; the command goes on without ${c.capability}${next}`)
  }
}

const lifeOf = (c: Issued['credential']) => Date.parse(c.expires_at) - Date.parse(c.issued_at)

/** The broker's clock made both instants, so their distance is good on any clock. */
function soonest(issued: readonly Issued[]): { readonly credential: Issued['credential']; readonly lifeMs: number } {
  const [credential] = issued.map(i => i.credential).sort((a, b) => a.expires_at.localeCompare(b.expires_at))
  if (credential === undefined) throw new TypeError('a command is run with one credential at least')
  return { credential, lifeMs: lifeOf(credential) }
}
