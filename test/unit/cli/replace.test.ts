/** `curfew run --on-replace` as a real process: a command outlives its credentials, and is never lost over a refusal. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { deliver } from '../../../src/cli/deliver.js'
import { replaceAfter } from '../../../src/cli/replace.js'
import { type Desk, desk, type Started, until } from './desk.js'
import type { FakeCredential, Seen } from './fake-broker.js'

let at: Desk
let secrets: string[]
beforeEach(async () => {
  at = await desk()
  secrets = []
  at.broker.secretOf = (credential, secret) => {
    const own = `canary-of-${credential.id}`
    secrets.push(own)
    return 'PGPASSWORD' in secret ? { ...secret, PGPASSWORD: own } : 'certificate' in secret ? { certificate: own } : { token: own }
  }
})
afterEach(async () => {
  for (const started of running) {
    for (const { pid } of lives(started)) stop(pid)
    for (const secret of secrets) expect(started.err()).not.toContain(secret)
    for (const canary of at.canaries) expect(started.err()).not.toContain(canary)
  }
  running = []
  await at.close()
})

const NODE = process.execPath
const LONG = 20_000
let running: Started[] = []
function run(flags: readonly string[], script: string, env: Record<string, string> = {}): Started {
  const started = at.start(['run', ...flags, '--grace', '1s', '--id-token-file', at.evidenceFile, '--', NODE, '-e', script], env)
  running.push(started)
  return started
}
/** A process of ours that may be gone already. */
function stop(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {}
}
/** A child that tells what it holds, and what it is sent, and stays. */
const STAYS = (more = '', signals: readonly string[] = []) =>
  `${signals.map(s => `process.on('${s}', () => console.log('got ${s}'))`).join(';')};${more};
   console.log('LIFE', process.pid, process.env.CURFEW_CREDENTIAL, process.env.PGPASSWORD ?? process.env.CURFEW_TOKEN);setInterval(() => {}, 1000)`
const lives = (started: Started) => [...started.out().matchAll(/^LIFE (\d+) (\S+) (\S+)$/gm)].map(([, pid, id, secret]) => ({ pid: Number(pid), id, secret }))
const task = () => [...at.broker.tasks.values()][0]
const credentials = () => [...at.broker.credentials.values()]
const is = (act: string) => (seen: Seen) => seen.method === 'POST' && seen.path.endsWith(`/${act}`)
const asked = () => at.broker.seen.filter(is('credentials'))
const second = (seen: Seen) => is('credentials')(seen) && at.broker.credentials.size > 0
const events = (started: Started) =>
  started
    .err()
    .trim()
    .split('\n')
    .filter(line => line.startsWith('{'))
    .map(line => JSON.parse(line) as Record<string, unknown>)

describe('when', () => {
  test('in the tenth of the life before two thirds of it; with jitter', () => {
    expect(replaceAfter(600_000, 10_000, () => 0)).toBe(400_000)
    expect(replaceAfter(600_000, 10_000, () => 1)).toBeCloseTo(340_000)
    expect(new Set(Array.from({ length: 20 }, () => replaceAfter(600_000, 10_000))).size).toBeGreaterThan(1)
  })

  test('a credential of a minute leaves its command more than half of it; one that lives less than three times the grace is left alone', () => {
    expect(replaceAfter(60_000, 10_000, () => 1)).toBeCloseTo(34_000)
    expect(replaceAfter(30_000, 10_000, () => 1)).toBeCloseTo(17_000)
    expect(replaceAfter(29_999, 10_000)).toBe(null)
    expect(replaceAfter(2_999, 0)).toBe(null)
    expect(replaceAfter(3_000, 0)).not.toBe(null)
  })

  test('one that is too short is told of at once, and the command has it to its end', async () => {
    const s = run(['db/orders-ro', '--ttl', '2s', '--on-replace', 'restart'], STAYS())
    await until(() => s.err().includes('has expired'), LONG)
    expect(s.err()).toContain('is not replaced: it lives 2 s, which is less than three times the --grace of 1 s')
    expect([asked().length, lives(s).length]).toEqual([1, 1])
  })

  test('none, which is the default: the warning comes with the next step', async () => {
    const s = run(['db/orders-ro', '--ttl', '1s'], STAYS())
    await until(() => s.err().includes('has expired'), LONG)
    expect(s.err()).toMatch(/^curfew: crd_\w+ has expired; the command goes on without db\/orders-ro; next time --on-replace restart, or a longer --ttl /m)
    expect(asked()).toHaveLength(1)
  })

  test('what would end with the task all the same is not asked for', async () => {
    const s = run(['db/orders-ro', '--ttl', '4s', '--task-life', '4s', '--on-replace', 'restart'], STAYS())
    await until(() => s.err().includes('has expired'), LONG)
    expect(s.err()).toMatch(/the command goes on without db\/orders-ro: its task is over, see --task-life$/m)
    expect([asked().length, lives(s).length]).toEqual([1, 1])
  })

  test.each(['signal', 'signal:SIGKILL', 'signal:TERM', 'always'])('--on-replace %s is a mistake, before anything is opened', async act => {
    const { exit, err } = await at.start(['run', 'db/orders-ro', '--on-replace', act, '--', 'true']).ended
    expect([exit, err.includes('signal:SIGHUP')]).toEqual([125, true])
    expect(at.broker.seen).toEqual([])
  })
})

