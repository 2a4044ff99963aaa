/** Owns the names, ids, payloads and options of all background jobs; ids only, never a secret, and nothing here is truth. */
import { z } from 'zod'
import { type CredentialId, isId, type SignalId } from '../domain/ids.js'
import type { Job } from '../ports.js'

/** One queue a kind; `destroy` has one an engine, so that a sick backend starves nobody. BullMQ refuses `:` in names. */
export const EXPIRE_QUEUE = 'expire'
export const SIGNAL_QUEUE = 'signal'
export const destroyQueue = (engine: string) => `destroy-${engine}`

export function queueOf(job: Job): string {
  switch (job.name) {
    case 'expire':
      return EXPIRE_QUEUE
    case 'destroy':
      return destroyQueue(job.engine)
    case 'signal':
      return SIGNAL_QUEUE
  }
}

/**
 * The same work has the same id, so that a second `add` changes nothing. No `:` (refused, or worse, accepted as a repeat key), never all
 * digits. A destroy job carries the row's version: the next attempt is a new job, whatever became of the last.
 */
export function jobId(job: Job): string {
  switch (job.name) {
    case 'expire':
      return `expire_${job.second}`
    case 'destroy':
      return `destroy_${job.credential}_${job.version}`
    case 'signal':
      return `signal_${job.signal}`
  }
}

const credentialId = z.custom<CredentialId>(value => isId('credential', value), 'must be a credential id')
const signalId = z.custom<SignalId>(value => isId('signal', value), 'must be a signal id')
/** Seconds since the epoch, up to the year 2286: a forged job cannot make a processor compute with nonsense. */
const second = z.int().min(0).max(9_999_999_999)

export const expirePayload = z.strictObject({ second })
export const destroyPayload = z.strictObject({ engine: z.string().min(1).max(64), credential: credentialId, version: z.int().min(0) })
export const signalPayload = z.strictObject({ signal: signalId })

/** What goes into the job: its fields without the name. */
export function payloadOf(job: Job): Record<string, unknown> {
  const { name: _, ...payload } = job
  return payload
}

/**
 * The row counts attempts and knows when the next is due. A kept job, completed or failed, would swallow the sweep's re-enqueue of its id,
 * and BullMQ's own attempts do not survive a worker that is killed twice.
 */
export const JOB_OPTIONS = { attempts: 1, removeOnComplete: true, removeOnFail: true } as const

/** `enqueue` never takes longer: what it cannot place in this time, the sweep finds. Milliseconds. */
export const ENQUEUE_DEADLINE_MS = 500
/** A job without work that every queue gets regularly: one that still waits at the next beat tells that nobody listens. */
export const BEAT_JOB = 'beat'
export const beatId = (queue: string) => `beat_${queue}`
/** A beat placed at one look and still there at two more: a deaf worker is replaced within 30 s (F08). Milliseconds. */
export const BEAT_MS = 9_000

/** What every Worker runs with. */
export const WORKER_OPTIONS = {
  /** Not renewed for so long, a job is another's; the row's claim is the fence either way (F43). */
  lockDuration: 30_000,
  /** A job whose worker is killed twice would otherwise fail for good (measured). */
  maxStalledCount: 1_000,
  removeOnComplete: { count: 0 },
  removeOnFail: { count: 0 },
} as const
