/** `curfew run` as a real process: hand-over, heartbeats, every way to end, and the matrix of signals. */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { deliver, refuseCollisions, suffixOf } from '../../../src/cli/deliver.js'
import { findEvidence } from '../../../src/cli/evidence/find.js'
import { type Desk, desk, ENTRY, type Started, until } from './desk.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
})
afterEach(() => at.close())

const NODE = process.execPath
const run = (flags: readonly string[], script: string, env: Record<string, string> = {}): Started =>
  at.start(['run', ...flags, '--id-token-file', at.evidenceFile, '--', NODE, '-e', script], env)
const tasks = () => [...at.broker.tasks.values()]
const states = () => tasks().map(t => t.view.state)
/** A child that says READY, notes what it is sent, and stays. */
const STAYS = (...ignored: string[]) =>
  `${ignored.map(s => `process.on('${s}', () => console.log('got ${s}'))`).join(';')};console.log('READY', process.pid);setInterval(() => {}, 1000)`
const ready = (started: Started) => until(() => started.out().includes('READY'), 15_000)
const childPid = (started: Started) => Number(/READY (\d+)/.exec(started.out())?.[1])

describe('hand-over', () => {
  test('a database user arrives as PG* variables, once, and what libpq would mix in is gone', async () => {
    const script = 'console.log(JSON.stringify(Object.fromEntries(Object.entries(process.env).filter(([k]) => /^(PG|CURFEW_(TASK|CRED))/.test(k)))))'
    const { exit, out, err } = await run(['db/orders-ro', '--ttl', '15m'], script, {
      PGHOSTADDR: '10.0.0.1',
      PGSERVICE: 'other',
      PGPASSFILE: '/x',
      PGCONNECT_TIMEOUT: '3',
    }).ended
    expect(exit).toBe(0)
    const secret = at.broker.offers.get('db/orders-ro')?.secret as Record<string, string>
    const [task] = tasks()
    const [credential] = [...at.broker.credentials.values()]
    const suffixed = Object.fromEntries(Object.entries(secret).map(([k, v]) => [`${k}_DB_ORDERS_RO`, v]))
    expect(JSON.parse(out)).toEqual({
      ...secret,
      ...suffixed,
      PGCONNECT_TIMEOUT: '3',
      CURFEW_TASK: task?.view.id,
      CURFEW_CREDENTIAL: credential?.id,
      CURFEW_CREDENTIAL_DB_ORDERS_RO: credential?.id,
    })
    expect(err.split('\n')).toEqual([
      `${credential?.id}, db/orders-ro, 15m, task ${task?.view.id}, revocation: backend`,
      expect.stringMatching(/^task completed after \d s: refused at once, confirmed dead in (\d+ ms|\d\.\d s), (15m|14m\d\ds) of life not used$/),
      '',
    ])
    expect(task?.outcome).toBe('exit 0')
    expect(task?.view.heartbeat_seconds).toBe(15)
  })

  test('tokens arrive as CURFEW_TOKEN, each also under its own name', async () => {
    const script =
      'console.log([process.env.CURFEW_TOKEN, process.env.CURFEW_TOKEN_DEMO_ORDERS_BEARER, process.env.CURFEW_TOKEN_DEMO_LEGACY, process.env.PGUSER, process.env.CURFEW_PROOF_KEY].join())'
    const { out } = await run(['demo/orders-bearer', 'demo/legacy', 'db/orders-ro', '-q'], script).ended
    const bearer = at.broker.offers.get('demo/orders-bearer')?.secret.token
    expect(out).toBe(`${bearer},${bearer},${at.broker.offers.get('demo/legacy')?.secret.token},curfew_crd-1,\n`)
  })

  test('the key of a bound token is handed over only when that is asked for', async () => {
    const script = 'console.log(Object.keys(JSON.parse(process.env.CURFEW_PROOF_KEY)).sort().join())'
    const without = await run(['demo/orders-ro'], 'console.log(process.env.CURFEW_PROOF_KEY)').ended
    expect(without.out).toBe('undefined\n')
    expect(without.err).toContain('--with-proof-key')
    expect((await run(['demo/orders-ro', '--with-proof-key'], script).ended).out).toBe('crv,d,kty,x,y\n')
  })

  test('what opened the task is not for the child', () => {
    const held = { task: { id: 'tsk_1' }, token: 't', key: { exportPrivate: () => ({}) } } as never
    const { env } = deliver({ A: '1', CURFEW_ID_TOKEN: 'x', CURFEW_OPERATOR_TOKEN: 'x', MINE: 'x', CURFEW_URL: 'u', PGHOST: 'kept' }, held, [], {
      evidence: { variables: ['MINE'], keep: false },
      proofKey: false,
    })
    expect(env).toEqual({ A: '1', CURFEW_URL: 'u', PGHOST: 'kept', CURFEW_TASK: 'tsk_1' })
  })

  test('nor is what more evidence is had by, unless the command is to have it; an operator’s token it never gets', async () => {
    const script = `console.log(['CURFEW_ID_TOKEN', 'CURFEW_OPERATOR_TOKEN', 'SYSTEM_ACCESSTOKEN'].map(name => name in process.env).join())`
    const token = await at.evidence()
    const around = { CURFEW_ID_TOKEN: token, CURFEW_OPERATOR_TOKEN: at.broker.operatorToken, SYSTEM_ACCESSTOKEN: 'of another provider' }
    const start = (...flags: string[]) => at.start(['run', 'demo/orders-bearer', ...flags, '--', NODE, '-e', script], around).ended
    expect(await start()).toMatchObject({ exit: 0, out: 'false,false,true\n' })
    expect(await start('--keep-evidence')).toMatchObject({ exit: 0, out: 'true,false,true\n' })
  })

  test.each([
    [
      'github',
      { ACTIONS_ID_TOKEN_REQUEST_URL: 'https://x', ACTIONS_ID_TOKEN_REQUEST_TOKEN: 't' },
      ['ACTIONS_ID_TOKEN_REQUEST_TOKEN', 'ACTIONS_ID_TOKEN_REQUEST_URL'],
    ],
    ['gitlab', { GITLAB_CI: 'true', CURFEW_ID_TOKEN: 't' }, ['CURFEW_ID_TOKEN']],
    ['buildkite', { BUILDKITE: 'true', BUILDKITE_JOB_ID: 'j', BUILDKITE_AGENT_ACCESS_TOKEN: 't' }, ['BUILDKITE_AGENT_ACCESS_TOKEN']],
    ['circleci', { CIRCLECI: 'true', CIRCLE_OIDC_TOKEN_V2: 't' }, []],
    ['azure', { TF_BUILD: 'True', SYSTEM_ACCESSTOKEN: 't', SYSTEM_OIDCREQUESTURI: 'https://x' }, ['SYSTEM_ACCESSTOKEN', 'SYSTEM_OIDCREQUESTURI']],
    ['bitbucket', { BITBUCKET_BUILD_NUMBER: '1', BITBUCKET_STEP_OIDC_TOKEN: 't' }, ['BITBUCKET_STEP_OIDC_TOKEN']],
    ['spiffe', { SPIFFE_ENDPOINT_SOCKET: 'unix:///x' }, []],
  ] as const)('of %s the child loses what is a variable, and no more', (attestor, env, variables) => {
    expect([...(findEvidence({ attestor }, { env }).variables ?? [])].sort()).toEqual(variables)
  })

  test('several are asked for in one request, and each is told of', async () => {
    const names = ['demo/orders-bearer', 'demo/legacy', 'db/orders-ro']
    const { exit, err } = await run([...names, '--ttl', '2m', '--json'], '').ended
    expect(exit).toBe(0)
    const asked = at.broker.seen.filter(s => s.path.endsWith('/credentials') && s.method === 'POST')
    expect(asked.map(s => JSON.parse(s.text))).toEqual([{ capabilities: names.map(capability => ({ capability, ttl_seconds: 120 })) }])
    const events = err
      .trim()
      .split('\n')
      .map(line => JSON.parse(line))
    const [one, two, three] = [...at.broker.credentials.values()]
    expect(events.filter(e => e.event === 'issued').map(e => [e.credential, e.capability])).toEqual([
      [one?.id, names[0]],
      [two?.id, names[1]],
      [three?.id, names[2]],
    ])
  })

  test('the plain names are of one credential, whole: never the user of one database and the host of another', () => {
    const held = { task: { id: 'tsk_1' }, token: 't', key: { exportPrivate: () => ({}) } } as never
    const issued = (capability: string, secret: Record<string, string>) =>
      ({ credential: { id: `crd_${capability}`, capability }, secret, tokenType: null }) as never
    const parts = [
      issued('db/a', { PGHOST: 'a', PGUSER: 'a' }),
      issued('db/b', { PGHOST: 'b', PGUSER: 'b', PGSSLMODE: 'require' }),
      issued('kv/c', { VAULT_TOKEN: 'c' }),
      issued('api/d', { token: 'd' }),
    ]
    const { env } = deliver({ PGSSLMODE: 'disable' }, held, parts, { proofKey: false })
    expect(env).toEqual({
      PGSSLMODE: 'disable',
      CURFEW_TASK: 'tsk_1',
      CURFEW_CREDENTIAL: 'crd_db/a',
      ...{ CURFEW_CREDENTIAL_DB_A: 'crd_db/a', CURFEW_CREDENTIAL_DB_B: 'crd_db/b', CURFEW_CREDENTIAL_KV_C: 'crd_kv/c', CURFEW_CREDENTIAL_API_D: 'crd_api/d' },
      ...{ PGHOST: 'a', PGUSER: 'a', PGHOST_DB_A: 'a', PGUSER_DB_A: 'a' },
      ...{ PGHOST_DB_B: 'b', PGUSER_DB_B: 'b', PGSSLMODE_DB_B: 'require' },
      ...{ VAULT_TOKEN: 'c', VAULT_TOKEN_KV_C: 'c' },
      ...{ CURFEW_TOKEN: 'd', CURFEW_TOKEN_API_D: 'd' },
    })
    // Two fields whose names meet once the capability stands behind them: refused, where one would hide the other.
    const meeting = [issued('x', { A_B: '1' }), issued('b/x', { A: '2' })]
    expect(() => deliver({}, held, meeting, { proofKey: false })).toThrow('A_B_X')
  })

  test('what is the content of a file arrives as one, for its owner alone, and is gone with the command', async () => {
    at.broker.offers.set('tls/orders', { secret: { certificate: 'CERT', private_key: 'KEY', ca_chain: 'CA' }, revocation: 'backend', bound: false })
    const script = `
      const fs = require('fs'), path = require('path')
      const files = Object.entries(process.env).filter(([k]) => /_FILE/.test(k)).map(([k, f]) => [k, f, fs.readFileSync(f, 'utf8'), (fs.statSync(f).mode & 0o777).toString(8), (fs.statSync(path.dirname(f)).mode & 0o777).toString(8)])
      console.log(JSON.stringify(files.sort()))`
    const runtime = join(at.home, 'runtime')
    mkdirSync(runtime)
    const { exit, out } = await run(['tls/orders'], script, { XDG_RUNTIME_DIR: runtime }).ended
    expect(exit).toBe(0)
    const files = JSON.parse(out) as [string, string, string, string, string][]
    const names = { CURFEW_CA_CHAIN_FILE: 'CA', CURFEW_CERTIFICATE_FILE: 'CERT', CURFEW_PRIVATE_KEY_FILE: 'KEY' }
    expect(files.map(([name, , content, mode, folder]) => [name, content, mode, folder])).toEqual(
      Object.entries(names).flatMap(([name, content]) => [name, `${name}_TLS_ORDERS`].map(n => [n, content, '600', '700'])),
    )
    for (const [, file] of files) {
      expect(file.startsWith(`${runtime}/curfew-run-`)).toBe(true)
      expect(existsSync(file)).toBe(false)
    }
    expect(readdirSync(runtime)).toEqual([])
  })

  test.each(['SIGTERM', 'SIGINT'] as const)('the files are gone after %s as well, and after a command that cannot be started', async signal => {
    at.broker.offers.set('tls/orders', { secret: { certificate: 'CERT' }, revocation: 'backend', bound: false })
    const runtime = join(at.home, 'runtime')
    mkdirSync(runtime)
    const started = run(['tls/orders'], STAYS(), { XDG_RUNTIME_DIR: runtime })
    await ready(started)
    expect(readdirSync(runtime)).toHaveLength(1)
    process.kill(started.pid, signal)
    await started.ended
    await at.start(['run', 'tls/orders', '--id-token-file', at.evidenceFile, '--', 'no-such-command-anywhere'], { XDG_RUNTIME_DIR: runtime }).ended
    expect(readdirSync(runtime)).toEqual([])
  })

  test('where SSH certifies a key, one is made for the command; its private half goes to nobody else', async () => {
    at.broker.offers.set('ssh/deploy', { secret: { ssh_certificate: 'CERT' }, revocation: 'expiry-only', bound: false, params: { public_key: 'required' } })
    const script = `const fs = require('fs'); const f = process.env.CURFEW_SSH_KEY_FILE
      console.log(JSON.stringify({ key: fs.readFileSync(f, 'utf8'), cert: fs.readFileSync(f + '-cert.pub', 'utf8'), named: process.env.CURFEW_SSH_CERTIFICATE_FILE === f + '-cert.pub' }))`
    const { out } = await run(['ssh/deploy'], script).ended
    const { key, cert, named } = JSON.parse(out)
    expect([cert, named]).toEqual(['CERT', true])
    const file = join(at.home, 'key')
    writeFileSync(file, key, { mode: 0o600 })
    const asked = at.broker.seen.find(s => s.path.endsWith('/credentials') && s.method === 'POST')
    const sent = JSON.parse(asked?.text ?? '{}').params.public_key as string
    const own = spawnSync('ssh-keygen', ['-y', '-P', '', '-f', file], { encoding: 'utf8' })
    if (own.error === undefined) expect(own.stdout.trim().split(' ').slice(0, 2).join(' ')).toBe(sent)
    for (const s of at.broker.seen) expect(s.text).not.toContain('PRIVATE KEY')
  })

  test('a key of the caller’s own is certified when it is named, by its file; what no capability takes is a mistake', async () => {
    at.broker.offers.set('ssh/deploy', { secret: { ssh_certificate: 'CERT' }, revocation: 'expiry-only', bound: false, params: { public_key: 'required' } })
    const file = join(at.home, 'id.pub')
    writeFileSync(file, 'ssh-ed25519 AAAA me\n')
    const { out } = await run(['ssh/deploy', '--param', `public_key=@${file}`], 'console.log(process.env.CURFEW_SSH_KEY_FILE)').ended
    expect(out).toBe('undefined\n')
    const asked = at.broker.seen.find(s => s.path.endsWith('/credentials') && s.method === 'POST')
    expect(JSON.parse(asked?.text ?? '{}').params).toEqual({ public_key: 'ssh-ed25519 AAAA me\n' })
    const wrong = await run(['ssh/deploy', '--param', 'csr=x'], '').ended
    expect([wrong.exit, wrong.err.includes('none of them takes a parameter csr')]).toEqual([125, true])
    expect((await run(['ssh/deploy', '--param', 'public_key=@/nowhere'], '').ended).exit).toBe(125)
  })

  test('a Vault token arrives as VAULT_TOKEN, and nothing of the caller’s sends it to another Vault', async () => {
    at.broker.offers.set('kv/orders', { secret: { VAULT_TOKEN: 'hvs.t', VAULT_ADDR: 'https://vault.example' }, revocation: 'backend', bound: false })
    const script = 'console.log(JSON.stringify(Object.fromEntries(Object.entries(process.env).filter(([k]) => /^VAULT/.test(k) && !/KV_ORDERS$/.test(k)))))'
    const others = { VAULT_ADDR: 'https://other.example', VAULT_AGENT_ADDR: 'https://other.example', VAULT_NAMESPACE: 'x', VAULT_CACERT: '/ca' }
    expect(JSON.parse((await run(['kv/orders'], script, others).ended).out)).toEqual({
      VAULT_TOKEN: 'hvs.t',
      VAULT_ADDR: 'https://vault.example',
      VAULT_CACERT: '/ca',
    })
  })

  test('two capabilities that would share a name are refused before anything is opened', async () => {
    expect(suffixOf('db/orders-ro')).toBe('DB_ORDERS_RO')
    expect(() => refuseCollisions(['a-b/c', 'a/b-c'])).toThrow('same variables')
    expect(() => refuseCollisions(['a/b', 'a/b'])).toThrow('twice')
    expect((await run(['db/orders-ro', 'db/orders-ro'], '').ended).exit).toBe(125)
    expect(at.broker.seen).toEqual([])
  })

  test('no secret in the arguments of any process, on stderr, or in a file', async () => {
    const started = run(['db/orders-ro', 'demo/orders-bearer'], STAYS())
    await ready(started)
    for (const pid of [started.pid, childPid(started)]) {
      const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      for (const canary of at.canaries) expect(line).not.toContain(canary)
    }
    process.kill(childPid(started), 'SIGKILL')
    const { err } = await started.ended
    for (const canary of at.canaries) expect(err).not.toContain(canary)
    // A run keeps nothing: its key lives in its memory.
    expect(existsSync(join(at.home, '.local'))).toBe(false)
    expect(readdirSync(at.home)).toEqual(['svid.jwt'])
  })
})

