/** Owns what `up` leaves behind for `down`: the numbers of its processes, the folders to remove, and the env file. */
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { writePrivate } from '../../src/dev/folder.js'
import { endProcess, isRunning, type ProcessMark } from '../../src/dev/process.js'

export interface State {
  /** In the order of their start. */
  readonly processes: ProcessMark[]
  /** Outside of the directory: sockets, and data of a server that runs as another user. */
  readonly folders: string[]
}

/** A worker gives its jobs 10 s, and itself 5 more when Redis is not there. */
const GRACE_MS = 20_000

const statePath = (dir: string) => join(dir, 'pids.json')
export const envPath = (dir: string) => join(dir, 'env')

export function readState(dir: string): State {
  const path = statePath(dir)
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as State) : { processes: [], folders: [] }
}

export function writeState(dir: string, state: State): void {
  mkdirSync(dir, { recursive: true })
  writePrivate(statePath(dir), `${JSON.stringify(state, null, 2)}\n`)
}

/** `export NAME='value'`, for `. <dir>/env` in any shell. */
export function writeEnv(dir: string, values: Readonly<Record<string, string>>, programs: readonly string[]): void {
  const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`
  const lines = Object.entries(values).map(([name, value]) => `export ${name}=${quoted(value)}`)
  writePrivate(envPath(dir), `${[...lines, `export PATH=${programs.map(quoted).join(':')}:"$PATH"`].join('\n')}\n`)
}

/** Ends exactly the processes of the state, last started first, and removes what lies outside the directory. Logs and data stay. */
export async function end(dir: string, say: (name: string, text: string) => void): Promise<boolean> {
  const state = readState(dir)
  let isClean = true
  for (const mark of state.processes.toReversed()) {
    try {
      say(mark.name, `${mark.pid} ${await endProcess(mark, GRACE_MS)}`)
    } catch (cause) {
      isClean = false
      say(mark.name, cause instanceof Error ? cause.message : String(cause))
    }
  }
  if (!isClean) return false
  for (const folder of state.folders) rmSync(folder, { recursive: true, force: true })
  for (const path of [statePath(dir), envPath(dir)]) rmSync(path, { force: true })
  return true
}

export const running = (dir: string): readonly ProcessMark[] => readState(dir).processes.filter(isRunning)
