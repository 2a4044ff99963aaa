/** Owns the life around a child: signals, heartbeats, what happens when the task is ended from outside, and completion in every case but our own SIGKILL. */
import { setTimeout as sleep } from 'node:timers/promises'
import { within } from '../domain/deadline.js'
import { type Child, type ChildEnd, exitOfChild, inTerminalForeground, TERMINAL_SIGNALS } from './child.js'
import { CliError, EXIT, exitOfSignal } from './exit.js'
import { beat, endTask, type Held, listCredentials, readTask, tellEnding, untilDead } from './holder.js'
import { duration } from './output.js'
import { outlast, type Replacing } from './replace.js'
import { type Running, startRunning } from './running.js'

export type OnRevoke = 'kill' | 'signal' | 'warn'

export interface Supervision extends Replacing {
  readonly onRevoke: OnRevoke
  readonly heartbeatSeconds: number
  open(signal: AbortSignal): Promise<Held>
}

/** Those that end us. A terminal sends the first three to the child as well. */
const ENDING = ['SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGTERM'] as const
const PASSED_ON = ['SIGUSR1', 'SIGUSR2'] as const
/** Container runtimes kill after 10 s: the task is completed before that, whatever the child makes of SIGTERM. Milliseconds. */
const STOP_GRACE_MS = 8_000
const COMPLETE_MS = 8_000
const CONFIRM_MS = 5_000
const CONFIRM_WHEN_STOPPED_MS = 1_000

/** What came from outside, in the order in which it came. */
interface Stops {
  readonly first: NodeJS.Signals | null
  /** Aborted by the first stop: what is not begun is not begun any more. */
  readonly soon: AbortSignal
  /** Aborted by a second stop after the child is gone: the task is completed all the same, but nobody waits for the proof. */
  readonly now: AbortSignal
  watch(running: Running): void
  close(): void
}

export async function supervise(plan: Supervision): Promise<number> {
  const stops = listen(plan)
  try {
    const held = await plan.open(stops.soon)
    const began = performance.now()
    let running: Running | null = null
    let end: ChildEnd | null = null
    let failed: unknown = null
    const over = new AbortController()
    const noMore = new AbortController()
    for (const signal of [stops.soon, over.signal]) signal.addEventListener('abort', () => noMore.abort(signal.reason))
    try {
      const issued = await plan.issue(held, stops.soon, false)
      stops.soon.throwIfAborted()
      running = startRunning(plan.command(held, issued))
      stops.watch(running)
      const beating = keepAlive(plan, held, running, over.signal)
      const outlasting = outlast(plan, held, running, issued, noMore.signal)
      end = await running.ended
      over.abort()
      await Promise.all([beating, outlasting])
    } catch (error) {
      failed = error
    } finally {
      over.abort()
      running?.remove()
    }
    await finish(
      plan,
      held,
      {
        outcome: outcomeOf(end),
        seconds: (performance.now() - began) / 1000,
        stopped: stops.first !== null,
        cancelled: end === null || end.kind === 'not_started',
      },
      stops.now,
    )
    if (stops.first !== null) return await exitOfSignal(stops.first)
    if (failed !== null) throw failed
    if (end === null) throw new TypeError('a run without a failure has an end')
    if (end.kind === 'not_started') plan.print.warn(`curfew: the command cannot be started (${end.code === 'ENOENT' ? 'not found' : end.code})`)
    return await exitOfChild(end)
  } catch (error) {
    // Nothing was opened, or we were told to stop before it was.
    if (stops.first !== null) return await exitOfSignal(stops.first)
    throw error
  } finally {
    stops.close()
  }
}

function listen(plan: Supervision): Stops {
  let first: NodeJS.Signals | null = null
  let child: Running | null = null
  let gone = false
  const soon = new AbortController()
  const now = new AbortController()
  const stop = (signal: NodeJS.Signals) => {
    const byTerminal = TERMINAL_SIGNALS.has(signal) && inTerminalForeground()
    // Ctrl-C at a terminal is the child's to answer: psql cancels a query with it and goes on, and so do we. One that we are stopping answers nothing more.
    if (byTerminal && signal !== 'SIGHUP' && child && !gone && !child.isRestarting) return
    child?.last()
    const again = first !== null
    first ??= signal
    soon.abort(new Error(signal))
    if (again && (gone || !child)) now.abort(new Error(signal))
    if (gone || !child) return
    if (again) return child.kill('SIGKILL')
    if (!byTerminal) child.kill(signal)
    insist(child, Math.min(plan.graceMs, STOP_GRACE_MS))
  }
  const pass = (signal: NodeJS.Signals) => child?.kill(signal)
  for (const signal of ENDING) process.on(signal, stop)
  for (const signal of PASSED_ON) process.on(signal, pass)
  return {
    get first() {
      return first
    },
    soon: soon.signal,
    now: now.signal,
    watch(started) {
      child = started
      void started.ended.then(() => {
        gone = true
      })
    },
    close() {
      for (const signal of ENDING) process.off(signal, stop)
      for (const signal of PASSED_ON) process.off(signal, pass)
    },
  }
}

