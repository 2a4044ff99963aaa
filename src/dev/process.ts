/** Owns the life of a server that we start: ready within a deadline or an error with its last words, and gone when we say so. */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

export interface StartOptions {
  readonly command: string
  readonly args: readonly string[]
  readonly log: string
  readonly env?: NodeJS.ProcessEnv
  readonly cwd?: string
  /** Left running when we exit. */
  readonly detached?: boolean
  readonly ready: () => Promise<boolean>
  readonly deadlineMs?: number
}

export interface Started {
  readonly pid: number
  stop(): Promise<void>
}

export async function start(options: StartOptions): Promise<Started> {
  const log = openSync(options.log, 'a', 0o600)
  const child = spawn(options.command, options.args, {
    stdio: ['ignore', log, log],
    detached: options.detached ?? false,
    ...(options.env ? { env: options.env } : {}),
    ...(options.cwd ? { cwd: options.cwd } : {}),
  })
  closeSync(log)
  let failed: Error | null = null
  child.on('error', error => {
    failed = error
  })
  if (options.detached) child.unref()
  const deadline = performance.now() + (options.deadlineMs ?? 20_000)
  for (;;) {
    if (failed || child.exitCode !== null) throw new Error(`${options.command} did not start: ${failed ?? lastWords(options.log)}`)
    if (await options.ready().catch(() => false)) return { pid: child.pid as number, stop: () => stopChild(child) }
    if (performance.now() > deadline) {
      await stopChild(child)
      throw new Error(`${options.command} was not ready in time: ${lastWords(options.log)}`)
    }
    await sleep(50)
  }
}

/** SIGTERM, a moment, SIGKILL: some servers hang on their way out. */
export async function stopChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = new Promise<void>(resolve => child.once('exit', () => resolve()))
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), 5_000)
  await gone
  clearTimeout(timer)
}

function lastWords(log: string): string {
  try {
    return readFileSync(log, 'utf8').trim().split('\n').slice(-5).join(' | ')
  } catch {
    return 'it said nothing'
  }
}

/** The wanted loopback port, or the next free one. */
export async function freePort(wanted = 0): Promise<number> {
  for (let port = wanted; port < wanted + 50 || wanted === 0; port++) {
    const got = await new Promise<number | null>(resolve => {
      const probe = createServer()
      probe.once('error', () => resolve(null))
      probe.listen(port, '127.0.0.1', () => {
        const { port: bound } = probe.address() as { port: number }
        probe.close(() => resolve(bound))
      })
    })
    if (got !== null) return got
  }
  throw new Error(`no free port from ${wanted} on`)
}
