/** Owns `npm run real -- up|down|env`: the real parts and Curfew over them, left running in the background. */
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { isAbsent, repository } from '../../src/dev/find.js'
import { startCurfew } from './curfew.js'
import { PartsError, type Say, seconds, startParts, variablesOf } from './parts.js'
import { end, envPath, readState, running, writeEnv, writeState } from './state.js'

const USAGE = 'usage: npm run real -- up|down|env [--dir DIR]   (DIR: .real)'
/** Standard output belongs to `env`. */
const say: Say = (name, text) => process.stderr.write(`${name.padEnd(12)} ${text}\n`)

async function up(dir: string): Promise<number> {
  const before = readState(dir)
  const alive = running(dir)
  if (alive.length > 0 && alive.length === before.processes.length && existsSync(envPath(dir))) {
    say('real', `is up already: . ${envPath(dir)}`)
    return 0
  }
  // Half of it is there: a process ended by itself, or an earlier `up` did not come to its end.
  if (before.processes.length > 0 && !(await end(dir, say))) return 1

  const since = performance.now()
  const stop = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => stop.abort(new Error('called off')))
  try {
    const parts = await startParts(dir, say, stop.signal)
    writeState(dir, parts.state)
    try {
      const curfew = await startCurfew(parts, say, stop.signal)
      if (isAbsent(curfew)) say('curfew', `skipped: ${curfew.absent}`)
      const { values, programs } = variablesOf(parts)
      writeEnv(dir, { ...values, ...(isAbsent(curfew) ? {} : curfew.values) }, [...programs, join(repository(), 'bin')])
      stop.signal.throwIfAborted()
    } finally {
      writeState(dir, parts.state)
    }
    say('real', `up in ${seconds(since)}: . ${envPath(dir)}`)
    return 0
  } catch (cause) {
    if (cause instanceof PartsError) writeState(dir, cause.state)
    say('real', `${cause instanceof Error ? cause.message : cause}`)
    await end(dir, say)
    return 1
  }
}

async function down(dir: string): Promise<number> {
  if (readState(dir).processes.length === 0) say('real', `nothing is up in ${dir}`)
  return (await end(dir, say)) ? 0 : 1
}

function env(dir: string): number {
  if (!existsSync(envPath(dir))) {
    say('real', `nothing is up in ${dir}: npm run real -- up`)
    return 1
  }
  process.stdout.write(readFileSync(envPath(dir), 'utf8'))
  return 0
}

function usage(text: string): number {
  process.stderr.write(`${text}\n${USAGE}\n`)
  return 2
}

async function main(): Promise<number> {
  let words: ReturnType<typeof parseArgs<{ allowPositionals: true; options: { dir: { type: 'string' } } }>>
  try {
    words = parseArgs({ allowPositionals: true, options: { dir: { type: 'string' } } })
  } catch (cause) {
    return usage(cause instanceof Error ? cause.message : String(cause))
  }
  const dir = resolve(words.values.dir ?? join(repository(), '.real'))
  const [act, ...more] = words.positionals
  if (more.length > 0) return usage(`one word, not ${words.positionals.length}`)
  if (act === 'up') return up(dir)
  if (act === 'down') return down(dir)
  if (act === 'env') return env(dir)
  return usage(act ? `there is no ${act}` : 'say what')
}

process.exit(await main())