describe('exit codes', () => {
  test("the child's own", async () => {
    expect((await run(['demo/orders-bearer'], 'process.exit(7)').ended).exit).toBe(7)
    expect(tasks()[0]?.outcome).toBe('exit 7')
  })

  test('127 when there is no such command, 126 when it cannot be executed; the task is cancelled', async () => {
    const missing = await at.start(['run', 'demo/orders-bearer', '--id-token-file', at.evidenceFile, '--', 'no-such-command-anywhere']).ended
    expect(missing.exit).toBe(127)
    const unfit = await at.start(['run', 'demo/orders-bearer', '--id-token-file', at.evidenceFile, '--', at.evidenceFile]).ended
    expect(unfit.exit).toBe(126)
    expect(states()).toEqual(['cancelled', 'cancelled'])
  })

  test('125 whatever fails on our side: usage, denial, no broker', async () => {
    expect((await at.start(['run', 'demo/orders-bearer']).ended).exit).toBe(125)
    expect((await at.start(['run', 'demo/orders-bearer', '--nope', '--', 'true']).ended).exit).toBe(125)
    at.broker.allowed = () => false
    const denied = await run(['demo/orders-bearer'], '').ended
    expect(denied.exit).toBe(125)
    expect(denied.err).toContain('error[policy_denied]')
  })

  test('when one of several fails there is none, the command is not started, and the refusal names it', async () => {
    at.broker.faults.push({
      when: s => s.text.includes('"capability":"demo/legacy"'),
      times: 1,
      status: 422,
      body: { code: 'capability_unknown', detail: 'no such capability', field: 'capabilities.1', capability: 'demo/legacy' },
    })
    const { exit, out, err } = await run(['demo/orders-bearer', 'demo/legacy'], 'console.log("ran")').ended
    expect({ exit, out }).toEqual({ exit: 125, out: '' })
    expect(err).toMatch(/^ {2}capability +demo\/legacy$/m)
    expect(states()).toEqual(['cancelled'])
    expect([...at.broker.credentials.values()]).toEqual([])
  })

  test('an answer that was lost is asked for again under the same key, and closes the whole bundle that nobody received', async () => {
    at.broker.faults.push({ when: s => s.text.includes('"capabilities":[{'), times: 1, drop: 'after' })
    expect((await run(['demo/orders-bearer', 'db/orders-ro'], '').ended).exit).toBe(0)
    const asked = at.broker.seen.filter(s => s.path.endsWith('/credentials') && s.method === 'POST')
    expect(asked).toHaveLength(2)
    expect(new Set(asked.map(s => s.headers['idempotency-key'])).size).toBe(1)
    expect([...at.broker.credentials.values()].map(c => c.reason)).toEqual(['cancelled', 'cancelled', 'completed', 'completed'])
  })
})

