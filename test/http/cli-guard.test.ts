/** `curfew guard` over the real server: a key that is shown once, how far each process is, and a key that is refused. */
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import supertest from 'supertest'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type House, makeHouse } from '../house.js'
import { typed } from '../unit/cli/desk.js'

let house: House
let server: Server
let home: string
let env: Record<string, string>
let auditor: string

beforeAll(async () => {
  house = await makeHouse()
  server = createServer(house.http)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  home = mkdtempSync(join(tmpdir(), 'curfew-guard-'))
  auditor = await house.operator('auditor')
  env = { HOME: home, CURFEW_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, CURFEW_OPERATOR_TOKEN: await house.operator('admin') }
})
afterAll(async () => {
  server.closeAllConnections()
  server.close()
  await house.close()
  rmSync(home, { recursive: true, force: true })
})
const type = (...argv: string[]) => typed(['guard', ...argv], env)

test('add shows a key once, list says how far each process is, disable ends it', async () => {
  expect(await type('list')).toMatchObject({ exit: 0, err: expect.stringContaining('curfew guard add') })
  const added = await type('add', 'orders')
  expect(added).toMatchObject({ exit: 0, out: expect.stringMatching(/^curfew_guard_[0-9A-Za-z]{38}\n$/), err: expect.stringContaining('not shown again') })
  const key = added.out.trim()
  expect((await type('list')).out).toMatch(/orders +never seen/)

  const ack = () =>
    supertest(house.http)
      .post('/v1/feed/acks')
      .set({ Authorization: `Bearer ${key}`, 'Curfew-Guard-Instance': 'web-1' })
      .send({ seq: 0 })
  expect((await ack()).status).toBe(200)
  await expect.poll(async () => (await type('list')).out).toMatch(/orders +there +web-1 +0 of 0/)
  expect(JSON.parse((await type('list', '--json')).out)).toMatchObject({ seq: 0, guards: [{ name: 'orders', instances: [{ instance: 'web-1', live: true }] }] })
  expect((await type('list')).out).not.toContain(key)

  expect(await type('disable', 'orders')).toMatchObject({ exit: 0, err: 'orders is refused from now on\n' })
  expect((await ack()).status).toBe(401)
  expect((await type('list')).out).toContain('disabled')
})

test('a key goes into a file that only its owner reads, and never over another', async () => {
  const file = join(home, 'orders.key')
  const added = await type('add', 'billing', '--key-file', file)
  expect(added).toMatchObject({ exit: 0, out: '' })
  expect(readFileSync(file, 'utf8')).toMatch(/^curfew_guard_/)
  expect(statSync(file).mode & 0o777).toBe(0o600)
  expect(await type('add', 'third', '--key-file', file)).toMatchObject({ exit: 2, err: expect.stringContaining('is there already') })
  expect((await type('list')).out).not.toContain('third')
})

test('refusals have their exit codes', async () => {
  expect((await type('add', 'billing')).exit).toBe(11)
  expect((await type('add', 'not a name')).err).toContain('name')
  expect((await type('disable', 'nobody')).exit).toBe(6)
  expect((await typed(['guard', 'add', 'x'], { ...env, CURFEW_OPERATOR_TOKEN: auditor })).exit).toBe(4)
})
