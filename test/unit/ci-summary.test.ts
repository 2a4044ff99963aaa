/** Owns the proof that the end of a run names what failed, and never calls a bad end a good one. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

const SUMMARY = join(import.meta.dirname, '..', '..', '.ci', 'summary.mjs')
const counts = (passed: number, failed: number, pending = 0) => ({ numPassedTests: passed, numFailedTests: failed, numPendingTests: pending })

function ended(reports: Record<string, object>, code = 0) {
  const folder = mkdtempSync(join(tmpdir(), 'curfew-summary-'))
  for (const [name, report] of Object.entries(reports)) writeFileSync(join(folder, `${name}.json`), JSON.stringify(report))
  const { status, stdout } = spawnSync(process.execPath, [SUMMARY, folder, String(code)], { encoding: 'utf8' })
  return { status, lines: stdout.trimEnd().split('\n') }
}

describe('the end of a run', () => {
  test('adds the suites up in one line', () => {
    expect(ended({ test: { ...counts(3, 0), numTodoTests: 1 }, faults: counts(2, 0) })).toEqual({ status: 0, lines: ['5 passed, 0 failed, 1 skipped'] })
  })
  test('names a failed test and its reason, without colours', () => {
    const failed = { fullName: 'a verb refuses', status: 'failed', failureMessages: ['\u001b[31mError: 409\u001b[39m\n at a\n at b\n at c'] }
    const testResults = [{ name: 'test/unit/a.test.ts', status: 'failed', startTime: 1, endTime: 2001, assertionResults: [failed, { status: 'passed' }] }]
    expect(ended({ test: { ...counts(1, 1), testResults } }, 1)).toEqual({
      status: 1,
      lines: [
        'slowest: test/unit/a.test.ts 2 s',
        'FAILED test/unit/a.test.ts > a verb refuses',
        '       Error: 409 |  at a |  at b',
        '1 passed, 1 failed, 0 skipped',
      ],
    })
  })
  test('a file that never came to its tests counts as a failure', () => {
    const testResults = [{ name: 'test/unit/a.test.ts', status: 'failed', message: 'cannot be read', assertionResults: [] }]
    expect(ended({ test: { ...counts(9, 0), testResults } }, 1)).toEqual({
      status: 1,
      lines: ['FAILED test/unit/a.test.ts', '       cannot be read', '9 passed, 1 failed, 0 skipped'],
    })
  })
  test('a suite that tells a number only is named', () => {
    expect(ended({ openapi: counts(0, 1) }, 1).lines[0]).toBe('FAILED openapi')
  })
  test.each([
    ['a suite that ends badly without a failed test', { test: counts(9, 0) }, 1, /1 failed/],
    ['nothing that passed', { test: counts(0, 0) }, 0, /^0 passed/],
    ['no report at all', {}, 0, /^0 passed/],
  ])('%s is no success', (_, reports, code, last) => {
    const { status, lines } = ended(reports, code)
    expect(status).toBe(1)
    expect(lines.at(-1)).toMatch(last)
  })
})
