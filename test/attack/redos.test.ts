/** Owns that no text is dear to look at (H17): every pattern of ours, and every validator of what callers send, with texts made of the pattern itself, up to 128 KiB. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parseAst } from 'vitest/node'
import { z } from 'zod'
import { peek } from '../../src/attestors/unverified.js'
import { plain, redact } from '../../src/cli/output.js'
import { configSchema } from '../../src/config-schema.js'
import { repository } from '../../src/dev/find.js'
import { CurfewError } from '../../src/domain/errors.js'
import { parseStrict } from '../../src/domain/json.js'
import { inspect } from '../../src/domain/jws.js'
import { originalRequest } from '../../src/domain/original-request.js'
import { Secret } from '../../src/domain/secret.js'
import { declared } from '../../src/http/declaration.js'
import * as schemas from '../../src/http/schemas.js'
import { createLog } from '../../src/log.js'
import { type House, makeHouse } from '../house.js'
import { type Kind, slowAt } from './linear.js'
import { type Pump, pumped, pumpsOf } from './pumps.js'

interface Found {
  readonly where: string
  readonly pattern: RegExp
}
interface Syntax {
  readonly type?: string
  readonly start?: number
  readonly regex?: { readonly pattern: string; readonly flags: string }
  readonly callee?: { readonly name?: string }
  readonly arguments?: readonly { readonly quasis?: readonly { readonly value: { readonly cooked: string } }[]; readonly value?: unknown }[]
}

/** Every pattern of the source, as a parser of TypeScript finds it. In one that is put together a number stands for each part: its own repetitions are all there. */
function patternsOfSource(): Found[] {
  const root = repository()
  return ['src', 'workers'].flatMap(folder =>
    (readdirSync(join(root, folder), { recursive: true }) as string[])
      .filter(file => file.endsWith('.ts'))
      .flatMap(file => {
        const path = join(root, folder, file)
        const text = readFileSync(path, 'utf8')
        const found: Found[] = []
        const walk = (node: unknown): void => {
          if (typeof node !== 'object' || node === null) return
          const { type, regex, start, callee, arguments: given } = node as Syntax
          const put = (pattern: RegExp) => found.push({ where: `${relative(root, path)}:${text.slice(0, start).split('\n').length}`, pattern })
          if (type === 'Literal' && regex) put(new RegExp(regex.pattern, regex.flags))
          if ((type === 'NewExpression' || type === 'CallExpression') && callee?.name === 'RegExp')
            put(new RegExp(given?.[0]?.quasis?.map(q => q.value.cooked).join('64') ?? String(given?.[0]?.value)))
          for (const value of Object.values(node)) if (typeof value === 'object') walk(value)
        }
        walk(parseAst(text, { lang: 'ts' }))
        return found
      }),
  )
}

/** The leaves of a schema that are given text, with what they are made of. */
function textsIn(schema: unknown, at: string, seen: Set<unknown>): { at: string; leaf: z.ZodType }[] {
  if (!(schema instanceof z.ZodType) || seen.has(schema)) return []
  seen.add(schema)
  const { def } = schema._zod as unknown as { def: Record<string, unknown> & { type: string } }
  if (def.type === 'string') return [{ at, leaf: schema }]
  const inner: [string, unknown][] = [
    ...Object.entries((def.shape ?? {}) as Record<string, unknown>).map(([name, s]): [string, unknown] => [`${at}.${name}`, s]),
    ...((def.options ?? def.items ?? []) as unknown[]).map((s, i): [string, unknown] => [`${at}|${i}`, s]),
    ...['element', 'innerType', 'in', 'out', 'left', 'right', 'keyType', 'valueType', 'catchall', 'rest'].map((name): [string, unknown] => [at, def[name]]),
  ]
  // A pipe is judged whole as well: what it makes of a text is a validator's work too.
  return [...(def.type === 'pipe' ? [{ at: `${at} as a whole`, leaf: schema }] : []), ...inner.flatMap(([where, s]) => textsIn(s, where, seen))]
}

const tested = (pattern: RegExp) => (text: string) => {
  pattern.lastIndex = 0
  return pattern.test(text)
}
const slowAtAny = (kind: Kind, pumps: readonly Pump[], act: (text: string) => unknown): string[] =>
  pumps.flatMap(pump => {
    const size = slowAt(kind, length => pumped(pump, length), act)
    return size === null ? [] : [`${JSON.stringify(pump)} at ${size}`]
  })
const slowness = (pattern: RegExp) => slowAtAny('pattern', pumpsOf(pattern), tested(pattern))

/** Texts that have nothing to do with a pattern, and something with parsers. */
const HOSTILE: readonly Pump[] = [
  ...'aA0/.:-_=+ \t\n\r"\\[{(<*?%@,;~#&\u0000\u202e\u200d\u00e9\u{1f600}\ud800',
  '../',
  '%2e',
  '//',
  'a.',
  'a/',
  'a:',
  'a=b&',
  '\\u0061',
  '[]',
  '{"a":',
  '"a",',
  'https://',
  'urn:',
  'spiffe://a/',
  'eyJ',
  'eyJhbGciOiJub25lIn0.',
  'Bearer ',
  'e\u0301',
  '\u0130',
].map(unit => ({ prefix: '', unit, suffix: '!' }))
const FEW = HOSTILE.slice(0, 3)

