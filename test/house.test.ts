/** Owns the judgement of our own house by its rules, and the proof that each rule can find something. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  backwardImports,
  circularImports,
  code,
  type Finding,
  type House,
  importsOf,
  longFiles,
  misplacedPackages,
  misplacedTexts,
  ROOMS,
  roomOf,
  TEXTS,
  told,
  unopened,
} from './house-rules.js'

const ROOT = join(import.meta.dirname, '..')

function read(...folders: string[]): House {
  const house = new Map<string, string>()
  const walk = (folder: string) => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name)
      if (entry.isDirectory()) walk(path)
      else if (/\.(?:ts|mts)$/.test(entry.name)) house.set(relative(ROOT, path).split(sep).join('/'), readFileSync(path, 'utf8'))
    }
  }
  for (const folder of folders) walk(join(ROOT, folder))
  return house
}

const ours = read('src', 'workers')
const OWNS = '/** Owns a sample. */\n'
const sample = (files: Record<string, string>): House => new Map(Object.entries(files).map(([file, text]) => [file, OWNS + text]))
const whats = (findings: readonly Finding[]) => findings.map(f => `${f.file}: ${f.what}`).join('\n')

describe('our house', () => {
  test('there is something to judge', () => {
    expect(ours.size).toBeGreaterThan(80)
    expect([...ours].flatMap(([file, text]) => importsOf(file, text)).length).toBeGreaterThan(400)
  })
  test('imports point down only (architecture.md, rule 10)', () => expect(told(backwardImports(ours))).toEqual([]))
  test('no file imports itself by a detour', () => expect(told(circularImports(ours))).toEqual([]))
  test('packages stay in their rooms (S6)', () => expect(told(misplacedPackages(ours))).toEqual([]))
  for (const rule of TEXTS) test(`${rule.name} stands only where it may`, () => expect(told(misplacedTexts(ours, [rule]))).toEqual([]))
  test('no file is longer than one can hold in mind', () => expect(told(longFiles(ours))).toEqual([]))
  test('every file says first what it owns', () => expect(told(unopened(ours))).toEqual([]))
  test('an example imports its own files and what has a public name, as its readers do', () => {
    const examples = read('examples')
    expect(examples.size).toBeGreaterThan(0)
    const imports = [...examples].flatMap(([file, text]) => importsOf(file, text))
    expect(imports.some(i => i.target === 'curfew/guard')).toBe(true)
    expect(imports.filter(i => !/^(?:examples\/|node:|curfew\/(?:guard|engine)$|express$|ioredis$|pg$)/.test(i.target))).toEqual([])
    expect(told([...longFiles(examples), ...unopened(examples), ...circularImports(examples)])).toEqual([])
  })
  test('neither a test nor a bench nor an example stops its process by the making of a key', () => {
    const rule = TEXTS.filter(r => r.name === 'a key pair that may stop its process')
    const others = [...read('test', 'bench', 'examples')].filter(([file]) => !file.startsWith('test/house'))
    expect(rule).toHaveLength(1)
    expect(told(misplacedTexts(new Map(others), rule))).toEqual([])
  })
  test('in production the failpoints are empty', () => {
    const text = ours.get('src/failpoint.ts') ?? ''
    expect(text).toMatch(/export async function fp\(_at: Failpoint\): Promise<void> \{\}/)
    const { imports } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { imports: Record<string, unknown> }
    const [conditions] = Object.values(imports) as [Record<string, string>]
    expect(Object.keys(conditions).at(-1)).toBe('default')
    expect(JSON.stringify(conditions.default)).not.toContain('test')
  })
})

