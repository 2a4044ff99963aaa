import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseStrict, parseStrictBytes } from '../../src/domain/json.js'

const reasonOf = (text: string, limits = {}) => {
  try {
    parseStrict(text, limits)
    return 'parsed'
  } catch (error) {
    return (error as { code?: string; facts?: { reason?: string } }).code === 'malformed'
      ? (error as { facts: { reason: string } }).facts.reason
      : String(error)
  }
}

describe('strict JSON', () => {
  it.each(['null', ' true ', '-0', '1.5e3', '"a\\u00e9\\n"', '[]', '{"a":[1,{"b":null}]}', '"\\ud83d\\ude00"', '"\\u0000"'])(
    'reads %s like JSON.parse',
    text => {
      expect(parseStrict(text)).toEqual(JSON.parse(text))
    },
  )

  it.each([
    ['T21 a member twice', '{"a":1,"a":1}', 'duplicate_member'],
    ['T21 a member twice, once escaped', '{"aud":1,"\\u0061ud":1}', 'duplicate_member'],
    ['T21 a member twice, deep', '[{"x":{"a":1,"a":2}}]', 'duplicate_member'],
    ['T22 the prototype twice', '{"__proto__":1,"__proto__":2}', 'duplicate_member'],
    ['T24 a byte-order mark', '\ufeff{}', 'not_json'],
    ['T24 half a character, escaped', '"\\ud800"', 'lone_surrogate'],
    ['T24 half a character, as it is', '"\udc00"', 'lone_surrogate'],
    ['T24 half a character in a name', '{"\\udfff":1}', 'lone_surrogate'],
    ['T18 a number that overflows', '1e400', 'number_overflow'],
    ['T18 a negative one', '-1e400', 'number_overflow'],
    ['a raw control character', '"a\u0000"', 'not_json'],
    ['an unfinished escape', '"\\', 'not_json'],
    ['a leading zero', '01', 'not_json'],
    ['NaN', 'NaN', 'not_json'],
    ['a comma at the end', '[1,]', 'not_json'],
    ['a second value', '1 2', 'not_json'],
    ['nothing', '', 'not_json'],
    ['white space of others', '\u00a01', 'not_json'],
    ['T23 nine deep', '['.repeat(9) + ']'.repeat(9), 'too_deep'],
    ['T23 100,000 deep', '['.repeat(100_000), 'too_deep'],
    ['T23 100,000 objects deep', '{"a":'.repeat(100_000), 'too_deep'],
    ['T23 a million elements', `[${'1,'.repeat(999_999)}1]`, 'too_many_members'],
  ])('%s is refused', (_name, text, reason) => {
    expect(reasonOf(text)).toBe(reason)
  })

  it('T23 the limits themselves are allowed', () => {
    expect(reasonOf('['.repeat(8) + ']'.repeat(8))).toBe('parsed')
    expect(reasonOf(`[${'1,'.repeat(1_023)}1]`)).toBe('parsed')
    expect(reasonOf('[1,[2,3]]', { maxMembers: 4 })).toBe('parsed')
    expect(reasonOf('[1,[2,3]]', { maxMembers: 3 })).toBe('too_many_members')
  })

  it('T22 H20 names that JavaScript gives a meaning are plain own members, and nothing leaks into other objects', () => {
    const value = parseStrict('{"__proto__":{"polluted":1},"constructor":2,"hasOwnProperty":3,"toString":4}') as Record<string, unknown>
    expect(Object.keys(value)).toEqual(['__proto__', 'constructor', 'hasOwnProperty', 'toString'])
    expect(Object.getOwnPropertyDescriptor(value, '__proto__')?.value).toEqual({ polluted: 1 })
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
    expect(value.polluted).toBeUndefined()
  })

  it('T24 bytes that are not UTF-8 are refused: overlong, surrogate, cut off, Latin-1', () => {
    for (const bytes of [
      [0x22, 0xc0, 0xaf, 0x22],
      [0x22, 0xed, 0xa0, 0x80, 0x22],
      [0x22, 0xe2, 0x82],
      [0x22, 0xe9, 0x22],
    ])
      expect(() => parseStrictBytes(Uint8Array.from(bytes))).toThrow(expect.objectContaining({ facts: { reason: 'not_utf8' } }))
    expect(() => parseStrictBytes(Buffer.from('\ufeff{}'))).toThrow(expect.objectContaining({ code: 'malformed' }))
    expect(parseStrictBytes(Buffer.from('"é😀"'))).toBe('é😀')
  })

  it('never quotes what it read', () => {
    try {
      parseStrict('{"canary":canary}')
    } catch (error) {
      expect(JSON.stringify({ ...(error as object), message: (error as Error).message })).not.toContain('canary')
    }
    expect.assertions(1)
  })
})

