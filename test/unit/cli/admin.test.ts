/** `operator`, `keys`, `migrate`, `config`, `doctor`: administrators' commands on a store of their own; and the processes that are only started. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { exportJWK, generateKeyPair } from 'jose'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { writePolicies } from '../../../src/dev/policies.js'
import { looksLikeOperatorToken } from '../../../src/domain/operator-token.js'
import { ENTRY, typed, until } from './desk.js'

let home: string
const file = () => join(home, 'curfew.yaml')
const masterKey = randomBytes(32).toString('base64')

const type = (...argv: string[]) => typed(argv, { MASTER_KEY: masterKey })

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'curfew-admin-'))
  writePolicies(
    home,
    '@id("reporter")\npermit(principal, action == Action::"issue", resource == Capability::"demo/orders-bearer")\nwhen { context.issuer == "agents" && context has registered && context.registered.agent == "reporter" };\n',
    'a',
  )
  const { publicKey } = await generateKeyPair('ES256', { extractable: true })
  writeFileSync(join(home, 'agent.jwk'), JSON.stringify(await exportJWK(publicKey)))
  writeFileSync(
    file(),
    stringify({
      mode: 'dev',
      server: { url: 'http://127.0.0.1:8787', listen: '127.0.0.1:0', internal: '127.0.0.1:0' },
      store: { kind: 'pglite', dir: 'data' },
      queue: { kind: 'memory' },
      signer: { kind: 'sealed', masterKey: { env: 'MASTER_KEY' }, publishAheadSeconds: 600 },
      issuers: [{ name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] }],
      audiences: [{ name: 'legacy', uri: 'https://legacy.example/', senderConstrained: false }],
      capabilities: [{ name: 'demo/orders-bearer', summary: 'orders', engine: 'jwt', audience: 'legacy', intent: 'read' }],
      policies: { dir: 'policies' },
    }),
  )
}, 60_000)
afterAll(() => rmSync(home, { recursive: true, force: true }))

const on = (...argv: string[]) => type(...argv, '--config', file())

describe('on an embedded store', { timeout: 60_000 }, () => {
  test('migrate applies once', async () => {
    const first = await on('migrate', '--json')
    expect(first.exit).toBe(0)
    expect((JSON.parse(first.out) as { applied: string[] }).applied[0]).toMatch(/^0001_/)
    const again = await on('migrate')
    expect(again).toMatchObject({ exit: 0, out: '' })
    expect(again.err).toContain('nothing to do')
  })

  test('migrate --restored: says why, and one act ends everything, beyond every seq that was heard', async () => {
    for (const [argv, says] of [
      [['--restored'], 'say why: --reason T'],
      [['--reason', 'x'], '--reason belongs to --restored'],
      [['--restored', '--reason', 'a\u001bb'], 'without control characters'],
      [['--restored', '--reason', ''], '1 to 500 characters'],
    ] as const) {
      const refused = await on('migrate', ...argv)
      expect({ argv, exit: refused.exit, out: refused.out }).toEqual({ argv, exit: 2, out: '' })
      expect(refused.err).toContain(says)
    }
    const { exit, out, err } = await on('migrate', '--restored', '--reason', 'backup of Monday', '--json')
    expect(exit).toBe(0)
    expect(JSON.parse(out)).toEqual({ applied: [], revocation: expect.stringMatching(/^rev_/), receipt: expect.stringMatching(/^rcp_/) })
    expect(err).toMatch(/everything that this store holds is revoked \(seq 1000000000\)/)
    expect((await on('migrate', '--restored', '--reason', 'once more')).err).toMatch(/seq 2000000000/)
  })

  test('operator add prints the token once; the store keeps no trace of it; disable refuses it', async () => {
    const { exit, out, err } = await on('operator', 'add', 'dana', '--role', 'responder')
    expect(exit).toBe(0)
    const token = out.trim()
    expect(looksLikeOperatorToken(token)).toBe(true)
    expect(err).toMatch(/^opr_\w+ dana, responder: this token is not shown again\n$/)
    const listed = await on('operator', 'list')
    expect(listed.out).toMatch(/^ID +NAME +ROLE +CREATED +DISABLED\nopr_\w+ +dana +responder /)
    expect(listed.out + listed.err).not.toContain(token)

    const twice = await on('operator', 'add', 'dana', '--role', 'admin')
    expect(twice).toMatchObject({ exit: 11, out: '' })
    expect((await on('operator', 'disable', 'dana')).exit).toBe(0)
    expect(JSON.parse((await on('operator', 'list', '--json')).out)).toMatchObject([{ name: 'dana', disabled_at: expect.any(String) }])
    expect((await on('operator', 'disable', 'nobody')).exit).toBe(6)
  })

  test('a token file is new, 0600, and gone again when nobody was added', async () => {
    const path = join(home, 'kim.token')
    const { exit, out } = await on('operator', 'add', 'kim', '--role', 'admin', '--token-file', path)
    expect({ exit, out }).toEqual({ exit: 0, out: '' })
    expect(looksLikeOperatorToken(readFileSync(path, 'utf8').trim())).toBe(true)
    expect(statSync(path).mode & 0o777).toBe(0o600)
    expect((await on('operator', 'add', 'lee', '--role', 'admin', '--token-file', path)).exit).toBe(2)
    const other = join(home, 'kim2.token')
    expect((await on('operator', 'add', 'kim', '--role', 'admin', '--token-file', other)).exit).toBe(11)
    expect(existsSync(other)).toBe(false)
  })

  test('keys: none, then the first of each kind and its next; a second rotation starts nothing', async () => {
    expect((await on('keys', 'list')).err).toContain('none yet')
    const rotated = await on('keys', 'rotate', '--class', 'access', '--json')
    expect(rotated.exit).toBe(0)
    expect(JSON.parse(rotated.out)).toMatchObject([
      { class: 'access', alg: 'ES256', state: 'next' },
      { class: 'access', alg: 'RS256', state: 'next' },
    ])
    const kids = (await on('keys', 'rotate', '--class', 'access', '-o', 'name')).out
    expect(kids).toBe((JSON.parse(rotated.out) as { kid: string }[]).map(k => `${k.kid}\n`).join(''))
    const all = await on('keys', 'list')
    expect(all.out.match(/current/g)).toHaveLength(4)
    expect(all.out.match(/next/g)).toHaveLength(2)
  })

  test('keys retire: refuses what would leave nothing to sign with, and says what to do instead', async () => {
    const rows = JSON.parse((await on('keys', 'list', '--json')).out) as { kid: string; class: string; alg: string; state: string }[]
    const kidOf = (keyClass: string, state: string) => rows.find(k => k.class === keyClass && k.alg === 'ES256' && k.state === state)?.kid as string
    const [waited, only, next] = [kidOf('access', 'current'), kidOf('task', 'current'), kidOf('access', 'next')]
    for (const [argv, exit, says] of [
      [['A'.repeat(43)], 6, 'no such signing key'],
      [[only], 11, 'the only ES256 key for task tokens'],
      [[waited], 11, 'its successor is published, and signs from 2'],
      [[next], 11, 'has signed nothing yet'],
      [['short'], 2, 'curfew keys list'],
      [[waited, '--now'], 2, 'say why: --reason T'],
      [[waited, '--reason', 'x'], 2, '--reason belongs to --now'],
      [[waited, '--now', '--reason', 'a\u001bb'], 2, 'without control characters'],
      [['A'.repeat(43), '--now', '--reason', 'x'], 6, 'no such signing key'],
    ] as const) {
      const answer = await on('keys', 'retire', ...argv)
      expect({ argv, exit: answer.exit, out: answer.out }).toEqual({ argv, exit, out: '' })
      expect(answer.err).toContain(says)
    }
    expect(JSON.parse((await on('keys', 'list', '--json')).out)).toEqual(rows)
  })

  test('keys retire --now: its successor signs, it leaves the set, and what it signed is revoked by one act', async () => {
    const before = JSON.parse((await on('keys', 'list', '--json')).out) as { kid: string; class: string; alg: string; state: string }[]
    const [stolen, next] = ['current', 'next'].map(s => before.find(k => k.class === 'access' && k.alg === 'ES256' && k.state === s)?.kid as string)
    const { exit, out, err } = await on('keys', 'retire', stolen as string, '--now', '--reason', 'INC-204', '--json')
    expect(exit).toBe(0)
    const told = JSON.parse(out)
    expect(told).toMatchObject({
      key: { kid: stolen, state: 'retired' },
      revocation: expect.stringMatching(/^rev_/),
      receipt: expect.stringMatching(/^rcp_/),
      credentials: 0,
    })
    expect(Date.parse(told.key.retires_at)).toBeLessThanOrEqual(Date.now() + 1_000)
    expect(err).toContain(`curfew receipt show ${told.receipt}`)
    const after = JSON.parse((await on('keys', 'list', '--json')).out) as typeof before
    expect(after.find(k => k.kid === next)?.state).toBe('current')
    expect(after.find(k => k.kid === stolen)?.state).toBe('retired')
    // What is retired already needs nothing: that is said, and what it is.
    const again = await on('keys', 'retire', stolen as string)
    expect(again).toMatchObject({ exit: 0 })
    expect(again.err).toContain('is not published any more')
  })

  test('config check and show; secrets stay hidden', async () => {
    expect((await on('config', 'check')).err).toMatch(/^ok +\S+curfew.yaml: 1 trust issuers, 1 capabilities, policies pol_\w+\n$/)
    const { out } = await on('config', 'show', '--origin')
    expect(out).toMatch(/store\.kind +file +"pglite"/)
    expect(out).toMatch(/tasks\.heartbeatSeconds +default +15/)
    expect(out).toMatch(/signer\.masterKey +file +\[secret\]/)
    expect(out).not.toContain(masterKey)
    expect(JSON.parse((await on('config', 'show', '--json')).out)).toContainEqual({ path: 'mode', value: 'dev', origin: 'file' })
  })

  test('a configuration with faults is exit 2, each by its path', async () => {
    const bad = join(home, 'bad.yaml')
    writeFileSync(bad, readFileSync(file(), 'utf8').replace('intent: read', 'intnet: read'))
    const { exit, err } = await type('config', 'check', '--config', bad)
    expect(exit).toBe(2)
    expect(err).toContain('capabilities.0.intnet: is no setting; did you mean intent?')
    expect((await type('config', 'check', '--config', join(home, 'none.yaml'))).exit).toBe(2)
  })

  test('a policy that does not compile is a fault of the configuration', async () => {
    const broken = join(home, 'policies', 'b.cedar')
    writeFileSync(broken, 'permit(principal, action')
    expect((await on('config', 'check')).exit).toBe(2)
    rmSync(broken)
  })

  test('doctor: one line a check, remedies under warnings, exit 0 without a failure', async () => {
    const { exit, out, err } = await on('doctor')
    expect(exit).toBe(0)
    expect(out).toMatch(/^ok {4}node {7}Node \d+/m)
    expect(out).toMatch(/^ok {4}store {6}pglite, answers in \d+ ms, migrations are ours$/m)
    expect(out).toMatch(/^ok {4}clock/m)
    expect(out).toMatch(/^ok {4}keys {7}4 sign, the oldest for 0 days/m)
    expect(out).toMatch(/^ok {4}work {7}overdue 0 s, stuck 0/m)
    expect(out).toMatch(/^warn {2}store {6}embedded.*\n {6}fix: set store.kind: postgres$/m)
    expect(err).toMatch(/^\d warnings, 0 failures: exit 0\n$/)
    const rows = JSON.parse((await on('doctor', '--json')).out) as { verdict: string }[]
    expect(rows.every(r => ['ok', 'warn', 'FAIL'].includes(r.verdict))).toBe(true)
  })

  test('doctor: another master key than the one the store was made with is a failure, exit 9', async () => {
    const other = join(home, 'other.yaml')
    const path = join(home, 'other.key')
    writeFileSync(path, randomBytes(32).toString('base64'))
    writeFileSync(other, readFileSync(file(), 'utf8').replace('env: MASTER_KEY', `file: ${path}`))
    const { exit, out } = await type('doctor', '--config', other)
    expect(exit).toBe(9)
    expect(out).toMatch(/^FAIL {2}keys.*\n {6}fix: use the master key/m)
  })

  test('doctor: without a configuration it says so and stops', async () => {
    const { exit, out } = await type('doctor', '--config', join(home, 'none.yaml'))
    expect(exit).toBe(9)
    expect(out).toMatch(/^FAIL {2}config.*\n {6}fix: write one from config\/curfew.example.yaml/m)
  })

  test('doctor: a Redis that does not answer is a failure with what it means, not a hang', async () => {
    const other = join(home, 'redis.yaml')
    writeFileSync(other, readFileSync(file(), 'utf8').replace(/queue:\n {2}kind: memory/, 'queue:\n  kind: redis\n  url: { file: redis.url }'))
    writeFileSync(join(home, 'redis.url'), 'redis://:canary-pw@127.0.0.1:1')
    const { exit, out, err } = await type('doctor', '--config', other)
    expect(exit).toBe(9)
    expect(out).toMatch(/^FAIL {2}redis {6}does not answer/m)
    expect(out + err).not.toContain('canary-pw')
  })
})

/** What `curfew doctor` asks of Vault, over answers that the real one was seen to give. */
describe('doctor: the roles at Vault', () => {
  const roles: Record<string, object> = {}
  let server: Server
  let config: string
  beforeAll(async () => {
    server = createServer((req, res) => {
      const path = (req.url ?? '').replace('/v1/', '')
      const answer = (status: number, body: object) => res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
      if (path === 'sys/health') return answer(200, { sealed: false, standby: false, version: '1.21.4' })
      if (req.headers['x-vault-token'] !== 'an-auditor') return answer(403, { errors: ['permission denied'] })
      return roles[path] ? answer(200, { data: roles[path] }) : answer(404, { errors: [] })
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const tree = parse(readFileSync(file(), 'utf8'))
    const login = { method: 'token', token: { env: 'MASTER_KEY' } }
    tree.store = { kind: 'memory' }
    tree.vault = { address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, issuer: login, revoker: login }
    tree.capabilities.push(
      { name: 'tls/a', summary: 'a', engine: 'vault-pki', intent: 'read', parameters: { role: 'workload', policy: 'curfew-cap-w', key: 'caller' } },
      {
        ...{ name: 'ssh/a', summary: 'a', engine: 'vault-ssh', intent: 'read', maxTtlSeconds: 900 },
        parameters: { role: 'login', policy: 'curfew-cap-l', principals: ['deploy'] },
      },
    )
    config = join(home, 'vault.yaml')
    writeFileSync(config, stringify(tree, { aliasDuplicateObjects: false }))
  })
  afterAll(() => void server.close())
  const doctor = (token?: string) => typed(['doctor', '--config', config], { MASTER_KEY: masterKey, ...(token ? { VAULT_TOKEN: token } : {}) })

  test('with roles as the shipped script writes them all is well', async () => {
    roles['pki/roles/workload'] = { generate_lease: true, no_store: false, use_csr_common_name: false, use_csr_sans: false }
    roles['ssh/roles/login'] = { key_id_format: 'curfew-{{token_display_name}}', allow_user_key_ids: false, allow_empty_principals: false, max_ttl: 3600 }
    const { exit, out } = await doctor('an-auditor')
    expect(exit).toBe(0)
    expect(out).toMatch(/^ok {4}vault {6}role workload makes what can be ended$/m)
    expect(out).toMatch(/^ok {4}vault {6}role login makes what can be ended$/m)
  })

  test('one that makes no leases, takes names over, or cannot be named by a list is a failure with its remedy', async () => {
    roles['pki/roles/workload'] = { generate_lease: false, use_csr_common_name: true, use_csr_sans: true }
    roles['ssh/roles/login'] = { key_id_format: '', allow_user_key_ids: false, allow_empty_principals: false, max_ttl: 60 }
    const { exit, out } = await doctor('an-auditor')
    expect(exit).toBe(9)
    expect(out).toMatch(/^FAIL {2}vault {6}role workload makes certificates without a lease.*\n {6}fix: vault patch pki\/roles\/workload generate_lease=true$/m)
    expect(out).toMatch(/fix: vault patch pki\/roles\/workload use_csr_sans=false$/m)
    expect(out).toMatch(/^FAIL {2}vault {6}role login does not name the credential.*\n {6}fix: write the whole role again: ssh\/roles\/login key_id_format=/m)
    expect(out).toMatch(/^FAIL {2}vault {6}role login signs for 60 s at most/m)
  })

  test('whoever may not look is told so, and without a token nobody looks', async () => {
    const denied = await doctor('nobody')
    expect(denied.exit).toBe(0)
    expect(denied.out).toMatch(/^warn {2}vault {6}role workload: it cannot be read \(403\)$/m)
    expect((await doctor()).out).toMatch(/^ok {4}vault {6}roles not looked at/m)
  })
})

describe('processes that are only started', () => {
  test('signals and exit code pass through', async () => {
    const child = join(home, 'entry.mjs')
    const parent = join(home, 'parent.mjs')
    writeFileSync(
      child,
      "process.on('SIGTERM', () => { console.log('got', process.argv[2]); process.exit(42) }); console.log('READY'); setInterval(() => {}, 1000)",
    )
    writeFileSync(
      parent,
      `const { passThrough } = await import(${JSON.stringify(join(ENTRY, '..', 'child.js'))}); process.exitCode = await passThrough(${JSON.stringify(child)}, ['word'], process.env)`,
    )
    const started = spawn(process.execPath, [parent], { stdio: ['ignore', 'pipe', 'inherit'], detached: true })
    let out = ''
    started.stdout.on('data', chunk => {
      out += chunk
    })
    await until(() => out.includes('READY'))
    process.kill(started.pid as number, 'SIGTERM')
    expect(await new Promise(resolve => started.once('close', resolve))).toBe(42)
    expect(out).toContain('got word')
  })
})
