/** Owns what a log line promises: one line, short, no control characters, no secret. */
import { describe, expect, test } from 'vitest'
import { CurfewError } from '../../src/domain/errors.js'
import { Secret } from '../../src/domain/secret.js'
import { createLog, levelOf, logFault } from '../../src/log.js'

// biome-ignore lint/suspicious/noExplicitAny: a parsed line of free shape.
type Line = any

function heard(speak: (log: ReturnType<typeof createLog>) => void, level: 'debug' | 'info' = 'debug'): { raw: string[]; lines: Line[] } {
  const raw: string[] = []
  speak(createLog({ level, name: 'test', to: { write: (line: string) => void raw.push(line) } }))
  return { raw, lines: raw.map(line => JSON.parse(line)) }
}

const CONTROL = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029\u202e]/
const JWT = 'eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl'

describe('a line', () => {
  test('names its level, time, process and event', () => {
    const { lines, raw } = heard(log => log.info({ task: 'tsk_1' }, 'task.opened'))
    expect(lines[0]).toMatchObject({ level: 'info', name: 'test', event: 'task.opened', task: 'tsk_1' })
    expect(new Date(lines[0].time).toISOString()).toBe(lines[0].time)
    expect(raw[0]?.match(/\n/g)).toHaveLength(1)
  })
  test('below the level nothing is written', () => {
    expect(heard(log => log.debug({}, 'x'), 'info').raw).toEqual([])
  })

  const hostile: [string, string][] = [
    ['CR and LF', 'a\r\n{"level":"info","event":"forged"}'],
    ['ANSI', '\u001b[2J\u001b[31mred'],
    ['JSON breakout', '","event":"forged","x":"'],
    ['C1 controls and DEL', 'a\u009b31mb\u007f\u0085'],
    ['line separators', 'a\u2028b\u2029c'],
    ['right-to-left override', 'safe\u202egnp.exe'],
    ['a backslash before an n', 'C:\\new\\u001b'],
  ]
  test.each(hostile)('H21: %s in a field, in a key and in the event stays one valid line without controls', (_, text) => {
    const { raw, lines } = heard(log => {
      log.warn({ agent: text, nested: { [text]: [text] } }, 'request.refused')
      log.warn({}, text)
      log.child({ agent: text }).warn({}, 'x')
    })
    expect(lines).toHaveLength(3)
    for (const [i, line] of raw.entries()) {
      expect(line.endsWith('\n')).toBe(true)
      expect(line.slice(0, -1)).not.toContain('\n')
      expect(line).not.toMatch(CONTROL)
      for (const value of valuesOf(lines[i])) expect(value).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202e]/)
      expect(lines[i].level).toBe('warn')
    }
    expect(lines[0].event).toBe('request.refused')
  })
  test('a backslash that is text stays text', () => {
    expect(heard(log => log.info({ path: 'C:\\new' }, 'C:\\new')).lines[0]).toMatchObject({ path: 'C:\\new', event: 'C:\\new' })
  })

  const large: [string, (log: ReturnType<typeof createLog>) => void][] = [
    ['a 1 MB header', log => log.warn({ header: 'x'.repeat(1_048_576) }, 'request.refused')],
    ['a 1 MB event', log => log.warn({}, 'y'.repeat(1_048_576))],
    ['a thousand fields', log => log.warn(Object.fromEntries(Array.from({ length: 1_000 }, (_, i) => [`k${i}`, 'v'.repeat(500)])), 'request.refused')],
    ['long keys', log => log.warn({ ['k'.repeat(100_000)]: 1 }, 'request.refused')],
    ['text outside ASCII', log => log.warn({ a: '漢'.repeat(1_000), b: '漢'.repeat(1_000), c: '😀'.repeat(600) }, 'request.refused')],
    [
      'a child with a long binding',
      log => log.child({ a: 'x'.repeat(90_000), b: 'y'.repeat(90_000) }).warn({ c: 'z'.repeat(9_000), d: 'w'.repeat(9_000) }, 'request.refused'),
    ],
    ['deep nesting', log => log.warn({ a: Array.from({ length: 500 }).reduce(inner => ({ inner }), {}) }, 'request.refused')],
    ['a long list', log => log.warn({ a: Array.from({ length: 5_000 }, () => 'abcdefgh') }, 'request.refused')],
  ]
  test.each(large)('H21: %s fits in 4 KiB and is still found by its event', (_, speak) => {
    const { raw, lines } = heard(speak)
    expect(Buffer.byteLength(raw[0] as string)).toBeLessThanOrEqual(4_096)
    expect(lines[0]).toMatchObject({ level: 'warn', name: 'test' })
    expect(String(lines[0].event)).toMatch(/^(request\.refused|y{100})/)
  })
  test('what was left out is named', () => {
    const { lines } = heard(log => log.warn({ a: 'x'.repeat(2_000), b: 'y'.repeat(2_000), c: 'z'.repeat(2_000), d: 'w'.repeat(2_000), task: 'tsk_1' }, 'e'))
    expect(lines[0].truncated).toContain('d')
    expect(lines[0].task).toBe('tsk_1')
  })
})