describe('restart', () => {
  test('the next child has the next credential, the old one is given back at once, and the exit code is the last one’s', async () => {
    const s = run(['db/orders-ro', '--ttl', '4s', '--on-replace', 'restart', '--json'], STAYS("process.on('SIGUSR2', () => process.exit(7))"))
    await until(() => lives(s).length === 2, LONG)
    await until(() => events(s).some(e => e.event === 'replaced'))
    const [old, next] = credentials() as [FakeCredential, FakeCredential]
    expect(lives(s).map(l => [l.id, l.secret])).toEqual([
      [old.id, secrets[0]],
      [next.id, secrets[1]],
    ])
    expect([old.reason, next.state]).toEqual(['holder_revoked', 'active'])
    expect(events(s).filter(e => e.event === 'replaced')).toEqual([{ event: 'replaced', credentials: [next.id], expires_at: next.expires_at }])
    // Before its end, by far, and never while the next child was not granted anything.
    expect(Date.parse(old.revoking_at as string)).toBeLessThan(Date.parse(old.expires_at))
    expect(new Set(asked().map(a => a.headers['idempotency-key'])).size).toBe(2)
    process.kill(lives(s)[1]?.pid as number, 'SIGUSR2')
    expect((await s.ended).exit).toBe(7)
    expect([task()?.view.state, task()?.outcome]).toEqual(['completed', 'exit 7'])
  })

  test('several are replaced whole, in one request', async () => {
    const s = run(['db/orders-ro', 'demo/orders-bearer', '--ttl', '4s', '--on-replace', 'restart'], STAYS())
    await until(() => / replaced by /.test(s.err()), LONG)
    const [a, b, c, d] = credentials() as FakeCredential[]
    expect(s.err()).toContain(`${a?.id}, ${b?.id} replaced by ${c?.id}, ${d?.id}, until `)
    expect(asked().map(x => JSON.parse(x.text).capabilities.length)).toEqual([2, 2])
    expect([a?.reason, b?.reason, c?.state, d?.state]).toEqual(['holder_revoked', 'holder_revoked', 'active', 'active'])
  })

  test('files are new with the child, and those of the last one are gone', async () => {
    at.broker.offers.set('tls/orders', { secret: { certificate: 'C' }, revocation: 'backend', bound: false })
    const runtime = join(at.home, 'runtime')
    mkdirSync(runtime)
    const script = STAYS("console.log('FILE', process.env.CURFEW_CERTIFICATE_FILE, require('fs').readFileSync(process.env.CURFEW_CERTIFICATE_FILE, 'utf8'))")
    const s = run(['tls/orders', '--ttl', '4s', '--on-replace', 'restart'], script, { XDG_RUNTIME_DIR: runtime })
    const files = () => [...s.out().matchAll(/^FILE (\S+) (\S+)$/gm)].map(m => [m[1], m[2]] as const)
    await until(() => / replaced by /.test(s.err()) && files().length === 2, LONG)
    expect(files().map(f => f[1])).toEqual(secrets)
    expect(files().map(f => existsSync(f[0] as string))).toEqual([false, true])
    stop(lives(s)[1]?.pid as number)
    await s.ended
    expect(readdirSync(runtime)).toEqual([])
  })

  test('a child that ignores SIGTERM is killed after the grace, and started again', async () => {
    const s = run(['db/orders-ro', '--ttl', '4s', '--on-replace', 'restart'], STAYS('', ['SIGTERM']))
    await until(() => lives(s).length === 2, LONG)
    expect(s.out().match(/got SIGTERM/g)).toHaveLength(1)
  })

  test('evidence that has grown too old meanwhile is shown anew, and only then', async () => {
    const stale = { code: 'attestation_stale', detail: 'too old', reason: 'evidence_stale', agent_action: 'retry' }
    at.broker.faults.push({ when: seen => second(seen) && !seen.text.includes('subject_token'), times: 1, status: 401, body: stale })
    const s = run(['db/orders-ro', '--ttl', '4s', '--on-replace', 'restart'], STAYS())
    await until(() => lives(s).length === 2, LONG)
    expect(asked().map(a => 'subject_token' in JSON.parse(a.text))).toEqual([false, false, true])
    expect(s.err()).not.toContain('is not replaced')
  })

  test('a child that ends by itself while the next credential is made is not started again, and nothing is left', async () => {
    const s = run(['db/orders-ro', '--ttl', '4s', '--on-replace', 'restart'], STAYS("process.on('SIGUSR2', () => process.exit(3))"))
    await until(() => lives(s).length === 1, LONG)
    const later = { code: 'unavailable', detail: 'later', agent_action: 'retry', retry_after: 1 }
    at.broker.faults.push({ when: second, times: 99, status: 503, body: later, headers: { 'Retry-After': '1' } })
    await until(() => asked().length > 1, LONG)
    process.kill(lives(s)[0]?.pid as number, 'SIGUSR2')
    expect((await s.ended).exit).toBe(3)
    expect([lives(s).length, task()?.view.state, credentials().map(c => c.state)]).toEqual([1, 'completed', ['revoked']])
  })

  test.each([
    ['once', 1],
    ['twice', 2],
  ])('told to stop %s while the old child is being ended: no other is started, the task is completed', async (_, times) => {
    const s = run(
      ['db/orders-ro', '--ttl', '9s', '--on-replace', 'restart', '--grace', '3s'],
      STAYS("process.on('SIGINT', () => setTimeout(() => process.exit(0), 500))", ['SIGTERM', 'SIGINT']),
    )
    await until(() => s.out().includes('got SIGTERM'), LONG)
    for (let i = 0; i < times; i++) {
      process.kill(s.pid, 'SIGINT')
      await until(() => s.out().includes('got SIGINT'))
    }
    expect((await s.ended).exit).toBe(130)
    expect(lives(s)).toHaveLength(1)
    await until(() => credentials().every(c => c.state === 'revoked'))
    expect([task()?.view.state, credentials().length]).toEqual(['completed', 2])
  })

  test.each([
    ['kill', 1],
    ['signal', 1],
    ['warn', 2],
  ])('the task is ended while the old child is being ended, --on-revoke %s', async (onRevoke, children) => {
    const s = run(
      ['db/orders-ro', '--ttl', '9s', '--on-replace', 'restart', '--grace', '3s', '--heartbeat', '1s', '--on-revoke', onRevoke],
      STAYS('', ['SIGTERM']),
    )
    await until(() => s.out().includes('got SIGTERM'), LONG)
    at.broker.revokeTask(task()?.view.id as string, 'risk_signal')
    await until(() => s.err().includes('the task was ended (risk_signal)'), LONG)
    if (onRevoke === 'warn') {
      await until(() => lives(s).length === 2)
      stop(lives(s)[1]?.pid as number)
    }
    expect((await s.ended).exit).toBe(137)
    expect(lives(s)).toHaveLength(children)
    expect(task()?.view.state).toBe('revoked')
  })
})

