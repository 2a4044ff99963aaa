/** Owns the log: JSON, one event a line, at most 4 KiB, no control characters, names instead of values, and a second net for secrets. */
import { type DestinationStream, destination, type Logger, pino } from 'pino'
import { CurfewError, type ErrorCode } from './domain/errors.js'

export type { Logger } from 'pino'

const MAX_LINE_BYTES = 4_096
const MAX_TEXT_CHARS = 1_024
const MAX_EVENT_CHARS = 256
const MAX_KEY_CHARS = 64
const MAX_DEPTH = 4
const MAX_ITEMS = 32
/** Bytes of a shortened line that are kept for naming what it lost. */
const ROOM_FOR_NAMES = 1_024
const MAX_FRAMES = 6
const CENSOR = '[redacted]'

/** Fields whose value is never for a log, whatever writes them. The first net is that nobody logs them (K6). */
const SECRET_KEYS =
  /^(?:.*(?:password|passwd|secret|private_?key|master_?key|credentials?_?value)|pgpassword|authorization|proxy-authorization|dpop|cookie|set-cookie|token|.*_token|.*Token|id_?token|client_assertion|assertion|accessor|sealed|x-vault-token)$/i

/**
 * Texts that look like secret material wherever they stand: tokens of ours and others' (JWS), of Vault and OpenBao, and passwords inside
 * URLs. Every repetition has a bound, and only short texts are searched: a hostile header must not buy us a second of CPU.
 */
const SECRET_TEXTS: readonly [RegExp, (all: string, group?: string) => string][] = [
  // What begins like one is taken whole in either case: it may begin so again inside, and would be read to its end again.
  [/\beyJ[A-Za-z0-9_-]{6,4096}(\.[A-Za-z0-9_-]{4,4096}(?:\.[A-Za-z0-9_-]{0,4096})?)?/g, (all, rest) => (rest === undefined ? all : '[token]')],
  [/\bhv[sbr]\.[A-Za-z0-9_-]{8,4096}/g, () => '[token]'],
  [/\b[sb]\.[A-Za-z0-9]{24,4096}\b/g, () => '[token]'],
  [/\bgh[oprsu]_[A-Za-z0-9]{16,255}/g, () => '[token]'],
  [/\b([a-z][a-z0-9+.-]{0,20}:\/\/[^\s:/@]{0,128}):[^\s@/]{1,512}@/gi, (_all, before) => `${before}:${CENSOR}@`],
]

export interface LogOptions {
  readonly level: 'debug' | 'info' | 'warn' | 'error' | 'silent'
  /** On every line: which process speaks. */
  readonly name?: string
  /** Where lines go; default is standard output, written without blocking and flushed at exit. */
  readonly to?: DestinationStream
}

export function createLog(options: LogOptions): Logger {
  const to = options.to ?? destination({ fd: 1, sync: false, maxLength: 8_388_608 })
  const log = pino(
    {
      level: options.level,
      base: options.name === undefined ? null : { name: options.name },
      messageKey: 'event',
      // Errors are rebuilt by `clean` already.
      serializers: { err: (err: unknown) => err },
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: {
        level: label => ({ level: label }),
        log: fields => clean(fields, 0) as Record<string, unknown>,
      },
    },
    { write: (line: string) => to.write(oneLine(line)) },
  )
  // pino asks no formatter about the bindings of a child; children inherit this.
  const { child } = log
  log.child = function (this: Logger, bindings: Record<string, unknown>, options?: Parameters<Logger['child']>[1]) {
    return child.call(this, clean(bindings, 0) as Record<string, unknown>, options as undefined)
  } as Logger['child']
  return log
}

/** Ours to repair, or the caller's: decides between `error` and `warn`, and says whose fault an alert is about. */
const OURS: ReadonlySet<ErrorCode> = new Set(['engine_failed', 'unavailable'])

export function levelOf(fault: unknown): 'warn' | 'error' {
  return fault instanceof CurfewError && !OURS.has(fault.code) ? 'warn' : 'error'
}

/** One line for a failure. The caller heard `message`; the private story is in `cause` and stands only here. */
export function logFault(log: Pick<Logger, 'warn' | 'error'>, fault: unknown, event: string, fields: Readonly<Record<string, unknown>> = {}): void {
  log[levelOf(fault)]({ ...fields, err: fault }, event)
}

