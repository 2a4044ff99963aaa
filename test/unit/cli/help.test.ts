/** Help of every command: short, with an example, and the same as yesterday; and how soon its first byte comes. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { run } from '../../../src/cli/program.js'
import { ENTRY, typed } from './desk.js'

const help = (...words: string[]) => typed([...words, '--help'], {})

const COMMANDS = [
  [],
  ['demo'],
  ['dev'],
  ['serve'],
  ['worker'],
  ['forward-auth'],
  ['token'],
  ['run'],
  ['why'],
  ['caps'],
  ['whoami'],
  ['complete'],
  ['list'],
  ['show'],
  ['find'],
  ['revoke'],
  ['quarantine'],
  ['quarantine', 'set'],
  ['quarantine', 'list'],
  ['quarantine', 'lift'],
  ['receipt'],
  ['receipt', 'show'],
  ['receipt', 'verify'],
  ['signal'],
  ['signal', 'send'],
  ['signal', 'list'],
  ['signal', 'show'],
  ['signal', 'approve'],
  ['signal', 'dismiss'],
  ['doctor'],
  ['migrate'],
  ['config'],
  ['config', 'show'],
  ['config', 'check'],
  ['keys'],
  ['keys', 'list'],
  ['keys', 'rotate'],
  ['keys', 'retire'],
  ['operator'],
  ['operator', 'add'],
  ['operator', 'list'],
  ['operator', 'disable'],
]

describe('--help', () => {
  test.each(COMMANDS.map(words => [words.join(' ') || '(none)', words] as const))('of %s has at most 42 lines of 100 characters', async (_name, words) => {
    const { exit, out, err } = await help(...words)
    expect({ exit, err }).toEqual({ exit: 0, err: '' })
    const lines = out.trimEnd().split('\n')
    expect(lines.length).toBeLessThanOrEqual(42)
    // An example is copied whole, never wrapped.
    expect(lines.filter(l => l.length > 100 && !l.startsWith('  $ '))).toEqual([])
    // Groups of commands leave the example to their members.
    const group = words.length === 1 && ['quarantine', 'receipt', 'signal', 'config', 'keys', 'operator'].includes(words[0] as string)
    expect(lines.filter(l => l.startsWith('  $ '))).toHaveLength(group ? 0 : 1)
    expect(out).toMatchSnapshot()
  })

  test('`help revoke` is `revoke --help`, and `help` alone the list of commands', async () => {
    expect(await typed(['help', 'revoke'], {})).toEqual(await help('revoke'))
    expect(await typed(['help'], {})).toEqual(await help())
  })

  test('no arguments at all is a usage error that shows the commands', async () => {
    let err = ''
    const exit = await run([], { env: {}, out: () => {}, err: text => (err += text), colour: false })
    expect(exit).toBe(2)
    expect(err).toContain('curfew <command>')
  })

  test('a misspelled command is told with the one that was probably meant', async () => {
    let err = ''
    const exit = await run(['revoek'], { env: {}, out: () => {}, err: text => (err += text), colour: false })
    expect(exit).toBe(2)
    expect(err).toContain('Did you mean revoke?')
  })
})

describe('speed (ux.md 3)', () => {
  test('the first byte comes within 150 ms of bare node', () => {
    if (!existsSync(ENTRY)) throw new Error('the command line is not compiled: npm run build')
    const once = (args: string[]) => {
      const began = performance.now()
      spawnSync(process.execPath, args, { env: {} })
      return performance.now() - began
    }
    const bare: number[] = []
    const ours: number[] = []
    // Side by side, best of many: what else the machine does meanwhile is not measured.
    for (let i = 0; i < 8; i++) {
      bare.push(once(['-e', '']))
      ours.push(once([ENTRY, '--version']), once([ENTRY, 'list', '--help']))
    }
    expect(Math.min(...ours) - Math.min(...bare)).toBeLessThan(150)
  })
})
