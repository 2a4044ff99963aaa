/** Owns that the `type` of a problem leads to a page that explains it, and to nothing that a caller could write into. */
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ERROR_CODES } from '../../src/domain/errors.js'
import { type House, makeHouse, SERVER } from '../house.js'

let house: House
beforeAll(async () => {
  house = await makeHouse()
})
afterAll(() => house.close())

describe('the pages of errors', () => {
  it('a refusal names a page of this server, and the page knows the reason', async () => {
    const refused = await supertest(house.http).get('/v1/credentials')
    expect(refused.body.type).toBe(`${SERVER}/e/attestation_refused`)
    const page = await supertest(house.http).get(new URL(refused.body.type).pathname)
    expect(page.status).toBe(200)
    expect(page.headers['content-type']).toBe('text/html; charset=utf-8')
    expect(page.headers['content-security-policy']).toContain("default-src 'none'")
    expect(page.text).toContain(`<tr id="${refused.body.reason}">`)
    expect(page.text).not.toMatch(/<script/i)
  })

  it('there is one for every code, and a list of them', async () => {
    const list = await supertest(house.http).get('/e')
    for (const code of ERROR_CODES) {
      expect(list.text).toContain(`href="/e/${code}"`)
      expect((await supertest(house.http).get(`/e/${code}`)).status, code).toBe(200)
    }
  })

  it.each(['constructor', '__proto__', '%3Cscript%3E', 'policy_denied%00'])('%s has none, and is not written back', async code => {
    const { status, text } = await supertest(house.http).get(`/e/${code}`)
    expect(status).toBe(404)
    expect(text).not.toMatch(/script|__proto__|constructor/)
  })
})
