/** Owns the step from a `signal` job to its verb: the rule that matched stands in the row, never in the job. */
import type { Processor } from 'bullmq'
import type { Broker } from '../src/broker/broker.js'
import { signalPayload } from '../src/queue/jobs.js'

export const signalProcessor =
  (broker: Pick<Broker, 'handleSignal'>): Processor =>
  async job => {
    await broker.handleSignal(signalPayload.parse(job.data).signal)
  }
