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

/** Refuses bytes that are not UTF-8, and a byte-order mark, before parsing. */
export function parseStrictBytes(bytes: Uint8Array, limits: JsonLimits = {}): unknown {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return refuse('not_utf8')
  }
  return parseStrict(text, limits)
}

/**
 * Duplicate members are refused after unescaping (`"\u0061ud"` is `aud`): JSON.parse keeps the last, others the first, and an attacker
 * chooses between them (P25). Lone surrogates and numbers that overflow are refused for the same reason. Objects have no prototype's
 * setters to fall into: `__proto__` becomes an ordinary own member.
 */
export function parseStrict(text: string, limits: JsonLimits = {}): unknown {
  const maxDepth = limits.maxDepth ?? 8
  const maxMembers = limits.maxMembers ?? 1_024
  let at = 0
  let members = 0

  const skip = () => {
    for (;;) {
      const c = text.charCodeAt(at)
      if (c === 0x20 || c === 0x0a || c === 0x0d || c === 0x09) at++
      else return
    }
  }
  const count = () => {
    if (++members > maxMembers) refuse('too_many_members')
  }

  function value(depth: number): unknown {
    skip()
    switch (text[at]) {
      case '{':
        return object(depth + 1)
      case '[':
        return array(depth + 1)
      case '"':
        return string()
      case 't':
        return word('true', true)
      case 'f':
        return word('false', false)
      case 'n':
        return word('null', null)
      default:
        return number()
    }
  }

  function object(depth: number): Record<string, unknown> {
    if (depth > maxDepth) refuse('too_deep')
    const result: Record<string, unknown> = {}
    at++
    skip()
    if (text[at] === '}') {
      at++
      return result
    }
    for (;;) {
      skip()
      if (text[at] !== '"') refuse('not_json')
      const name = string()
      count()
      if (Object.hasOwn(result, name)) refuse('duplicate_member')
      skip()
      if (text[at++] !== ':') refuse('not_json')
      Object.defineProperty(result, name, { value: value(depth), enumerable: true, writable: true, configurable: true })
      skip()
      const next = text[at++]
      if (next === '}') return result
      if (next !== ',') refuse('not_json')
    }
  }

  function array(depth: number): unknown[] {
    if (depth > maxDepth) refuse('too_deep')
    const result: unknown[] = []
    at++
    skip()
    if (text[at] === ']') {
      at++
      return result
    }
    for (;;) {
      count()
      result.push(value(depth))
      skip()
      const next = text[at++]
      if (next === ']') return result
      if (next !== ',') refuse('not_json')
    }
  }

  function string(): string {
    const start = ++at
    for (;;) {
      const c = text.charCodeAt(at)
      if (Number.isNaN(c) || c < 0x20) refuse('not_json')
      if (c === 0x22) break
      at += c === 0x5c ? 2 : 1
    }
    const quoted = text.slice(start - 1, ++at)
    let result: string
    try {
      // One string literal cannot hold a duplicate; the engine's own reader knows every escape.
      result = JSON.parse(quoted) as string
    } catch {
      return refuse('not_json')
    }
    if (/\p{Cs}/u.test(result)) refuse('lone_surrogate')
    return result
  }

  function number(): number {
    NUMBER.lastIndex = at
    const match = NUMBER.exec(text)
    if (!match) return refuse('not_json')
    at = NUMBER.lastIndex
    const result = Number(match[0])
    if (!Number.isFinite(result)) refuse('number_overflow')
    return result
  }

  function word<T>(spelled: string, means: T): T {
    if (!text.startsWith(spelled, at)) refuse('not_json')
    at += spelled.length
    return means
  }

  const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y
  const result = value(0)
  skip()
  if (at !== text.length) refuse('not_json')
  return result
}
