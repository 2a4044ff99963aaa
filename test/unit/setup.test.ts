/** Owns what the first step of every command promises: it does what is needed, nothing twice, and says plainly what it cannot do. */
import { execFile, spawnSync } from 'node:child_process'
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const ROOT = join(import.meta.dirname, '..', '..')
const run = promisify(execFile)
let dir: string

/** A small house with a compiler of its own: notes each call, and makes what the real one makes. */
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'curfew-setup-'))
  for (const folder of ['scripts', 'bin', 'src', 'node_modules/typescript/bin', 'tools']) mkdirSync(join(dir, folder), { recursive: true })
  cpSync(join(ROOT, 'scripts/setup.mjs'), join(dir, 'scripts/setup.mjs'))
  cpSync(join(ROOT, 'bin/curfew'), join(dir, 'bin/curfew'))
  writeFileSync(join(dir, 'package.json'), '{"type":"module"}')
  writeFileSync(join(dir, 'tsconfig.json'), '{}')
  writeFileSync(join(dir, 'package-lock.json'), '{}')
  writeFileSync(join(dir, 'src/a.ts'), 'export {}')
  writeFileSync(
    join(dir, 'node_modules/typescript/bin/tsc'),
    `import fs from 'node:fs'
fs.appendFileSync('calls', 'tsc\\n')
if (fs.existsSync('broken')) { console.log('src/a.ts(1,1): error TS1005: here'); process.exit(2) }
fs.mkdirSync('dist/src/cli', { recursive: true })
fs.writeFileSync('dist/src/cli/main.js', 'console.log("the command line")')`,
  )
  writeFileSync(join(dir, 'node_modules/typescript/package.json'), '{"type":"module"}')
  writeFileSync(join(dir, 'node_modules/.package-lock.json'), '{}')
  npm('echo npm >>calls; echo "$@" >>args; touch node_modules/.package-lock.json')
  past('package-lock.json', 100)
  past('node_modules/.package-lock.json', 50)
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

function npm(script: string): void {
  writeFileSync(join(dir, 'tools/npm'), `#!/bin/sh\n${script}\n`)
  chmodSync(join(dir, 'tools/npm'), 0o755)
}
function past(file: string, seconds: number): void {
  const at = new Date(Date.now() - seconds * 1000)
  utimesSync(join(dir, file), at, at)
}
function setup(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(dir, 'scripts/setup.mjs'), ...args], {
    encoding: 'utf8',
    env: { ...process.env, PATH: `${join(dir, 'tools')}:${process.env.PATH}` },
  })
  return { status, stdout, stderr }
}
const calls = () => (existsSync(join(dir, 'calls')) ? readFileSync(join(dir, 'calls'), 'utf8').trim().split('\n') : [])

describe('warm', () => {
  test('it compiles once, and the next time does nothing at all, quickly', () => {
    expect(setup()).toMatchObject({ status: 0, stderr: '' })
    expect(calls()).toEqual(['tsc'])
    const began = performance.now()
    expect(setup('--quiet')).toEqual({ status: 0, stdout: '', stderr: '' })
    expect(performance.now() - began).toBeLessThan(2_000)
    expect(calls()).toEqual(['tsc'])
  })
  test.each(['src/a.ts', 'tsconfig.json', 'package.json'])('a newer %s is compiled again', file => {
    setup()
    past(file, -5)
    setup()
    expect(calls()).toEqual(['tsc', 'tsc'])
  })
  test('a source that is new, and one that is gone, are noticed', () => {
    setup()
    mkdirSync(join(dir, 'src/deep'))
    writeFileSync(join(dir, 'src/deep/b.ts'), 'export {}')
    past('src/deep', -5)
    setup()
    expect(calls()).toHaveLength(2)
  })
  test('a type check beside it, which also writes into dist, does not pass for a compilation', () => {
    mkdirSync(join(dir, 'dist'))
    writeFileSync(join(dir, 'dist/.tsbuildinfo'), '{}')
    setup()
    expect(calls()).toEqual(['tsc'])
  })
  test('what does not compile is told with its place, and tried again the next time', () => {
    writeFileSync(join(dir, 'broken'), '')
    const first = setup('--quiet')
    expect(first.status).toBe(1)
    expect(first.stderr).toContain('src/a.ts(1,1): error TS1005')
    expect(setup('--quiet').status).toBe(1)
    rmSync(join(dir, 'broken'))
    expect(setup('--quiet').status).toBe(0)
    expect(calls()).toHaveLength(3)
  })
})

