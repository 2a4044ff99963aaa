/** Owns the judgement of compose.yaml, its configuration and the image, without a container engine: shape, references, pins, privileges. */
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, normalize } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { z } from 'zod'
import { load, toCapabilities } from '../../src/config.js'
import { DATABASE_PARAMETERS } from '../../src/engines/vault-database.js'
import { cedarPolicy } from '../../src/policy/cedar.js'
import { masterKeyWrapper } from '../../src/signers/sealed.js'

const ROOT = join(import.meta.dirname, '..', '..')
const text = (path: string) => readFileSync(join(ROOT, path), 'utf8')

/** The part of the Compose specification that we use, strictly: a misspelt key would otherwise be a protection that is not there. */
const image = z.string().regex(/^[a-z0-9./-]+:[^:@]*\d[^:@]*$/, 'must have a tag with a version')
const words = z.array(z.string())
const after = z.record(z.string(), z.strictObject({ condition: z.enum(['service_started', 'service_healthy', 'service_completed_successfully']) }))
const duration = z.string().regex(/^\d+(ms|s|m)$/)
const healthcheck = z.union([
  z.strictObject({ disable: z.literal(true) }),
  z.strictObject({ test: words.min(2), interval: duration, timeout: duration, retries: z.int(), start_period: duration.optional() }),
])
const service = z.strictObject({
  image,
  build: z.literal('.').optional(),
  user: z.string(),
  init: z.boolean().optional(),
  read_only: z.literal(true),
  cap_drop: z.tuple([z.literal('ALL')]),
  cap_add: words.optional(),
  security_opt: z.tuple([z.literal('no-new-privileges:true')]),
  restart: z.enum(['unless-stopped', 'no']),
  logging: z.strictObject({ driver: z.literal('json-file'), options: z.strictObject({ 'max-size': z.string(), 'max-file': z.string() }) }),
  environment: z.record(z.string().regex(/^[A-Z_]+$/), z.string()).optional(),
  entrypoint: words.optional(),
  command: words.optional(),
  tmpfs: words.optional(),
  volumes: words.optional(),
  secrets: words.optional(),
  networks: words.optional(),
  network_mode: z.literal('none').optional(),
  ports: words.optional(),
  depends_on: after.optional(),
  healthcheck: healthcheck.optional(),
  stop_grace_period: duration.optional(),
})
const COMPOSE = z
  .strictObject({
    name: z.string(),
    services: z.record(z.string(), service),
    networks: z.record(z.string(), z.strictObject({ internal: z.boolean().optional() })),
    volumes: z.record(z.string(), z.strictObject({})),
    secrets: z.record(z.string(), z.strictObject({ file: z.string().regex(/^\.secrets\/[a-z-]+$/) })),
  })
  .strict()

const raw = parse(text('compose.yaml'), { merge: true }) as Record<string, unknown>
const tree = Object.fromEntries(Object.entries(raw).filter(([key]) => !key.startsWith('x-')))
const compose = COMPOSE.parse(tree)
const services = Object.entries(compose.services)

