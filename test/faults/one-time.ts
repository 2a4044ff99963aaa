/** Owns the checker of I5: what is good once was used once, as its clients heard it, as the audit tells it, and as its mark in the store says. */
import type { Entry, Ledger } from './ledger.js'
import type { World } from './world.js'

/** What the audit tells of evidence and grants. */
export interface Told {
  readonly kind: string
  readonly subject: string | null
  readonly data: { readonly evidence?: string; readonly parent?: string | null; readonly grant?: string | null }
}

/** A mark stays for as long as its thing could be shown again, which for each of them is five minutes and more. */
const MARKED_MS = 300_000

const key = ({ kind, id }: Entry['shown'][number]) => `${kind} ${id}`

/** Acknowledged more than once, whoever showed it, and wherever. */
export function usedTwice({ entries, hostile }: Pick<Ledger, 'entries' | 'hostile'>): string[] {
  const uses = new Map<string, Entry[]>()
  for (const e of [...entries, ...hostile]) if (e.subject !== null) for (const shown of e.shown) uses.set(key(shown), [...(uses.get(key(shown)) ?? []), e])
  return [...uses].flatMap(([thing, all]) =>
    all.length > 1 ? `I5 ${thing} was good ${all.length} times: ${all.map(e => `${e.op} ${e.subject}`).join(', ')}` : [],
  )
}

/** Also where an answer was lost on its way: each piece of evidence, and each grant, stands in one opening at most. */
export function openedTwice(audit: readonly Told[]): string[] {
  const shows = audit.filter(a => a.kind === 'task.opened' || a.kind === 'task.attested')
  const evidenceOf = new Map<string, Set<string | undefined>>()
  for (const { subject, data } of shows) if (subject !== null) evidenceOf.set(subject, (evidenceOf.get(subject) ?? new Set()).add(data.evidence))
  const uses = new Map<string, string[]>()
  const use = (thing: string, subject: string | null) => void uses.set(thing, [...(uses.get(thing) ?? []), String(subject)])
  for (const { subject, data } of shows) {
    if (typeof data.grant === 'string') use(`grant ${data.grant}`, subject)
    // A child without evidence of its own carries its parent's, which was used there.
    if (data.parent && evidenceOf.get(data.parent)?.has(data.evidence)) continue
    if (data.evidence !== undefined) use(`evidence of digest ${data.evidence}`, subject)
  }
  return [...uses].flatMap(([thing, subjects]) => (subjects.length > 1 ? `I5 ${thing} stands in ${subjects.length} acts: ${subjects.join(', ')}` : []))
}

/** A thing that left no mark would be good again, whether or not somebody tried. @param now epoch milliseconds. */
export function unmarked({ entries }: Pick<Ledger, 'entries'>, marks: ReadonlySet<string>, now: number): string[] {
  return entries
    .filter(e => e.subject !== null && e.ackAt > now - MARKED_MS)
    .flatMap(e => e.shown.filter(s => !marks.has(s.id)).map(s => `I5 ${e.op} ${e.subject} was acknowledged, and its ${s.kind} has no mark`))
}

export async function oneTime(world: World, ledger: Ledger, audit: readonly Told[]): Promise<string[]> {
  const ids = [...new Set(ledger.entries.flatMap(e => e.shown.map(s => s.id)))]
  const rows = await world.rows<{ id: string }>('store', 'select id from curfew.marks where id = any($1::text[])', [ids])
  return [...usedTwice(ledger), ...openedTwice(audit), ...unmarked(ledger, new Set(rows.map(r => r.id)), Date.now())]
}
