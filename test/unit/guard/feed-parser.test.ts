import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { SELECTOR_KINDS } from '../../../src/domain/revocation.js'
import { RevocationIndex } from '../../../src/domain/revocation-index.js'
import { readEvent } from '../../../src/guard/feed-events.js'
import { type SseEvent, sseParser } from '../../../src/guard/sse.js'

const bytes = (text: string) => new TextEncoder().encode(text)

function cut(whole: Uint8Array, at: readonly number[]): Uint8Array[] {
  const places = [...new Set([0, ...at.map(a => a % (whole.length + 1)), whole.length])].sort((a, b) => a - b)
  return places.slice(1).map((end, i) => whole.subarray(places[i], end))
}

function parse(chunks: readonly Uint8Array[], maxLine?: number): SseEvent[] {
  const events: SseEvent[] = []
  const parser = sseParser(e => events.push(e), maxLine === undefined ? {} : { maxLine })
  for (const chunk of chunks) parser.push(chunk)
  return events
}

const entry = fc.record({
  kind: fc.constantFrom(...SELECTOR_KINDS.filter(k => k !== 'all')),
  key: fc.string({ unit: 'binary', minLength: 1, maxLength: 12 }).filter(k => !/\p{Cs}/u.test(k)),
  issued_before: fc.option(
    fc.date({ noInvalidDate: true, min: new Date(0), max: new Date('2100-01-01') }).map(d => d.toISOString()),
    { nil: undefined },
  ),
  until: fc.date({ noInvalidDate: true, min: new Date('2100-01-01'), max: new Date('2200-01-01') }).map(d => d.toISOString()),
})
const step = fc.oneof(
  fc.array(entry, { maxLength: 5 }).map(entries => ({ name: 'entries', entries })),
  fc.array(entry, { maxLength: 5 }).map(entries => ({ name: 'revoked', entries })),
  fc.constant({ name: 'beat', entries: undefined }),
  fc.constant({ name: 'comment', entries: undefined }),
)

function written(steps: readonly { name: string; entries: unknown }[], eol: string): string {
  let seq = 0
  return steps
    .map(({ name, entries }) => {
      if (name === 'comment') return `: still here${eol}`
      if (name === 'beat') return `event: beat${eol}data: ${JSON.stringify({ seq, stale_ms: 3 })}${eol}${eol}`
      if (name === 'entries') return `event: entries${eol}data:${JSON.stringify({ entries })}${eol}${eol}`
      seq++
      return `id: ${seq}${eol}event: revoked${eol}data: ${JSON.stringify({ seq, entries })}${eol}${eol}`
    })
    .join('')
}

function indexOf(chunks: readonly Uint8Array[]) {
  const index = new RevocationIndex()
  for (const event of parse(chunks)) {
    const read = readEvent(event)
    if (read && 'entries' in read) for (const e of read.entries) index.apply(e)
  }
  return { seq: index.seq, entries: [...index.entries()] }
}

