/** The engines' suite, run as docs/engines.md shows it: by another test runner, from another package, by public names alone. */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { parse } from 'yaml'

const ROOT = join(import.meta.dirname, '..', '..')
const PAGE = readFileSync(join(ROOT, 'docs', 'engines.md'), 'utf8')
const shown = (lang: string) => [...PAGE.matchAll(new RegExp(`\`\`\`${lang}\\n([\\s\\S]*?)\`\`\``, 'g'))].map(m => m[1] as string)
const dir = mkdtempSync(join(tmpdir(), 'curfew-suite-'))
mkdirSync(join(dir, 'node_modules'))
symlinkSync(ROOT, join(dir, 'node_modules', 'curfew'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** A house over the engine in memory, or over one that forgets to end what it made. */
const house = (mistake: string) => `
import { memoryEngine } from 'curfew/dist/src/engines/memory.js'
async function makeHouse() {
  const engine = memoryEngine()
  ${mistake}
  return {
    engine, parameters: {}, now: () => new Date(),
    usable: async f => engine.login(f.PGUSER, f.PGPASSWORD), attribution: f => f.PGUSER, secrets: f => [f.PGPASSWORD],
    async break() { engine.breakStep('destroy', 'throw'); engine.breakStep('probe', 'throw') }, async heal() { engine.mend() }, async close() {},
  }
}
`
function run(mistake = ''): { status: number | null; out: string } {
  const file = join(dir, 'suite.test.mjs')
  writeFileSync(file, house(mistake) + (shown('ts')[1] as string))
  // The runner of our own tests must not be heard by the one below it.
  const { NODE_OPTIONS: _, NODE_TEST_CONTEXT: __, ...env } = process.env
  const { status, stdout } = spawnSync(process.execPath, ['--test', '--test-reporter=tap', file], { cwd: dir, encoding: 'utf8', env })
  return { status, out: stdout }
}

describe('the suite of docs/engines.md', () => {
  it('passes by node:test over an engine that holds its contract', () => {
    const { status, out } = run()
    expect([status, out.includes('# fail 0')], out).toEqual([0, true])
    expect(Number(/# pass (\d+)/.exec(out)?.[1])).toBeGreaterThanOrEqual(11)
  })

  it.each([
    ['ends nothing', 'engine.destroy = async () => {}'],
    ['says dead of what lives', "const { probe } = engine; engine.probe = async (...a) => ({ ...(await probe(...a)), outcome: 'dead' })"],
    [
      'tells its secret in the handle',
      'const { mint } = engine; engine.mint = async (...a) => { const m = await mint(...a); return { ...m, handle: { ...m.handle, p: m.secret.reveal().PGPASSWORD } } }',
    ],
    [
      'complains about what is gone',
      "const { destroy } = engine; const seen = new Set(); engine.destroy = async (c, s) => { if (seen.has(c.id)) throw new Error('gone'); seen.add(c.id); return destroy(c, s) }",
    ],
    [
      'ends its neighbours as well',
      'const { destroy } = engine; engine.destroy = async (c, s) => { await destroy(c, s); for (const u of [...engine.users.keys()]) engine.users.delete(u) }',
    ],
    ['takes what it does not know', 'engine.check = () => {}'],
  ])(
    'fails an engine that %s',
    (_, mistake) => {
      const { status, out } = run(mistake)
      expect(status, out).not.toBe(0)
      expect(out).toMatch(/# fail [1-9]/)
    },
    90_000,
  )

  it('and the module and the configuration that it shows are whole', () => {
    const [entry] = parse(shown('yaml')[0] as string).engines
    expect(Object.keys(entry)).toEqual(['kind', 'module', 'revocation', 'settings', 'secrets'])
    writeFileSync(join(dir, 'engine.mjs'), shown('ts')[0] as string)
    const said = execFileSync(process.execPath, ['-e', "import('./engine.mjs').then(m => console.log(m.default.kind))"], { cwd: dir, encoding: 'utf8' })
    expect(said.trim()).toBe(entry.kind)
  })
})
