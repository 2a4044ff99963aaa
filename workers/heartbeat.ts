/** Owns the finding of deaf workers: connections come back after an outage, and sometimes nobody listens on them. */
import type { Queue, Worker } from 'bullmq'
import { BEAT_JOB, beatId, JOB_OPTIONS } from '../src/queue/jobs.js'

/** When the beat that now waits on this queue was placed, or null when the last one was heard. Only compared with itself: no clock is read. */
export async function waitingBeat(queue: Pick<Queue, 'getJob'>, name: string): Promise<number | null> {
  return (await queue.getJob(beatId(name)))?.timestamp ?? null
}

/** Places the next beat; one that still waits under the same id stays the one that it is. */
export async function beat(queue: Pick<Queue, 'add'>, name: string): Promise<void> {
  await queue.add(BEAT_JOB, {}, { ...JOB_OPTIONS, jobId: beatId(name) })
}

/** Ends a worker that may not answer: waits a moment for what it is doing, then goes on without it; locks and claims run out by themselves. */
export async function endWorker(worker: Pick<Worker, 'close'>, graceMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const bound = new Promise<'late'>(resolve => {
    timer = setTimeout(() => resolve('late'), graceMs)
  })
  const ended = await Promise.race([worker.close().catch(() => {}), bound])
  clearTimeout(timer)
  if (ended === 'late') worker.close(true).catch(() => {})
}
