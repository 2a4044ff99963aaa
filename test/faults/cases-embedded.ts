/** Owns F37: the embedded store, whose one process is killed over and over, and a second process that may not open it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { repository } from '../../src/dev/find.js'
import { MIGRATIONS } from '../../src/store/migrate.js'
import { when } from './queues.js'
import type { Report } from './report.js'
import type { World } from './world.js'

/** Each opens it anew, which takes a second and more beside the others here. */
const KILLS = 10

export async function embeddedCases(world: World, report: Report): Promise<void> {
  const dir = join(world.dir, 'embedded')
  const children = new Set<ChildProcess>()
  /** Opens it and issues until it is killed, and names what was acknowledged (test/integration/pglite-child.ts). */
  const start = (mode: 'issue' | 'count') => {
    const child = spawn(process.execPath, [join(repository(), 'dist/test/integration/pglite-child.js'), dir, MIGRATIONS, mode], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    children.add(child)
    const lines: string[] = []
    const reader = createInterface({ input: child.stdout })
    reader.on('line', line => lines.push(line))
    const ended = Promise.all([once(child, 'exit'), once(reader, 'close')]).then(() => void children.delete(child))
    return { child, lines, ended }
  }
  const onExit = () => {
    for (const child of children) child.kill('SIGKILL')
  }
  process.once('exit', onExit)
  try {
    await report.case(`F37 embedded store: second process, kill -9 × ${KILLS}`, async c => {
      const acknowledged: string[] = []
      for (let i = 0; i < KILLS; i++) {
        const one = start('issue')
        await when('it issues', () => one.lines.length > 3 + (i % 5) * 4 || one.child.exitCode !== null, 30_000)
        c.expect(one.lines[0] === 'open', `it did not open: ${one.lines[0]}`)
        if (i === 0) {
          const second = start('issue')
          await second.ended
          c.expect(/^refused the data directory is in use/.test(second.lines.join()), `the second process heard: ${second.lines.slice(0, 2)}`)
        }
        one.child.kill('SIGKILL')
        await one.ended
        acknowledged.push(...one.lines.slice(1))
      }
      const reader = start('count')
      await reader.ended
      const { ids, active, issued } = JSON.parse(reader.lines[1] ?? '') as { ids: string[]; active: number; issued: number }
      const there = new Set(ids)
      const lost = acknowledged.filter(id => !there.has(id))
      for (const id of lost) c.lost(`${id} was acknowledged and is not in the embedded store`)
      c.expect(
        there.size === ids.length && active === ids.length && issued === ids.length,
        `${ids.length} rows, ${there.size} ids, ${active} active, ${issued} audit rows`,
      )
      return `second process refused; ${acknowledged.length} acknowledged, ${lost.length} lost, ${ids.length} rows with as many audit rows`
    })
  } finally {
    process.off('exit', onExit)
    onExit()
  }
}
