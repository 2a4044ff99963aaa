/** Owns what is printed: data on stdout, people's text on stderr, nothing that a terminal would obey or that looks like a secret. */
import type { CliError, Problem } from './exit.js'

export type Format = 'table' | 'json' | 'name'

/** What a command may read. */
export interface Input {
  /** Whether a person sits there, who can be asked. */
  readonly terminal: boolean
  text(): Promise<string>
  /** Null: it ended without one. */
  line(): Promise<string | null>
}

/** The process as commands see it; tests put their own in its place. */
export interface Io {
  readonly env: Readonly<Record<string, string | undefined>>
  out(text: string): void
  err(text: string): void
  /** Whether colour may go to stderr. */
  readonly colour: boolean
  /** Missing: there is nothing to read and nobody to ask. */
  readonly input?: Input
  /** Whether a person watches stderr. */
  readonly watched?: boolean
}

export interface Printer {
  readonly format: Format
  readonly quiet: boolean
  /** Data, in the chosen format. `name` prints one id a line. */
  data(value: unknown, table: () => string, names?: readonly string[]): void
  /** One line for people, unless -q. */
  say(line: string): void
  /** The same, also under -q: what must not be missed. */
  warn(line: string): void
}

export function printer(io: Io, options: { json?: boolean | undefined; output?: Format | undefined; quiet?: boolean | undefined }): Printer {
  const format: Format = options.json ? 'json' : (options.output ?? 'table')
  const quiet = options.quiet === true
  return {
    format,
    quiet,
    data(value, table, names) {
      if (format === 'json') io.out(`${JSON.stringify(value)}\n`)
      else if (format === 'name') io.out((names ?? []).map(name => `${plain(name)}\n`).join(''))
      else {
        const text = table()
        if (text !== '') io.out(text.endsWith('\n') ? text : `${text}\n`)
      }
    },
    say(line) {
      if (!quiet) io.err(`${safe(line)}\n`)
    },
    warn(line) {
      io.err(`${safe(line)}\n`)
    },
  }
}

/** Text of others on a terminal: no control characters, no direction overrides, one line. */
export function plain(text: string): string {
  return text.replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/gu, '?')
}

/** The second net: whatever looks like a token of anybody's does not reach stderr. The first is that nobody says it. */
export function redact(text: string): string {
  return (
    text
      // What begins like one is taken whole in either case: it may begin so again inside, and would be read to its end again.
      .replace(/\beyJ[A-Za-z0-9_-]{6,}(\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?)?/g, (all, rest?: string) => (rest === undefined ? all : '[token]'))
      .replace(/\bcurfew_[a-z]+_[0-9A-Za-z]{20,}/g, '[token]')
      .replace(/\bhv[sbr]\.[A-Za-z0-9_-]{8,}/g, '[token]')
      .replace(/(?<![a-z0-9+.-])([a-z0-9+.-]+:\/\/[^\s:/@]*):[^\s@/]+@/gi, '$1:[secret]@')
  )
}

const safe = (line: string) => redact(plain(line))

/** Columns wide enough for their longest cell; the head in capitals; dashes for what is not there. */
export function table(head: readonly string[], rows: readonly (readonly (string | number | null | undefined)[])[]): string {
  const cells = [
    head.map(h => h.toUpperCase()),
    ...rows.map(row => row.map(cell => (cell === null || cell === undefined || cell === '' ? '-' : plain(String(cell))))),
  ]
  const widths = head.map((_, column) => Math.max(...cells.map(row => row[column]?.length ?? 0)))
  return cells.map(row => row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join('  ')).join('\n')
}

/** Names in a row, and pairs; what is nested deeper as JSON. */
function inWords(value: unknown): string {
  if (typeof value === 'string') return value
  const isFlat = (v: unknown) => typeof v === 'string' || typeof v === 'number'
  if (typeof value !== 'object' || value === null || !Object.values(value).every(isFlat)) return JSON.stringify(value)
  const words = Array.isArray(value) ? value : Object.entries(value).map(([name, v]) => `${name}=${v}`)
  return words.length === 0 ? '-' : words.join(', ')
}

/** `key   value` lines of one thing. */
export function card(fields: Readonly<Record<string, unknown>>): string {
  const entries = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined)
  const width = Math.max(...entries.map(([key]) => key.length), 0)
  return entries.map(([key, value]) => `${key.padEnd(width)}  ${plain(inWords(value))}`).join('\n')
}

/** 900 → `15m`, 859 → `14m19s`, 41.3 → `41 s`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  const parts = [
    [Math.floor(whole / 3600), 'h'],
    [Math.floor((whole % 3600) / 60), 'm'],
    [whole % 60, 's'],
  ] as const
  return parts
    .filter(([n]) => n > 0)
    .map(([n, unit]) => `${n}${unit}`)
    .join('')
}

/** `10:06:02.113`, in UTC like everything that is compared between machines. */
export function clockTime(instant: string, withMs = false): string {
  const text = instant.slice(11, withMs ? 23 : 19)
  return /^[\d:.]+$/.test(text) ? text : plain(instant)
}

/** One error shape (ux.md 3.3): text for people, one JSON object under --json; both on stderr. */
export function renderError(error: CliError, format: Format, colour: boolean): string {
  if (format === 'json') return `${redact(JSON.stringify({ ...error.problem, exit: error.exit }))}\n`
  const { code, detail } = error.problem
  const head = colour ? `\u001b[31merror[${plain(code)}]\u001b[39m` : `error[${plain(code)}]`
  return `${[`${head} ${text(detail) ?? ''}`, ...factLines(error.problem)].map(redact).join('\n')}\n`
}

const OTHER_CODES = new Set(['usage'])

function factLines(problem: Problem): string[] {
  const lines: [string, string][] = []
  const nearest = object(problem.nearest_rule)
  if (nearest) lines.push(['nearest rule', `${text(nearest.id) ?? '?'}   (${number(nearest.held)} of ${number(nearest.of)} conditions hold)`])
  for (const item of list(problem.failed)) {
    const failed = object(item)
    const actual = text(failed?.actual)
    if (failed)
      lines.push([
        'differs',
        `${text(failed.claim) ?? '?'}   ${actual === null ? 'your token has no such claim' : `your token says "${actual}"`}   (the rule's value is shown to admins)`,
      ])
  }
  const add = (name: string, value: unknown) => {
    const shown = text(value)
    if (shown !== null) lines.push([name, shown])
  }
  add('you are', problem.identity)
  if (text(problem.reason) !== text(problem.code)) add('reason', problem.reason)
  add('capability', problem.capability)
  add('field', problem.field)
  add('try', problem.next)
  add('decision', problem.decision_id)
  if (typeof problem.retry_after === 'number') lines.push(['retry after', `${problem.retry_after} s`])
  if (!OTHER_CODES.has(problem.code)) add('request', problem.request_id)
  return lines.map(([name, value]) => `  ${name.padEnd(14)} ${value}`)
}

/** Bounded and harmless, or null. A detail may have several lines (a configuration with several faults). */
function text(value: unknown): string | null {
  if (typeof value !== 'string' || value === '') return null
  return value
    .slice(0, 4_000)
    .split('\n')
    .map(line => plain(line))
    .join('\n  ')
}

const object = (value: unknown) => (typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null)
const list = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value.slice(0, 8) : [])
const number = (value: unknown) => (typeof value === 'number' ? value : 0)
