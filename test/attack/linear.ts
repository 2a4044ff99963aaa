/** Owns the judge of time (H17): an act is held against an act that is known to be linear, on the same machine in the same minute, while its input doubles. No figure of a clock decides. */

/** Linear acts, by what they are made of: a pattern that runs up and back over the whole text, a function that looks at each character. */
const KNOWN = {
  pattern: (text: string) => /^[a-z0-9]*-$/.test(text),
  function: (text: string) => {
    const counts = new Map<string, number>()
    for (const c of text) counts.set(c, (counts.get(c) ?? 0) + 1)
    return counts
  },
}
export type Kind = keyof typeof KNOWN
/** Characters. Small steps first: what doubles with each character must not get further. */
const SIZES = [16, 20, 24, 28, ...Array.from({ length: 12 }, (_, i) => 64 * 2 ** i)] as const
/** So much dearer than the known one a linear act may be; what grows faster than its input passes any factor at some size. */
const FACTOR = 100
/** Below that the known one is too short to be measured. */
const SMALLEST_KNOWN = 4_096
const TRIES = 7

const once = (act: () => unknown): number => {
  const since = process.hrtime.bigint()
  act()
  return Number(process.hrtime.bigint() - since)
}
const bestOf = (tries: number, act: () => unknown): number => Math.min(...Array.from({ length: tries }, () => once(act)))

/** A machine that is busy makes both slower, but not at the same moment: the known one is measured anew where it is about to decide. */
const allowance = (kind: Kind, size: number): number => {
  const text = 'a'.repeat(Math.max(size, SMALLEST_KNOWN))
  for (let i = 0; i < 20; i++) KNOWN[kind](text)
  return FACTOR * bestOf(5, () => KNOWN[kind](text))
}
const measured = new Map<string, number>()
function known(kind: Kind, size: number): number {
  const at = measured.get(`${kind} ${size}`) ?? allowance(kind, size)
  measured.set(`${kind} ${size}`, at)
  return at
}

/**
 * @param textOf texts of growing length.
 * @returns the size at which it was not linear any more, or null.
 */
export function slowAt(kind: Kind, textOf: (size: number) => string, act: (text: string) => unknown): number | null {
  for (const size of SIZES) {
    const text = textOf(size)
    // A string that was put together is made one before anything counts.
    text.charCodeAt(text.length - 1)
    const first = once(() => act(text))
    if (first <= known(kind, size)) continue
    if (
      Math.min(
        first,
        bestOf(TRIES, () => act(text)),
      ) > Math.max(known(kind, size), allowance(kind, size))
    )
      return size
  }
  return null
}