/** The child has the signal already; what ignores it is not left with credentials that are about to be refused. */
function insist(child: Child, graceMs: number): void {
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
  void child.ended.then(() => clearTimeout(timer))
}

/** Tells the broker that we live. Its refusal means that the task is over; its silence means nothing yet. */
async function keepAlive(plan: Supervision, held: Held, running: Running, over: AbortSignal): Promise<void> {
  const everyMs = (held.task.heartbeat_seconds ?? plan.heartbeatSeconds) * 1000
  let lost = false
  while (!over.aborted) {
    try {
      await sleep(everyMs, undefined, { signal: over })
      await beat(plan.broker, held, everyMs, over)
      if (lost) plan.print.say('the broker hears us again')
      lost = false
    } catch (error) {
      if (over.aborted) return
      if (error instanceof CliError && (error.exit === EXIT.gone || error.exit === EXIT.refused)) return ended(plan, held, running, error, over)
      // Whatever else it is, the command must not be lost over it.
      if (!lost)
        plan.print.warn(
          `curfew: the broker did not hear us (${error instanceof CliError ? error.problem.code : 'unexpected'}); after ${duration((everyMs * 3) / 1000)} of silence it ends the task`,
        )
      lost = true
    }
  }
}

async function ended(plan: Supervision, held: Held, running: Running, refusal: CliError, over: AbortSignal): Promise<void> {
  const task = await readTask(plan.broker, { kind: 'holder', key: held.key, token: held.token }, held.task.id, over).catch(() => null)
  if (over.aborted) return
  // Past the deadline the task token is no longer good for asking.
  const why = refusal.problem.reason === 'expired' ? 'its time is up, see --task-life' : 'by the broker'
  const act = { kill: 'the command is stopped', signal: 'the command is told (SIGTERM)', warn: 'the command goes on without' }[plan.onRevoke]
  plan.print.warn(`curfew: the task was ended (${task?.end_reason ?? why}), its credentials are refused from now on; ${act}`)
  if (plan.onRevoke === 'kill') running.end(plan.graceMs)
  else if (plan.onRevoke === 'signal') {
    running.last()
    running.kill('SIGTERM')
  }
}

function outcomeOf(end: ChildEnd | null): string | null {
  if (end === null) return null
  return end.kind === 'exited' ? `exit ${end.code}` : end.kind === 'killed' ? `signal ${end.signal}` : `not started: ${end.code}`
}

interface Finish {
  readonly outcome: string | null
  readonly seconds: number
  readonly stopped: boolean
  readonly cancelled: boolean
}

/** Never fails the command: what we cannot tell the broker, its silence rule and its deadline tell it. */
async function finish(plan: Supervision, held: Held, how: Finish, now: AbortSignal): Promise<void> {
  const { broker, print } = plan
  try {
    const { task, revocation } = await endTask(broker, held, how.cancelled ? 'cancel' : 'complete', how.outcome, within(COMPLETE_MS))
    const auth = { kind: 'holder', key: held.key, token: held.token } as const
    const waitMs = how.stopped ? CONFIRM_WHEN_STOPPED_MS : CONFIRM_MS
    const waiting = within(waitMs + 1_000, now)
    const ending = await untilDead(() => listCredentials(broker, auth, { task: held.task.id }, 200, waiting), waitMs, waiting).catch(() => null)
    if (print.format === 'json') {
      const left =
        ending === null
          ? null
          : [...ending.unconfirmed, ...ending.exposed].map(c => ({
              credential: c.id,
              state: c.state,
              revocation: c.revocation,
              exposed_until: c.exposed_until ?? null,
            }))
      print.say(
        JSON.stringify({
          event: 'ended',
          task: task.id,
          state: task.state,
          seconds: Math.round(how.seconds),
          refused_since: revocation.refused_since,
          not_confirmed: left,
        }),
      )
    } else
      print.say(
        `task ${task.state} after ${duration(how.seconds)}: ${ending === null ? 'refused at once; nobody waited to see it dead' : tellEnding(revocation, ending)}`,
      )
  } catch (error) {
    const why = error instanceof CliError ? error.problem.code : 'no answer in time'
    print.warn(
      `curfew: the end could not be told (${why}); without a heartbeat the broker ends the task within ${duration(3 * (held.task.heartbeat_seconds ?? plan.heartbeatSeconds))}`,
    )
  }
}
