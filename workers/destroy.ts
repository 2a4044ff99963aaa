/** Owns the step from a `destroy` job to its verb; the row's version is the fence, so that a second delivery does nothing. */
import type { Processor } from 'bullmq'
import type { Broker } from '../src/broker/broker.js'
import { within } from '../src/domain/deadline.js'
import { destroyPayload } from '../src/queue/jobs.js'

export const destroyProcessor =
  (broker: Pick<Broker, 'destroy'>): Processor =>
  async (job, _token, signal) => {
    const { credential, version } = destroyPayload.parse(job.data)
    await broker.destroy(credential, version, within(15_000, signal))
  }
