/** Owns what a job is called, what it may carry, and what the in-process queue does with it. */
import { describe, expect, test } from 'vitest'
import { newId } from '../../src/domain/ids.js'
import type { Job } from '../../src/ports.js'
import { destroyPayload, destroyQueue, expirePayload, JOB_OPTIONS, jobId, payloadOf, queueOf, signalPayload } from '../../src/queue/jobs.js'
import { memoryQueue } from '../../src/queue/memory.js'

const destroy = (version = 1): Job => ({ name: 'destroy', engine: 'vault-database', credential: newId('credential'), version })
const at = (ms: number) => new Date(1_800_000_000_000 + ms)

describe('names', () => {
  const jobs: Job[] = [{ name: 'expire', second: 1_800_000_000 }, destroy(3), { name: 'signal', signal: newId('signal') }]
  test.each(jobs)('$name: id and queue hold no colon and are never all digits; the same work has the same id', job => {
    for (const text of [jobId(job), queueOf(job)]) {
      expect(text).not.toContain(':')
      expect(text).not.toMatch(/^\d+$/)
    }
    expect(jobId({ ...job })).toBe(jobId(job))
  })
  test('the next attempt at a row is another job; every engine has a queue of its own', () => {
    const first = destroy(1)
    expect(jobId({ ...first, version: 2 } as Job)).not.toBe(jobId(first))
    expect(destroyQueue('jwt')).not.toBe(destroyQueue('vault-database'))
  })
  test('a finished or failed job never keeps its id, and BullMQ never tries again by itself', () => {
    expect(JOB_OPTIONS).toEqual({ attempts: 1, removeOnComplete: true, removeOnFail: true })
  })
})

describe('payloads', () => {
  test('read back what was written', () => {
    const job = destroy(4)
    expect(destroyPayload.parse(payloadOf(job))).toEqual(payloadOf(job))
    expect(expirePayload.parse({ second: 5 })).toEqual({ second: 5 })
    const signal = newId('signal')
    expect(signalPayload.parse({ signal })).toEqual({ signal })
  })
  const forged: [string, unknown][] = [
    ['an id of another kind', { engine: 'jwt', credential: newId('task'), version: 1 }],
    ['a path for an id', { engine: 'jwt', credential: '../../sys/seal', version: 1 }],
    ['a version that is no whole number', { engine: 'jwt', credential: newId('credential'), version: 1.5 }],
    ['a negative version', { engine: 'jwt', credential: newId('credential'), version: -1 }],
    ['a member too many', { engine: 'jwt', credential: newId('credential'), version: 1, secret: 'x' }],
    ['a missing member', { engine: 'jwt', version: 1 }],
    ['no object', 'destroy'],
  ]
  test.each(forged)('%s is refused: whoever writes Redis cannot make a processor do something else', (_, data) => {
    expect(destroyPayload.safeParse(data).success).toBe(false)
  })
  test.each([-1, 1.5, Number.NaN, 1e12, '5', null])('the second %j is refused', second => {
    expect(expirePayload.safeParse({ second }).success).toBe(false)
  })
})

describe('in memory', () => {
  test('a second add of the same work changes nothing, also behind a later time', async () => {
    const queue = memoryQueue()
    expect(await queue.enqueue({ name: 'expire', second: 9 }, at(5_000))).toBe(true)
    expect(await queue.enqueue({ name: 'expire', second: 9 })).toBe(true)
    expect(queue.waiting()).toEqual([{ job: { name: 'expire', second: 9 }, at: at(5_000) }])
  })
  test('taken or done, the id is free again', async () => {
    const queue = memoryQueue()
    const job = destroy()
    await queue.enqueue(job)
    expect(queue.take()).toEqual(job)
    expect(queue.take()).toBeUndefined()
    await queue.enqueue(job)
    expect(queue.waiting()).toHaveLength(1)
  })
  test('run works in the order of times, with what handlers add, and stops at the time given', async () => {
    const queue = memoryQueue()
    const done: string[] = []
    await queue.enqueue({ name: 'expire', second: 3 }, at(3_000))
    await queue.enqueue({ name: 'expire', second: 1 }, at(1_000))
    const chained = destroy()
    const handlers = {
      expire: async (job: Extract<Job, { name: 'expire' }>) => {
        done.push(`expire ${job.second}`)
        if (job.second === 1) await queue.enqueue(chained)
      },
      destroy: () => void done.push('destroy'),
      signal: () => void done.push('signal'),
    }
    expect(await queue.run(handlers, { until: at(2_000) })).toBe(2)
    expect(done).toEqual(['expire 1', 'destroy'])
    expect(await queue.run(handlers)).toBe(1)
    expect(done.at(-1)).toBe('expire 3')
  })
  test('run tells a handler’s fault to the test and does not go on for ever', async () => {
    const queue = memoryQueue()
    const broken = () => {
      throw new Error('boom')
    }
    await queue.enqueue(destroy())
    await expect(queue.run({ expire: broken, destroy: broken, signal: broken })).rejects.toThrow('boom')
    const again = () => void queue.enqueue(destroy())
    await queue.enqueue(destroy())
    await expect(queue.run({ expire: again, destroy: again, signal: again }, { limit: 5 })).rejects.toThrow('after 5')
  })
  test('driven, it wakes handlers when their time comes, one at a time a kind, and tells faults without stopping', async () => {
    const queue = memoryQueue()
    const seen: string[] = []
    const faults: unknown[] = []
    let inside = 0
    let together = 0
    await queue.enqueue(destroy(1))
    queue.drive(
      {
        expire: job => void seen.push(`expire ${job.second}`),
        destroy: async job => {
          together = Math.max(together, ++inside)
          await new Promise(resolve => setTimeout(resolve, 5))
          inside--
          seen.push(`destroy ${job.version}`)
          if (job.version === 2) throw new Error('target down')
        },
        signal: () => {},
      },
      { now: () => at(0), onFault: fault => faults.push(fault) },
    )
    await queue.enqueue(destroy(2))
    await queue.enqueue(destroy(3))
    await queue.enqueue({ name: 'expire', second: 7 }, at(30))
    expect(seen).toEqual([])
    await new Promise(resolve => setTimeout(resolve, 120))
    expect(seen.filter(s => s.startsWith('destroy'))).toEqual(['destroy 1', 'destroy 2', 'destroy 3'])
    expect(seen).toContain('expire 7')
    expect(together).toBe(1)
    expect(faults).toHaveLength(1)
    await queue.close()
    expect(await queue.enqueue(destroy())).toBe(false)
  })
  test('close waits for what runs and starts nothing more', async () => {
    const queue = memoryQueue()
    let ended = false
    queue.drive(
      {
        expire: () => {},
        destroy: async () => {
          await new Promise(resolve => setTimeout(resolve, 30))
          ended = true
        },
        signal: () => {},
      },
      { now: () => at(0), onFault: () => {} },
    )
    await queue.enqueue(destroy())
    await new Promise(resolve => setTimeout(resolve, 10))
    await queue.close()
    expect(ended).toBe(true)
  })
  test('broken down it takes nothing, says so, and throws nothing', async () => {
    const queue = memoryQueue()
    queue.breakDown()
    expect(await queue.enqueue(destroy())).toBe(false)
    expect((await queue.health()).ok).toBe(false)
    queue.breakDown(false)
    expect(await queue.enqueue(destroy())).toBe(true)
    expect(await queue.health()).toEqual({ ok: true, detail: 'in memory, 1 waiting' })
  })
})