describe('the rules find what they are for', () => {
  const backward: [string, Record<string, string>, RegExp][] = [
    [
      'a noun that knows a port',
      { 'src/domain/a.ts': "import { x } from '../ports.js'", 'src/ports.ts': '' },
      /domain may not import ports .*nouns and pure rules/,
    ],
    [
      'a verb that knows an adapter',
      { 'src/broker/a.ts': "import { x } from '../store/b.js'", 'src/store/b.ts': '' },
      /broker may not import store .*never who fulfils/,
    ],
    [
      'a verb that knows an adapter by type',
      { 'src/broker/a.ts': "import type { X } from '../queue/b.js'", 'src/queue/b.ts': '' },
      /broker may not import queue/,
    ],
    ['an adapter that knows a verb', { 'src/queue/a.ts': "import { x } from '../broker/b.js'", 'src/broker/b.ts': '' }, /queue may not import broker/],
    ['an adapter that knows another', { 'src/engines/a.ts': "import { x } from '../store/b.js'", 'src/store/b.ts': '' }, /engines may not import store/],
    ['a door that knows an adapter', { 'src/http/a.ts': "import { x } from '../store/b.js'", 'src/store/b.ts': '' }, /http may not import store/],
    ['a lazy import', { 'src/broker/a.ts': "const m = await import('../clients/b.js')", 'src/clients/b.ts': '' }, /broker may not import clients/],
    ['a re-export', { 'src/domain/a.ts': "export { x } from '../broker/b.js'", 'src/broker/b.ts': '' }, /domain may not import broker/],
    ['a bare import', { 'src/domain/a.ts': "import '../broker/b.js'", 'src/broker/b.ts': '' }, /domain may not import broker/],
    [
      'an import over many lines',
      { 'src/domain/a.ts': "import {\n  x,\n  type Y,\n} from '../broker/b.js'", 'src/broker/b.ts': '' },
      /domain may not import broker/,
    ],
    ['src that knows workers', { 'src/cli/a.ts': "import { x } from '../../workers/main.js'", 'workers/main.ts': '' }, /cli may not import workers/],
    ['a command that imports an entry', { 'src/cli/a.ts': "import { x } from '../main.js'", 'src/main.ts': '' }, /cli may not import main/],
    ['compose that looks up', { 'src/compose.ts': "import { x } from './http/a.js'", 'src/http/a.ts': '' }, /compose may not import http/],
    ['code that knows a test', { 'src/broker/a.ts': "import { x } from '../../test/house.js'" }, /broker may not import test/],
    ['code that knows an example', { 'src/dev/a.ts': "import { x } from '../../examples/orders-api/app.js'" }, /dev may not import examples/],
    [
      'the hook of fault runs outside the verbs',
      { 'src/http/a.ts': "import { fp } from '#failpoint'", 'src/failpoint.ts': '' },
      /http may not import failpoint/,
    ],
    ['a room that nobody knows', { 'src/utils/a.ts': "import { x } from '../domain/b.js'", 'src/domain/b.ts': '' }, /the room utils has no line/],
    ['a file that is not there', { 'src/broker/a.ts': "import { x } from '../domain/gone.js'" }, /gone.ts, which is not there/],
  ]
  test.each(backward)('%s', (_, files, wanted) => {
    expect(whats(backwardImports(sample(files)))).toMatch(wanted)
  })
  test('the twin: the permitted directions, and prose that looks like an import, pass', () => {
    const house = sample({
      'src/domain/a.ts': "import { z } from './b.js'\n// import { x } from '../broker/c.js'\n/* import { x } from '../broker/c.js' */",
      'src/domain/b.ts': '',
      'src/ports.ts': "import type { A } from './domain/a.js'",
      'src/broker/c.ts': "import { a } from '../domain/a.js'\nimport { fp } from '#failpoint'",
      'src/failpoint.ts': '',
      'src/compose-queue.ts': "import { c } from './broker/c.js'\nconst m = await import('./queue/d.js')",
      'src/queue/d.ts': "import { r } from '../clients/e.js'",
      'src/clients/e.ts': '',
      'src/main.ts': "import { compose } from './compose.js'",
      'src/compose.ts': '',
      'workers/main.ts': "import { compose } from '../src/compose.js'",
    })
    expect(told(backwardImports(house))).toEqual([])
    expect(told(circularImports(house))).toEqual([])
  })
  test('no room of the table may reach an entry, and only entries reach everything', () => {
    for (const [name, { may }] of Object.entries(ROOMS)) {
      expect(may.includes('main') || may.includes('workers')).toBe(false)
      expect(may.includes('*')).toBe(name === 'main' || name === 'workers')
    }
    expect(roomOf('src/config-keys.ts')).toBe('config')
    expect(roomOf('src/attestors/profiles/github.ts')).toBe('attestors')
  })

  test('a circle of two, of three, and through a lazy import', () => {
    const two = sample({ 'src/broker/a.ts': "import { b } from './b.js'", 'src/broker/b.ts': "import { a } from './a.js'" })
    expect(whats(circularImports(two))).toContain('src/broker/a.ts → src/broker/b.ts → src/broker/a.ts')
    const three = sample({
      'src/broker/a.ts': "import { b } from './b.js'",
      'src/broker/b.ts': "import { c } from './c.js'",
      'src/broker/c.ts': "const a = await import('./a.js')",
    })
    expect(circularImports(three)).toHaveLength(1)
  })
  test('the twin: a circle of types alone is none at run time', () => {
    const house = sample({ 'src/broker/a.ts': "import type { B } from './b.js'", 'src/broker/b.ts': "import { type A, type C } from './a.js'" })
    expect(circularImports(house)).toEqual([])
  })

  const packages: [string, string, string][] = [
    ['bullmq', 'src/broker/a.ts', "import { Queue } from 'bullmq'"],
    ['bullmq', 'src/queue/other.ts', "import { Queue } from 'bullmq'"],
    ['node-vault', 'src/engines/a.ts', "import vault from 'node-vault'"],
    ['@cedar-policy/cedar-wasm/nodejs', 'src/broker/a.ts', "import * as cedar from '@cedar-policy/cedar-wasm/nodejs'"],
    ['undici', 'src/attestors/a.ts', "import { request } from 'undici'"],
    ['axios', 'src/clients/a.ts', "import axios from 'axios'"],
    ['ioredis', 'src/feed/a.ts', "import { Redis } from 'ioredis'"],
    ['pg', 'src/broker/a.ts', "import pg from 'pg'"],
    ['express', 'src/broker/a.ts', "import express from 'express'"],
    ['pino', 'src/http/a.ts', "import { pino } from 'pino'"],
    ['prom-client', 'src/http/a.ts', "import { Counter } from 'prom-client'"],
    ['yaml', 'src/policy/a.ts', "import { parse } from 'yaml'"],
  ]
  test.each(packages)('%s in %s', (name, file, text) => {
    expect(whats(misplacedPackages(sample({ [file]: text })))).toContain(`imports ${name}, which only`)
  })
  test('the twin: each package in its own room passes', () => {
    const house = sample({
      'src/queue/bullmq.ts': "import { Queue } from 'bullmq'",
      'workers/pool.ts': "import { Worker } from 'bullmq'",
      'src/clients/vault-transport.ts': "import vault from 'node-vault'\nimport { request } from 'undici'",
      'src/policy/cedar.ts': "import * as cedar from '@cedar-policy/cedar-wasm/nodejs'",
    })
    expect(misplacedPackages(house)).toEqual([])
  })

  const texts: [string, string, string][] = [
    ['process.env', 'src/http/a.ts', 'const a = process.env.HOME'],
    ['process.env', 'src/http/a.ts', "const a = process['env'].HOME"],
    ['process.env', 'src/http/a.ts', 'const { env } = process'],
    ['process.env', 'src/http/a.ts', "import { env } from 'node:process'"],
    ['process.env', 'src/dev/other.ts', 'process.env.X = "1"'],
    ['.reveal()', 'src/broker/a.ts', 'const t = secret.reveal().token'],
    ['.reveal()', 'src/broker/a.ts', 'const t = secret?.reveal()'],
    ['.reveal()', 'src/log.ts', "const t = secret['reveal']()"],
    ['a process clock', 'src/broker/a.ts', 'const now = Date.now()'],
    ['a process clock', 'src/store/a.ts', 'const now = new Date()'],
    ['a process clock', 'src/policy/a.ts', 'const now = new Date'],
    ['a process clock', 'src/attestors/profiles/a.ts', 'const now = Date . now ()'],
    ['a process clock', 'src/engines/a.ts', 'const at = process.hrtime.bigint()'],
    ['a deadline that may never come', 'src/clients/a.ts', 'call(AbortSignal.any([signal, other]))'],
    ['a key pair that may stop its process', 'src/cli/a.ts', "import { generateKeyPairSync } from 'node:crypto'"],
    ['decodeJwt', 'src/http/a.ts', "import { decodeJwt } from 'jose'"],
    ['decodeJwt', 'src/attestors/a.ts', 'decodeProtectedHeader(token)'],
    ['fetch', 'src/attestors/a.ts', 'const r = await fetch(url)'],
    ['console', 'src/http/a.ts', 'console.log(token)'],
    ['eval', 'src/policy/a.ts', 'eval(text)'],
    ['eval', 'src/policy/a.ts', 'new Function(text)'],
    ['Math.random', 'src/domain/a.ts', 'Math.random()'],
    ['an unfinished place', 'src/domain/a.ts', `// ${'TO'}${'DO'}: later`],
    ['an unfinished place', 'src/domain/a.ts', `throw new Error('${'not'} implemented')`],
  ]
  test.each(texts)('%s in %s: %s', (name, file, text) => {
    expect(misplacedTexts(sample({ [file]: text })).map(f => f.what.split(':')[0])).toEqual([name])
  })
  test('the twin: the same in its own place, in prose, or with a time given, passes', () => {
    const house = sample({
      'src/config.ts': 'export const env = process.env',
      'src/cli/main.ts': 'const url = process.env.CURFEW_URL; console.error(url); await fetch(url)',
      'src/dev/find.ts': 'process.env.PATH',
      'src/clients/vault.ts': 'const t = token.reveal().token',
      'src/http/tasks.ts': 'const t = token.reveal().token',
      'src/broker/a.ts': '// Date.now() decides nothing, new Date() neither\nconst at = new Date(row.at)\nconst b = performance.now()\nconst text = "a"',
      'src/domain/ids.ts': 'Date.now()',
      'src/domain/jws.ts': 'decodeProtectedHeader(token)',
      'src/attestors/keys.ts': 'export function keysOf(fetch: (s: AbortSignal) => unknown) { return fetch(signal) }',
      'src/clients/outbound.ts': 'this.fetch(url); await fetch(url)',
    })
    expect(told(misplacedTexts(house))).toEqual([])
  })
  test('a string that holds comment marks hides nothing', () => {
    expect(code("const a = 'http://x'; Date.now() // Date.now()")).toMatch(/^const a = 'http:\/\/x'; Date\.now\(\) +$/)
    expect(misplacedTexts(sample({ 'src/broker/a.ts': "const u = '/*'; Date.now(); const v = '*/'" }))).toHaveLength(1)
  })

  test('a file that is too long, and one that may be', () => {
    const long = 'x\n'.repeat(330)
    expect(longFiles(sample({ 'src/broker/a.ts': long }))).toHaveLength(1)
    expect(longFiles(sample({ 'src/broker/a.ts': 'x\n'.repeat(300) }))).toEqual([])
    expect(longFiles(new Map([['src/a.ts', long]]), ['src/a.ts'])).toEqual([])
  })
  test('a file that does not say what it owns', () => {
    expect(unopened(new Map([['src/a.ts', 'import x from "y"\n/** Owns this. */']]))).toHaveLength(1)
    expect(unopened(new Map([['src/a.ts', '/** This file is great. */']]))).toHaveLength(1)
    expect(unopened(new Map([['src/a.ts', '/**\n * Owns every port.\n */']]))).toEqual([])
    expect(unopened(new Map([['src/a.ts', '/** Verb: issue. */']]))).toEqual([])
  })
})
