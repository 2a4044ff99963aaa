/** Owns a command whose child may be replaced by another: to everybody else it is one child, which ends when no other takes its place. */
import { type Child, type ChildEnd, startChild } from './child.js'
import type { Issued } from './holder.js'

export interface RunCommand {
  readonly file: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string | undefined>>
  /** Puts what was issued anew into the same files. */
  rewrite(issued: readonly Issued[]): void
  /** When its child is gone, however it went. */
  remove(): void
}

export interface Running extends Child {
  /** From our SIGTERM until the next child runs: what ends the child now is not its own doing. */
  readonly isRestarting: boolean
  /** The child that is there now is the last one. Ending it (`end`) says the same. */
  last(): void
  /** False when the command is over instead: its child was gone already, or nothing may follow it. Then `next` is taken back. */
  restart(next: RunCommand, graceMs: number): Promise<boolean>
  rewrite(issued: readonly Issued[]): void
  /** Takes back what the last child was given. */
  remove(): void
}

export function startRunning(first: RunCommand): Running {
  let command = first
  let child = launch(first)
  let isRestarting = false
  let isLast = false
  let isOver = false
  let tell: (end: ChildEnd) => void = () => {}
  const ended = new Promise<ChildEnd>(resolve => {
    tell = resolve
  })
  const finish = (end: ChildEnd) => {
    isOver = true
    tell(end)
  }
  const follow = () =>
    void child.ended.then(end => {
      if (!isRestarting) finish(end)
    })
  follow()

  return {
    ended,
    get isRestarting() {
      return isRestarting
    },
    kill: signal => child.kill(signal),
    end(graceMs) {
      isLast = true
      child.end(graceMs)
    },
    last() {
      isLast = true
    },
    async restart(next, graceMs) {
      if (isOver || isLast) {
        next.remove()
        return false
      }
      isRestarting = true
      child.end(graceMs)
      const end = await child.ended
      isRestarting = false
      if (isLast) {
        next.remove()
        finish(end)
        return false
      }
      command.remove()
      command = next
      try {
        child = launch(next)
      } catch (error) {
        finish({ kind: 'not_started', code: (error as NodeJS.ErrnoException).code ?? 'unknown' })
        return false
      }
      follow()
      return true
    },
    rewrite: issued => command.rewrite(issued),
    remove: () => command.remove(),
  }
}

function launch(command: RunCommand): Child {
  try {
    return startChild(command.file, command.args, command.env)
  } catch (error) {
    command.remove()
    throw error
  }
}