describe('signal', () => {
  const READS = `const fs = require('fs'), cp = require('child_process')
    const show = () => console.log('FILE', fs.readFileSync(process.env.CURFEW_CERTIFICATE_FILE, 'utf8'), (fs.statSync(process.env.CURFEW_ENV_FILE).mode & 0o777).toString(8),
      cp.execFileSync('/bin/sh', ['-c', '. "$CURFEW_ENV_FILE"; echo "$CURFEW_CREDENTIAL $PGPASSWORD $CURFEW_TASK"'], { encoding: 'utf8' }).trim())
    show(); process.on('SIGHUP', show)`

  test('the files and the file env are rewritten, then the child is told; the old ones are left to their end', async () => {
    at.broker.offers.set('tls/orders', { secret: { certificate: 'C' }, revocation: 'backend', bound: false })
    const s = run(['db/orders-ro', 'tls/orders', '--ttl', '4s', '--on-replace', 'signal:SIGHUP', '--json'], STAYS(READS))
    const shown = () => [...s.out().matchAll(/^FILE (.*)$/gm)].map(m => m[1]?.split(' '))
    await until(() => shown().length === 2, LONG)
    const [a, , b] = credentials() as FakeCredential[]
    const id = task()?.view.id
    expect(shown()).toEqual([
      [secrets[1], '600', a?.id, secrets[0], id],
      [secrets[3], '600', b?.id, secrets[2], id],
    ])
    expect(lives(s)).toHaveLength(1)
    expect(a?.state).toBe('active')
    expect(at.broker.seen.some(seen => seen.method === 'DELETE')).toBe(false)
    expect(events(s).find(e => e.event === 'replaced')).toMatchObject({
      credentials: credentials()
        .slice(2, 4)
        .map(c => c.id),
    })
    stop(lives(s)[0]?.pid as number)
    await s.ended
    expect(credentials().map(c => c.state)).not.toContain('active')
  })

  test('what a shell would obey stays text; a name that no shell has is refused', () => {
    const held = { task: { id: 'tsk_1' }, token: 't', key: {} } as never
    const issued = (secret: Record<string, string>) => [{ credential: { id: 'crd_1', capability: 'a' }, secret, tokenType: null }] as never
    const hostile = `x'; touch /tmp/never; '$(id)\`id\`\n"\\`
    const { env, remove } = deliver({ XDG_RUNTIME_DIR: at.home }, held, issued({ VALUE: hostile }), { proofKey: false, envFile: true })
    const { stdout } = spawnSync('/bin/sh', ['-c', '. "$1"; printf %s "$VALUE"', 'sh', env.CURFEW_ENV_FILE as string], { encoding: 'utf8' })
    expect(stdout).toBe(hostile)
    remove()
    expect(() => deliver({ XDG_RUNTIME_DIR: at.home }, held, issued({ 'A B': '1' }), { proofKey: false, envFile: true })).toThrow('would set "A B"')
    expect(readdirSync(at.home)).toEqual(['svid.jwt'])
  })
})