describe('signals without a terminal', () => {
  test('kill -9 of the child: the task is completed all the same, exit 137', async () => {
    const started = run(['db/orders-ro'], STAYS())
    await ready(started)
    process.kill(childPid(started), 'SIGKILL')
    expect((await started.ended).exit).toBe(137)
    expect(states()).toEqual(['completed'])
    expect(tasks()[0]?.outcome).toBe('signal SIGKILL')
    expect([...at.broker.credentials.values()].map(c => c.state)).toEqual(['revoked'])
  })

  test.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
    ['SIGHUP', 129],
  ] as const)('%s is forwarded once; then completed, exit %i', async (signal, exit) => {
    const started = run(
      ['demo/orders-bearer'],
      `process.on('${signal}', () => { console.log('got'); setTimeout(() => process.exit(0), 200) });console.log('READY', process.pid);setInterval(() => {}, 1000)`,
    )
    await ready(started)
    process.kill(started.pid, signal)
    const told = await started.ended
    expect(told.exit).toBe(exit)
    expect(told.out.match(/got/g)).toHaveLength(1)
    expect(states()).toEqual(['completed'])
  })

  test('a child that ignores SIGTERM is killed after the grace, and the task is completed', async () => {
    const started = run(['demo/orders-bearer', '--grace', '1s'], STAYS('SIGTERM'))
    await ready(started)
    const began = performance.now()
    process.kill(started.pid, 'SIGTERM')
    const told = await started.ended
    expect(told.exit).toBe(143)
    expect(performance.now() - began).toBeGreaterThan(900)
    expect(told.out).toContain('got SIGTERM')
    expect(tasks()[0]?.outcome).toBe('signal SIGKILL')
  })

  test('SIGINT twice: the second does not wait for the grace', async () => {
    const started = run(['demo/orders-bearer', '--grace', '60s'], STAYS('SIGINT'))
    await ready(started)
    process.kill(started.pid, 'SIGINT')
    await until(() => started.out().includes('got SIGINT'))
    process.kill(started.pid, 'SIGINT')
    const told = await started.ended
    expect(told.exit).toBe(130)
    expect(told.out.match(/got SIGINT/g)).toHaveLength(1)
    expect(states()).toEqual(['completed'])
  })

  test('SIGUSR1 and SIGUSR2 pass through and end nothing', async () => {
    const started = run(['demo/orders-bearer'], STAYS('SIGUSR1', 'SIGUSR2'))
    await ready(started)
    process.kill(started.pid, 'SIGUSR2')
    process.kill(started.pid, 'SIGUSR1')
    await until(() => started.out().includes('got SIGUSR2') && started.out().includes('got SIGUSR1'))
    expect(states()).toEqual(['open'])
    process.kill(childPid(started), 'SIGKILL')
    await started.ended
    expect(started.err()).not.toContain('Debugger')
  })

  test('SIGTERM while the task is being opened: nothing is started, what was opened is ended', async () => {
    at.broker.faults.push({
      when: s => s.path.endsWith('/credentials') && s.method === 'POST',
      times: 9,
      status: 503,
      headers: { 'Retry-After': '5' },
      body: { code: 'unavailable', detail: 'later' },
    })
    const started = run(['demo/orders-bearer'], 'console.log("ran")')
    await until(() => at.broker.seen.some(s => s.path.endsWith('/credentials')))
    process.kill(started.pid, 'SIGTERM')
    expect(await started.ended).toMatchObject({ exit: 143, out: '' })
    expect(states()).toEqual(['cancelled'])
  })

  test('kill -9 of run itself: nothing is completed, and no heartbeat comes any more', async () => {
    const started = run(['demo/orders-bearer', '--heartbeat', '1s'], STAYS())
    await ready(started)
    await until(() => (tasks()[0]?.beats ?? 0) > 0)
    process.kill(started.pid, 'SIGKILL')
    await until(() => started.child.signalCode === 'SIGKILL')
    const beats = tasks()[0]?.beats
    await new Promise(resolve => setTimeout(resolve, 1_500))
    expect(tasks()[0]?.beats).toBe(beats)
    expect(states()).toEqual(['open'])
    process.kill(childPid(started), 'SIGKILL')
  })
})