function valuesOf(value: unknown): string[] {
  if (typeof value === 'string') return [value]
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, child]) => [key, ...valuesOf(child)])
}

describe('secrets (K6)', () => {
  const canary = 'canary-51d0-never'
  const named = [
    'password',
    'PGPASSWORD',
    'secret',
    'token',
    'access_token',
    'subject_token',
    'client_secret',
    'secretId_secret',
    'authorization',
    'Authorization',
    'DPoP',
    'cookie',
    'set-cookie',
    'client_assertion',
    'accessor',
    'privateKey',
    'private_key',
    'sealed',
    'idToken',
    'masterKey',
    'X-Vault-Token',
  ]
  test.each(named)('the value of %s is not written, at any depth', name => {
    const { raw } = heard(log => {
      log.info({ [name]: canary, a: { [name]: canary, b: [{ [name]: canary }] } }, 'e')
      log.child({ [name]: canary }).info({}, 'e')
    })
    expect(raw.join('')).not.toContain(canary)
    expect(raw.join('')).toContain('[redacted]')
  })
  const shaped: [string, string, string][] = [
    ['a JWS', `Bearer ${JWT}`, JWT],
    ['a truncated JWS', 'got eyJhbGciOiJFUzI1NiJ9.eyJzdWIi', 'eyJhbGciOiJFUzI1NiJ9'],
    ['a Vault token', 'hvs.CAESIJlongtokentext', 'CAESIJlong'],
    ['a batch token', 'hvb.AAAAAQJlongtokentext', 'AAAAAQJ'],
    ['a forge token', 'ghs_16C7e42F292c6912E7710c838347Ae178B4a', '16C7e42F'],
    ['a password in a URL', 'postgres://curfew:s3cr3t-pw@db:5432/x', 's3cr3t-pw'],
  ]
  test.each(shaped)('%s is recognised by its shape in a field, in a message and in an error', (_, text, part) => {
    const { raw } = heard(log => {
      log.info({ detail: text, list: [text] }, 'e')
      log.info({}, text)
      log.error({ err: new Error(text, { cause: new Error(text) }) }, 'e')
    })
    expect(raw.join('')).not.toContain(part)
  })
  test('a Secret and bytes show only what they are', () => {
    const { lines, raw } = heard(log => log.info({ thing: Secret.token(canary), bytes: Buffer.from(canary) }, 'e'))
    expect(lines[0]).toMatchObject({ thing: '[secret]', bytes: `[${canary.length} bytes]` })
    expect(raw[0]).not.toContain(canary)
  })
  test('an error keeps class, code, message, a few frames and its causes; what libraries hang on it is gone', () => {
    const cause = Object.assign(new TypeError('socket hang up'), { code: 'ECONNRESET', config: { headers: { x: canary } }, response: { body: canary } })
    const { lines, raw } = heard(log =>
      log.error({ err: new CurfewError('unavailable', 'Vault does not answer', { reason: 'vault_down' }, { cause }) }, 'engine.failed'),
    )
    expect(lines[0].err).toMatchObject({
      type: 'CurfewError',
      code: 'unavailable',
      reason: 'vault_down',
      cause: { type: 'TypeError', code: 'ECONNRESET', message: 'socket hang up' },
    })
    expect(lines[0].err.frames.length).toBeLessThanOrEqual(6)
    expect(raw[0]).not.toContain(canary)
  })
  test('the twin: ids and digests are written whole', () => {
    const { lines } = heard(log => log.info({ credential: 'crd_01jd5v7wq8kx3m9tz2c4b6n8rs', digest: 'abc', tokens: 3, kid: 'k' }, 'e'))
    expect(lines[0]).toMatchObject({ credential: 'crd_01jd5v7wq8kx3m9tz2c4b6n8rs', digest: 'abc', tokens: 3, kid: 'k' })
  })
})

describe('whose fault', () => {
  test('client faults warn, ours error, and a bug is ours', () => {
    expect(levelOf(new CurfewError('proof_refused', 'x'))).toBe('warn')
    expect(levelOf(new CurfewError('policy_denied', 'x'))).toBe('warn')
    expect(levelOf(new CurfewError('engine_failed', 'x'))).toBe('error')
    expect(levelOf(new CurfewError('unavailable', 'x'))).toBe('error')
    expect(levelOf(new TypeError('x'))).toBe('error')
    const { lines } = heard(log => {
      logFault(log, new CurfewError('malformed', 'x', { field: 'ttl' }), 'request.refused', { requestId: 'r' })
      logFault(log, new RangeError('x'), 'request.failed')
    })
    expect(lines.map(l => [l.level, l.event, l.err.field ?? null])).toEqual([
      ['warn', 'request.refused', 'ttl'],
      ['error', 'request.failed', null],
    ])
    expect(lines[0].err.frames).toBeUndefined()
  })
})