describe('cold', () => {
  test('without node_modules it installs exactly the lock file, runs no scripts of packages, then compiles', () => {
    rmSync(join(dir, 'node_modules/.package-lock.json'))
    expect(setup()).toMatchObject({ status: 0 })
    expect(calls()).toEqual(['npm', 'tsc'])
    expect(readFileSync(join(dir, 'args'), 'utf8')).toMatch(/^ci --ignore-scripts /)
    expect(setup().status).toBe(0)
    expect(calls()).toHaveLength(2)
  })
  test('with a newer lock file it installs again, and compiles again', () => {
    setup()
    past('package-lock.json', -5)
    // What npm writes is newer than the lock file.
    npm('echo npm >>calls; touch -d "+10 seconds" node_modules/.package-lock.json')
    past('package-lock.json', 10)
    past('node_modules/.package-lock.json', 20)
    setup()
    expect(calls()).toEqual(['tsc', 'npm', 'tsc'])
  })

  const failures: [string, string, RegExp][] = [
    [
      'offline',
      'echo "npm error code ENOTFOUND"; echo "npm error network request to https://registry.internal.example/express failed"; exit 1',
      /cannot be reached\. Go online once/,
    ],
    ['a folder of somebody else', 'echo "npm error code EACCES"; exit 1', /cannot be written by this user/],
    ['a full disk', 'echo "npm error code ENOSPC"; exit 1', /the disk is full/],
    ['a package that is not the one named', 'echo "npm error code EINTEGRITY"; exit 1', /not the one that the lock file names/],
    [
      'a lock file of another manifest',
      'echo "npm error code EUSAGE"; echo "npm error can only install packages when in sync"; exit 1',
      /do not belong together/,
    ],
    ['something else', 'echo "npm error code EWEIRD"; exit 1', /npm says EWEIRD/],
  ]
  test.each(failures)('%s is told in a sentence, without an address', (_, script, wanted) => {
    rmSync(join(dir, 'node_modules/.package-lock.json'))
    npm(script)
    const { status, stderr } = setup('--quiet')
    expect(status).toBe(1)
    expect(stderr).toMatch(wanted)
    expect(stderr).not.toContain('registry.internal.example')
    expect(stderr).not.toMatch(/^\s+at /m)
    expect(calls()).toEqual([])
  })
  test('an install that is stopped half-way is begun again', () => {
    rmSync(join(dir, 'node_modules/.package-lock.json'))
    npm('exit 1')
    setup()
    npm('echo npm >>calls; touch node_modules/.package-lock.json')
    expect(setup().status).toBe(0)
    expect(calls()).toEqual(['npm', 'tsc'])
  })
  test('without npm it says so', () => {
    rmSync(join(dir, 'node_modules/.package-lock.json'))
    rmSync(join(dir, 'tools/npm'))
    symlinkSync(process.execPath, join(dir, 'tools/node'))
    const { status, stderr } = spawnSync(process.execPath, [join(dir, 'scripts/setup.mjs')], { encoding: 'utf8', env: { PATH: join(dir, 'tools') } })
    expect(status).toBe(1)
    expect(stderr).toContain('npm comes with Node')
  })
})

describe('bin/curfew', () => {
  test('says what to do while nothing is compiled, and is the command line afterwards', async () => {
    const before = spawnSync(process.execPath, [join(dir, 'bin/curfew')], { encoding: 'utf8' })
    expect(before.status).toBe(1)
    expect(before.stderr).toContain('npm run setup')
    setup()
    expect((await run(process.execPath, [join(dir, 'bin/curfew')])).stdout).toBe('the command line\n')
  })
})
