/** Owns typing what a page says to type into a real shell, as its reader would. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect } from 'vitest'
import { idsAsSeen } from './pages.js'

const ROOT = new URL('../', import.meta.url).pathname

/** What happens meanwhile, of which the page does not speak. */
interface Hooks {
  before?(command: string): Promise<void>
  after?(told: string): void
}

/** One shell a page, so that what a page exports holds to its end. Each command must succeed. */
export async function play(blocks: readonly string[], env: Record<string, string>, cwd: string, hooks: Hooks = {}): Promise<string[]> {
  const shell = spawn('bash', ['--noprofile', '--norc'], {
    cwd,
    env: { PATH: `${ROOT}bin:${process.env.PATH}`, HOME: cwd, ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  let heard = ''
  for (const stream of [shell.stdout, shell.stderr])
    stream.on('data', chunk => {
      heard += chunk
    })
  const played: string[] = []
  try {
    for (const command of blocks.flatMap(block => block.trim().split('\n'))) {
      // Where the broker is and who asks is this test's; what is typed else is the page's.
      if (/^export CURFEW_(?:URL|CONFIG|OPERATOR_TOKEN_FILE)=/.test(command)) continue
      await hooks.before?.(command)
      const before = heard.length
      const mark = `exit-of-${played.length}:`
      shell.stdin.write(`${idsAsSeen(command, heard)}\nprintf "\\n%s%s\\n" ${mark} $?\n`)
      await expect.poll(() => heard.slice(before), { timeout: 30_000, interval: 20 }).toMatch(new RegExp(`^${mark}\\d+$`, 'm'))
      const told = heard.slice(before)
      expect([command, Number(told.split(mark)[1]?.split('\n')[0]), told], told).toEqual([command, 0, told])
      played.push(command)
      hooks.after?.(told)
    }
  } finally {
    // What the page put into the background ends with it.
    const ended = once(shell, 'close')
    shell.stdin.end('kill $(jobs -p) 2>/dev/null\nwait\n')
    const late = setTimeout(() => shell.kill(), 20_000)
    await ended
    clearTimeout(late)
  }
  return played
}
