/** What no job was placed for, by the hundred: the next closing job places all of them, and without jobs one sweep ends them. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, type Held } from '../caller.js'
import { type House, makeHouse } from '../house.js'

const MANY = 'demo/many-db'
let house: House
let ci: Caller

beforeAll(async () => {
  house = await makeHouse({
    capabilities: [{ name: MANY, summary: 'Database users by the hundred', engine: 'memory', intent: 'read' }],
    alsoAllow: [MANY],
    more: { limits: { source: false, identity: false } },
  })
  ci = await caller(house)
})
afterAll(() => house?.close())

/** Database users of one task that ended while the queue took nothing. */
async function ended(count: number): Promise<Held> {
  const held = await ci.opened({ capabilities: [MANY] })
  for (let i = 0; i < count; i++) expect((await ci.credential(held, MANY)).status).toBe(201)
  house.queue.breakDown()
  expect((await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})).body.revocation.credentials).toBe(count)
  house.queue.breakDown(false)
  return held
}
const inState = async (held: Held, state: 'revoking' | 'revoked') =>
  (await house.app.store.credentials.list({ task: held.task as never, state, limit: 1_000 })).length

describe('many that nobody hurried', () => {
  it('are each given a job by the next closing job, and those of a tick later none but their own', async () => {
    const held = await ended(30)
    const placed = () => house.queue.waiting().filter(({ job }) => job.name === 'destroy').length
    expect(placed()).toBe(0)
    await house.app.broker.expireDue(AbortSignal.timeout(10_000))
    expect(placed()).toBe(30)
    await house.app.broker.expireDue(AbortSignal.timeout(10_000))
    expect(placed()).toBe(30)
    await house.work()
    expect(await inState(held, 'revoked')).toBe(30)
  })
  it('are all ended by one sweep, though they are more than it asks for at a time', async () => {
    const held = await ended(230)
    expect(await inState(held, 'revoking')).toBe(230)
    await house.sweep()
    expect(await inState(held, 'revoked')).toBe(230)
  })
})