describe('H17 patterns', () => {
  const all = patternsOfSource()

  it('none in the source grows faster than its text, at texts made of itself', () => {
    expect(all.length).toBeGreaterThan(200)
    expect(all.reduce((n, f) => n + pumpsOf(f.pattern).length, 0)).toBeGreaterThan(1_500)
    expect(all.flatMap(({ where, pattern }) => slowness(pattern).map(s => `${where} ${pattern} ${s}`))).toEqual([])
  }, 240_000)

  it.each([
    ['a repetition in a repetition', /^(a+)+$/, /^a+$/],
    ['two ways to read one letter', /^(?:a|aa)+$/, /^(?:a|ba)+$/],
    ['an optional end in a repetition', /^(?:[a-z]+\.?)*$/, /^[a-z]+(?:\.[a-z]+)*$/],
    ['a word and perhaps a space, again and again', /^(?:\w+\s?)*$/, /^\w+(?:\s\w+)*$/],
    ['the same class twice', /^\d*\d*x$/, /^\d*x$/],
    ['blanks before anything', /^a:\s*(.+)$/, /^a:\s*(\S.*)$/],
    ['a run that may begin anywhere', /\s+$/, /(?<!\s)\s+$/],
    ['a beginning that comes again', /x[a-z]{6,}\./, /(?<![a-z])x[a-z]{6,}\./],
    ['something in the middle of everything', /^.*a.*b.*c$/s, /^[^a]*a[^b]*b[^c]*c$/],
  ])('the judge finds %s, and lets its twin pass that has one reading', (_name, bad, good) => {
    expect(slowness(bad)).not.toEqual([])
    expect(slowness(good)).toEqual([])
  })

  it('and a function that goes over its text once for each character of it; its twin goes over it once', () => {
    const once = (text: string, upTo: number) => {
      let sum = 0
      for (let i = 0; i < upTo; i++) sum += text.charCodeAt(i)
      return sum
    }
    const again = (text: string) => {
      let sum = 0
      for (let i = 0; i < text.length; i++) sum += once(text, i)
      return sum
    }
    expect(slowAtAny('function', FEW, again)).not.toEqual([])
    expect(slowAtAny('function', FEW, text => once(text, text.length))).toEqual([])
  })
})

describe('H17 validators', () => {
  const log = createLog({ level: 'info', to: { write: () => {} } })
  let house: House
  beforeAll(async () => {
    house = await makeHouse()
  })
  afterAll(() => house?.close())

  const slowLeaves = (leaves: readonly { at: string; leaf: z.ZodType }[]) =>
    leaves.flatMap(({ at, leaf }) => {
      const patterns = [...((leaf._zod.bag as { patterns?: Set<RegExp> }).patterns ?? [])]
      return slowAtAny('function', [...HOSTILE, ...patterns.flatMap(pumpsOf)], text => leaf.safeParse(text)).map(s => `${at} ${s}`)
    })

  it('no text of a body, form, query, header or path, of any route, is dear to refuse', () => {
    const seen = new Set<unknown>()
    const leaves = declared(house.http).flatMap(d =>
      Object.entries({ json: d.json, form: d.form, query: d.query, rawBody: d.rawBody, ...d.headers, ...d.params }).flatMap(([name, schema]) =>
        textsIn(schema, `${d.method} ${d.path} ${name}`, seen),
      ),
    )
    leaves.push(...Object.entries(schemas).flatMap(([name, schema]) => textsIn(schema, name, seen)))
    expect(leaves.length).toBeGreaterThan(60)
    expect(slowLeaves(leaves)).toEqual([])
  }, 240_000)

  it('no text of the configuration is', () => {
    const leaves = textsIn(
      configSchema(() => Secret.token('x')),
      'config',
      new Set(),
    )
    expect(leaves.length).toBeGreaterThan(40)
    expect(slowLeaves(leaves)).toEqual([])
  }, 240_000)

  it.each<[string, (text: string) => unknown]>([
    ['strict JSON', text => parseStrict(text)],
    ['strict JSON in quotes', text => parseStrict(JSON.stringify(text))],
    ['a compact token', text => inspect(text, { algorithms: ['ES256'], types: ['JWT'] })],
    ['a compact token’s header', text => inspect(`${Buffer.from(text).toString('base64url')}.e30.AA`, { algorithms: ['ES256'], types: ['JWT'] })],
    ['which issuer evidence names', text => peek({ type: 'jwt', token: text }, 'iss')],
    [
      'the request that a proxy asks about',
      text => originalRequest(name => (name === 'x-original-uri' ? [text] : name === 'x-original-method' ? ['GET'] : []), null),
    ],
    ['a line of the log', text => log.warn({ text, [text.slice(0, 200)]: text }, 'refused')],
    ['what the command line shows of others', text => redact(plain(text))],
  ])(
    '%s is not',
    (_name, act) => {
      const refusing = (text: string) => {
        try {
          act(text)
        } catch (error) {
          // Refused is as good as read; out of stack or memory is neither.
          if (!(error instanceof CurfewError)) throw error
        }
      }
      expect(slowAtAny('function', HOSTILE, refusing)).toEqual([])
    },
    120_000,
  )
})
