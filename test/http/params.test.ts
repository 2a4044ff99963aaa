/** What a caller adds when it asks: names by what the engine takes, values by the engine, all of it part of what a key repeats. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { CurfewError } from '../../src/domain/errors.js'
import { type Caller, caller, type Held } from '../caller.js'
import { type House, makeHouse } from '../house.js'

describe('params', () => {
  let house: House
  let ci: Caller
  let held: Held
  let seen: unknown[]
  beforeAll(async () => {
    house = await makeHouse()
    ci = await caller(house)
    // An engine that takes two things, over the one in memory.
    const { mint } = house.database
    Object.assign(house.database, {
      takes: () => ({ public_key: 'required', comment: 'optional' }),
      ask(params: Record<string, unknown>) {
        if (params.public_key === 'weak') throw new CurfewError('malformed', 'is too weak', { reason: 'invalid_field', field: 'params.public_key' })
      },
      mint(...args: Parameters<typeof mint>) {
        seen.push(args[0].terms.params)
        return mint(...args)
      },
    })
  })
  afterAll(() => house.close())
  beforeEach(async () => {
    seen = []
    held = await ci.opened({ capabilities: ['demo/orders-db', 'demo/orders-ro'] })
  })
  const ask = (params: unknown, headers?: Record<string, string>) => ci.credential(held, 'demo/orders-db', { params }, headers)
  const refused = (field: string, reason: string) => ({ status: 400, body: { code: 'malformed', field, reason } })

  it('reach the engine as they were sent', async () => {
    expect((await ask({ public_key: 'key', comment: 'mine' })).status).toBe(201)
    expect(seen).toEqual([{ public_key: 'key', comment: 'mine' }])
  })

  it('are refused by name: one that is not taken, one that is missing, one that the engine refuses', async () => {
    expect(await ask({ public_key: 'key', nonsense: 1 })).toMatchObject(refused('params.nonsense', 'unknown_field'))
    expect(await ask({})).toMatchObject(refused('params.public_key', 'parameter_missing'))
    expect(await ask(undefined)).toMatchObject(refused('params.public_key', 'parameter_missing'))
    expect(await ask({ public_key: 'weak' })).toMatchObject(refused('params.public_key', 'invalid_field'))
    expect(seen).toEqual([])
    expect(await house.app.store.credentials.list({ task: held.task as never, limit: 10 })).toEqual([])
  })

  it('are refused where the engine takes none, and by size, shape and number before it is asked', async () => {
    expect(await ci.credential(held, 'demo/orders-ro', { params: { public_key: 'key' } })).toMatchObject(refused('params.public_key', 'unknown_field'))
    for (const params of [{ public_key: { a: 1 } }, { public_key: 'x'.repeat(8_193) }, { public_key: 1.5 }, { public_key: null }])
      expect(await ask(params)).toMatchObject(refused('params.public_key', 'invalid_field'))
    expect(await ask(Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`p${i}`, 1])))).toMatchObject(refused('params', 'invalid_field'))
    // A name is the caller's own text, and is not repeated.
    expect(await ask({ 'SECRET text': 'key' })).toMatchObject(refused('params.?', 'invalid_field'))
  })

  it('are part of the request that an Idempotency-Key stands for, in whatever order', async () => {
    const key = { 'Idempotency-Key': 'key-of-params' }
    const first = await ask({ public_key: 'key', comment: 'mine' }, key)
    const same = await ask({ comment: 'mine', public_key: 'key' }, key)
    expect([first.status, same.status]).toEqual([201, 201])
    expect(await house.app.store.credentials.get(first.body.credential.id)).toMatchObject({ state: 'revoking' })
    expect(await ask({ public_key: 'other', comment: 'mine' }, key)).toMatchObject({ status: 409, body: { code: 'conflict' } })
    expect((await ask({ public_key: 'key', comment: 'mine' }, key)).status).toBe(201)
  })
})