/** JSON as it may be written: members may repeat their name, and every character may be escaped. */
type Written =
  | { readonly kind: 'plain'; readonly text: string }
  | { readonly kind: 'string'; readonly chars: readonly Char[] }
  | { readonly kind: 'array'; readonly elements: readonly Written[] }
  | { readonly kind: 'object'; readonly members: readonly (readonly [readonly Char[], Written])[] }
type Char = readonly [string, isEscaped: boolean]

const chars = fc.array(
  fc.tuple(fc.constantFrom('a', 'b', '"', '\\', ':', ',', '[', '}', ' ', '\n', 'é', '\ud83d\ude00', '__proto__', 'toString'), fc.boolean()),
  {
    maxLength: 3,
  },
)
const { written } = fc.letrec<{ written: Written }>(tie => ({
  written: fc.oneof(
    { maxDepth: 5, withCrossShrink: true },
    fc.constantFrom('0', '-1', '1.5e3', 'true', 'false', 'null').map(text => ({ kind: 'plain' as const, text })),
    chars.map(chars => ({ kind: 'string' as const, chars })),
    fc.array(tie('written'), { maxLength: 3 }).map(elements => ({ kind: 'array' as const, elements })),
    fc.array(fc.tuple(chars, tie('written')), { maxLength: 4 }).map(members => ({ kind: 'object' as const, members })),
  ),
}))
const spelled = (list: readonly Char[]): string => list.map(([c]) => c).join('')
const quoted = (list: readonly Char[]): string =>
  `"${list.map(([c, isEscaped]) => (isEscaped ? c.replace(/[\s\S]/g, u => `\\u${u.charCodeAt(0).toString(16).padStart(4, '0')}`) : JSON.stringify(c).slice(1, -1))).join('')}"`
function textOf(w: Written, gap: string): string {
  switch (w.kind) {
    case 'plain':
      return w.text
    case 'string':
      return quoted(w.chars)
    case 'array':
      return `[${gap}${w.elements.map(e => textOf(e, gap)).join(`${gap},${gap}`)}${gap}]`
    case 'object':
      return `{${gap}${w.members.map(([name, v]) => `${quoted(name)}${gap}:${gap}${textOf(v, gap)}`).join(`${gap},`)}}`
  }
}
function repeats(w: Written): boolean {
  if (w.kind === 'array') return w.elements.some(repeats)
  if (w.kind !== 'object') return false
  return new Set(w.members.map(([name]) => spelled(name))).size < w.members.length || w.members.some(([, v]) => repeats(v))
}
function countOf(w: Written): number {
  if (w.kind === 'array') return w.elements.reduce((n, e) => n + 1 + countOf(e), 0)
  return w.kind === 'object' ? w.members.reduce((n, [, v]) => n + 1 + countOf(v), 0) : 0
}
const depthOf = (w: Written): number =>
  w.kind === 'array' ? 1 + Math.max(0, ...w.elements.map(depthOf)) : w.kind === 'object' ? 1 + Math.max(0, ...w.members.map(([, v]) => depthOf(v))) : 0

describe('however it is written', () => {
  it('T21 it is read as JSON.parse does, unless a name repeats, and is as deep and as large as it is', () => {
    fc.assert(
      fc.property(written, fc.constantFrom('', ' ', '\t\r\n'), (w, gap) => {
        const text = textOf(w, gap)
        const own = { maxDepth: depthOf(w), maxMembers: countOf(w) }
        if (repeats(w)) expect(reasonOf(text, own)).toBe('duplicate_member')
        else expect(parseStrict(text, own)).toEqual(JSON.parse(text))
        if (own.maxDepth > 0) expect(reasonOf(text, { ...own, maxDepth: own.maxDepth - 1 })).toBe('too_deep')
        if (own.maxMembers > 0) expect(reasonOf(text, { ...own, maxMembers: own.maxMembers - 1 })).toBe('too_many_members')
      }),
      { numRuns: 2_000 },
    )
  })
  it('H04 a text that was spoiled is refused, or is JSON all the same', () => {
    fc.assert(
      fc.property(written, fc.nat(), fc.constantFrom('', '"', '\\', ',', ':', '{', ']', '\u0000', '\ud800', '1e999'), (w, at, put) => {
        const whole = textOf(w, '')
        const text = whole.slice(0, at % (whole.length + 1)) + put + whole.slice((at % (whole.length + 1)) + 1)
        const reason = reasonOf(text, { maxDepth: 64 })
        if (reason === 'parsed') expect(parseStrict(text, { maxDepth: 64 })).toEqual(JSON.parse(text))
        else expect(reason).toMatch(/^(not_json|duplicate_member|lone_surrogate|number_overflow)$/)
      }),
      { numRuns: 2_000 },
    )
  })
})