describe('compose.yaml', () => {
  test('the check of its shape finds a misspelt protection and an image without a version', () => {
    const bad = (change: (service: Record<string, unknown>) => void) => {
      const copy = structuredClone(tree) as { services: Record<string, Record<string, unknown>> }
      change(copy.services.broker as Record<string, unknown>)
      return COMPOSE.safeParse(copy).success
    }
    expect(bad(() => {})).toBe(true)
    expect(bad(s => Object.assign(s, { readonly: true }))).toBe(false)
    expect(bad(s => delete s.read_only)).toBe(false)
    expect(bad(s => Object.assign(s, { privileged: true }))).toBe(false)
    for (const tag of ['redis', 'redis:latest', 'redis:alpine']) expect(bad(s => Object.assign(s, { image: tag }))).toBe(false)
  })
  test('has store, queue, vault, migrations, broker and worker', () => {
    expect(Object.keys(compose.services)).toEqual(expect.arrayContaining(['postgres', 'redis', 'vault', 'migrate', 'broker', 'worker']))
  })
  test.each(services)('%s runs as nobody special, on a root that it cannot write (K13)', (name, { user, network_mode, cap_add }) => {
    if (name === 'vault-identities') {
      // The one step that needs root has no network and one capability.
      expect({ user, network_mode, cap_add }).toEqual({ user: 'root', network_mode: 'none', cap_add: ['CHOWN'] })
    } else {
      expect(user).not.toMatch(/^(root|0)(:|$)/)
      expect(cap_add ?? []).toEqual(name === 'vault' ? ['IPC_LOCK'] : [])
    }
  })
  test.each(services)('what %s names exists', (name, made) => {
    for (const other of Object.keys(made.depends_on ?? {})) {
      expect(Object.keys(compose.services)).toContain(other)
      if (made.depends_on?.[other]?.condition === 'service_healthy') expect(compose.services[other]?.healthcheck).toMatchObject({ test: expect.anything() })
      if (made.depends_on?.[other]?.condition === 'service_completed_successfully') expect(compose.services[other]?.restart).toBe('no')
    }
    for (const secret of made.secrets ?? []) expect(Object.keys(compose.secrets)).toContain(secret)
    for (const network of made.networks ?? []) expect(Object.keys(compose.networks)).toContain(network)
    for (const volume of made.volumes ?? []) {
      const [from = ''] = volume.split(':')
      if (from.startsWith('.')) expect(existsSync(join(ROOT, from)), from).toBe(true)
      else expect(Object.keys(compose.volumes)).toContain(from)
    }
    const said = [...(made.entrypoint ?? []), ...(made.command ?? []), ...Object.values(made.environment ?? {})].join('\n')
    for (const [, secret] of said.matchAll(/\/run\/secrets\/([a-z-]+)/g)) expect(made.secrets, `${name} reads ${secret}`).toContain(secret)
  })
  test('everything that stays up is asked whether it works, but the worker, which has no port', () => {
    for (const [name, { restart, healthcheck: asked }] of services) {
      if (restart === 'no') continue
      expect(asked, name).toBeDefined()
      expect('disable' in (asked ?? {}), name).toBe(name === 'worker')
    }
  })
  test('Redis may not forget: noeviction and an append-only file', () => {
    const command = compose.services.redis?.command?.join(' ') ?? ''
    expect(command).toMatch(/^maxmemory-policy noeviction$/m)
    expect(command).toMatch(/^appendonly yes$/m)
  })
  test('nothing is published beyond this machine, and only the public listener is', () => {
    expect(services.flatMap(([, s]) => s.ports ?? [])).toEqual(['127.0.0.1:8787:8787'])
    expect(compose.networks.inside?.internal).toBe(true)
    for (const name of ['postgres', 'redis', 'vault']) expect(compose.services[name]?.networks).toEqual(['inside'])
  })
  test('secrets are files; none is written into an environment or a command', () => {
    for (const [name, { environment = {} }] of services) {
      for (const [key, value] of Object.entries(environment)) {
        if (/PASSWORD|SECRET|TOKEN|KEY/.test(key)) expect(`${name} ${key} ${value}`).toMatch(/_FILE \/run\/secrets\/[a-z-]+$/)
        expect(value).not.toMatch(/:\/\/[^{/\s]+:[^{/\s]+@/)
      }
    }
  })
  test('the image is the version of this package', () => {
    const { version } = JSON.parse(text('package.json')) as { version: string }
    expect(compose.services.broker?.image).toBe(`curfew:${version}`)
    expect(text('CHANGELOG.md')).toContain(`## ${version}`)
  })
})

describe('its secrets', () => {
  const dir = mkdtempSync(join(tmpdir(), 'curfew-compose-'))
  cpSync(join(ROOT, 'config'), join(dir, 'config'), { recursive: true })
  const make = () => execFileSync('sh', [join(dir, 'config/compose/secrets.sh')], { encoding: 'utf8' })
  make()
  const secretOf = (name: string) => readFileSync(join(dir, '.secrets', name), 'utf8')
  afterAll(() => rmSync(dir, { recursive: true, force: true }))

  test('are made by the script: exactly those that compose.yaml names, for their owner alone', () => {
    expect(readdirSync(join(dir, '.secrets')).sort()).toEqual(Object.keys(compose.secrets).sort())
    expect(statSync(join(dir, '.secrets')).mode & 0o077).toBe(0)
    for (const [name, { file }] of Object.entries(compose.secrets)) expect(file).toBe(`.secrets/${name}`)
  })
  test('are long, differ from each other, and stay what they are when the script runs again', () => {
    const before = Object.keys(compose.secrets).map(secretOf)
    expect(new Set(before).size).toBe(before.length)
    for (const value of before) expect(value.length).toBeGreaterThanOrEqual(40)
    make()
    expect(Object.keys(compose.secrets).map(secretOf)).toEqual(before)
  })
  test('are not committed', () => {
    expect(text('.gitignore').split('\n')).toContain('.secrets/')
    expect(text('.dockerignore').split('\n')[0]).toBe('*')
  })

  test('its configuration loads with them, and names no secret that the broker is not given', async () => {
    const asked: string[] = []
    const { config } = load({
      path: '/app/config/compose/curfew.yaml',
      env: {},
      readFile: path => {
        if (path === '/app/config/compose/curfew.yaml') return text('config/compose/curfew.yaml')
        asked.push(path)
        return path.startsWith('/run/secrets/') ? secretOf(path.slice('/run/secrets/'.length)) : 'identity'
      },
    })
    const given = (compose.services.broker?.secrets ?? []).map(name => `/run/secrets/${name}`)
    expect(asked.filter(path => path.startsWith('/run/secrets/')).sort()).toEqual(given.sort())
    expect(asked.filter(path => !path.startsWith('/run/secrets/')).map(path => path.replace(/issuer|revoker|reconciler/, '*'))).toEqual(
      Array.from({ length: 3 }, () => '/vault/identities/vault-*-secret-id'),
    )
    const { signer } = config
    if (signer.kind !== 'sealed') return expect.unreachable()
    expect(() => masterKeyWrapper(signer.masterKey)).not.toThrow()
    for (const c of config.capabilities) if (c.engine === 'vault-database') expect(DATABASE_PARAMETERS.safeParse(c.parameters).error).toBeUndefined()
    const url = new URL(config.server.url)
    expect(config.server.listen.split(':')[1]).toBe(url.port)
  })
})

describe.each([
  ['config/compose/curfew.yaml', 'config/compose'],
  ['config/curfew.example.yaml', 'config'],
])('the shipped policies under %s', (file, folder) => {
  test('load, and name only what is configured there', async () => {
    const { config } = load({ path: join(ROOT, file), env: {}, readFile: path => (path === join(ROOT, file) ? text(file) : 'x'.repeat(43)) })
    expect(normalize(config.policies.dir)).toBe(join(ROOT, 'config', 'policies'))
    const policy = await cedarPolicy({
      dir: config.policies.dir,
      capabilities: toCapabilities(config),
      issuers: config.issuers.map(i => i.name),
      genericClaims: [],
      log: { info() {}, error() {} },
    })
    expect(policy.digest).toMatch(/^pol_/)
    expect(folder).toBeTruthy()
  })
})

describe('the image', () => {
  const lines = text('Dockerfile').split('\n')
  test('is built from a version, without scripts of packages, and without what only development needs', () => {
    const from = lines.filter(line => line.startsWith('FROM '))
    expect(from.length).toBe(2)
    for (const line of from) expect(line).toMatch(/^FROM node:\d+\.\d+\.\d+-[a-z]+-slim( AS \w+)?$/)
    expect(lines.filter(line => line.includes('npm ci')).every(line => line.includes('--ignore-scripts'))).toBe(true)
    expect(text('Dockerfile')).toContain('npm prune --omit=dev --ignore-scripts')
  })
  test('runs on a maintained line of Node (security.md 11), as an ordinary user, hardened (H20, K12, K13)', () => {
    expect(Number(/^FROM node:(\d+)/.exec(text('Dockerfile').replace(/^#.*\n/, ''))?.[1])).toBeGreaterThanOrEqual(22)
    expect(lines).toContain('USER 1000:1000')
    const entry = lines.find(line => line.startsWith('ENTRYPOINT')) ?? ''
    for (const flag of ['--disable-proto=delete', '--disallow-code-generation-from-strings', '--disable-sigusr1']) expect(entry).toContain(flag)
  })
  test('copies only what its context admits, and the entries that compose.yaml starts are compiled from sources that exist', () => {
    const admitted = text('.dockerignore')
      .split('\n')
      .filter(line => line.startsWith('!'))
      .map(line => line.slice(1))
    for (const line of lines.filter(l => l.startsWith('COPY ') && !l.includes('--from='))) {
      for (const path of line.split(/\s+/).slice(1, -1)) {
        expect(admitted).toContain(path)
        expect(existsSync(join(ROOT, path)), path).toBe(true)
      }
    }
    for (const started of ['dist/src/main.js', 'dist/workers/main.js']) {
      expect(`${text('Dockerfile')}${text('compose.yaml')}`).toContain(started)
      expect(existsSync(join(ROOT, started.replace('dist/', '').replace('.js', '.ts')))).toBe(true)
    }
  })
})

test.each(['config/compose/secrets.sh', 'config/compose/postgres-init.sh', 'config/vault/setup.sh'])('%s is a shell script that parses', path => {
  expect(() => execFileSync('sh', ['-n', join(ROOT, path)])).not.toThrow()
})