describe('a task that is ended from outside', () => {
  const started = async (...flags: string[]) => {
    const s = run(['db/orders-ro', '--heartbeat', '1s', ...flags], STAYS('SIGTERM'))
    await ready(s)
    at.broker.revokeTask(tasks()[0]?.view.id as string, 'risk_signal')
    return s
  }

  test('kill (default): SIGTERM, then SIGKILL, and the reason is told', async () => {
    const { exit, out, err } = await (await started('--grace', '1s')).ended
    expect(exit).toBe(137)
    expect(out).toContain('got SIGTERM')
    expect(err).toContain('the task was ended (risk_signal), its credentials are refused from now on; the command is stopped')
    expect(err).toMatch(/task revoked after \d+ s: confirmed dead before/)
  })

  test('signal: told once, and left alone', async () => {
    const s = await started('--on-revoke', 'signal', '--grace', '1s')
    await until(() => s.out().includes('got SIGTERM'))
    await new Promise(resolve => setTimeout(resolve, 1_500))
    expect(s.child.exitCode).toBe(null)
    process.kill(childPid(s), 'SIGKILL')
    await s.ended
  })

  test('warn: only told', async () => {
    const s = await started('--on-revoke=warn')
    await until(() => s.err().includes('the command goes on without'))
    expect(s.out()).not.toContain('got SIGTERM')
    process.kill(childPid(s), 'SIGKILL')
    await s.ended
  })
})

