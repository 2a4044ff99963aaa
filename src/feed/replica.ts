/** Owns one replica's feed: it reads the truth by `seq`, holds it in memory, and tells those who follow; Redis only rings. */
import { type GuardId, isId, namedId } from '../domain/ids.js'
import type { FeedEntry } from '../domain/revocation.js'
import { RevocationIndex } from '../domain/revocation-index.js'
import type { Clock, Feed, Follower, GuardStore, RevocationLog } from '../ports.js'
import { attend } from './attendance.js'
import { beat, partOf, readyAt, revoked } from './events.js'

export interface ReplicaOptions {
  readonly revocations: Pick<RevocationLog, 'since' | 'seq'>
  readonly guards: Pick<GuardStore, 'seen'>
  readonly clock: Clock
  /** How often the truth is read when nobody rings. Milliseconds. */
  readonly pollMs: number
  /** Calls when a `seq` may have come. Answers how to stop. */
  readonly listen: (onRing: () => void) => () => void
  /** Told before any follower when a signing key was revoked: perhaps another signs from now on. */
  readonly onKeyRevoked?: () => void
  readonly log: { warn(fields: object, message: string): void }
}

export interface Replica extends Feed {
  /** Resolves when the truth was read for the first time. */
  ready(): Promise<void>
  stop(): Promise<void>
}

/** Acts a question to the store. */
const PAGE = 1_000
/** Entries an event of what stands. */
const PART = 1_000
const BEAT_MS = 1_000
/** Acts kept as text for those who come back: beyond, they are sent everything. */
const KEPT_ACTS = 10_000
const DROP_EVERY_BEATS = 30
/** Says that its followers are there every so many beats. */
const ATTEND_BEATS = 5

