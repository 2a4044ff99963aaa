/** Owns the end of a run that decides whether a change lands: what failed, by name and reason, after all other output; then the counts of all suites in one line. */
import { readdirSync, readFileSync } from 'node:fs'
import { basename, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
/** Whoever reads only the end of a log still sees every name; the whole of a failure stands where it happened. */
const MAX_REASON = 300
const MAX_NAMED = 25
const MAX_SLOW = 8

const ANSI = new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, 'g')
const brief = text => text.replace(ANSI, '').trim().split('\n').slice(0, 3).join(' | ').slice(0, MAX_REASON)
const seconds = ms => `${(ms / 1000).toFixed(0)} s`

/** What failed in one file of tests: its tests, or the file itself when it never came to them. */
function failures(file) {
  const where = relative(ROOT, file.name)
  const tests = (file.assertionResults ?? []).filter(t => t.status === 'failed')
  if (tests.length > 0) return tests.map(t => ({ name: `${where} > ${t.fullName}`, reason: brief(t.failureMessages?.[0] ?? '') }))
  return file.status === 'failed' ? [{ name: where, reason: brief(file.message ?? '') }] : []
}

/**
 * Adds up the reports in a folder, which are in the shape of vitest's JSON reporter.
 * A suite that ended badly and reported no failure still counts as one.
 */
function summary(folder, code) {
  const counts = { passed: 0, failed: 0, skipped: 0 }
  const failed = []
  const files = []
  for (const name of readdirSync(folder).sort()) {
    const report = JSON.parse(readFileSync(join(folder, name), 'utf8'))
    const named = (report.testResults ?? []).flatMap(failures)
    const number = Math.max(report.numFailedTests, named.length)
    counts.passed += report.numPassedTests
    counts.failed += number
    counts.skipped += report.numPendingTests + (report.numTodoTests ?? 0)
    failed.push(...named)
    if (number > named.length) failed.push({ name: basename(name, '.json'), reason: `${number - named.length} failed; its output stands above` })
    files.push(...(report.testResults ?? []).filter(f => f.endTime > f.startTime))
  }
  if (code !== 0 && counts.failed === 0) {
    counts.failed = 1
    failed.push({ name: 'a suite', reason: 'ended with an error and named no test; its output stands above' })
  }
  const slow = files.map(f => ({ name: relative(ROOT, f.name), ms: f.endTime - f.startTime })).sort((a, b) => b.ms - a.ms)
  return { counts, failed, slow: slow.slice(0, MAX_SLOW) }
}

function told({ counts, failed, slow }) {
  const lines = slow.length > 0 ? [`slowest: ${slow.map(f => `${f.name} ${seconds(f.ms)}`).join(', ')}`] : []
  for (const { name, reason } of failed.slice(0, MAX_NAMED)) lines.push(`FAILED ${name}`, ...(reason ? [`       ${reason}`] : []))
  if (failed.length > MAX_NAMED) lines.push(`and ${failed.length - MAX_NAMED} more that failed`)
  return [...lines, `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`]
}

const seen = summary(process.argv[2], Number(process.argv[3]))
for (const line of told(seen)) console.log(line)
process.exitCode = seen.counts.failed > 0 || seen.counts.passed === 0 ? 1 : 0
