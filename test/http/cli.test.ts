/** The command line over the real server: the same commands as in test/unit/cli, with nothing in between faked. */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { registeredAttestor } from '../../src/attestors/registered.js'
import { findEvidence } from '../../src/cli/evidence/find.js'
import { createOutbound } from '../../src/clients/outbound.js'
import type { TaskId } from '../../src/domain/ids.js'
import { newKeyPair } from '../../src/domain/key-pair.js'
import { introspect } from '../caller.js'
import { EDR_SECRET, type House, LEGACY, makeHouse, SERVER } from '../house.js'
import { ENTRY, typed, until } from '../unit/cli/desk.js'

let house: House
let server: Server
let home: string
let env: Record<string, string>
/** Ends what was revoked, as a worker would. */
let worker: NodeJS.Timeout
let working = true
let responder: string

/** One house for all: what one test leaves behind is ended before the next. */
beforeAll(async () => {
  house = await makeHouse()
  server = createServer(house.http)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  responder = await house.operator('responder')
})
afterAll(async () => {
  server.closeAllConnections()
  await new Promise(resolve => server.close(resolve))
  await house.close()
})

beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), 'curfew-cli-'))
  env = { HOME: home, PATH: process.env.PATH ?? '', CURFEW_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, CURFEW_OPERATOR_TOKEN: responder }
  for (const task of await house.app.store.tasks.list({ state: 'open', limit: 100 })) {
    await house.app.broker.revoke({ kind: 'task', key: task.id }, 'requested', { actor: { kind: 'operator', id: 'test' } })
  }
  await house.work()
  working = true
  let busy = false
  worker = setInterval(async () => {
    if (busy || !working) return
    busy = true
    await house.work().catch(() => {})
    busy = false
  }, 50)
})
afterEach(() => {
  clearInterval(worker)
  rmSync(home, { recursive: true, force: true })
})

const type = (...argv: string[]) => typed(argv, env)

/** Evidence in a file, as an agent or a runner leaves it. */
async function evidence(claims: Record<string, unknown> = {}): Promise<string[]> {
  const path = join(home, 'svid.jwt')
  writeFileSync(path, await house.evidence(claims))
  return ['--id-token-file', path]
}

