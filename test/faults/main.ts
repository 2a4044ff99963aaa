/** Owns `npm run test:faults`: which walks are run, and the order of their cases. */
import { parseArgs } from 'node:util'
import { isAbsent } from '../../src/dev/find.js'
import { BREAKS } from './broken.js'
import { answerCases } from './cases-answers.js'
import { bundleCases } from './cases-bundle.js'
import { clockCases, stillCases } from './cases-clock.js'
import { embeddedCases } from './cases-embedded.js'
import { irrevocableCases } from './cases-irrevocable.js'
import { issueCases, settled } from './cases-issue.js'
import { queueCases } from './cases-queue.js'
import { raceCases } from './cases-races.js'
import { changedLater, redisCases } from './cases-redis.js'
import { revokeCases } from './cases-revoke.js'
import { storeCases } from './cases-store.js'
import { issueTwiceCases, revokeTwiceCases } from './cases-twice.js'
import { vaultCases } from './cases-vault.js'
import { catalogueCase } from './catalogue.js'
import { randomRuns } from './random.js'
import { newReport, say, writeReport } from './report.js'
import { sinkCases } from './sinks.js'
import { buildWorld, TIMERS } from './world.js'

const USAGE =
  'usage: npm run test:faults -- [issue|revoke] [--only NAMES] [--seed N] [--long] [--report FILE] | --runs N [--seed S] [--break version-fence|single-use]'

const WALKS = ['issue', 'revoke']
/** The files of cases, as `--only` names them. */
const SUITES = [
  'vault',
  'issue',
  'bundle',
  'issue-twice',
  'random',
  'races',
  'answers',
  'store',
  'redis',
  'queue',
  'revoke',
  'revoke-twice',
  'irrevocable',
] as const

function asked() {
  try {
    const { positionals, values } = parseArgs({
      allowPositionals: true,
      options: {
        seed: { type: 'string', default: '1' },
        report: { type: 'string' },
        long: { type: 'boolean', default: false },
        /** One file of cases alone, while one works on it: `vault`, `redis`, `store`, … */
        only: { type: 'string' },
        runs: { type: 'string' },
        break: { type: 'string' },
      },
    })
    const numbers = [values.seed, values.runs ?? '1'].every(n => /^\d{1,9}$/.test(n))
    const isBreakKnown = values.break === undefined || (Object.hasOwn(BREAKS, values.break) && values.runs !== undefined)
    const isSuiteKnown = values.only === undefined || values.only.split(',').every(name => (SUITES as readonly string[]).includes(name))
    if (numbers && isSuiteKnown && isBreakKnown && positionals.every(walk => WALKS.includes(walk)))
      return { walks: positionals.length > 0 ? positionals : WALKS, values }
  } catch {
    // The usage says it.
  }
  return null
}

const CLOSING_MS = 30_000

async function main(): Promise<number> {
  const words = asked()
  if (!words) {
    process.stderr.write(`${USAGE}\nNAMES: ${SUITES.join(',')}\n`)
    return 2
  }
  const { walks, values } = words
  const seed = Number(values.seed)
  const world = await buildWorld()
  if (isAbsent(world)) {
    say(`skipped: ${world.absent}`)
    const isFailed = Boolean(process.env.CURFEW_REQUIRE_REAL)
    writeReport(values.report, { counts: { passed: 0, failed: isFailed ? 1 : 0, pending: 1 }, failed: [] })
    return isFailed ? 1 : 0
  }
  try {
    const report = newReport(world)
    say(`seed ${seed}; timers shrunk: sweep ${TIMERS.sweepMs} ms (5 s), reconcile ${TIMERS.reconcileMs} ms (60 s)`)
    if (values.runs !== undefined) {
      await randomRuns(world, report, { runs: Number(values.runs), seed, broken: values.break })
      writeReport(values.report, report)
      return report.end()
    }
    const only = values.only?.split(',')
    const wanted = (walk: string, name: (typeof SUITES)[number]) => (only ? only.includes(name) : walks.includes(walk))
    const later = wanted('revoke', 'redis') ? await changedLater(world) : null
    if (wanted('issue', 'vault')) await vaultCases(world, report)
    if (wanted('issue', 'issue')) await issueCases(world, report, seed)
    if (wanted('issue', 'bundle')) await bundleCases(world, report)
    if (wanted('issue', 'issue-twice')) await issueTwiceCases(world, report, { seed, isLong: values.long })
    // What was killed inside a mint waits for a listing 110 s later (security.md 3.4): those runs come first, and their wait passes beside the others.
    if (wanted('revoke', 'random')) await randomRuns(world, report, { runs: 3, seed })
    if (wanted('revoke', 'races')) await raceCases(world, report, seed)
    if (wanted('revoke', 'answers')) await Promise.all([answerCases(world, report), clockCases(world, report)])
    if (wanted('revoke', 'store')) await storeCases(world, report, seed)
    if (wanted('revoke', 'redis')) await redisCases(world, report, seed)
    if (wanted('revoke', 'queue')) await Promise.all([stillCases(world, report, () => queueCases(world, report)), embeddedCases(world, report)])
    if (wanted('revoke', 'revoke')) await revokeCases(world, report, values.long)
    if (wanted('revoke', 'revoke-twice')) await revokeTwiceCases(world, report, { seed, isLong: values.long })
    if (wanted('revoke', 'irrevocable')) await irrevocableCases(world, report, values.long)
    await later?.(report)
    await settled(world, report)
    await sinkCases(world, report)
    if (!only && walks.length === WALKS.length) await catalogueCase(report)
    writeReport(values.report, report)
    return report.end()
  } finally {
    // What was seen is told by then: a server that does not end is ended with this process.
    await Promise.race([world.close(), new Promise(resolve => setTimeout(resolve, CLOSING_MS))])
  }
}

// Our children end with us at the exit of this process, which a signal alone would not bring about.
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => process.exit(130))
process.exit(await main())
