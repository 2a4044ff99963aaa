/** Owns the versions below which known faults live (security.md section 11), and what the lock file may hold at all (S1). */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkRedis, type Redis } from '../../src/clients/redis.js'

interface Locked {
  readonly version: string
  readonly integrity?: string
  readonly resolved?: string
  readonly link?: boolean
  readonly dev?: boolean
  readonly devOptional?: boolean
  readonly optional?: boolean
  readonly hasInstallScript?: boolean
}

const ROOT = join(import.meta.dirname, '..', '..')
const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as { lockfileVersion: number; packages: Record<string, Locked> }
const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  dependencies: Record<string, string>
  devDependencies: Record<string, string>
  engines: { node: string }
}
const packages = Object.entries(lock.packages).filter(([path]) => path !== '')
const nameOf = (path: string) => path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)

/** Below this a fault is known that we rely on being absent. */
const FLOORS: readonly [string, string, string][] = [
  ['express', '5.2.0', 'async errors; query parsing'],
  ['body-parser', '2.3.0', 'CVE-2026-12590'],
  ['qs', '6.14.2', 'CVE-2025-15284'],
  ['path-to-regexp', '8.4.0', 'CVE-2024-45296 and its kin'],
  ['jose', '6.2.10', 'alphabet and UTF-8 (6.2.5), own properties (6.2.7), key metadata (6.2.10)'],
  ['bullmq', '6.7.0', 'what was measured'],
  ['ioredis', '6.0.0', 'what was measured'],
  ['node-vault', '0.12.0', 'the injected transport'],
  ['axios', '1.21.0', 'CVE-2026-40175 and its kin; transitive, never in a request’s path'],
  ['follow-redirects', '1.16.0', 'CVE-2026-40895'],
  ['pino', '10.0.0', 'redaction'],
  ['@electric-sql/pglite', '0.5.16', 'what was measured'],
  ['vitest', '4.1.0', 'tools'],
  ['fast-check', '4.10.0', 'tools'],
]

/** Numbers only; a pre-release counts as older than its release. */
function isBelow(version: string, floor: string): boolean {
  const [numbers = '', pre] = version.split('-')
  const a = numbers.split('.').map(Number)
  const b = floor.split('.').map(Number)
  for (let i = 0; i < 3; i++) {
    const [x, y] = [a[i] ?? 0, b[i] ?? 0]
    if (!(x >= y)) return true
    if (x > y) return false
  }
  return pre !== undefined
}

describe('packages', () => {
  test('the comparison knows older from newer', () => {
    for (const [version, floor] of [
      ['5.1.9', '5.2.0'],
      ['4.99.0', '5.2.0'],
      ['5.2.0-beta.1', '5.2.0'],
      ['x.y.z', '1.0.0'],
    ] as const)
      expect(isBelow(version, floor), version).toBe(true)
    for (const [version, floor] of [
      ['5.2.0', '5.2.0'],
      ['5.10.0', '5.2.0'],
      ['10.0.0', '9.9.9'],
    ] as const)
      expect(isBelow(version, floor), version).toBe(false)
  })
  test.each(FLOORS)('%s is at least %s: %s', (name, floor) => {
    const met = packages.filter(([path]) => nameOf(path) === name)
    expect(met.length).toBeGreaterThan(0)
    for (const [path, { version }] of met) expect(isBelow(version, floor), `${path} ${version}`).toBe(false)
  })
  test('what is installed is what the lock file names', () => {
    for (const [name] of FLOORS) {
      const path = join(ROOT, 'node_modules', name, 'package.json')
      if (!existsSync(path)) continue
      expect((JSON.parse(readFileSync(path, 'utf8')) as Locked).version).toBe(lock.packages[`node_modules/${name}`]?.version)
    }
  })
})

describe('the lock file (S1)', () => {
  test('every package is pinned by its content, and none comes from an address of its own, a folder or a repository', () => {
    expect(lock.lockfileVersion).toBe(3)
    for (const [path, { integrity, resolved, link }] of packages) {
      expect(integrity, path).toMatch(/^sha512-[A-Za-z0-9+/]{86}==$/)
      expect([resolved, link], path).toEqual([undefined, undefined])
    }
  })
  test('the manifest names exact versions only', () => {
    for (const [name, version] of Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })) {
      expect(version, name).toMatch(/^\d+\.\d+\.\d+$/)
      expect(lock.packages[`node_modules/${name}`]?.version, name).toBe(version)
    }
  })
  test('no package wants to run a script, but one optional speed-up that works without it', () => {
    expect(packages.filter(([, p]) => p.hasInstallScript).map(([path, p]) => [nameOf(path), p.optional ?? false])).toEqual([['msgpackr-extract', true]])
    for (const script of ['scripts/setup.mjs', 'Dockerfile']) {
      const text = readFileSync(join(ROOT, script), 'utf8')
      expect(text).toContain('--ignore-scripts')
      expect(text).not.toMatch(/npm (?:install|i)\b/)
    }
  })
  test('the budget of packages in production holds', () => {
    expect(Object.keys(manifest.dependencies).length).toBeLessThanOrEqual(20)
    expect(packages.filter(([, p]) => !p.dev && !p.devOptional).length).toBeLessThanOrEqual(160)
  })
})

describe('servers', () => {
  const redisThatSays = (version: string, more = '') =>
    ({ info: async () => `# Server\r\nredis_version:${version}\r\nmaxmemory_policy:noeviction\r\nrole:master\r\naof_enabled:1\r\n${more}` }) as unknown as Redis

  test.each(['7.0.15', '7.2.4', '8.6.2'])('Redis %s only warns: a distribution may have patched it', async version => {
    const report = await checkRedis(redisThatSays(version))
    expect(report.ok).toBe(true)
    expect(report.warnings.join()).toContain('CVE-2025-49844')
  })
  test.each(['8.6.3', '8.10.0', '9.0.0'])('Redis %s does not', async version => {
    expect((await checkRedis(redisThatSays(version))).warnings).toEqual([])
  })
  test.each(['5.0.14', '6.0.16', 'unknown'])('Redis %s is refused: nothing of ours was ever run on it', async version => {
    expect((await checkRedis(redisThatSays(version))).ok).toBe(false)
  })
  test('Valkey counts its versions itself', async () => {
    const report = await checkRedis(redisThatSays('7.2.4', 'server_name:valkey\r\nvalkey_version:8.1.4\r\n'))
    expect(report).toMatchObject({ ok: true, warnings: [] })
  })
  test('this Node is new enough, and the image has a maintained one', () => {
    expect(manifest.engines.node).toBe('>=20.20')
    expect(isBelow(process.versions.node, '20.20.0')).toBe(false)
  })
})
