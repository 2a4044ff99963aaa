import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { reloadPolicies } from '../../src/serve.js'
import { type Caller, caller } from '../caller.js'
import { type House, makeHouse } from '../house.js'

let house: House
let ci: Caller
beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
})
afterAll(() => house?.close())

describe('policies reloaded while serving', () => {
  it('a broken file changes nothing and is told; a good one is in force for the next decision', async () => {
    const file = join(house.app.config.policies.dir, 'house.cedar')
    const good = readFileSync(file, 'utf8')
    const before = house.app.deps.policy.digest

    writeFileSync(file, `${good}\npermit(`)
    await reloadPolicies(house.app)
    expect(house.app.deps.policy.digest).toBe(before)
    expect((await ci.open()).status).toBe(201)
    expect((await house.audits('policy.refused'))[0]).toMatchObject({ reason: 'policies_refused' })

    writeFileSync(file, good.replaceAll('"456789"', '"1"'))
    await reloadPolicies(house.app)
    expect(house.app.deps.policy.digest).not.toBe(before)
    expect((await ci.open()).body).toMatchObject({ code: 'policy_denied', failed: [{ claim: 'repository_id', actual: '456789' }] })
    expect(await house.audits('policy.loaded')).toHaveLength(1)
  })
})
