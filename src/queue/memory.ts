/** Owns the in-process queue: for tests, which work it by hand, and for dev, where it wakes the handlers. Forgets everything at exit, as any queue may. */
import type { Job, JobQueue } from '../ports.js'
import { jobId } from './jobs.js'

export type Handlers = { readonly [K in Job['name']]: (job: Extract<Job, { name: K }>) => Promise<void> | void }

export interface MemoryQueue extends JobQueue {
  /** All that waits, in the order of their times, `at` null for now. */
  waiting(): readonly { readonly job: Job; readonly at: Date | null }[]
  /** Takes the first of what waits, whatever its time. */
  take(): Job | undefined
  /** Takes and handles until nothing waits, also what handlers add meanwhile; `until` leaves later jobs. Answers how many ran. Throws what a handler throws. */
  run(handlers: Handlers, options?: { until?: Date; limit?: number }): Promise<number>
  /** From now on jobs run in this process, one at a time a kind: wake-ups only, each handler asks the store what is due. */
  drive(handlers: Handlers, options: { now: () => Date; onFault: (fault: unknown, job: Job) => void }): void
  /** Tests: the queue takes nothing, as when Redis is gone. */
  breakDown(broken?: boolean): void
}

/** Longest `setTimeout`; what is later is looked at again then. */
const MAX_TIMER_MS = 2_147_483_647

export function memoryQueue(): MemoryQueue {
  const jobs = new Map<string, { job: Job; at: Date | null; order: number }>()
  const timers = new Map<string, NodeJS.Timeout>()
  const tails = new Map<Job['name'], Promise<void>>()
  let order = 0
  let broken = false
  let closed = false
  let driven: { handlers: Handlers; now: () => Date; onFault: (fault: unknown, job: Job) => void } | null = null

  const sorted = () => [...jobs.values()].sort((a, b) => (a.at?.getTime() ?? 0) - (b.at?.getTime() ?? 0) || a.order - b.order)
  const handle = (handlers: Handlers, job: Job) => (handlers[job.name] as (job: Job) => Promise<void> | void)(job)

  function schedule(id: string): void {
    const entry = jobs.get(id)
    if (!entry || !driven || closed) return
    const { handlers, now, onFault } = driven
    const delay = entry.at ? Math.max(0, entry.at.getTime() - now().getTime()) : 0
    const timer = setTimeout(
      () => {
        timers.delete(id)
        if (delay > MAX_TIMER_MS) return schedule(id)
        jobs.delete(id)
        const tail = (tails.get(entry.job.name) ?? Promise.resolve()).then(async () => {
          try {
            if (!closed) await handle(handlers, entry.job)
          } catch (fault) {
            onFault(fault, entry.job)
          }
        })
        tails.set(entry.job.name, tail)
      },
      Math.min(delay, MAX_TIMER_MS),
    )
    // A wake-up must not keep a process alive that has nothing else to do.
    timers.set(id, timer.unref())
  }

  const queue: MemoryQueue = {
    async enqueue(job, at) {
      if (broken || closed) return false
      const id = jobId(job)
      if (!jobs.has(id)) {
        jobs.set(id, { job, at: at ?? null, order: order++ })
        schedule(id)
      }
      return true
    },
    async health() {
      return broken || closed ? { ok: false, detail: 'in memory, not taking jobs' } : { ok: true, detail: `in memory, ${jobs.size} waiting` }
    },
    async close() {
      closed = true
      for (const timer of timers.values()) clearTimeout(timer)
      timers.clear()
      await Promise.all(tails.values())
    },
    waiting: () => sorted().map(({ job, at }) => ({ job, at })),
    take() {
      const first = sorted()[0]
      if (first) jobs.delete(jobId(first.job))
      return first?.job
    },
    async run(handlers, { until, limit = 10_000 } = {}) {
      for (let ran = 0; ; ran++) {
        const next = sorted().find(entry => !until || !entry.at || entry.at <= until)
        if (!next) return ran
        if (ran >= limit) throw new Error(`still ${jobs.size} jobs after ${limit}: a handler adds what it takes`)
        jobs.delete(jobId(next.job))
        await handle(handlers, next.job)
      }
    },
    drive(handlers, options) {
      driven = { handlers, ...options }
      for (const id of jobs.keys()) schedule(id)
    },
    breakDown(isBroken = true) {
      broken = isBroken
    },
  }
  return queue
}