describe('a refused replacement', () => {
  test.each([
    ['denied', 403, { code: 'policy_denied', detail: 'no rule permits it', reason: 'no_permit', agent_action: 'request_access' }],
    ['quarantined', 403, { code: 'policy_denied', detail: 'the workload is quarantined', reason: 'quarantined', agent_action: 'request_access' }],
  ])('%s: told once with its reason, not tried again, and the child lives on past the end', async (_, status, body) => {
    at.broker.faults.push({ when: second, times: 99, status, body })
    const s = run(['db/orders-ro', '--ttl', '4s', '--on-replace', 'restart'], STAYS())
    await until(() => s.err().includes('has expired; the command goes on without db/orders-ro'), LONG)
    expect(s.err().match(/is not replaced/g)).toHaveLength(1)
    expect(s.err()).toMatch(
      new RegExp(`^curfew: crd_\\w+ is not replaced \\(policy_denied, ${body.reason}: ${body.detail}\\); the command has it until it ends at `, 'm'),
    )
    expect([asked().length, lives(s).length, s.child.exitCode]).toEqual([2, 1, null])
  })

  test('429: tried again while the old one lives, told once, and then replaced', async () => {
    const body = { code: 'rate_limited', detail: 'too many', agent_action: 'retry', retry_after: 1 }
    at.broker.faults.push({ when: second, times: 6, status: 429, body })
    const s = run(['db/orders-ro', '--ttl', '12s', '--on-replace', 'restart'], STAYS())
    await until(() => lives(s).length === 2, LONG)
    expect(s.err().match(/is not replaced \(rate_limited: too many\); asked again until it ends at /g)).toHaveLength(1)
    expect(s.err()).not.toContain('has expired')
  })

  test('the broker is away: the child has what it has, and is told when it has run out', async () => {
    const s = run(['db/orders-ro', '--ttl', '4s', '--on-replace', 'signal:USR1'], STAYS('', ['SIGUSR1']))
    await until(() => lives(s).length === 1, LONG)
    at.broker.faults.push({ when: () => true, times: 999, drop: 'before' })
    await until(() => s.err().includes('has expired'), LONG)
    expect(s.err().match(/is not replaced \(unreachable: /g)?.length ?? 0).toBeLessThanOrEqual(1)
    expect([s.child.exitCode, s.out().includes('got SIGUSR1')]).toEqual([null, false])
  })

  test('the task was ended meanwhile: --on-revoke says what happens, and nothing else is told', async () => {
    const s = run(['db/orders-ro', '--ttl', '4s', '--on-replace', 'restart', '--heartbeat', '5s', '--on-revoke', 'kill'], STAYS())
    await until(() => lives(s).length === 1, LONG)
    at.broker.revokeTask(task()?.view.id as string, 'risk_signal')
    expect((await s.ended).exit).toBe(143)
    expect(s.err()).toContain('the task was ended (risk_signal)')
    expect(s.err()).not.toMatch(/is not replaced|has expired/)
    expect([asked().length, lives(s).length]).toEqual([2, 1])
  })
})
