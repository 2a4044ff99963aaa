import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ciRule } from '../../src/dev/policies.js'
import { reloadPolicies } from '../../src/serve.js'
import { type Caller, caller } from '../caller.js'
import { type House, makeHouse, ORDERS, SERVER } from '../house.js'

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

describe('the life that is asked for', () => {
  it('P60 is what policy judges when a token is asked for together with its task: no longer than it permits, and the twin that is short enough', async () => {
    const rules = ciRule('short', 'demo/orders-ro').replace('\n};', ' &&\n  context.ttl <= 400\n};')
    const short = await makeHouse({ policies: rules })
    try {
      const asker = await caller(short)
      const ask = async (ttl: number | null) => {
        const task = { type: `${SERVER}/rar/task/v1`, purpose: 'report', capabilities: ['demo/orders-ro'], ...(ttl === null ? {} : { ttl }) }
        const answer = await asker.exchange({ subject_token: await short.evidence(), resource: ORDERS, authorization_details: JSON.stringify([task]) })
        return answer.status === 200 ? 'granted' : answer.body.reason
      }
      expect([await ask(400), await ask(null)]).toEqual(['granted', 'granted'])
      expect([await ask(401), await ask(3_600)]).toEqual(['no_permit', 'no_permit'])
    } finally {
      await short.close()
    }
  })
})