describe('a broker that is away', () => {
  test('missed heartbeats are told once and end nothing; so is the return', async () => {
    const fault = { when: (s: { path: string }) => s.path.endsWith('/heartbeat'), times: 4, status: 503, body: { code: 'unavailable', detail: 'later' } }
    at.broker.faults.push(fault)
    const s = run(['demo/orders-bearer', '--heartbeat', '1s'], STAYS())
    await ready(s)
    await until(() => s.err().includes('the broker hears us again'), 15_000)
    expect(s.err().match(/did not hear us/g)).toHaveLength(1)
    process.kill(childPid(s), 'SIGKILL')
    await s.ended
  })

  test("when completion cannot be told, the child's exit code stands and the text says what ends the task", async () => {
    at.broker.faults.push({ when: s => s.path.endsWith('/complete'), times: 99, status: 403, body: { code: 'forbidden', detail: 'no' } })
    const { exit, err } = await run(['demo/orders-bearer'], 'process.exit(3)').ended
    expect(exit).toBe(3)
    expect(err).toContain('without a heartbeat the broker ends the task within 45 s')
  })

  test('not seen dead in time is not called dead', async () => {
    at.broker.deadAfterMs = null
    const { err } = await run(['db/orders-ro'], '').ended
    expect(err).toMatch(/task completed after \d+ s: refused at once, crd_\w+ not yet confirmed dead \(revoking\)/)
  }, 30_000)
})

