/** Owns the step from an `expire` job to its verb: the job only wakes, the database says what is due. */
import type { Processor } from 'bullmq'
import type { Broker } from '../src/broker/broker.js'
import { within } from '../src/domain/deadline.js'
import { expirePayload } from '../src/queue/jobs.js'

export const expireProcessor =
  (broker: Pick<Broker, 'expireDue'>): Processor =>
  async (job, _token, signal) => {
    expirePayload.parse(job.data)
    await broker.expireDue(signal ?? within(25_000))
  }
