/** Owns `npm run test:openapi`: strangers' requests by the thousand, made by Schemathesis from our own description, and what became of them. */
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { cacheDir } from '../../src/dev/find.js'
import { startWorld, type World } from './world.js'

const USAGE = 'usage: npm run test:openapi -- [--requests N] [--seconds N] [--seed N] [--include REGEX] [--report FILE]'
/** What is not compiled stays beside the sources. */
const HERE = fileURLToPath(new URL('../../../test/openapi', import.meta.url))

const say = (text: string) => void process.stdout.write(`${text}\n`)

/** The interpreter of an environment that holds exactly what requirements.txt names, by its digests; made once. Null where there is no Python to make it with. */
function environment(): string | null {
  const wanted = readFileSync(join(HERE, 'requirements.txt'))
  const folder = join(cacheDir(), `schemathesis-${createHash('sha256').update(wanted).digest('hex').slice(0, 12)}`)
  const python = join(folder, 'bin', 'python')
  const made = join(folder, 'complete')
  if (existsSync(made)) return python
  const run = (command: string, words: string[]) => spawnSync(command, words, { stdio: ['ignore', 'ignore', 'inherit'] }).status === 0
  if (!run('python3', ['-c', 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'])) return null
  mkdirSync(cacheDir(), { recursive: true })
  rmSync(folder, { recursive: true, force: true })
  say('openapi  installing Schemathesis')
  const isMade =
    run('python3', ['-m', 'venv', folder]) &&
    run(python, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-deps', '--require-hashes', '-r', join(HERE, 'requirements.txt')])
  if (!isMade) throw new Error('Schemathesis could not be installed')
  writeFileSync(made, '')
  return python
}

interface Words {
  readonly requests: number
  readonly seconds: number
  readonly seed: string
  readonly include: string | undefined
  readonly report: string | undefined
}

function asked(): Words | null {
  try {
    const { values } = parseArgs({
      options: {
        requests: { type: 'string', default: '20000' },
        seconds: { type: 'string', default: '1800' },
        seed: { type: 'string', default: '1' },
        include: { type: 'string' },
        report: { type: 'string' },
      },
    })
    if ([values.requests, values.seconds, values.seed].every(n => /^\d{1,9}$/.test(n)))
      return { requests: Number(values.requests), seconds: Number(values.seconds), seed: values.seed, include: values.include, report: values.report }
  } catch {
    // The usage says it.
  }
  return null
}

/** Of one round: so long its operations are tried, from another seed than those before. */
const ROUND_SECONDS = 150

/** Rounds until there were as many requests as wanted, or the time is over. Answers whether all of them were as described; how fast they were is nobody's fault. */
async function rounds(world: World, python: string, words: Words): Promise<boolean> {
  const started = performance.now()
  const total = () => [...world.statuses.values()].reduce((sum, n) => sum + n, 0)
  for (let round = 0; total() < words.requests; round++) {
    const left = Math.ceil(words.seconds - (performance.now() - started) / 1000)
    if (left < 5) {
      say(`openapi  the time is over: ${total()} of ${words.requests} requests`)
      return true
    }
    const seed = String(Number(words.seed) + round)
    const code = await schemathesis(world, python, { ...words, seed, seconds: Math.min(left, ROUND_SECONDS) })
    say(`openapi  round ${round + 1}, seed ${seed}: ${total()} requests in ${Math.round((performance.now() - started) / 1000)} s`)
    if (code !== 0 || world.found.length > 0) return false
  }
  return true
}

function schemathesis(world: World, python: string, { seed, seconds, include }: Words): Promise<number> {
  const words = [
    ...['-m', 'schemathesis.cli', '--config-file', join(HERE, 'schemathesis.toml'), 'run', `${world.url}/openapi.json`, '--url', world.url],
    ...['--seed', seed, '--no-color', '--max-time', String(seconds), '--max-failures', '40', '--max-examples', '40', '--warnings', 'off'],
    ...(include === undefined ? [] : ['--include-path-regex', include]),
  ]
  const child = spawn(python, words, {
    env: { PATH: process.env.PATH, ...world.environment, CURFEW_URL: world.url, CURFEW_SEED: seed, PYTHONPATH: HERE, PYTHONDONTWRITEBYTECODE: '1' },
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', code => resolve(code ?? 1))
  })
}

async function main(): Promise<number> {
  const words = asked()
  if (!words) {
    process.stderr.write(`${USAGE}\n`)
    return 2
  }
  const report = (passed: number, failed: number, pending: number) => {
    if (words.report !== undefined) writeFileSync(words.report, JSON.stringify({ numPassedTests: passed, numFailedTests: failed, numPendingTests: pending }))
  }
  const python = environment()
  if (python === null) {
    say('openapi  skipped: there is no Python 3.11 with venv (Debian: python3-venv)')
    const isFailed = Boolean(process.env.CURFEW_REQUIRE_REAL)
    report(0, isFailed ? 1 : 0, isFailed ? 0 : 1)
    return isFailed ? 1 : 0
  }
  const world = await startWorld()
  try {
    const isGood = await rounds(world, python, words)
    for (const text of world.found) say(`openapi  FOUND ${text.slice(0, 600)}`)
    const statuses = [...world.statuses].sort(([a], [b]) => a - b)
    say(`openapi  answers by status: ${statuses.map(([status, n]) => `${status} ${n}`).join(', ')}`)
    for (const [route, met] of [...world.met].sort()) say(`openapi    ${route}: ${[...met].sort().join(' ')}`)
    const unmet = [...world.met].filter(([route, met]) => !route.endsWith('(none)') && ![...met].some(status => status < 300)).map(([route]) => route)
    if (unmet.length > 0) say(`openapi  never let a stranger succeed, so that their answers were seen by the other suites only: ${unmet.join(', ')}`)
    report(isGood ? 1 : 0, isGood ? 0 : 1, 0)
    return isGood ? 0 : 1
  } finally {
    await world.stop()
  }
}

process.exitCode = await main()