describe('the stream is bytes, and bytes come as they like', () => {
  test('any chunking gives the same index, with any end of line', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), fc.constantFrom('\n', '\r\n', '\r'), fc.array(fc.nat(), { maxLength: 40 }), (steps, eol, places) => {
        const whole = bytes(written(steps, eol))
        const once = indexOf([whole])
        expect(indexOf(cut(whole, places))).toEqual(once)
        expect(indexOf([...whole].map(b => Uint8Array.of(b)))).toEqual(once)
        expect(once).toEqual(indexOf([bytes(written(steps, '\n'))]))
      }),
      { numRuns: 300 },
    )
  })
  test('any bytes at all: it throws or it goes on, and says the same however they are cut', () => {
    const outcome = (chunks: readonly Uint8Array[]) => {
      try {
        return JSON.stringify(parse(chunks))
      } catch {
        return 'refused'
      }
    }
    fc.assert(
      fc.property(
        fc.array(
          fc.constantFrom(...'data:event id\n\r{}"é\u{1f600}'.split('')).map(c => [...bytes(c)]),
          { maxLength: 60 },
        ),
        fc.array(fc.nat(), { maxLength: 20 }),
        (parts, places) => {
          const whole = Uint8Array.from(parts.flat())
          expect(outcome(cut(whole, places))).toBe(outcome([whole]))
        },
      ),
      { numRuns: 500 },
    )
  })
  test('what is not ended is no event', () => {
    expect(parse([bytes('event: beat\ndata: {"seq":1}\n')])).toEqual([])
    expect(parse([bytes('event: beat\ndata: {"seq":1}\n\n')])).toEqual([{ name: 'beat', id: null, data: '{"seq":1}' }])
  })
  test('an id is of its own event only', () => {
    expect(parse([bytes('id: 7\ndata: a\n\ndata: b\n\n')]).map(e => e.id)).toEqual(['7', null])
  })
  test.each([
    ['a line without end', 'x'.repeat(101)],
    ['a line that ends too late', `${'x'.repeat(101)}\n`],
    ['many short data lines of one event', 'data: aaaaaaaaaa\n'.repeat(20)],
  ])('%s is refused at the bound', (_, text) => {
    expect(() =>
      parse(
        [...bytes(text)].map(b => Uint8Array.of(b)),
        100,
      ),
    ).toThrow('longer than 100')
    expect(parse([bytes(`data: ${'x'.repeat(90)}\n\n`)], 100)).toHaveLength(1)
  })
  test('bytes that are no UTF-8 are refused', () => {
    expect(() => parse([Uint8Array.of(0x64, 0xff, 0x0a)])).toThrow()
  })
})

describe('what is not understood is not passed over', () => {
  const event = (name: string, data: unknown, id: string | null = null): SseEvent => ({
    name,
    id,
    data: typeof data === 'string' ? data : JSON.stringify(data),
  })
  const good = { kind: 'task', key: 'tsk_1', until: '2100-01-01T00:00:00Z' }
  test.each([
    ['a kind of later days', event('revoked', { seq: 1, entries: [{ ...good, kind: 'tenant' }] }, '1')],
    ['no key', event('revoked', { seq: 1, entries: [{ ...good, key: '' }] }, '1')],
    ['all but not everything', event('revoked', { seq: 1, entries: [{ ...good, kind: 'all', key: 'x' }] }, '1')],
    ['no until', event('revoked', { seq: 1, entries: [{ ...good, until: undefined }] }, '1')],
    ['a cut-off that is no time', event('revoked', { seq: 1, entries: [{ ...good, issued_before: 'soon' }] }, '1')],
    ['entries that are no list', event('entries', { entries: {} })],
    ['a seq that is none', event('revoked', { seq: '1', entries: [] }, '1')],
    ['a seq beyond whole numbers', event('beat', { seq: 2 ** 53, stale_ms: 0 })],
    ['an id that is not its seq', event('ready', { seq: 1 }, '2')],
    ['no id', event('ready', { seq: 1 })],
    ['a time that is none', event('beat', { seq: 1, stale_ms: 0, at: 'now' })],
    ['staleness below nothing', event('beat', { seq: 1, stale_ms: -1 })],
    ['no staleness', event('beat', { seq: 1 })],
    ['no JSON', event('beat', 'seq=1')],
    ['null', event('beat', 'null')],
  ])('%s', (_, bad) => {
    expect(() => readEvent(bad)).toThrow('does not understand')
  })
  test('their twins are read, and an event of another name says nothing', () => {
    expect(readEvent(event('revoked', { seq: 1, entries: [good] }, '1'))).toMatchObject({
      kind: 'revoked',
      seq: 1,
      entries: [{ kind: 'task', key: 'tsk_1', issuedBefore: null }],
    })
    expect(readEvent(event('beat', { seq: 1, stale_ms: 0, at: 5 }))).toEqual({ kind: 'beat', seq: 1, staleMs: 0, at: 5 })
    expect(readEvent(event('beat', { seq: 1, stale_ms: 0 }))).toEqual({ kind: 'beat', seq: 1, staleMs: 0, at: null })
    expect(readEvent(event('ready', { seq: 0 }, '0'))).toEqual({ kind: 'ready', seq: 0 })
    expect(readEvent(event('news', {}))).toBeNull()
  })
})
