/** Owns texts that a pattern is slowest at, made of the pattern itself: what leads up to each of its repetitions, what the repetition is made of again and again, and an end that does not fit. */

type Node =
  | { readonly kind: 'char'; readonly source: string }
  | { readonly kind: 'all'; readonly parts: readonly Node[] }
  | { readonly kind: 'any'; readonly options: readonly Node[] }
  | { readonly kind: 'repeat'; readonly body: Node; readonly min: number; readonly max: number }

export interface Pump {
  readonly prefix: string
  readonly unit: string
  readonly suffix: string
}
/** About so many characters, whole units. */
export const pumped = ({ prefix, unit, suffix }: Pump, length: number): string => prefix + unit.repeat(Math.max(1, Math.ceil(length / unit.length))) + suffix

const ALPHABET = [
  ...'a0A1zbZ_-./:,;=+@#"\'%&?!*()[]{}<>|\\^$~` \t\n\r\u0000\u00e9\u202e\uff41',
  ...Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)),
  '\u{1f600}',
  '\ud800',
  '\u200d',
]
/** A repetition with fewer turns than that is no place to pump. */
const FEW = 10

/** Every text that is worth a try; the same twice is left out. */
export function pumpsOf(pattern: RegExp): Pump[] {
  const flags = pattern.flags.replace(/[gy]/g, '')
  const cache = new Map<string, readonly string[]>()
  const charsOf = (source: string): readonly string[] => {
    const known = cache.get(source)
    if (known) return known
    const one = new RegExp(`^(?:${source})$`, flags)
    const found = ALPHABET.filter(c => one.test(c))
    cache.set(source, found)
    return found
  }
  /** The shortest text that fits, as far as single characters tell. */
  const fits = (node: Node): string => {
    switch (node.kind) {
      case 'char':
        return charsOf(node.source)[0] ?? ''
      case 'all':
        return node.parts.map(fits).join('')
      case 'any':
        return fits(node.options[0] as Node)
      case 'repeat':
        return fits(node.body).repeat(node.min)
    }
  }
  /** One turn of a repetition, in each way that its parts give. */
  const turns = (node: Node): string[] => {
    switch (node.kind) {
      case 'char':
        return charsOf(node.source).filter((_, i, all) => i < 3 || i === all.length - 1)
      case 'all':
        return [fits(node), ...node.parts.flatMap(turns)]
      case 'any':
        return node.options.flatMap(turns)
      case 'repeat':
        return [fits(node.body), ...turns(node.body)]
    }
  }
  const found = new Map<string, Pump>()
  const keep = (pump: Pump) => found.set(JSON.stringify(pump), pump)
  const walk = (node: Node, prefix: string): void => {
    if (node.kind === 'all') {
      let before = prefix
      for (const part of node.parts) {
        walk(part, before)
        before += fits(part)
      }
    } else if (node.kind === 'any') for (const option of node.options) walk(option, prefix)
    else if (node.kind === 'repeat') {
      if (node.max - node.min >= FEW)
        for (const unit of new Set(turns(node.body).filter(t => t !== '')))
          for (const suffix of ['\u0000', '!\n']) {
            keep({ prefix, unit, suffix })
            // A pattern that may begin anywhere: its beginning again and again, each within reach of the one before.
            if (prefix !== '') for (const between of ['', '-', ' ']) keep({ prefix: '', unit: between + prefix + unit, suffix })
          }
      walk(node.body, prefix)
    }
  }
  walk(read(pattern.source), '')
  return [...found.values()]
}

/** As far as it matters here: what stands for one character is kept as it is written, assertions stand for nothing, look-arounds are groups. */
function read(source: string): Node {
  let at = 0
  const rest = () => source.slice(at)
  const taken = (expression: RegExp): string | null => {
    const text = new RegExp(`^(?:${expression.source})`, 'u').exec(rest())?.[0] ?? null
    if (text !== null) at += text.length
    return text
  }
  const alternatives = (): Node => {
    const options = [sequence()]
    while (taken(/\|/) !== null) options.push(sequence())
    return options.length === 1 ? (options[0] as Node) : { kind: 'any', options }
  }
  const sequence = (): Node => {
    const parts: Node[] = []
    while (at < source.length && source[at] !== '|' && source[at] !== ')') parts.push(repeated(atom()))
    return { kind: 'all', parts }
  }
  const atom = (): Node => {
    if (taken(/\((?:\?(?:<?[=!]|:|<[^>]+>))?/) !== null) {
      const inner = alternatives()
      if (taken(/\)/) === null) throw new Error(`not understood at ${at}: ${source}`)
      return inner
    }
    if (taken(/\^|\$|\\[bB]|\\[1-9]|\\k<[^>]+>/) !== null) return { kind: 'all', parts: [] }
    const one = taken(/\[(?:[^\]\\]|\\[\s\S])*\]|\\u\{[0-9a-fA-F]+\}|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\[pP]\{[^}]+\}|\\c[A-Za-z]|\\[\s\S]|[\s\S]/)
    if (one === null) throw new Error(`not understood at ${at}: ${source}`)
    return { kind: 'char', source: one }
  }
  const repeated = (body: Node): Node => {
    const sign = taken(/(?:[*+?]|\{\d+(?:,\d*)?\})\??/)
    if (sign === null) return body
    const [, min = '', comma, max = ''] = /^\{(\d+)(,)?(\d*)\}/.exec(sign) ?? []
    if (sign.startsWith('*')) return { kind: 'repeat', body, min: 0, max: Number.POSITIVE_INFINITY }
    if (sign.startsWith('+')) return { kind: 'repeat', body, min: 1, max: Number.POSITIVE_INFINITY }
    if (sign.startsWith('?')) return { kind: 'repeat', body, min: 0, max: 1 }
    return { kind: 'repeat', body, min: Number(min), max: comma === undefined ? Number(min) : max === '' ? Number.POSITIVE_INFINITY : Number(max) }
  }
  const node = alternatives()
  if (at < source.length) throw new Error(`not understood at ${at}: ${source}`)
  return node
}
