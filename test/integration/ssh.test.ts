/** SSH certificates by the real Vault, at a real sshd: accepted, refused after their end, and refused after the list names them, fetched as the documentation says. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newSshKey } from '../../src/cli/ssh-key.js'
import { createVault } from '../../src/clients/vault.js'
import { isAbsent } from '../../src/dev/find.js'
import { freePort } from '../../src/dev/ports.js'
import { until } from '../../src/dev/process.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import { setUpVault } from '../../src/dev/vault-setup.js'
import { Secret } from '../../src/domain/secret.js'
import { readSshCertificate } from '../../src/engines/ssh-certificate.js'
import { SSH_PARAMETERS, vaultSshEngine } from '../../src/engines/vault-ssh.js'
import { type Caller, caller, type Held } from '../caller.js'
import { testEngine } from '../conformance/engines.js'
import { startProxy } from '../faults/proxy.js'
import { type House, makeHouse } from '../house.js'
import { askVault } from '../real/ask-vault.js'

const dir = mkdtempSync(join(tmpdir(), 'cf-ssh-'))
const DOCUMENTATION = readFileSync(new URL('../../docs/ssh.md', import.meta.url), 'utf8')
const sshd = ['/usr/sbin/sshd', '/usr/local/sbin/sshd'].find(existsSync)
const vault = await startVault({ dir: join(dir, 'vault'), own: true })
const absent = isAbsent(vault) ? vault.absent : sshd ? null : 'no sshd is installed'
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

describe.skipIf(absent !== null)(`SSH certificates by the real Vault${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const at = () => vault as Vault
  /** The account that runs this test: sshd needs to be nobody else for it. */
  const user = userInfo().username
  let house: House
  let ci: Caller
  let server: Server
  let daemon: ChildProcess
  let log = ''
  let port: number

  const capability = (name: string, parameters: Record<string, unknown>) => ({
    name,
    summary: 'log in for this task',
    engine: 'vault-ssh',
    intent: 'write',
    maxTtlSeconds: 3_600,
    parameters: { role: 'login', policy: 'curfew-cap-login', principals: [user], ...parameters },
  })

  beforeAll(async () => {
    if (absent) return
    const configured = await setUpVault(at(), dir, { KINDS: 'ssh', SSH_USERS: `${user},other` })
    const capabilities = [
      capability('ssh/login', { extensions: { 'permit-pty': '' } }),
      capability('ssh/id', { criticalOptions: { 'force-command': 'echo only this' } }),
      capability('ssh/other', { principals: ['other'] }),
      capability('ssh/misnamed', { role: 'misnamed', policy: 'curfew-cap-misnamed' }),
      capability('ssh/wider', { role: 'wider', policy: 'curfew-cap-wider' }),
      capability('ssh/nobody', { principals: ['nobody-that-the-role-knows'] }),
    ]
    house = await makeHouse({ capabilities, more: { vault: configured }, alsoAllow: capabilities.map(c => c.name) })
    ci = await caller(house)
    const good = { key_type: 'ca', allow_user_certificates: true, allowed_users: '*', key_id_format: 'curfew-{{token_display_name}}', max_ttl: '3600s' }
    await role('misnamed', { ...good, key_id_format: '' })
    await role('wider', { ...good, default_extensions: { 'permit-pty': '' } })
    server = createServer((req, res) => house.http(req, res))
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    await startSshd()
  })
  afterAll(async () => {
    daemon?.kill()
    server?.closeAllConnections()
    server?.close()
    await house?.close()
    if (!isAbsent(vault)) await vault.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  const root = (method: string, path: string, body?: object) => askVault(at().address, at().rootToken, method, path, body)
  async function role(name: string, settings: object) {
    expect((await root('POST', `ssh/roles/${name}`, settings)).status).toBeLessThan(300)
    const policy = `path "ssh/sign/${name}" { capabilities = ["update"] }`
    expect((await root('PUT', `sys/policies/acl/curfew-cap-${name}`, { policy })).status).toBe(204)
  }

  async function startSshd(): Promise<void> {
    // Where it drops its privileges to; a package makes it when it starts the service.
    if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true })
    port = await freePort()
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(dir, 'host')])
    writeFileSync(join(dir, 'ca.pub'), await (await fetch(`${at().address}/v1/ssh/public_key`)).text())
    await fetchList()
    // The two lines that the documentation shows, with the files of this run.
    const shown = /```sshd_config\n([\s\S]*?)```/.exec(DOCUMENTATION)?.[1] as string
    writeFileSync(
      join(dir, 'sshd_config'),
      `Port ${port}\nListenAddress 127.0.0.1\nHostKey ${join(dir, 'host')}\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no
KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nAuthorizedKeysFile none\nLogLevel VERBOSE
${shown.replace('/etc/ssh/curfew-ca.pub', join(dir, 'ca.pub')).replace('/etc/ssh/curfew.krl', join(dir, 'krl'))}`,
    )
    daemon = spawn(sshd as string, ['-D', '-e', '-f', join(dir, 'sshd_config')], { stdio: ['ignore', 'ignore', 'pipe'] })
    daemon.stderr?.on('data', chunk => (log += chunk))
    await until(async () => log.includes('Server listening'), { what: 'sshd', deadlineMs: 10_000 })
  }

  /** The script of the documentation, with the address and the file of this run. */
  async function fetchList(): Promise<void> {
    const shown = /```sh\n(#!\/bin\/sh[\s\S]*?)```/.exec(DOCUMENTATION)?.[1] as string
    const broker = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const script = shown.replace('https://curfew.example', broker).replace('/etc/ssh/curfew.krl', join(dir, 'krl'))
    // Beside this process, which must answer it.
    const child = spawn('sh', ['-c', script], { stdio: ['ignore', 'ignore', 'pipe'] })
    let told = ''
    child.stderr.on('data', chunk => (told += chunk))
    const code = await new Promise(resolve => child.once('exit', resolve))
    if (code !== 0) throw new Error(`the script ended with ${code}: ${told}`)
  }

  const row = async (id: string) => {
    const found = await house.app.store.credentials.get(id as never)
    if (!found) throw new Error('there is no such row')
    return found
  }

  interface Login {
    readonly held: Held
    readonly id: string
    readonly certificate: string
    /** The path of the key; the certificate lies beside it. */
    readonly key: string
  }
  let count = 0
  function keyFile(privateKey: string, certificate: string): string {
    const key = join(dir, `key-${++count}`)
    writeFileSync(key, privateKey, { mode: 0o600 })
    writeFileSync(`${key}-cert.pub`, certificate)
    return key
  }
  async function made(name = 'ssh/login', ttl = 600): Promise<Login> {
    const held = await ci.opened({ capabilities: [name] })
    const { publicKey, privateKey } = await newSshKey()
    const answer = await ci.credential(held, name, { ttl_seconds: ttl, params: { public_key: publicKey } })
    if (answer.status !== 201) throw new Error(JSON.stringify(answer.body))
    const certificate = answer.body.secret.ssh_certificate as string
    return { held, id: answer.body.credential.id, certificate, key: keyFile(privateKey, certificate) }
  }
  function login(key: string, command = 'echo in'): { code: number | null; out: string } {
    const options = ['StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'IdentitiesOnly=yes', 'IdentityAgent=none', 'BatchMode=yes', 'LogLevel=ERROR']
    const { status, stdout } = spawnSync(
      'ssh',
      ['-F', 'none', ...options.flatMap(o => ['-o', o]), '-i', key, '-p', String(port), `${user}@127.0.0.1`, command],
      { encoding: 'utf8', timeout: 30_000 },
    )
    return { code: status, out: stdout.trim() }
  }
  const IN = { code: 0, out: 'in' }
  const SHUT = { code: 255, out: '' }

  it('is named after its credential, for the accounts of the capability, and ends before its grant', async () => {
    const { id, certificate } = await made()
    const read = readSshCertificate(certificate)
    expect(read).toMatchObject({
      isUser: true,
      keyId: `curfew-token-${id.replace('_', '-')}`,
      principals: [user],
      extensions: { 'permit-pty': '' },
      criticalOptions: {},
    })
    const { expiresAt, issuedAt, handle } = await row(id)
    expect(expiresAt).toEqual(read.validBefore)
    expect(expiresAt.getTime() - issuedAt.getTime()).toBeGreaterThan(580_000)
    expect(expiresAt.getTime() - issuedAt.getTime()).toBeLessThanOrEqual(600_000)
    expect(handle).toMatchObject({ serial: read.serial.toString(), accessor: expect.any(String) })
    // Its token has done its work.
    expect((await root('POST', 'auth/token/lookup-accessor', { accessor: handle?.accessor })).status).toBe(400)
  })

  it('sshd accepts it, writes the credential into its log, and runs what the capability allows', async () => {
    const { id, key } = await made()
    expect(login(key)).toEqual(IN)
    await expect.poll(() => log).toContain(`ID curfew-token-${id.replace('_', '-')}`)
    expect(login((await made('ssh/id')).key, 'id -u')).toEqual({ code: 0, out: 'only this' })
    // The twin: for another account, and without its certificate.
    expect(login((await made('ssh/other')).key)).toEqual(SHUT)
    expect(login(keyFile((await newSshKey()).privateKey, ''))).toEqual(SHUT)
  })

  it('sshd refuses it after its end, and the row is dead by then and no sooner', async () => {
    const { held, id, key } = await made('ssh/login', 12)
    expect(login(key)).toEqual(IN)
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    await house.work()
    expect(await row(id)).toMatchObject({ state: 'revoking', revocationClass: 'expiry-only', attempts: 0 })
    const { expiresAt } = await row(id)
    await sleep(expiresAt.getTime() - Date.now() + 1_100)
    expect(login(key)).toEqual(SHUT)
    await house.work()
    expect(await row(id)).toMatchObject({ state: 'revoked', probe: { outcome: 'dead', looked: ['expiry'] } })
  })

  it('revoked it is exposed until its end and says so; a host refuses it from the next fetch of the list on, and its neighbour never', async () => {
    const [mine, theirs] = [await made(), await made()]
    await fetchList()
    expect([login(mine.key), login(theirs.key)]).toEqual([IN, IN])
    await ci.as(mine.held, 'post', `/v1/tasks/${mine.held.task}/complete`, {})
    await house.work()
    const reader = await house.operator('auditor')
    const view = (await supertest(house.http).get(`/v1/credentials/${mine.id}`).set('Authorization', `Bearer ${reader}`)).body.credential
    expect(view).toMatchObject({ state: 'revoking', revocation: 'expiry-only', exposed_until: view.expires_at })
    // The truth of it: this host has not fetched yet.
    expect(login(mine.key)).toEqual(IN)
    // A broker looks at its store once a second for all who ask.
    await sleep(1_100)
    await fetchList()
    expect(login(mine.key)).toEqual(SHUT)
    await expect.poll(() => log).toContain('revoked')
    expect(login(theirs.key)).toEqual(IN)
    // A failing look changes nothing: it is never stuck.
    for (let i = 0; i < 4; i++) {
      await house.advance(31)
      await house.sweep()
    }
    expect(await row(mine.id)).toMatchObject({ state: 'revoking', attempts: 0 })
  })

  it('the list is fetched once for all that it names: the same is a 304 and leaves the file as it is', async () => {
    await fetchList()
    const before = readFileSync(join(dir, 'krl'))
    await sleep(1_100)
    await fetchList()
    expect(readFileSync(join(dir, 'krl'))).toEqual(before)
    const first = await supertest(house.http).get('/v1/ssh/krl')
    expect(first).toMatchObject({
      status: 200,
      headers: { 'content-type': 'application/octet-stream', 'cache-control': 'no-cache', etag: expect.stringMatching(/^W\/"[\w-]{43}"$/) },
    })
    const again = await supertest(house.http).get('/v1/ssh/krl').set('If-None-Match', `"other", ${first.headers.etag}`)
    expect([again.status, again.text]).toEqual([304, ''])
    expect((await supertest(house.http).get('/v1/ssh/krl').set('If-None-Match', '"other"')).status).toBe(200)
    const { held } = await made()
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    await sleep(1_100)
    expect(
      (
        await supertest(house.http)
          .get('/v1/ssh/krl')
          .set('If-None-Match', first.headers.etag as string)
      ).status,
    ).toBe(200)
  })

  it.each([
    ['ssh/misnamed', 'key_id_differs'],
    ['ssh/wider', 'names_differ'],
  ])('%s: what its role makes otherwise than granted is not handed over, and leaves nothing', async (name, reason) => {
    const held = await ci.opened({ capabilities: [name] })
    const answer = await ci.credential(held, name, { params: { public_key: (await newSshKey()).publicKey } })
    expect(answer).toMatchObject({ status: 502, body: { code: 'engine_failed', reason } })
    expect(answer.body.secret).toBeUndefined()
    await expectNothingLeft(name)
  })

  it('what Vault refuses to sign leaves nothing, and is dead at once: nobody was given it', async () => {
    const held = await ci.opened({ capabilities: ['ssh/nobody'] })
    expect(await ci.credential(held, 'ssh/nobody', { params: { public_key: (await newSshKey()).publicKey } })).toMatchObject({
      status: 502,
      body: { reason: 'vault_refused' },
    })
    await expectNothingLeft('ssh/nobody')
  })

  async function expectNothingLeft(name: string): Promise<void> {
    await house.work()
    await house.sweep()
    const rows = await house.app.store.credentials.list({ capability: name, limit: 10 })
    expect(rows).toMatchObject([{ state: 'revoked', reason: 'issuance_failed', probe: { outcome: 'dead' } }])
    expect((await root('POST', 'auth/token/lookup-accessor', { accessor: rows[0]?.handle?.accessor })).status).toBe(400)
  }

  it('T67 a key that is none is refused before anything is made', async () => {
    const held = await ci.opened({ capabilities: ['ssh/login'] })
    for (const public_key of [
      'no key',
      'ssh-ed25519 AAAA',
      `command="id" ${(await newSshKey()).publicKey}`,
      `${(await newSshKey()).publicKey}\n${(await newSshKey()).publicKey}`,
    ])
      expect(await ci.credential(held, 'ssh/login', { params: { public_key } })).toMatchObject({
        status: 400,
        body: { code: 'malformed', field: 'params.public_key' },
      })
    expect((await ci.credential(held, 'ssh/login', {})).body).toMatchObject({ field: 'params.public_key', reason: 'parameter_missing' })
    expect(await house.app.store.credentials.list({ task: held.task as never, limit: 10 })).toEqual([])
  })

  it('reconcile does not take the missing token of a live one for a loss', async () => {
    const { id } = await made()
    await house.advance(61)
    await house.app.broker.reconcile(AbortSignal.timeout(30_000))
    expect(await row(id)).toMatchObject({ state: 'active' })
  })

  testEngine('vault-ssh over the real Vault and sshd', 'expiry-only', async () => {
    const proxy = await startProxy({ host: '127.0.0.1', port: at().port })
    const secretId = (name: string) => readFileSync(join(dir, `vault-${name}-secret-id`), 'utf8').trim()
    const identity = (name: string) => ({ method: 'approle' as const, mount: 'approle', roleId: `curfew-${name}`, secretId: Secret.token(secretId(name)) })
    const config = { address: proxy.address, tokenRole: 'curfew', issuer: identity('issuer'), revoker: identity('revoker') }
    const [issuer, revoker] = [createVault(config, 'issuer', { log: { warn: () => {} } }), createVault(config, 'revoker', { log: { warn: () => {} } })]
    const { publicKey, privateKey } = await newSshKey()
    let ahead = 0
    const now = () => new Date(Date.now() + ahead * 1000)
    const parameters = { role: 'login', policy: 'curfew-cap-login', principals: [user] }
    return {
      engine: vaultSshEngine({ issuer, revoker, clock: { now }, parametersOf: () => SSH_PARAMETERS.parse(parameters), issuanceTokenSeconds: 90 }),
      parameters,
      params: { public_key: publicKey },
      now,
      advance(seconds) {
        ahead += seconds
      },
      usable: async fields => login(keyFile(privateKey, fields.ssh_certificate as string)).code === 0,
      attribution: fields => readSshCertificate(fields.ssh_certificate as string).keyId,
      secrets: fields => [fields.ssh_certificate as string],
      break: async () => proxy.refuse(true),
      heal: async () => proxy.refuse(false),
      async close() {
        await Promise.all([issuer.close(), revoker.close()])
        await proxy.close()
      },
    }
  })
})
