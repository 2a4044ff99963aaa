/** Owns reading JSON strictly: RFC 8259 to the letter, and no member twice, nothing too deep, nothing that another parser would read differently. */
import { CurfewError } from './errors.js'

export interface JsonLimits {
  /** Nesting of arrays and objects. Default 8. */
  readonly maxDepth?: number
  /** Members and elements in the whole text. Default 1,024. */
  readonly maxMembers?: number
}

const refuse = (reason: string): never => {
  throw new CurfewError('malformed', 'the text is not the JSON that is accepted here', { reason })
}

/** One for all: without `stream` it remembers nothing of the last text, and making one costs as much as reading a token. */
const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Refuses bytes that are not UTF-8, and a byte-order mark, before parsing. */
export function parseStrictBytes(bytes: Uint8Array, limits: JsonLimits = {}): unknown {
  let text: string
  try {
    text = UTF8.decode(bytes)
  } catch {
    return refuse('not_utf8')
  }
  return parseStrict(text, limits)
}

/**
 * JSON.parse reads RFC 8259 to the letter, and makes an ordinary own member even of `__proto__`. What it is silent about is found beside
 * it: of two members with one name, also when one of them is escaped (`"\u0061ud"` is `aud`), it keeps the last and others the first, and
 * an attacker chooses between them (P25). Half characters and numbers that overflow are refused for the same reason.
 */
export function parseStrict(text: string, limits: JsonLimits = {}): unknown {
  const { depth, members, names } = measured(text)
  if (depth > (limits.maxDepth ?? 8)) refuse('too_deep')
  if (members > (limits.maxMembers ?? 1_024)) refuse('too_many_members')
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return refuse('not_json')
  }
  if (namesIn(value, HALF.test(text)) !== names) refuse('duplicate_member')
  return value
}

interface Measure {
  readonly depth: number
  /** Members of objects and elements of arrays. */
  readonly members: number
  readonly names: number
}

/** What stands outside of strings, counted before anything is made of it: exact for JSON, and what is not JSON is refused after it. */
function measured(text: string): Measure {
  let depth = 0
  let deepest = 0
  let members = 0
  let names = 0
  /** Behind a bracket, where the first that comes is one that no comma announces. */
  let isOpened = false
  for (let at = 0; at < text.length; at++) {
    const c = text.charCodeAt(at)
    if (c === 0x20 || c === 0x0a || c === 0x0d || c === 0x09) continue
    const isEnd = c === 0x7d || c === 0x5d
    if (isOpened && !isEnd) members++
    isOpened = c === 0x7b || c === 0x5b
    if (isOpened) {
      if (++depth > deepest) deepest = depth
    } else if (isEnd) depth--
    else if (c === 0x2c) members++
    else if (c === 0x3a) names++
    else if (c === 0x22) at = endOfString(text, at)
  }
  return { depth: deepest, members, names }
}

/** Of the quote that closes; of the text, where none does. */
function endOfString(text: string, start: number): number {
  for (let at = start; ; ) {
    at = text.indexOf('"', at + 1)
    if (at < 0) return text.length
    let before = at
    while (text.charCodeAt(before - 1) === 0x5c) before--
    // Of an even number of backslashes each is another's; an odd one is the quote's.
    if ((at - before) % 2 === 0) return at
  }
}

/** Half of a surrogate pair, or its escape. */
const HALF = /[\ud800-\udfff]|\\u[dD][89a-fA-F]/

/** How many members there are at every depth. @param mayHoldHalves where no string needs to be looked at. */
function namesIn(value: unknown, mayHoldHalves: boolean): number {
  if (typeof value === 'number' && !Number.isFinite(value)) refuse('number_overflow')
  if (mayHoldHalves && typeof value === 'string') refuseHalves(value)
  if (typeof value !== 'object' || value === null) return 0
  let names = 0
  if (Array.isArray(value)) {
    for (const inner of value) names += namesIn(inner, mayHoldHalves)
    return names
  }
  for (const name of Object.keys(value)) {
    if (mayHoldHalves) refuseHalves(name)
    names += 1 + namesIn((value as Record<string, unknown>)[name], mayHoldHalves)
  }
  return names
}

function refuseHalves(text: string): void {
  if (/\p{Cs}/u.test(text)) refuse('lone_surrogate')
}
