/** The example of an engine that is not ours, at a real Redis: through the contract's suite, and loaded by a broker as its operator would. */
import { execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parse, stringify } from 'yaml'
import { redisAclEngine } from '../../examples/engine-redis-acl/engine.js'
import { isAbsent, onPath, repository } from '../../src/dev/find.js'
import { ciRule, writePolicies } from '../../src/dev/policies.js'
import { freePort } from '../../src/dev/ports.js'
import { until } from '../../src/dev/process.js'
import { type Redis as Server, startRedis } from '../../src/dev/redis.js'
import { testEngine } from '../conformance/engines.js'
import { startProxy } from '../faults/proxy.js'
import { GITHUB, keyedIssuer } from '../house.js'

const PAGE = readFileSync(join(repository(), 'examples', 'engine-redis-acl', 'README.md'), 'utf8')
const dir = mkdtempSync(join(tmpdir(), 'cf-redis-acl-'))
const redis = await startRedis({ dir, own: true })
const absent = isAbsent(redis) ? redis.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

describe.skipIf(absent !== null)(`examples/engine-redis-acl${absent ? ` (skipped: ${absent})` : ''}`, () => {
  const server = () => redis as Server
  const opened: Redis[] = []
  const connect = (url: string, more: object = {}) => {
    const client = new Redis(url, { retryStrategy: () => null, maxRetriesPerRequest: 1, ...more })
    client.on('error', () => {})
    opened.push(client)
    return client
  }
  const admin = () => connect(server().url)

  afterAll(async () => {
    for (const client of opened) client.disconnect()
    if (!isAbsent(redis)) await redis.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  const parameters = { keys: ['orders:*'], commands: ['+get', '+ping'] }
  const asHolder = (fields: Readonly<Record<string, string>>) =>
    connect(`redis://${fields.REDIS_USERNAME}:${fields.REDIS_PASSWORD}@127.0.0.1:${server().port}`, { enableReadyCheck: false })
  async function usable(fields: Readonly<Record<string, string>>): Promise<boolean> {
    const holder = asHolder(fields)
    try {
      return (await holder.ping()) === 'PONG'
    } catch {
      return false
    } finally {
      holder.disconnect()
    }
  }

  testEngine('redis-acl at a real Redis', 'backend', async () => {
    const { port } = server()
    const proxy = await startProxy({ host: '127.0.0.1', port })
    const own = connect(server().url.replace(`:${port}`, `:${new URL(proxy.address).port}`), { retryStrategy: () => 50, commandTimeout: 3_000 })
    await own.ping()
    const now = () => new Date()
    return {
      engine: redisAclEngine(own, { host: '127.0.0.1', port }, now),
      parameters,
      now,
      usable,
      attribution: fields => fields.REDIS_USERNAME as string,
      secrets: fields => [fields.REDIS_PASSWORD as string],
      break: async () => proxy.refuse(true),
      async heal() {
        proxy.refuse(false)
        await until(async () => (await own.ping()) === 'PONG', { what: 'the connection', deadlineMs: 10_000 })
      },
      async close() {
        own.disconnect()
        await proxy.close()
      },
    }
  })

  it('a connection that is open when its user is ended is ended as well, and the user may what the capability says alone', async () => {
    const at = admin()
    const { grantOf, rowOf } = await import('../../src/contract/fixtures.js')
    const engine = redisAclEngine(at, { host: '127.0.0.1', port: server().port }, () => new Date())
    const grant = grantOf(new Date(), { engine: 'redis-acl', parameters })
    const handle = await engine.prepare?.(grant, AbortSignal.timeout(5_000))
    const minted = await engine.mint(grant, handle ?? null, AbortSignal.timeout(5_000))
    const holder = asHolder(minted.secret.reveal())
    await at.set('orders:1', 'one')
    expect(await holder.get('orders:1')).toBe('one')
    await expect(holder.get('other')).rejects.toThrow('NOPERM')
    await expect(holder.set('orders:1', 'two')).rejects.toThrow('NOPERM')
    const cut = new Promise(resolve => holder.once('close', resolve))
    await engine.destroy(rowOf(grant, { ...handle, ...minted.handle }), AbortSignal.timeout(5_000))
    await cut
    await expect(holder.get('orders:1')).rejects.toThrow()
  })

  it.each([
    ['keys', { ...parameters, keys: ['orders *'] }],
    ['keys', { commands: ['+get'] }],
    ['commands', { ...parameters, commands: ['+@all'] }],
    ['commands', { ...parameters, commands: ['+acl'] }],
    ['commands', { ...parameters, commands: ['+get', '~*'] }],
    ['more', { ...parameters, more: 1 }],
  ])('T65 parameters.%s is refused: %j', (field, given) => {
    const { check } = redisAclEngine(admin(), { host: 'x', port: 1 }, () => new Date())
    expect(() => check(given)).toThrow(expect.objectContaining({ code: 'malformed', facts: expect.objectContaining({ field: `parameters.${field}` }) }))
  })

  describe('in a broker', () => {
    let broker: ReturnType<typeof spawn>
    let url: string
    let log = ''
    const module = join(repository(), 'dist', 'examples', 'engine-redis-acl', 'engine.js')

    beforeAll(async () => {
      if (absent) return
      // As its operator would have it; a build under another umask may have left it open to a group.
      chmodSync(module, 0o644)
      chmodSync(join(module, '..'), 0o755)
      const github = await keyedIssuer('RS256', 'gh-1')
      const port = await freePort()
      url = `http://127.0.0.1:${port}`
      writePolicies(dir, ciRule('ci-redis', 'redis/orders'), 'policies')
      writeFileSync(join(dir, 'jwks'), JSON.stringify({ keys: [github.jwk] }))
      writeFileSync(join(dir, 'admin-url'), await adminAsShown())
      // The configuration that its README.md shows, with the places of this run.
      const shown = parse(/```yaml\n([\s\S]*?)```/.exec(PAGE)?.[1] as string)
      Object.assign(shown.engines[0], { module, settings: { host: '127.0.0.1', port: server().port }, secrets: { admin: { file: 'admin-url' } } })
      writeFileSync(join(dir, 'master-key'), randomBytes(32).toString('base64'))
      writeFileSync(
        join(dir, 'curfew.yaml'),
        stringify({
          mode: 'dev',
          server: { url, listen: `127.0.0.1:${port}`, internal: `127.0.0.1:${await freePort()}` },
          store: { kind: 'memory' },
          queue: { kind: 'memory' },
          signer: { kind: 'sealed', masterKey: { file: 'master-key' }, publishAheadSeconds: 0 },
          issuers: [{ name: 'github', kind: 'oidc', profile: 'github', issuer: GITHUB, keys: { file: 'jwks' }, pin: { repository_owner_id: ['123456'] } }],
          ...shown,
          policies: { dir: 'policies' },
          timers: { sweepMs: 200 },
        }),
      )
      const at = Math.floor(Date.now() / 1000)
      writeFileSync(
        join(dir, 'id-token'),
        await github.mint({
          iss: GITHUB,
          aud: url,
          sub: 'repo:acme/orders:ref:refs/heads/main',
          jti: randomBytes(12).toString('hex'),
          iat: at,
          nbf: at,
          exp: at + 300,
          repository: 'acme/orders',
          repository_id: '456789',
          repository_owner: 'acme',
          repository_owner_id: '123456',
          ref: 'refs/heads/main',
          ref_type: 'branch',
          event_name: 'push',
          workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main',
          job_workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main',
          runner_environment: 'github-hosted',
          run_id: '1',
          run_attempt: '1',
          check_run_id: '1',
        }),
      )
      broker = spawn(process.execPath, [join(repository(), 'dist', 'src', 'main.js')], {
        env: { PATH: process.env.PATH, HOME: dir, CURFEW_CONFIG: join(dir, 'curfew.yaml') },
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      for (const stream of [broker.stdout, broker.stderr]) stream?.on('data', chunk => (log += chunk))
      await until(async () => (await fetch(`${url}/livez`)).ok, { what: 'the broker', deadlineMs: 60_000 }).catch(error => {
        throw new Error(`${(error as Error).message}: ${log}`)
      })
    })
    afterAll(() => void broker?.kill())

    /** With the rights that the page names, and no other. */
    async function adminAsShown(): Promise<string> {
      const rights = (/names a user with `([^`]+)`/.exec(PAGE)?.[1] ?? '').split(' ')
      await admin().call('ACL', 'SETUSER', 'curfew-admin', 'reset', 'on', '>of-the-admin', ...rights)
      return `redis://curfew-admin:of-the-admin@127.0.0.1:${server().port}`
    }

    const cli = onPath('redis-cli')
    const without = cli ? null : 'redis-cli is not on the PATH'
    if (without && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${without}`)

    it.skipIf(without !== null)(`makes a user that reads, and that is gone with the command${without ? ` (skipped: ${without})` : ''}`, async () => {
      await admin().set('orders:7', 'seven')
      const [, command = ''] = /```sh\n([\s\S]*?)```/.exec(PAGE) ?? []
      const { stdout, stderr } = await promisify(execFile)('sh', ['-c', command.replace("'redis-cli", "'echo $REDIS_USERNAME; redis-cli")], {
        cwd: repository(),
        env: {
          PATH: `${join(repository(), 'bin')}:${process.env.PATH}`,
          HOME: dir,
          CURFEW_URL: url,
          CURFEW_ID_TOKEN: readFileSync(join(dir, 'id-token'), 'utf8'),
        },
        timeout: 60_000,
      })
      const [user, value] = stdout.trim().split('\n')
      expect(value).toBe('seven')
      expect(user).toMatch(/^curfew-crd-[0-9a-z]{26}$/)
      expect(stderr).toContain('confirmed dead')
      expect(await admin().call('ACL', 'GETUSER', user as string)).toBeNull()
      for (const secret of [new URL(server().url).password, 'of-the-admin']) expect(log).not.toContain(secret)
    })
  })
})
