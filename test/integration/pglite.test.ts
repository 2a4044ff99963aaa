/** The embedded database on a disk, and processes that open it, hold it and are killed (F37). */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { build } from 'vite'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openStore } from '../../src/store/open.js'
import { sealed } from '../conformance/store/fixtures.js'
import { MIGRATIONS, quiet } from '../conformance/store/houses.js'

const KILLS = 6

let dir: string
let program: string
const children = new Set<ChildProcess>()

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'curfew-pglite-'))
  // Under dist/, where the packages are found that stay outside the bundle.
  const outDir = fileURLToPath(new URL('../../dist/test-bundles/', import.meta.url))
  mkdirSync(outDir, { recursive: true })
  await build({
    configFile: false,
    logLevel: 'error',
    build: {
      ssr: fileURLToPath(new URL('./pglite-child.ts', import.meta.url)),
      outDir,
      emptyOutDir: false,
      target: 'node20',
      rollupOptions: { output: { entryFileNames: 'pglite-child.mjs' } },
    },
  })
  program = join(outDir, 'pglite-child.mjs')
})
afterAll(async () => {
  for (const child of children) child.kill('SIGKILL')
  rmSync(dir, { recursive: true, force: true })
})

/** Starts the child; `lines` grows as it speaks. */
function start(mode: 'issue' | 'count', at = join(dir, 'store')) {
  const child = spawn(process.execPath, [program, at, MIGRATIONS, mode], { stdio: ['ignore', 'pipe', 'inherit'] })
  children.add(child)
  const lines: string[] = []
  const reader = createInterface({ input: child.stdout })
  reader.on('line', line => lines.push(line))
  const ended = Promise.all([once(child, 'exit'), once(reader, 'close')]).then(() => void children.delete(child))
  const until = async (enough: () => boolean) => {
    while (!enough()) {
      if (child.exitCode !== null) throw new Error(`the child ended: ${lines.join(' | ')}`)
      await new Promise(resolve => setTimeout(resolve, 5))
    }
  }
  return { child, lines, ended, until }
}

describe('the embedded database on a disk (F37)', () => {
  it('is opened by one process at a time: a second one is refused with a word why, and changes nothing', async () => {
    const first = start('issue')
    await first.until(() => first.lines.length > 3)
    const second = start('issue')
    await second.ended
    expect(second.lines).toEqual([
      expect.stringMatching(
        new RegExp(`^refused the data directory is in use \\(process ${first.child.pid} has opened it\\): embedded mode is for one process$`),
      ),
    ])
    await expect(openStore({ kind: 'pglite', dir: join(dir, 'store') }, { migrationsDir: MIGRATIONS, sealDigest: sealed, log: quiet })).rejects.toMatchObject({
      code: 'unavailable',
      facts: { reason: 'store_locked' },
    })
    const spoken = first.lines.length
    await first.until(() => first.lines.length > spoken + 3)
    first.child.kill('SIGKILL')
    await first.ended
  })

  it(`loses nothing acknowledged over ${KILLS} kills, each lock left behind is taken over, and every row has its audit row`, async () => {
    const acknowledged: string[] = []
    for (let i = 0; i < KILLS; i++) {
      const child = start('issue', join(dir, 'killed'))
      await child.until(() => child.lines.length > 5 + i * 7)
      expect(child.lines[0]).toBe('open')
      child.child.kill('SIGKILL')
      await child.ended
      expect(existsSync(join(dir, 'killed', 'lock'))).toBe(true)
      acknowledged.push(...child.lines.slice(1))
    }
    const reader = start('count', join(dir, 'killed'))
    await reader.ended
    const { ids, active, issued } = JSON.parse(reader.lines[1] as string) as { ids: string[]; active: number; issued: number }
    expect(acknowledged.length).toBeGreaterThan(KILLS * 5)
    expect(acknowledged.filter(id => !ids.includes(id))).toEqual([])
    expect(active).toBe(ids.length)
    expect(issued).toBe(ids.length)
    expect(new Set(ids).size).toBe(ids.length)
    // Closed in order, it leaves no lock.
    expect(existsSync(join(dir, 'killed', 'lock'))).toBe(false)
  })
})