async function typeRun(flags: string[], script: string) {
  if (!existsSync(ENTRY)) throw new Error('the command line is not compiled: npm run build')
  const child = spawn(process.execPath, [ENTRY, 'run', ...flags, '--', process.execPath, '-e', script], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let out = ''
  let err = ''
  child.stdout.on('data', chunk => {
    out += chunk
  })
  child.stderr.on('data', chunk => {
    err += chunk
  })
  const ended = new Promise<number | null>(resolve => child.once('close', resolve))
  return { pid: child.pid as number, out: () => out, err: () => err, ended }
}

describe('token, why, complete', () => {
  test('T=$(curfew token demo/orders-bearer --ttl 20s) is live until it is completed', async () => {
    const { exit, out, err } = await type('token', 'demo/orders-bearer', '--ttl', '20s', ...(await evidence()))
    expect({ exit, err }).toEqual({ exit: 0, err: '' })
    const token = out.trim()
    expect((await introspect(house, token, 'legacy')).body).toMatchObject({ active: true, token_type: 'Bearer' })
    const done = await type('complete', '--wait', '5s')
    expect(done.exit).toBe(0)
    expect(done.err).toMatch(/completed: refused at once, confirmed dead in /)
    expect((await introspect(house, token, 'legacy')).body).toEqual({ active: false })
  })

  test('the token endpoint answers the same, with --resource', async () => {
    const { exit, out } = await type('token', 'demo/orders-bearer', '--resource', LEGACY, '--ttl', '20s', ...(await evidence()))
    expect(exit).toBe(0)
    expect((await introspect(house, out.trim(), 'legacy')).body).toMatchObject({ active: true })
    expect((await type('complete', '--mine')).exit).toBe(0)
    expect((await introspect(house, out.trim(), 'legacy')).body).toEqual({ active: false })
  })

  test('a denial: exit 4, with a decision that an operator can open', async () => {
    const flags = await evidence({ ref: 'refs/pull/88/merge' })
    const why = await type('why', 'demo/orders-ro', ...flags)
    expect(why.exit).toBe(4)
    expect(why.out).toContain('ci-orders-main')
    const { exit, err } = await type('token', 'demo/orders-ro', ...flags)
    expect(exit).toBe(4)
    expect(err).toContain('error[policy_denied] no rule permits this workload to use demo/orders-ro')
    expect(err).toContain('you are        github:repository_id=456789')
    const decision = /decision +(dec_\w+)/.exec(err)?.[1] as string
    const shown = await type('show', decision, '--json')
    expect(JSON.parse(shown.out)).toMatchObject({ decision: { id: decision, allowed: false } })
  })

  test('evidence that was used is refused: exit 3; why uses none up', async () => {
    const flags = await evidence()
    expect((await type('why', 'demo/orders-bearer', ...flags)).exit).toBe(0)
    expect((await type('token', 'demo/orders-bearer', ...flags)).exit).toBe(0)
    const again = await type('token', 'demo/orders-bearer', ...flags)
    expect(again.exit).toBe(3)
    expect(again.err).toContain('replayed')
  })

  test('an unknown capability is exit 6, an unknown issuer exit 3', async () => {
    expect((await type('token', 'demo/none', ...(await evidence()))).exit).toBe(6)
    expect((await type('token', 'demo/orders-bearer', ...(await evidence({ iss: 'https://other.example' })))).exit).toBe(3)
  })
})

describe('run', () => {
  test('a database user lives as long as the command', async () => {
    const t = await typeRun(
      ['demo/orders-db', ...(await evidence())],
      'console.log(process.env.PGUSER, process.env.PGPASSWORD.length > 8, process.env.CURFEW_TASK)',
    )
    expect(await t.ended).toBe(0)
    const [user, password, task] = t.out().trim().split(' ')
    expect(user).toMatch(/\S/)
    expect(password).toBe('true')
    expect(t.err()).toMatch(
      /^crd_\w+, demo\/orders-db, 5m, task tsk_\w+, revocation: backend\ntask completed after \d+ s: refused at once, confirmed dead in [\d.]+ m?s, (5m|4m\d+s) of life not used\n$/,
    )
    expect(await house.app.store.tasks.get(task as TaskId)).toMatchObject({ state: 'completed', endReason: 'completed' })
  })

  test('several capabilities come as one bundle: the command has all of them, or it is not started and none is left', async () => {
    const script = 'console.log(process.env.PGUSER, process.env.PGUSER_DEMO_ORDERS_DB, process.env.CURFEW_TOKEN, process.env.CURFEW_TASK)'
    const t = await typeRun(['demo/orders-db', 'demo/orders-bearer', ...(await evidence())], script)
    expect(await t.ended).toBe(0)
    const [user, again, token, task] = t.out().trim().split(' ') as [string, string, string, string]
    expect(again).toBe(user)
    expect(t.err()).toMatch(/^crd_\w+, demo\/orders-db, .*\ncrd_\w+, demo\/orders-bearer, .*\ntask completed after/)
    expect((await introspect(house, token, 'legacy')).body).toEqual({ active: false })
    const made = (await house.app.store.credentials.list({ task: task as TaskId, limit: 9 })).map(c => [c.state, c.reason])
    expect(made).toEqual([
      ['revoked', 'completed'],
      ['revoked', 'completed'],
    ])

    house.database.breakStep('mint', 'throw')
    const failed = await typeRun(['demo/orders-bearer', 'demo/orders-db', '--json', ...(await evidence())], 'console.log("started")')
    // The command line tries a sick backend again, each time under the same Idempotency-Key.
    const exit = await failed.ended
    house.database.mend()
    expect({ exit, out: failed.out() }).toEqual({ exit: 125, out: '' })
    const told = failed
      .err()
      .trim()
      .split('\n')
      .map(line => JSON.parse(line))
    expect(told.at(-1)).toMatchObject({ code: 'engine_failed', field: 'capabilities.1', capability: 'demo/orders-db' })
    const left = (await house.app.store.credentials.list({ limit: 30 })).filter(c => c.reason === 'issuance_failed').map(c => c.state)
    expect(left).toHaveLength(10)
    expect(left).not.toContain('active')
  })

  test('a command outlives its credentials: those of the first child are refused as soon as the next has its own', async () => {
    const flags = ['demo/orders-db', 'demo/orders-bearer', '--ttl', '6s', '--grace', '1s', '--on-replace', 'restart', ...(await evidence())]
    const t = await typeRun(flags, "console.log('READY', process.pid, process.env.CURFEW_TOKEN, process.env.CURFEW_TASK);setInterval(() => {}, 1000)")
    const children = () => [...t.out().matchAll(/READY (\d+) (\S+) (\S+)/g)].map(([, pid, token, task]) => ({ pid: Number(pid), token: token as string, task }))
    await until(() => t.err().includes(' replaced by ') && children().length === 2, 15_000)
    const [old, next] = children() as [ReturnType<typeof children>[0], ReturnType<typeof children>[0]]
    expect((await introspect(house, old.token, 'legacy')).body).toEqual({ active: false })
    expect((await introspect(house, next.token, 'legacy')).body).toMatchObject({ active: true })
    process.kill(next.pid, 'SIGTERM')
    expect(await t.ended).toBe(143)
    expect((await introspect(house, next.token, 'legacy')).body).toEqual({ active: false })
    const made = await house.app.store.credentials.list({ task: old.task as TaskId, limit: 9 })
    expect(made.map(c => c.reason).sort()).toEqual(['completed', 'completed', 'holder_revoked', 'holder_revoked'])
    expect(made.every(c => c.state === 'revoked' && c.expiresAt > (c.revokingAt as Date))).toBe(true)
  })

  test('a quarantine in between: no other credential, the command is not touched', async () => {
    const flags = ['demo/orders-bearer', '--ttl', '5s', '--grace', '1s', '--on-replace', 'restart', ...(await evidence())]
    const t = await typeRun(flags, "console.log('READY', process.pid);setInterval(() => {}, 1000)")
    await until(() => t.out().includes('READY'), 15_000)
    const set = await type('quarantine', '--identity', 'github:repository_id=456789', '--ttl', '1m', '--message', 'ask the desk', '-o', 'name')
    expect(set.exit).toBe(0)
    await until(() => t.err().includes('has expired'), 15_000)
    expect(t.err()).toMatch(/is not replaced \(policy_denied, quarantined: [^\n]*; the command has it until it ends at /)
    expect(t.out().match(/READY/g)).toHaveLength(1)
    process.kill(Number(/READY (\d+)/.exec(t.out())?.[1]), 'SIGKILL')
    expect(await t.ended).toBe(137)
    expect((await type('quarantine', 'lift', set.out.trim(), '--reason', 'over')).exit).toBe(0)
  })

  test('a risk signal ends the command', async () => {
    const t = await typeRun(
      ['demo/orders-db', '--heartbeat', '1s', ...(await evidence())],
      "console.log('READY', process.env.CURFEW_TASK);setInterval(() => {}, 1000)",
    )
    while (!t.out().includes('READY')) await new Promise(resolve => setTimeout(resolve, 20))
    const task = /READY (tsk_\w+)/.exec(t.out())?.[1] as string
    env.CURFEW_SIGNAL_SECRET = EDR_SECRET
    const sent = await type('signal', 'send', '--source', 'edr', '--type', 'device.lost', '--severity', 'high', '--task', task)
    expect(sent.exit).toBe(0)
    expect(sent.out).toMatch(/rule +high-revokes/)
    expect(await t.ended).toBe(143)
    expect(t.err()).toContain('the task was ended (risk_signal)')
    expect(t.err()).toMatch(/task revoked after \d+ s: confirmed dead before/)
  })
})

describe('respond', () => {
  test('list, show, revoke: dead means seen dead', async () => {
    const made = await type('token', 'demo/orders-bearer', '--json', ...(await evidence()))
    const { credential, task, token } = JSON.parse(made.out) as { credential: string; task: string; token: string }
    expect((await type('list', '--state', 'live', '-o', 'name')).out).toBe(`${credential}\n`)
    expect((await type('list', '--task', task, '--capability', 'demo/orders-bearer', '--identity', 'github:repository_id=456789', '-o', 'name')).out).toBe(
      `${credential}\n`,
    )
    expect((await type('show', credential)).out).toMatch(/state +active/)
    const revoked = await type('revoke', '--task', task, '--reason', 'INC-204')
    expect(revoked).toMatchObject({ exit: 0, out: 'confirmed dead 1/1, 1 task ended\n' })
    expect((await introspect(house, token, 'legacy')).body).toEqual({ active: false })
    const id = /rev_\w+/.exec(revoked.err)?.[0] as string
    expect((await type('show', id)).out).toMatch(/message +INC-204/)
    expect((await type('list', '--task', task, '--state', 'revoked')).out).toContain('requested')
    const late = await type('complete')
    expect(late).toMatchObject({ exit: 0, err: expect.stringMatching(/^task tsk_\w+ revoked: confirmed dead before\n$/) })
  })

  test('what no worker has ended yet is not called dead: exit 10', async () => {
    const made = await type('token', 'demo/orders-bearer', '--json', ...(await evidence()))
    working = false
    const { task } = JSON.parse(made.out) as { task: string }
    const { exit, out } = await type('revoke', '--task', task, '--reason', 'r', '--wait', '1s')
    expect(exit).toBe(10)
    expect(out).toMatch(/^confirmed dead 0\/1, 1 task ended, crd_\w+ revoking\n$/)
  })

  test('an auditor may look and not act: exit 4; a stranger is exit 3', async () => {
    env.CURFEW_OPERATOR_TOKEN = await house.operator('auditor')
    expect((await type('list')).exit).toBe(0)
    expect((await type('revoke', '--identity', 'x:y', '--reason', 'r', '--now')).exit).toBe(4)
    const { newOperatorToken } = await import('../../src/domain/operator-token.js')
    env.CURFEW_OPERATOR_TOKEN = newOperatorToken().reveal().token as string
    expect((await type('list')).exit).toBe(3)
  })

  test('a registered agent states itself as the attestor wants it; with another key it is nobody', async () => {
    const { privateKey, publicKey } = await newKeyPair('ec', { namedCurve: 'P-256' })
    const path = join(home, 'agent.key')
    writeFileSync(path, JSON.stringify(privateKey.export({ format: 'jwk' })), { mode: 0o600 })
    const attestor = await registeredAttestor(
      [
        {
          name: 'agents',
          kind: 'registered',
          maxTtlSeconds: 900,
          owner: null,
          enabled: true,
          maxLifeSeconds: 300,
          agents: [{ name: 'reporter', owner: '@data', key: { jwk: publicKey.export({ format: 'jwk' }) as Record<string, unknown> }, labels: {} }],
        },
      ],
      { serverUrl: SERVER, clock: house.app.store.clock, outbound: createOutbound(), readFile: async () => '', log: house.app.log },
    )
    const token = await findEvidence({ agent: 'agents/reporter', agentKey: path }, { env: {} }).fresh(SERVER, AbortSignal.timeout(1_000))
    expect(await attestor.attest({ type: 'jwt', token }, AbortSignal.timeout(1_000))).toMatchObject({ identity: 'agents:agent=reporter', replay: 'single_use' })

    const { exit, err } = await type('why', 'demo/orders-ro', '--agent', 'agents/reporter', '--agent-key', path)
    expect(exit).toBe(3)
    expect(err).toContain('signature_invalid')
    expect((await type('why', 'demo/orders-ro', '--agent', 'agents/nobody', '--agent-key', path)).err).toContain('issuer_unknown')
  })

  test('all of an identity, including what is closed behind the cut-off', async () => {
    for (let i = 0; i < 3; i++) await type('token', 'demo/orders-bearer', ...(await evidence()))
    const sweeping = setInterval(() => void house.sweep().catch(() => {}), 200)
    try {
      const { exit, out } = await type('revoke', '--identity', 'github:repository_id=456789', '--reason', 'INC-205', '--now', '--wait', '15s')
      expect({ exit, out }).toMatchObject({ exit: 0, out: expect.stringMatching(/^confirmed dead 3\/3/) })
    } finally {
      clearInterval(sweeping)
    }
  })
})
