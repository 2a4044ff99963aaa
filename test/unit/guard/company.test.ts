import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { company } from '../../../src/guard/company.js'
import { createGuard, type Guard, type GuardOptions, memoryReplay } from '../../../src/guard/guard.js'
import { testIssuer } from '../../../src/guard/testing.js'
import { type FakeBroker, fakeBroker, KEY, until } from './fake-broker.js'

const log = { warn: vi.fn(), error: vi.fn() }
beforeEach(() => void log.warn.mockClear())

describe('processes that each remember used proofs for themselves', () => {
  const at = (remembersAlone: boolean) => {
    const clock = { ms: 0 }
    return { clock, c: company({ remembersAlone, log, monotonic: () => clock.ms }) }
  }
  test('are warned of once, when there is another for longer than one that went is counted', () => {
    const { clock, c } = at(true)
    expect([c.instances, c.replay]).toEqual([null, 'alone'])
    for (; clock.ms < 45_000; clock.ms += 5_000) {
      c.told(2)
      expect([c.instances, c.replay]).toEqual([2, 'alone'])
    }
    for (; clock.ms < 90_000; clock.ms += 5_000) {
      c.told(2)
      expect(c.replay).toBe('split')
    }
    expect(log.warn.mock.calls).toEqual([[{ instances: 2 }, expect.stringContaining('redisReplay')]])
    c.told(1)
    expect([c.instances, c.replay]).toEqual([1, 'alone'])
  })
  test('after a restart nobody is warned of oneself', () => {
    const { clock, c } = at(true)
    for (; clock.ms <= 30_000; clock.ms += 5_000) c.told(2)
    for (; clock.ms < 200_000; clock.ms += 5_000) c.told(1)
    expect([c.replay, log.warn.mock.calls]).toEqual(['alone', []])
  })
  test('a memory that they share is none of that', () => {
    const { clock, c } = at(false)
    for (; clock.ms < 200_000; clock.ms += 5_000) c.told(3)
    expect([c.instances, c.replay, log.warn.mock.calls]).toEqual([3, 'shared', []])
  })
})

describe('health tells', () => {
  let broker: FakeBroker
  const guards: Guard[] = []
  beforeEach(async () => {
    broker = await fakeBroker()
    const iss = await testIssuer({ issuer: broker.url })
    broker.keys = ((await (await iss.fetch(`${broker.url}/.well-known/jwks.json`, {})).json()) as { keys: unknown[] }).keys
    iss.close()
  })
  afterEach(async () => {
    for (const g of guards.splice(0)) g.close()
    await broker.close()
  })
  async function ready(more: Partial<GuardOptions> = {}): Promise<Guard> {
    const guard = createGuard({ issuer: broker.url, audience: 'https://orders.test/', guardKey: KEY, proof: 'if-bound', ...more })
    guards.push(guard)
    await guard.ready()
    return guard
  }
  test('how many processes serve as this guard, and where proofs are remembered', async () => {
    broker.instances = 2
    const [own, mine, shared, none] = [
      await ready(),
      await ready({ replay: memoryReplay() }),
      await ready({ replay: { claim: () => true } }),
      await ready({ proof: 'off' }),
    ]
    await until(() => guards.every(g => g.health().instances === 2))
    expect([own, mine, shared, none].map(g => g.health().replay)).toEqual(['alone', 'alone', 'shared', null])
  })
  test('nothing by a broker that does not say, and what it says amiss is not believed', async () => {
    const guard = await ready()
    await until(() => broker.seen.acks.length > 0)
    expect(guard.health().instances).toBeNull()
    broker.instances = -1
    const acks = broker.seen.acks.length
    broker.revoke({ kind: 'task', key: 'tsk_1', until: '2999-01-01T00:00:00.000Z' })
    await until(() => broker.seen.acks.length > acks)
    expect(guard.health()).toMatchObject({ ok: true, instances: null })
  })
})
