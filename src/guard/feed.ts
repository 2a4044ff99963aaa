/** Owns following the feed: one stream at a time from one replica, how fresh what it said is, and telling it what was applied. Silence is never taken for "nothing was revoked". */
import { randomInt } from 'node:crypto'
import { untilAborted, within } from '../domain/deadline.js'
import type { FeedEntry } from '../domain/revocation.js'
import type { RevocationIndex } from '../domain/revocation-index.js'
import { acknowledge } from './acks.js'
import { type FeedEvent, readEvent } from './feed-events.js'
import { line } from './line.js'
import type { Outward } from './outward.js'
import type { GuardLog } from './settings.js'
import { type SseEvent, sseParser } from './sse.js'

export interface FeedOptions {
  readonly urls: readonly string[]
  readonly key: string
  readonly instance: string
  readonly maxStaleMs: number
  readonly index: RevocationIndex
  readonly out: Outward
  readonly log: GuardLog
  /** Milliseconds since the epoch by the guard's clock. */
  readonly now: () => number
  /** That clock is the host's, which may jump. */
  readonly ownClock: boolean
  /** After entries were applied to the index, and after every beat (then without any). */
  readonly onApplied: (entries: readonly FeedEntry[]) => void
  /** What the broker says of how many processes serve as this guard. */
  readonly onCounted: (instances: number) => void
}

export interface Feed {
  /** How old what is known may be; infinite while nothing is, or while the clocks disagree. */
  staleMs(): number
  readonly seq: number
  readonly connected: boolean
  /** Resolves when what is known is fresh. */
  fresh(): Promise<void>
}

const CONNECT_MS = 3_000
/** Beats come every second: a stream without one for so long is dead, whatever TCP says. */
const SILENCE_MS = 3_000
/** For all of what stands. */
const SNAPSHOT_MS = 60_000
const PAUSE_LEAST_MS = 100
const PAUSE_MOST_MS = 5_000
/** An entry is held past its end for as long as clocks and tolerances could still let its token in. */
const HOLD_MS = 60_000
const FORGET_EVERY_MS = 10_000
/** Entries beyond this do not fit: then nothing is known. */
const MAX_ENTRIES = 2_000_000
/** The clock of the broker's host tells whether ours is right: its `Date` has whole seconds. */
const CLOCK_MS = 6_000

