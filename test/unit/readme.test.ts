import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'

const root = new URL('../../', import.meta.url)
const text = readFileSync(new URL('README.md', root), 'utf8')
const scripts = (JSON.parse(readFileSync(new URL('package.json', root), 'utf8')) as { scripts: Record<string, string> }).scripts
const commands = [...text.matchAll(/```\w*\n([\s\S]*?)```/g)].flatMap(([, block]) =>
  (block as string)
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== ''),
)

describe('the README is true', () => {
  it('has two commands for a stranger: one for the main job, one for the tests', () => {
    expect(commands).toContain('npm run demo')
    expect(commands).toContain('npm test')
  })

  it.each(commands.filter(c => c.startsWith('npm')))('%s exists', command => {
    expect(scripts).toHaveProperty(command.replace(/^npm (run )?/, '').split(' ')[0] as string)
  })

  it.each(commands.filter(c => /^(\.\/bin\/)?curfew /.test(c)))('%s is a command', command => {
    const words = command.replace(/^(\.\/bin\/)?curfew /, '').split(' ')
    const verb = words.slice(0, ['config', 'keys', 'operator', 'signal', 'receipt', 'quarantine', 'guard'].includes(words[0] as string) ? 2 : 1)
    const help = execFileSync(process.execPath, ['bin/curfew', ...verb, '--help'], { cwd: root, encoding: 'utf8' })
    expect(help).toContain('Usage')
  })

  it('names only files that are there', () => {
    for (const [, path] of text.matchAll(/\]\(([^)#]+)\)|`((?:config|docs)\/[\w./-]+)`/g))
      if (path && !path.includes(':')) expect([path, existsSync(new URL(path, root))]).toEqual([path, true])
  })
})
