import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { FAILPOINTS } from '../../src/failpoint.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** What a process of the compiled package finds behind '#failpoint', and that it survives calling it. */
const script = (at: string) => `
  const found = import.meta.resolve('#failpoint')
  const { fp } = await import('#failpoint')
  const answer = await fp(${JSON.stringify(at)})
  process.stdout.write(JSON.stringify({ found, answer: answer === undefined, body: fp.toString() }))`

function child(at: string, fault: string, ...conditions: string[]) {
  // From the compiled files by plain Node: the runner of this test has an alias of its own.
  const env = { PATH: process.env.PATH ?? '', CURFEW_FAILPOINT: fault }
  return spawnSync(process.execPath, [...conditions, '--input-type=module', '-e', script(at)], { cwd: ROOT, env, encoding: 'utf8', timeout: 20_000 })
}

describe('the places where a fault run may stop the process', () => {
  beforeAll(() => {
    if (!existsSync(join(ROOT, 'dist/src/failpoint.js'))) throw new Error('the sources are not compiled: npm run setup')
  })

  it('are empty functions in production, whatever the environment asks for', () => {
    for (const at of ['issue.4b', 'revoke.3b']) {
      const { status, signal, stdout } = child(at, `${at}=kill`)
      expect({ status, signal }).toEqual({ status: 0, signal: null })
      const seen = JSON.parse(stdout) as { found: string; answer: boolean; body: string }
      expect(seen.found).toMatch(/\/dist\/src\/failpoint\.js$/)
      expect(seen.answer).toBe(true)
      expect(seen.body.replace(/\s/g, '')).toMatch(/^asyncfunctionfp\(_at\)\{\}$/)
    }
  })

  it('kill under the test condition, which is what the twin above is measured against', () => {
    expect(child('issue.4b', 'issue.4b=kill', '--conditions=curfew-faults').signal).toBe('SIGKILL')
    const other = child('issue.4a', 'issue.4b=kill', '--conditions=curfew-faults')
    expect(other.status).toBe(0)
    expect((JSON.parse(other.stdout) as { found: string }).found).toMatch(/\/dist\/test\/faults\/failpoint\.js$/)
  })

  it('name every step of both walks once', () => {
    expect(new Set(FAILPOINTS).size).toBe(FAILPOINTS.length)
    expect(FAILPOINTS.filter(f => f.startsWith('issue.'))).toHaveLength(7)
  })
})