export function startReplica(options: ReplicaOptions): Replica {
  const { revocations, clock, log } = options
  const index = new RevocationIndex()
  const followers = new Set<Follower>()
  const recent: { readonly seq: number; readonly text: Buffer }[] = []
  /** Of acts up to here there may be no text any more. */
  let horizon = 0
  /** What stands, as text, made when it is asked for and until the next act. */
  let standing: { readonly seq: number; readonly parts: readonly Buffer[] } | null = null
  let readAt: number | null = null
  let reading: Promise<void> | null = null
  let again = false
  let stopped = false
  let beats = 0

  /** By guard: how many instances of it there are, at whatever replica. */
  const counted = new Map<GuardId, number>()

  const attending = attend(
    async heard => {
      for (const { guard, isDisabled, instances } of await options.guards.seen(heard)) {
        counted.set(guard, instances)
        if (isDisabled) for (const f of followers) if (f.guard === guard) f.end()
      }
    },
    fault => log.warn({ err: fault }, 'what guards have applied could not be written'),
  )

  function tell(seq: number, entries: readonly FeedEntry[]): void {
    for (const entry of entries) index.apply(entry)
    if (entries.some(e => e.kind === 'key')) options.onKeyRevoked?.()
    standing = null
    const text = revoked(seq, entries)
    recent.push({ seq, text })
    if (recent.length > KEPT_ACTS) horizon = (recent.shift() as { seq: number }).seq
    attending.sent(seq)
    for (const follower of followers) send(follower, text)
  }

  /** One that cannot keep up, or has gone while it was sent what stands, is let go of here and nowhere else. */
  function send(follower: Follower, text: Buffer): boolean {
    if (follower.send(text)) return true
    followers.delete(follower)
    follower.end()
    return false
  }

  /** The counter first: all that is committed up to it is in what is read next, and what has no entry any more is passed over. */
  async function readAll(): Promise<void> {
    const began = performance.now()
    const upTo = await revocations.seq()
    for (let full = true; full && !stopped; ) {
      const entries = await revocations.since(index.seq, PAGE)
      const acts = new Map<number, FeedEntry[]>()
      for (const entry of entries) {
        const own = acts.get(entry.seq)
        if (own) own.push(asInTokens(entry))
        else acts.set(entry.seq, [asInTokens(entry)])
      }
      for (const [seq, own] of acts) tell(seq, own)
      full = acts.size === PAGE
    }
    index.advance(upTo)
    readAt = began
  }

  /** One reading at a time; a ring during one is answered by one more. */
  function read(): Promise<void> {
    again = true
    reading ??= (async () => {
      try {
        while (again && !stopped) {
          again = false
          await readAll()
        }
      } catch (fault) {
        log.warn({ err: fault }, 'the feed could not read the truth: guards see it grow stale')
      } finally {
        reading = null
      }
    })()
    return reading
  }

  const staleMs = () => (readAt === null ? Number.POSITIVE_INFINITY : performance.now() - readAt)

  /** Of all replicas one and the same, so that an answer of the one says what a word of the other is worth. */
  function time(): number | null {
    try {
      return clock.now().getTime()
    } catch {
      return null
    }
  }

  function pulse(): void {
    beats++
    // Of nothing that was read there is nothing to say; guards count their own silence.
    if (readAt === null) return
    const text = beat(index.seq, staleMs(), time())
    for (const follower of followers) {
      send(follower, text)
      if (beats % ATTEND_BEATS === 0) attending.heard(follower.guard, follower.instance, null)
    }
    if (beats % DROP_EVERY_BEATS === 0 && index.drop(clock.now().getTime()) > 0) standing = null
  }

  /** Made once for all who ask before the next act. */
  function parts(): { readonly seq: number; readonly parts: readonly Buffer[] } {
    if (standing) return standing
    const made: Buffer[] = []
    let part: FeedEntry[] = []
    for (const entry of index.entries()) {
      part.push(entry)
      if (part.length === PART) {
        made.push(partOf(part))
        part = []
      }
    }
    if (part.length > 0) made.push(partOf(part))
    standing = { seq: index.seq, parts: made }
    return standing
  }

  async function sendAll(follower: Follower): Promise<void> {
    // What comes while this goes out is kept by `recent`, and sent behind it: nothing is skipped between the two.
    const { seq, parts: made } = parts()
    for (const text of made) {
      if (!send(follower, text)) return
      await follower.drained()
    }
    // More came meanwhile than is kept: once more from the beginning.
    if (!resume(follower, seq, readyAt(seq))) await sendAll(follower)
  }

  /** From here on it is told every act as it comes. */
  function resume(follower: Follower, after: number, first: Buffer | null): boolean {
    if (after < horizon) return false
    followers.add(follower)
    const texts = [
      ...(first ? [first] : []),
      ...recent.filter(act => act.seq > after).map(act => act.text),
      ...(readAt === null ? [] : [beat(index.seq, staleMs(), time())]),
    ]
    texts.every(text => send(follower, text))
    return true
  }

  const stopListening = options.listen(() => void read())
  const polling = setInterval(() => void read(), options.pollMs)
  const beating = setInterval(pulse, BEAT_MS)
  const first = read()

  return {
    get seq() {
      return index.seq
    },
    get followers() {
      return followers.size
    },
    staleMs,
    time,
    entries: () => index.entries(),
    ready: () => first,
    follow(follower, after) {
      attending.heard(follower.guard, follower.instance, after)
      const gone = () => void followers.delete(follower)
      if (after !== null && after <= index.seq && resume(follower, after, null)) return gone
      sendAll(follower).catch(() => follower.end())
      return gone
    },
    acknowledge(guard, instance, seq) {
      attending.heard(guard, instance, seq)
      return counted.get(guard) ?? null
    },
    async stop() {
      stopped = true
      stopListening()
      clearInterval(polling)
      clearInterval(beating)
      for (const follower of followers) follower.end()
      await reading
      await attending.stop()
    },
  }
}

/** A responder names an issuer as the configuration does, tokens by its id: a guard can only compare the latter. */
function asInTokens(entry: FeedEntry): FeedEntry {
  return entry.kind === 'issuer' && !isId('issuer', entry.key) ? { ...entry, key: namedId('issuer', entry.key) } : entry
}
