/** Owns which faults of the catalogue (security.md 6.3) a whole run injects, and the proof that it did. */
import { type Report, say } from './report.js'

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i)
const idOf = (n: number) => `F${String(n).padStart(2, '0')}`

export const INJECTED = [...range(1, 3), 7, 10, 11, ...range(13, 26), ...range(28, 30), ...range(32, 34), 37, ...range(39, 41), 43, 44].map(idOf)
const ELSEWHERE = range(1, 52)
  .map(idOf)
  .filter(id => !INJECTED.includes(id))

/** The ids that a case's name says it injects: of a twin, and of what follows several, none. */
export function idsIn(name: string): string[] {
  if (/twin|the invariants/.test(name)) return []
  const spans = [...name.matchAll(/F(\d\d)–F(\d\d)/g)].flatMap(([, from, to]) => range(Number(from), Number(to)).map(idOf))
  return [...spans, ...(name.match(/F\d\d/g) ?? [])]
}

export async function catalogueCase(report: Report): Promise<void> {
  await report.case('every fault that these walks are to survive was injected', async c => {
    const seen = new Set(report.names.flatMap(idsIn))
    for (const id of INJECTED) c.expect(seen.has(id), `${id} was not injected`)
    return `${INJECTED.length} ids`
  })
  say(`not injected here: ${ELSEWHERE.join(' ')}`)
}