export function followFeed(options: FeedOptions): Feed {
  const { index, log, now, out } = options
  const ended = out.signal
  const way = line()
  const acks = acknowledge({
    ...options,
    onAnswer({ instances, at }, askedAt) {
      if (at !== null) way.answered(at, askedAt)
      if (instances !== null) options.onCounted(instances)
    },
  })
  const waiting = new Set<() => void>()
  let base = randomInt(options.urls.length)
  /** What was applied, by the count of the replica that was taken last. */
  let applied = 0
  /** Where to go on; null: everything anew. */
  let lastId: number | null = null
  let connected = false
  let forgotAt = performance.now()
  let beat: { readonly at: number; readonly staleMs: number } | null = null
  /** Since when no beat made us fresh, though there were some. */
  let unwellSince: number | null = null
  /** By how much our clock was off when a stream began, and the distance of the two clocks of this host then. */
  let clock: { readonly offMs: number; readonly distance: number } | null = null

  const distance = () => now() - performance.now()
  const isJumped = () => options.ownClock && clock !== null && Math.abs(distance() - clock.distance) > CLOCK_MS

  function staleMs(): number {
    if (beat === null || (clock !== null && Math.abs(clock.offMs) > CLOCK_MS) || isJumped()) return Number.POSITIVE_INFINITY
    return performance.now() - beat.at + beat.staleMs
  }

  function apply(entries: readonly FeedEntry[]): void {
    for (const entry of entries) index.apply(entry)
    // Older than all that is kept would be forgotten first; nothing that was revoked is forgotten.
    if (index.size > MAX_ENTRIES) throw new Error(`the feed holds more than ${MAX_ENTRIES} entries`)
    options.onApplied(entries)
  }

  /** @throws when this stream is of no more use. */
  function take(event: FeedEvent): void {
    switch (event.kind) {
      case 'entries':
        apply(event.entries)
        return
      case 'ready':
        // Everything that this replica knows came before: from here on its count is the one that counts, be it a smaller one.
        apply([])
        applied = event.seq
        lastId = event.seq
        index.advance(event.seq)
        acks.applied(applied)
        return
      case 'revoked':
        apply(event.entries)
        lastId = event.seq
        applied = Math.max(applied, event.seq)
        index.advance(event.seq)
        acks.applied(applied)
        return
      case 'beat':
        pulse(event.seq, event.staleMs, way.lateBy(event.at))
    }
  }

  function forget(): void {
    if (performance.now() - forgotAt < FORGET_EVERY_MS) return
    forgotAt = performance.now()
    index.drop(now() - HOLD_MS)
  }

  /** @param lateMs under way for so long at most. */
  function pulse(seq: number, staleAtReplica: number, lateMs: number): void {
    // Of what stands, part is still to come.
    if (lastId === null) return
    const isBehind = seq < applied
    if (!isBehind) {
      applied = seq
      index.advance(seq)
      beat = { at: performance.now(), staleMs: staleAtReplica + lateMs }
      forget()
      acks.applied(applied)
    }
    apply([])
    if (!isBehind && staleMs() <= options.maxStaleMs) {
      unwellSince = null
      for (const done of waiting) done()
      waiting.clear()
      return
    }
    unwellSince ??= performance.now()
    if (isJumped()) throw new Error('the clock of this host jumped')
    if (performance.now() - unwellSince <= options.maxStaleMs) return
    unwellSince = null
    if (isBehind) {
      // A store that was restored: what it says from now on would lie below what we skip. Nothing is forgotten.
      lastId = null
      throw new Error('the replica stays behind what was applied: everything is taken anew')
    }
    // Another line may be quicker, be it to the same replica; one that does not read the truth is left for another.
    if (lateMs > options.maxStaleMs) throw new Error('what comes over this line is old')
    if (options.urls.length > 1) throw new Error('the replica does not read the truth')
  }

  async function session(url: string): Promise<void> {
    const stream = new AbortController()
    const stop = () => stream.abort(ended.reason)
    ended.addEventListener('abort', stop, { once: true })
    let watch: NodeJS.Timeout | undefined
    const listen = (ms: number, what: string) => {
      clearTimeout(watch)
      watch = setTimeout(() => stream.abort(new Error(what)), ms)
    }
    try {
      const response = await open(url, stream.signal)
      connected = true
      const began = performance.now()
      listen(SILENCE_MS, 'the feed is silent')
      const parser = sseParser((text: SseEvent) => {
        const event = readEvent(text)
        if (event === null) return
        take(event)
        if (lastId === null && performance.now() - began > SNAPSHOT_MS) throw new Error('what stands is not sent in time')
        if (event.kind === 'revoked') return
        listen(SILENCE_MS, 'the feed is silent')
      })
      const reader = (response.body as ReadableStream<Uint8Array>).getReader()
      try {
        for (;;) {
          const { done, value } = await untilAborted(reader.read(), stream.signal, reasonOf)
          if (done) return
          parser.push(value)
        }
      } finally {
        reader.cancel().catch(() => {})
      }
    } finally {
      clearTimeout(watch)
      ended.removeEventListener('abort', stop)
      connected = false
      stream.abort()
    }
  }

  async function open(url: string, signal: AbortSignal): Promise<Response> {
    const before = now()
    const askedAt = performance.now()
    // The deadline is for the head of the answer alone; the stream goes on under its own signal.
    const head = within(CONNECT_MS, signal)
    const asked = out.fetch(`${url}/v1/feed`, {
      headers: {
        accept: 'text/event-stream',
        authorization: `Bearer ${options.key}`,
        'curfew-guard-instance': options.instance,
        ...(lastId === null ? {} : { 'last-event-id': String(lastId) }),
      },
      redirect: 'error',
      signal,
    })
    const response = await untilAborted(asked, head, reasonOf)
    if (response.status !== 200 || !/^text\/event-stream\b/i.test(response.headers.get('content-type') ?? '') || !response.body) {
      response.body?.cancel().catch(() => {})
      throw new Error(response.status === 401 || response.status === 403 ? 'the guard key is refused' : `the feed answered ${response.status}`)
    }
    const time = response.headers.get('curfew-time') ?? ''
    if (/^\d{1,15}$/.test(time)) way.answered(Number(time), askedAt)
    const date = Date.parse(response.headers.get('date') ?? '')
    const offMs = Number.isNaN(date) ? 0 : now() < date ? now() - date : before > date + 1_000 ? before - date - 1_000 : 0
    clock = { offMs, distance: distance() }
    if (Math.abs(offMs) > CLOCK_MS) log.error({ offMs }, 'the clock of this host is off: what is in time cannot be told, and nothing passes by the feed')
    return response
  }

  async function run(): Promise<void> {
    for (let failures = 0; !ended.aborted; ) {
      const heard = beat
      const url = options.urls[base % options.urls.length] as string
      try {
        await session(url)
      } catch (err) {
        if (!ended.aborted) log.warn({ err, feed: url, staleMs: told(staleMs()) }, 'the feed broke off')
      }
      failures = beat === heard ? failures + 1 : 0
      base++
      await pause(failures, ended)
    }
  }

  void run()
  return {
    staleMs,
    get seq() {
      return applied
    },
    get connected() {
      return connected
    },
    fresh: () => (staleMs() <= options.maxStaleMs ? Promise.resolve() : new Promise(resolve => waiting.add(resolve))),
  }
}

/** Null where no number can be told. */
export const told = (ms: number): number | null => (Number.isFinite(ms) ? Math.round(ms) : null)

const reasonOf = (reason: unknown): Error => (reason instanceof Error ? reason : new Error('the stream was ended'))

/** Full jitter: a thousand guards that lost one replica do not come back at once. */
function pause(failures: number, signal: AbortSignal): Promise<void> {
  const most = Math.min(PAUSE_MOST_MS, PAUSE_LEAST_MS * 2 ** Math.min(failures + 1, 10))
  return new Promise(resolve => {
    const done = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, randomInt(PAUSE_LEAST_MS, most + 1))
    signal.addEventListener('abort', done, { once: true })
  })
}