/** A copy that is safe to write: bounded in depth, width and length, without secrets, errors rebuilt from known members. */
function clean(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return cleanText(value)
  if (typeof value === 'bigint') return value.toString()
  if (typeof value === 'function' || typeof value === 'symbol') return `[${typeof value}]`
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof Error) return cleanError(value, depth)
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString()
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return `[${value.byteLength} bytes]`
  if (depth >= MAX_DEPTH) return '[deeper]'
  if (Array.isArray(value)) {
    const items = value.slice(0, MAX_ITEMS).map(item => clean(item, depth + 1))
    return value.length > MAX_ITEMS ? [...items, `[${value.length - MAX_ITEMS} more]`] : items
  }
  if (value instanceof Map || value instanceof Set) return `[${value.size} entries]`
  // Things that know how to show themselves (Secret says `[secret]`) are asked first.
  if ('toJSON' in value && typeof value.toJSON === 'function') return clean(value.toJSON(), depth + 1)
  const copy: Record<string, unknown> = {}
  for (const [key, item] of Object.entries(value).slice(0, MAX_ITEMS)) {
    const name = cleanText(key.slice(0, MAX_KEY_CHARS))
    copy[name] = SECRET_KEYS.test(name) && item !== null && item !== undefined ? CENSOR : clean(item, depth + 1)
  }
  return copy
}

/** Errors of libraries carry requests, configurations and bodies: only class, code, message, a few frames and the chain of causes are kept. */
function cleanError(error: Error, depth: number): Record<string, unknown> {
  const { code } = error as { code?: unknown }
  const facts = error instanceof CurfewError ? { reason: error.facts.reason, field: error.facts.field, decision: error.facts.decision } : {}
  const frames = error instanceof CurfewError && !OURS.has(error.code) ? undefined : framesOf(error)
  return {
    type: cleanText(error.name),
    ...(typeof code === 'string' || typeof code === 'number' ? { code } : {}),
    message: cleanText(error.message),
    ...facts,
    ...(frames ? { frames } : {}),
    ...(error.cause !== undefined && depth < MAX_DEPTH
      ? { cause: error.cause instanceof Error ? cleanError(error.cause, depth + 1) : clean(error.cause, depth + 1) }
      : {}),
  }
}

function framesOf(error: Error): string[] {
  const lines = (error.stack ?? '').split('\n').filter(line => /^\s+at /.test(line))
  return lines.slice(0, MAX_FRAMES).map(line => cleanText(line.trim().slice(3)))
}

/** C0, DEL, C1, the line separators, and the marks that reorder text on a terminal. */
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g

function cleanText(text: string): string {
  let short = text.length > MAX_TEXT_CHARS ? `${text.slice(0, MAX_TEXT_CHARS)}[${text.length - MAX_TEXT_CHARS} more]` : text
  for (const [pattern, instead] of SECRET_TEXTS) short = short.replace(pattern, instead)
  return short.replace(CONTROLS, ' ')
}

/**
 * The last look at a finished line. The event's own text is not seen by the formatters, so secrets and controls are taken out here too;
 * a line that is still too long keeps what finds it again and names what it lost.
 */
function oneLine(line: string): string {
  const text = withoutSecrets(line.length > 4 * MAX_LINE_BYTES ? shortened(line) : line)
  return Buffer.byteLength(text) <= MAX_LINE_BYTES ? text : shortened(text)
}

function withoutSecrets(line: string): string {
  let text = line.replace(CONTROLS, (c, offset: number) => (c === '\n' && offset === line.length - 1 ? c : ' '))
  // JSON writes a control as an escape; a viewer would turn it back. Escapes are matched whole, so that `\\n` (a backslash, an n) stays.
  if (text.includes('\\'))
    text = text.replace(/\\(?:u([0-9a-f]{4})|(.))/gi, (whole, hex?: string, short?: string) => (isControlEscape(hex, short) ? ' ' : whole))
  for (const [pattern, instead] of SECRET_TEXTS) text = text.replace(pattern, instead)
  return text
}

function shortened(line: string): string {
  const { level, time, event, ...rest } = JSON.parse(line) as Record<string, unknown>
  const kept: Record<string, unknown> = { level, time, event: typeof event === 'string' ? event.slice(0, MAX_EVENT_CHARS) : event }
  const dropped: string[] = []
  for (const [key, value] of Object.entries(rest)) {
    const bytes = Buffer.byteLength(JSON.stringify({ ...kept, [key]: value }))
    if (bytes <= MAX_LINE_BYTES - ROOM_FOR_NAMES) kept[key] = value
    else if (dropped.length < 8) dropped.push(key.slice(0, 48))
  }
  return `${JSON.stringify({ ...kept, truncated: dropped })}\n`
}

function isControlEscape(hex: string | undefined, short: string | undefined): boolean {
  if (short !== undefined) return 'bfnrt'.includes(short)
  const code = Number.parseInt(hex ?? '0', 16)
  return code < 0x20 || (code >= 0x7f && code <= 0x9f)
}
