/** Owns `npm run test:attack [-- --list]`: the suite, or which attack has which cases and twins. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { repository } from '../../src/dev/find.js'
import { CATALOGUE, IDS } from './catalogue.js'

interface Case {
  readonly name: string
  readonly file: string
}

const VITEST = join(repository(), 'node_modules/vitest/vitest.mjs')
const vitest = (...args: string[]) => spawnSync(process.execPath, [VITEST, ...args], { cwd: repository(), stdio: ['ignore', 'inherit', 'inherit'] }).status ?? 1

/** Collected, not run: the names of all tests, those of tables included. */
function namesOfTests(): Case[] {
  const dir = mkdtempSync(join(tmpdir(), 'cf-attack-'))
  try {
    const out = join(dir, 'list.json')
    // What a file starts while it is read would outlive the listing.
    const env = { ...process.env, CURFEW_NO_PARTS: '1', CURFEW_REQUIRE_REAL: '' }
    const { status, stderr } = spawnSync(process.execPath, [VITEST, 'list', `--json=${out}`], { cwd: repository(), encoding: 'utf8', env })
    if (status !== 0) throw new Error(`the tests could not be listed:\n${stderr}`)
    // The catalogue's own test names every id and attacks nothing.
    return (JSON.parse(readFileSync(out, 'utf8')) as Case[]).filter(c => !c.file.endsWith('attack/catalogue.test.ts'))
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** Suites whose every case sends its twin through the same door, in the same test. */
const INSIDE = /attack\/(?:entrances|doors)/

const isTwin = (name: string) => /\btwins?\b/i.test(name)
const groupOf = (name: string) => name.split(' > ').slice(0, -1).join(' > ')

/** A twin says that it is one, and carries the id or stands in the same group of the same file as a case. */
function twinsOf(cases: readonly Case[], all: readonly Case[], id: string): number {
  const groups = new Set(cases.map(c => `${c.file} ${groupOf(c.name)}`))
  return all.filter(c => isTwin(c.name) && (c.name.match(IDS)?.includes(id) || groups.has(`${c.file} ${groupOf(c.name)}`))).length
}

function list(): number {
  process.stderr.write('collecting the names of all tests, about a minute\n')
  const all = namesOfTests()
  const lines: string[] = []
  const without: string[] = []
  let failed = 0
  for (const [id, attack] of Object.entries(CATALOGUE)) {
    const cases = all.filter(c => c.name.match(IDS)?.includes(id))
    if (attack.none !== undefined) without.push(`${id}  ${attack.what}: ${attack.none}`)
    if (attack.none === undefined && cases.length === 0) failed++
    if (cases.length === 0) continue
    const beside = twinsOf(cases, all, id)
    const twins = beside > 0 ? beside : (attack.twin ?? (cases.some(c => INSIDE.test(c.file)) ? 'inside' : 0))
    if (twins === 0) failed++
    const files = [
      ...new Set(
        cases.map(c =>
          relative(repository(), c.file)
            .replace(/^test\//, '')
            .replace(/\.test\.ts$/, ''),
        ),
      ),
    ]
    lines.push(
      `${id}  ${String(cases.length).padStart(4)}  ${String(twins).padStart(6)}  ${attack.what.padEnd(76)}  ${files.slice(0, 3).join(' ')}${files.length > 3 ? ' …' : ''}`,
    )
  }
  process.stdout.write(`id   cases   twins  what\n${lines.join('\n')}\n`)
  process.stdout.write(
    '\nA twin differs from a case in the attack alone and must succeed. `inside`: the same test sends it; a number: tests that say that they are\ntwins, and carry the id or stand in the group of a case.\n',
  )
  process.stdout.write(`\nWithout a case, and why:\n${without.join('\n')}\n`)
  return failed === 0 ? 0 : 1
}

process.exitCode = process.argv.includes('--list') ? list() : vitest('run', '--project', 'attack')
