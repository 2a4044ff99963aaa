/** Evidence that a provider makes once for a job: every use of it comes with one key, at the broker and at the command line (standards.md 2.2.4). */
import { spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { CiProvider } from '../../src/dev/ci-tokens.js'
import { type Caller, caller, EXCHANGE, ID_TOKEN, introspect } from '../caller.js'
import { type House, ORDERS, SERVER } from '../house.js'
import { ciHouse, ciToken } from '../providers.js'
import { ENTRY, typed } from '../unit/cli/desk.js'

let house: House
let ci: Caller
let other: Caller

beforeAll(async () => {
  house = await ciHouse()
  ;[ci, other] = await Promise.all([caller(house), caller(house)])
})
afterAll(() => house?.close())

const BOUNDED = ['gitlab', 'circleci', 'buildkite'] as const satisfies readonly CiProvider[]
const refused = { status: 401, code: 'attestation_refused', reason: 'second_key', field: 'subject_token' }
const counted = async (provider: CiProvider) =>
  Number(new RegExp(`^curfew_evidence_second_key_total\\{issuer="${provider}"\\} (\\d+)$`, 'm').exec(await house.app.metrics.text(house.app.store))?.[1] ?? 0)
const exchange = (by: Caller, subject_token: string) => {
  const task = { type: `${SERVER}/rar/task/v1`, purpose: 'report', capabilities: ['demo/orders-ro'] }
  return by.exchange({ grant_type: EXCHANGE, subject_token_type: ID_TOKEN, subject_token, resource: ORDERS, authorization_details: JSON.stringify([task]) })
}

describe.each(BOUNDED)('a token of %s', provider => {
  it('T40 serves all commands of a job that come with one key, in sequence and at once', async () => {
    const subject_token = await ciToken(house, provider)
    expect((await ci.open({ subject_token })).status).toBe(201)
    const all = await Promise.all(Array.from({ length: 20 }, () => ci.open({ subject_token })))
    expect(all.map(a => a.status)).toEqual(Array(20).fill(201))
    expect((await exchange(ci, subject_token)).status).toBe(200)
  })

  it('T40 T41 with a second key is refused at every door, counted and recorded; its rightful holder goes on', async () => {
    const subject_token = await ciToken(house, provider)
    const held = await ci.opened({ subject_token })
    const before = await counted(provider)
    expect((await other.open({ subject_token })).body).toMatchObject(refused)
    expect((await exchange(other, subject_token)).body).toMatchObject({ error: 'invalid_request', reason: 'second_key' })
    expect(await counted(provider)).toBe(before + 2)
    expect((await house.audits('attestation.refused')).slice(0, 2).map(r => r.reason)).toEqual(['second_key', 'second_key'])
    expect((await ci.open({ subject_token })).status).toBe(201)
    expect((await ci.credential(held, 'demo/orders-ro', { subject_token })).status).toBe(201)
  })

  it('T44 does not renew the task of another key, and a refusal ties nothing', async () => {
    const held = await other.opened({ subject_token: await ciToken(house, provider) })
    const subject_token = await ciToken(house, provider)
    await ci.opened({ subject_token })
    expect((await other.credential(held, 'demo/orders-ro', { subject_token })).body).toMatchObject(refused)
    const fresh = await ciToken(house, provider)
    // Denied by policy: nothing was used.
    expect((await ci.open({ subject_token: fresh, capabilities: ['demo/none'] })).status).toBe(422)
    expect((await other.open({ subject_token: fresh })).status).toBe(201)
    expect((await ci.open({ subject_token: fresh })).body).toMatchObject(refused)
  })

  it('R01 of two keys at once one wins, and keeps it', async () => {
    const subject_token = await ciToken(house, provider)
    const both = await Promise.all(
      Array.from({ length: 16 }, (_, i) => (i % 2 === 0 ? ci : other).open({ subject_token }).then(a => [i % 2, a.status, a.body.reason])),
    )
    const winners = new Set(both.filter(([, status]) => status === 201).map(([who]) => who))
    expect(winners.size).toBe(1)
    const [winner] = winners
    for (const [who, status, reason] of both) expect([status, reason]).toEqual(who === winner ? [201, undefined] : [401, 'second_key'])
    expect((await (winner === 0 ? other : ci).open({ subject_token })).body).toMatchObject(refused)
  })
})

it.each(BOUNDED)('T40 a token of %s is tied as long as it lives', async provider => {
  const later = await ciHouse()
  try {
    const [one, two] = [await caller(later), await caller(later)]
    const subject_token = await ciToken(later, provider)
    await one.opened({ subject_token })
    await later.advance(280)
    await later.app.store.forget(1_000)
    expect((await two.open({ subject_token })).body).toMatchObject(refused)
    expect((await one.open({ subject_token })).status).toBe(201)
  } finally {
    await later.close()
  }
})

it('twin: a token of GitHub is made for each command, and is good once even for its own key', async () => {
  const subject_token = await ciToken(house, 'github')
  expect((await ci.open({ subject_token })).status).toBe(201)
  expect((await ci.open({ subject_token })).body).toMatchObject({ reason: 'replayed' })
})

it('a token of Buildkite that has a name is good once', async () => {
  const subject_token = await ciToken(house, 'buildkite', { jti: 'named' })
  expect((await ci.open({ subject_token })).status).toBe(201)
  expect((await ci.open({ subject_token })).body).toMatchObject({ reason: 'replayed' })
})

describe('at the command line', () => {
  let server: Server
  let runner: string
  const homes: string[] = []
  beforeAll(async () => {
    server = createServer(house.http)
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  })
  afterAll(() => {
    server?.closeAllConnections()
    server?.close()
  })
  beforeEach(() => {
    runner = home()
  })
  afterEach(() => {
    for (const dir of homes.splice(0)) rmSync(dir, { recursive: true, force: true })
  })

  function home(): string {
    const dir = mkdtempSync(join(tmpdir(), 'curfew-runner-'))
    homes.push(dir)
    return dir
  }
  const env = (HOME: string, more: Record<string, string>) => ({
    ...{ HOME, PATH: `${HOME}/bin:${process.env.PATH}`, CURFEW_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}` },
    ...more,
  })
  const gitlabJob = async (HOME: string) => env(HOME, { GITLAB_CI: 'true', CURFEW_ID_TOKEN: await ciToken(house, 'gitlab') })
  const token = (of: Record<string, string>) => typed(['token', 'demo/orders-bearer', '--ttl', '60s'], of)

  it('two commands of one job of GitLab come with one key; the last step completes both', async () => {
    const job = await gitlabJob(runner)
    const [one, two] = [await token(job), await token(job)]
    expect([one.exit, two.exit]).toEqual([0, 0])
    for (const { out } of [one, two]) expect((await introspect(house, out.trim(), 'legacy')).body.active).toBe(true)
    expect((await typed(['complete', '--mine', '--wait', '1s'], job)).err.match(/completed/g)).toHaveLength(2)
    for (const { out } of [one, two]) expect((await introspect(house, out.trim(), 'legacy')).body).toEqual({ active: false })
  })

  it('commands that start at once, as processes, share the key as well', async () => {
    if (!existsSync(ENTRY)) throw new Error('the command line is not compiled: npm run build')
    const job = await gitlabJob(runner)
    const run = () =>
      new Promise<[number | null, string]>(resolve => {
        const child = spawn(process.execPath, [ENTRY, 'token', 'demo/orders-bearer'], { env: job, stdio: ['ignore', 'ignore', 'pipe'] })
        let err = ''
        child.stderr.on('data', chunk => {
          err += chunk
        })
        child.once('close', code => resolve([code, err]))
      })
    expect(await Promise.all([run(), run(), run(), run()])).toEqual(Array(4).fill([0, '']))
  })

  it('two jobs on one runner: each with its own key, neither completes the other’s task, and what is left of a job opens nothing', async () => {
    const [a, b] = [await gitlabJob(runner), await gitlabJob(runner)]
    const [one, two] = [await token(a), await token(b)]
    expect([one.exit, two.exit]).toEqual([0, 0])
    expect((await typed(['complete', '--mine'], b)).exit).toBe(0)
    expect((await introspect(house, one.out.trim(), 'legacy')).body.active).toBe(true)
    expect((await introspect(house, two.out.trim(), 'legacy')).body).toEqual({ active: false })
    // A later job of the same user, without the token of the first.
    const later = env(runner, { GITLAB_CI: 'true' })
    expect((await typed(['complete'], later)).err).toContain('this user keeps no task')
    expect((await typed(['complete'], a)).exit).toBe(0)
    expect((await introspect(house, one.out.trim(), 'legacy')).body).toEqual({ active: false })
  })

  it('a token that was copied to another machine is refused there, in words that its user understands; whoami says why', async () => {
    const job = await gitlabJob(runner)
    expect((await token(job)).exit).toBe(0)
    const thief = { ...job, HOME: home() }
    const { exit, err } = await token(thief)
    expect(exit).toBe(3)
    expect(err).toMatch(/reason +second_key\n.*\n {2}try +GitLab gives a job one id token, which its first key binds/)
    expect((await typed(['whoami'], thief)).out).toContain('tied to another key: it was copied')
    expect((await typed(['whoami'], job)).out).toContain("tied to this job's key")
    expect((await token(job)).exit).toBe(0)
  })

  it.each([
    ['circleci', 'circleci', { CIRCLECI: 'true', CIRCLE_OIDC_TOKEN_V2: 'header.of-the-default.audience' }],
    ['buildkite', 'buildkite-agent', { BUILDKITE: 'true', BUILDKITE_JOB_ID: 'a-job', BUILDKITE_AGENT_ACCESS_TOKEN: 'an-agent' }],
  ] as const)('two commands of one job of %s in one second are shown the same token, and both are served', async (provider, name, variables) => {
    mkdirSync(join(runner, 'bin'))
    writeFileSync(join(runner, 'bin', name), `#!/bin/sh\necho '${await ciToken(house, provider)}'\n`)
    chmodSync(join(runner, 'bin', name), 0o755)
    const job = env(runner, variables)
    for (const { exit, err } of [await token(job), await token(job)]) expect({ exit, err }).toEqual({ exit: 0, err: '' })
    const { out } = await typed(['caps', '-o', 'name'], job)
    expect(out.split('\n')).toContain('demo/orders-ro')
    expect((await typed(['complete', '--mine'], job)).exit).toBe(0)
  })
})
