/** Owns what has been revoked, in memory: a handful of look-ups says whether a token is (architecture.md section 7). The broker's replicas and every guard hold one. */
import { type FeedEntry, SELECTOR_KINDS, type SelectorKind } from './revocation.js'

/** What a token says of itself, as far as a revocation can name it. */
export interface TokenNames {
  readonly credential: string
  readonly task: string | null
  readonly ancestors: readonly string[]
  /** `sub`, and the `sub` of every actor. */
  readonly identities: readonly string[]
  /** The issuer of its evidence, and the principal's where another acts. */
  readonly issuers: readonly string[]
  readonly capabilities: readonly string[]
  readonly kid: string | null
  /** `iat`: whole seconds since the epoch. */
  readonly issuedAt: number
}

export interface Hit {
  readonly seq: number
  readonly kind: SelectorKind
  readonly key: string
}

interface Kept {
  readonly seq: number
  /** Milliseconds since the epoch; null: whatever its age. */
  readonly issuedBefore: number | null
  readonly until: number
}

export class RevocationIndex {
  /** A map for each kind: the names of a token are looked up as they are, and nothing is joined for it. */
  readonly #entries = Object.fromEntries(SELECTOR_KINDS.map(kind => [kind, new Map()])) as Readonly<Record<SelectorKind, Map<string, Kept>>>
  #seq = 0
  #size = 0

  /** The highest `seq` applied. */
  get seq(): number {
    return this.#seq
  }
  get size(): number {
    return this.#size
  }

  /** Adds, and never takes away: of two entries for one key the later cut-off and the later end stand, in whatever order they come. */
  apply(entry: FeedEntry): void {
    const same = this.#entries[entry.kind]
    const known = same.get(entry.key)
    const kept: Kept = { seq: entry.seq, issuedBefore: entry.issuedBefore?.getTime() ?? null, until: entry.until.getTime() }
    same.set(entry.key, known ? merged(known, kept) : kept)
    if (!known) this.#size++
    this.advance(entry.seq)
  }

  /** Everything up to this `seq` has been applied, what had no entry any more included. */
  advance(seq: number): void {
    if (seq > this.#seq) this.#seq = seq
  }

  /** Drops what can hit no token that is still in its life. @param now milliseconds since the epoch */
  drop(now: number): number {
    let dropped = 0
    for (const same of Object.values(this.#entries)) for (const [key, kept] of same) if (kept.until <= now && same.delete(key)) dropped++
    this.#size -= dropped
    return dropped
  }

  /** The first entry that refuses this token; null when none does. */
  hit(token: TokenNames): Hit | null {
    const issuedAt = token.issuedAt * 1000
    return (
      this.#look('credential', token.credential, issuedAt) ??
      (token.task === null ? null : this.#look('task', token.task, issuedAt)) ??
      this.#any('task', token.ancestors, issuedAt) ??
      this.#any('identity', token.identities, issuedAt) ??
      this.#any('issuer', token.issuers, issuedAt) ??
      (token.kid === null ? null : this.#look('key', token.kid, issuedAt)) ??
      this.#any('capability', token.capabilities, issuedAt) ??
      this.#look('all', '*', issuedAt)
    )
  }

  *entries(): Generator<FeedEntry> {
    for (const kind of SELECTOR_KINDS) {
      for (const [key, { seq, issuedBefore, until }] of this.#entries[kind]) {
        yield { seq, kind, key, issuedBefore: issuedBefore === null ? null : new Date(issuedBefore), until: new Date(until) }
      }
    }
  }

  #any(kind: SelectorKind, keys: readonly string[], issuedAt: number): Hit | null {
    for (const key of keys) {
      const hit = this.#look(kind, key, issuedAt)
      if (hit) return hit
    }
    return null
  }

  /** At the cut-off is before it. */
  #look(kind: SelectorKind, key: string, issuedAt: number): Hit | null {
    const kept = this.#entries[kind].get(key)
    if (!kept || (kept.issuedBefore !== null && issuedAt > kept.issuedBefore)) return null
    return { seq: kept.seq, kind, key }
  }
}

function merged(a: Kept, b: Kept): Kept {
  const issuedBefore = a.issuedBefore === null || b.issuedBefore === null ? null : Math.max(a.issuedBefore, b.issuedBefore)
  return { seq: Math.max(a.seq, b.seq), issuedBefore, until: Math.max(a.until, b.until) }
}
