/** Evidence from a real SPIRE agent over its socket: found by the command line, believed by the broker, and said plainly when there is none. */
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { fetchJwtSvid } from '../../src/cli/evidence/workload-api.js'
import { isAbsent } from '../../src/dev/find.js'
import { until } from '../../src/dev/process.js'
import { type Spire, startSpire } from '../../src/dev/spire.js'
import { introspect } from '../caller.js'
import { type House, makeHouse, SERVER } from '../house.js'
import { typed } from '../unit/cli/desk.js'

const dir = mkdtempSync(join(tmpdir(), 'cf-wl-'))
const spire = await startSpire({ dir: join(dir, 'spire'), workloads: [] })
const absent = isAbsent(spire) ? spire.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

const RULES = `@id("mesh") permit (principal == Workload::"spiffe://example.org/ci/orders", action == Action::"issue", resource == Capability::"demo/orders-bearer")
when { context.issuer == "mesh" };`

describe.skipIf(absent !== null)(`a real SPIRE agent${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const { agentSocket, bundleFile, register, unregister, stopAgent } = spire as Spire
  const endpoint = `unix://${agentSocket}`
  const signal = () => AbortSignal.timeout(30_000)
  const claimsOf = (token: string) => JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString()) as { sub: string; aud: string | string[] }
  let entry: string
  let house: House
  let server: Server
  let home: string

  beforeAll(async () => {
    entry = await register('/ci/orders', process.getuid?.() ?? 0)
    const issuers = [
      { name: 'mesh', kind: 'spiffe', trustDomain: 'example.org', bundle: { file: bundleFile } },
      { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] },
      { name: 'github', enabled: false, kind: 'oidc', profile: 'github', issuer: 'https://token.actions.githubusercontent.com', pin: { repository_id: ['1'] } },
    ]
    house = await makeHouse({ policies: RULES, more: { issuers } })
    server = createServer(house.http)
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    home = mkdtempSync(join(tmpdir(), 'cf-wl-home-'))
    // "Healthy" does not mean that the agent has heard of an entry.
    await until(() => fetchJwtSvid(endpoint, SERVER, signal()).then(() => true), { what: 'a JWT-SVID', deadlineMs: 60_000, everyMs: 250, signal: signal() })
  }, 120_000)
  afterAll(async () => {
    server?.closeAllConnections()
    server?.close()
    await house?.close()
    if (!isAbsent(spire)) await spire.stop()
    for (const left of [dir, home]) if (left) rmSync(left, { recursive: true, force: true })
  })

  const type = (...argv: string[]) =>
    typed(argv, {
      HOME: home,
      PATH: process.env.PATH,
      CURFEW_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      SPIFFE_ENDPOINT_SOCKET: endpoint,
    })

  it('gives the JWT-SVID of this process for the audience that is asked for, be it as long as it likes', async () => {
    for (const audience of [SERVER, `https://curfew.example/${'a'.repeat(180)}`]) {
      const { sub, aud } = claimsOf(await fetchJwtSvid(endpoint, audience, signal()))
      expect([sub, [aud].flat()]).toEqual(['spiffe://example.org/ci/orders', [audience]])
    }
  })

  it('is evidence that is found by itself: whoami, caps, and a token that is live until it is completed', async () => {
    const me = await type('whoami', '--json')
    expect({ exit: me.exit, err: me.err }).toEqual({ exit: 0, err: '' })
    expect(JSON.parse(me.out)).toMatchObject({
      identity: 'spiffe://example.org/ci/orders',
      issuer: 'mesh',
      profile: 'spiffe',
      use: 'reusable',
      source: `SPIFFE Workload API ${endpoint}`,
    })
    expect((await type('caps', '-o', 'name')).out).toBe('demo/orders-bearer\n')
    const { exit, out } = await type('token', 'demo/orders-bearer', '--attestor', 'spiffe')
    expect(exit).toBe(0)
    expect((await introspect(house, out.trim(), 'legacy')).body.active).toBe(true)
    expect((await type('complete')).exit).toBe(0)
    expect((await introspect(house, out.trim(), 'legacy')).body).toEqual({ active: false })
  })

  it('that knows this process no more says so, and the answer is to register it', async () => {
    await unregister(entry)
    let told = await type('whoami')
    await until(
      async () => {
        told = await type('whoami')
        return told.exit !== 0
      },
      { what: 'an agent that has heard of it', deadlineMs: 60_000, everyMs: 500, signal: AbortSignal.timeout(60_000) },
    )
    expect(told.exit).toBe(3)
    expect(told.err).toMatch(/has no identity for this process\n {2}try +register it: spire-server entry create/)
  }, 90_000)

  it('that is gone is told as that', async () => {
    await stopAgent()
    const { exit, err } = await type('whoami')
    expect(exit).toBe(3)
    expect(err).toContain(`no SPIFFE agent answers at ${endpoint}`)
  })
})