describe('--json', () => {
  test('events on stderr, one object a line; stdout stays the child’s', async () => {
    const { out, err } = await run(['db/orders-ro', '--json'], 'console.log("mine")').ended
    expect(out).toBe('mine\n')
    expect(
      err
        .trim()
        .split('\n')
        .map(line => JSON.parse(line)),
    ).toMatchObject([
      { event: 'issued', capability: 'db/orders-ro', revocation: 'backend' },
      { event: 'ended', state: 'completed', not_confirmed: [] },
    ])
  })
})

/** util-linux's `script` gives the command a terminal of its own. */
const hasScript = spawnSync('script', ['--version']).status === 0
if (!hasScript) process.stderr.write('skipped: signals at a terminal, because `script` (util-linux) is not on the PATH\n')

describe.skipIf(!hasScript)('signals at a terminal', () => {
  function atTerminal(script: string, ...flags: string[]) {
    const words = [NODE, ENTRY, 'run', 'demo/orders-bearer', ...flags, '--id-token-file', at.evidenceFile, '--', NODE, '-e', script]
    // Without `exec` the shell in between would answer Ctrl-C too.
    const line = `exec ${words.map(w => `'${w.replaceAll("'", "'\\''")}'`).join(' ')}`
    const child = spawn('script', ['-qec', line, '/dev/null'], { env: at.env as Record<string, string>, stdio: ['pipe', 'pipe', 'pipe'] })
    let out = ''
    child.stdout.on('data', chunk => {
      out += chunk
    })
    return {
      child,
      out: () => out,
      press: (key: string) => child.stdin.write(key),
      ended: new Promise<number | null>(resolve => child.once('close', code => resolve(code))),
    }
  }

  test('Ctrl-C reaches the child once, by the kernel; a child that lives on keeps its task', async () => {
    const t = atTerminal(STAYS('SIGINT'))
    await until(() => t.out().includes('READY'), 15_000)
    t.press('\u0003')
    await until(() => t.out().includes('got SIGINT'))
    await new Promise(resolve => setTimeout(resolve, 500))
    t.press('\u0003')
    await until(() => (t.out().match(/got SIGINT/g) ?? []).length >= 2)
    await new Promise(resolve => setTimeout(resolve, 500))
    expect(t.out().match(/got SIGINT/g)).toHaveLength(2)
    expect(states()).toEqual(['open'])
    process.kill(Number(/READY (\d+)/.exec(t.out())?.[1]), 'SIGKILL')
    expect(await t.ended).toBe(137)
    expect(states()).toEqual(['completed'])
  })

  test('Ctrl-C while the child is being ended for the next credential means the command: no other is started', async () => {
    const t = atTerminal(STAYS('SIGTERM', 'SIGINT'), '--on-replace', 'restart', '--ttl', '9s', '--grace', '3s')
    await until(() => t.out().includes('got SIGTERM'), 15_000)
    t.press('\u0003')
    expect(await t.ended).toBe(130)
    expect(t.out().match(/READY/g)).toHaveLength(1)
    expect(states()).toEqual(['completed'])
  })

  test('Ctrl-C that ends the child completes the task: exit 130', async () => {
    const t = atTerminal(STAYS())
    await until(() => t.out().includes('READY'), 15_000)
    t.press('\u0003')
    expect(await t.ended).toBe(130)
    expect(states()).toEqual(['completed'])
  })
})
