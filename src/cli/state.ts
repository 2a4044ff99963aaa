/** Owns what outlives one command: tasks opened by `curfew token`, until another command completes them, and the receipt keys of servers. Files of mode 0600. */
import { createHash } from 'node:crypto'
import { linkSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import type { JWK } from 'jose'
import { jobSeal } from './job-seal.js'
import { newProofKey, type ProofKey, proofKeyFrom } from './proof.js'

export interface KeptTask {
  readonly server: string
  /** The task's id, its token, and the private key that both are bound to; never a credential's secret. */
  readonly task: string
  readonly token: string
  readonly key: JWK
  readonly capabilities: readonly string[]
  /** RFC 3339, by the broker. */
  readonly deadlineAt: string
}

/** As it lies there: in the clear, or of a job, with all that is of use sealed. */
type WrittenTask = Pick<KeptTask, 'server' | 'task' | 'deadlineAt'> & { readonly job?: readonly string[]; readonly box?: string }

export interface State {
  /** @param job variables of the CI job that it is kept for (`EvidenceSource.job`): no other job of this user can open it, or complete it. */
  keep(task: KeptTask, job: readonly string[]): void
  get(task: string): KeptTask | null
  /** Those of one server, oldest first. */
  list(server: string): readonly KeptTask[]
  forget(task: string): void
  /**
   * The key of a CI job, by the variables that its commands share: the broker ties such evidence to the first key that it comes with
   * (security.md 4, step 8), so that every command of the job must come with the same. A new key where there is no such job.
   */
  jobKey(job: readonly string[]): Promise<ProofKey>
  /** RFC 7638 thumbprints of the keys that this server has signed receipts with, as seen from here. */
  pins(server: string): readonly string[]
  pin(server: string, thumbprints: readonly string[]): void
  pinPath(server: string): string
}

/** A forgotten file is of no use once its task's deadline is this far behind. Milliseconds. */
const PRUNE_AFTER_MS = 3_600_000
const JOB_KEY_LIFE_MS = 86_400_000
const MOST_PINS = 1_000
const TASK_ID = /^tsk_[0-9a-z]{26}$/

export function stateIn(env: Readonly<Record<string, string | undefined>>): State {
  const root = join(env.XDG_STATE_HOME || join(env.HOME || homedir(), '.local', 'state'), 'curfew')
  const tasks = join(root, 'tasks')
  const keys = join(root, 'keys')
  const receiptKeys = join(root, 'receipt-keys')
  const pathOf = (task: string) => join(tasks, `${task}.json`)
  const pinName = (server: string) => `${createHash('sha256').update(server).digest('hex').slice(0, 32)}.json`

  function pins(server: string): readonly string[] {
    try {
      const kept = JSON.parse(readFileSync(join(receiptKeys, pinName(server)), 'utf8')) as { server?: unknown; thumbprints?: unknown }
      return kept.server === server && Array.isArray(kept.thumbprints) ? kept.thumbprints.filter(t => typeof t === 'string') : []
    } catch {
      return []
    }
  }

  /** What was written; nothing of a sealed one can be used before it is opened. */
  function written(name: string): WrittenTask | null {
    try {
      const kept = JSON.parse(readFileSync(join(tasks, name), 'utf8')) as WrittenTask
      return kept.task === name.slice(0, -'.json'.length) ? kept : null
    } catch {
      return null
    }
  }

  /** Null too for a task of another job. */
  function read(task: string): KeptTask | null {
    const kept = TASK_ID.test(task) ? written(`${task}.json`) : null
    if (!kept) return null
    const { server, deadlineAt } = kept
    const rest = kept.box === undefined ? kept : jobSeal(env, kept.job ?? [])?.open(kept.box)
    const { token, key, capabilities } = (rest ?? {}) as Partial<KeptTask>
    return typeof token === 'string' && key && capabilities ? { server, task, token, key, capabilities, deadlineAt } : null
  }

  const all = (): WrittenTask[] =>
    names(tasks)
      .filter(name => name.endsWith('.json'))
      .flatMap(name => written(name) ?? [])

  return {
    keep(task, job) {
      if (!TASK_ID.test(task.task)) throw new TypeError('a task has an id of its own form')
      for (const old of all()) if (Date.parse(old.deadlineAt) + PRUNE_AFTER_MS < Date.now()) rmSync(pathOf(old.task), { force: true })
      const { token, key, capabilities, ...plain } = task
      const seal = jobSeal(env, job)
      const file: WrittenTask = seal ? { ...plain, job, box: seal.seal({ token, key, capabilities }) } : task
      writePrivate(tasks, `${task.task}.json`, file)
    },
    get: read,
    list: server => all().flatMap(kept => (kept.server === server ? (read(kept.task) ?? []) : [])),
    forget: task => {
      if (TASK_ID.test(task)) rmSync(pathOf(task), { force: true })
    },
    async jobKey(job) {
      const seal = jobSeal(env, job)
      if (!seal) return newProofKey()
      for (const name of names(keys)) {
        const path = join(keys, name)
        if ((statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) + JOB_KEY_LIFE_MS < Date.now()) rmSync(path, { force: true })
      }
      const name = `${seal.name}.json`
      const known = () => {
        try {
          return proofKeyFrom(seal.open(JSON.parse(readFileSync(join(keys, name), 'utf8'))) as JWK)
        } catch {
          return null
        }
      }
      const there = known()
      if (there) return there
      const key = await newProofKey()
      // Of two commands that start at once the first wins, and the second goes on with the first one's key.
      return writePrivate(keys, name, seal.seal(key.exportPrivate()), { replace: false }) ? key : (known() ?? key)
    },
    pins,
    pin(server, thumbprints) {
      const known = pins(server)
      // Retired keys stay: their receipts are evidence for years.
      const all = [...new Set([...known, ...thumbprints])].slice(-MOST_PINS)
      if (all.length > known.length) writePrivate(receiptKeys, pinName(server), { server, thumbprints: all })
    },
    pinPath: server => join(receiptKeys, pinName(server)),
  }
}

function names(dir: string): string[] {
  try {
    return readdirSync(dir).sort()
  } catch {
    return []
  }
}

/** Whole or not at all, and never readable by others, not even for a moment. False when it was there and may not be replaced. */
export function writePrivate(dir: string, name: string, value: unknown, { replace } = { replace: true }): boolean {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const draft = join(dir, `.${name}.${process.pid}`)
  rmSync(draft, { force: true })
  writeFileSync(draft, JSON.stringify(value), { mode: 0o600, flag: 'wx' })
  try {
    if (replace) renameSync(draft, join(dir, name))
    else linkSync(draft, join(dir, name))
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  } finally {
    rmSync(draft, { force: true })
  }
}
