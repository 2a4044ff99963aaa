/** Owns what an event of the feed may say (docs/http-api.md, Feed). What is not understood is not passed over: it might be a revocation. */
import { type FeedEntry, SELECTOR_KINDS, type SelectorKind } from '../domain/revocation.js'
import type { SseEvent } from './sse.js'

export type FeedEvent =
  | { readonly kind: 'entries'; readonly entries: readonly FeedEntry[] }
  | { readonly kind: 'ready'; readonly seq: number }
  | { readonly kind: 'revoked'; readonly seq: number; readonly entries: readonly FeedEntry[] }
  /** `at`: by the broker, in milliseconds since the epoch; null where it does not say. */
  | { readonly kind: 'beat'; readonly seq: number; readonly staleMs: number; readonly at: number | null }

const KINDS: ReadonlySet<unknown> = new Set(SELECTOR_KINDS)

const refuse = (what: string): never => {
  throw new Error(`the feed says what this guard does not understand: ${what}`)
}

/** Null for a kind of event that is none of these four. */
export function readEvent(event: SseEvent): FeedEvent | null {
  switch (event.name) {
    case 'entries':
      return { kind: 'entries', entries: entriesOf(read(event).entries, 0) }
    case 'ready':
      return { kind: 'ready', seq: seqOf(event) }
    case 'revoked': {
      const seq = seqOf(event)
      return { kind: 'revoked', seq, entries: entriesOf(read(event).entries, seq) }
    }
    case 'beat': {
      const { seq, stale_ms, at } = read(event)
      if (typeof stale_ms !== 'number' || !Number.isFinite(stale_ms) || stale_ms < 0) return refuse('stale_ms')
      if (at !== undefined && !Number.isSafeInteger(at)) return refuse('at')
      return { kind: 'beat', seq: whole(seq), staleMs: stale_ms, at: (at as number | undefined) ?? null }
    }
    default:
      return null
  }
}

function read({ data }: SseEvent): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(data)
  } catch {
    return refuse('data that is no JSON')
  }
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : refuse('data that is no object')
}

const whole = (seq: unknown): number => (Number.isSafeInteger(seq) && (seq as number) >= 0 ? (seq as number) : refuse('seq'))

/** The data's, which the id repeats. */
function seqOf(event: SseEvent): number {
  const seq = whole(read(event).seq)
  return event.id === String(seq) ? seq : refuse('an id that is not its seq')
}

function entriesOf(list: unknown, seq: number): FeedEntry[] {
  if (!Array.isArray(list)) return refuse('entries')
  return list.map(entry => {
    const { kind, key, issued_before, until } = (entry ?? {}) as Record<string, unknown>
    if (!KINDS.has(kind)) return refuse('kind')
    if (typeof key !== 'string' || key === '' || (kind === 'all' && key !== '*')) return refuse('key')
    return {
      seq,
      kind: kind as SelectorKind,
      key,
      issuedBefore: issued_before === undefined || issued_before === null ? null : time(issued_before),
      until: time(until),
    }
  })
}

function time(text: unknown): Date {
  const at = typeof text === 'string' ? new Date(text) : null
  return at && !Number.isNaN(at.getTime()) ? at : refuse('a time')
}
