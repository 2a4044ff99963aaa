/** The token endpoint to the letter (RFC 6749, 8693, 8707, 9396; standards.md 1.1, 1.8, 2.2.3, P56-P68): every rule beside the nearest request that passes. */
import { decodeJwt } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller } from '../caller.js'
import { type House, makeHouse, ORDERS, SERVER } from '../house.js'

const RAR = `${SERVER}/rar/task/v1`
let house: House
let ci: Caller

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
})
afterAll(() => house?.close())

const details = (more: Record<string, unknown> = {}) => JSON.stringify([{ type: RAR, purpose: 'nightly report', capabilities: ['demo/orders-ro'], ...more }])

describe('evidence', () => {
  it('older than the capability allows is refused here as it is where a credential is asked for', async () => {
    const ask = async (age: number) =>
      ci.exchange({
        subject_token: await house.evidence({ iat: house.now() - age, nbf: house.now() - age, exp: house.now() + 300 }),
        resource: ORDERS,
        authorization_details: details(),
      })
    expect((await ask(905)).body).toMatchObject({ error: 'invalid_request', code: 'attestation_stale', reason: 'evidence_stale' })
    const fresh = await ask(890)
    expect(fresh.status).toBe(200)
    expect(decodeJwt(fresh.body.access_token).aud).toBe(ORDERS)
  })
})
