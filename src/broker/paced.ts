/** Owns the size of batches: as large as is quick, so that a hundred thousand rows take seconds and no call waits long behind one transaction. */

const SMALLEST = 200
/** What a statement may answer and write at once; beyond, larger batches save nothing (performance.md section 1). */
const LARGEST = 1_000
/** A batch that took less may double; one that took more than LONG_MS is halved. Milliseconds. */
const QUICK_MS = 50
const LONG_MS = 120

export interface Done {
  readonly did: number
  readonly more: boolean
}

/** One after the other, about ten thousand rows: who is quickly done takes from calls no more than one lane does. */
const ALONE = 12

/**
 * Acts until there is no more to do or time is up. Answers how much was done.
 * @param lanes batches at a time, once ALONE of them have shown that there are many: the act must leave to the other what the other has in hand.
 */
export async function inBatches(act: (limit: number) => Promise<Done>, signal: AbortSignal, lanes = 1): Promise<number> {
  const first = await lane(act, signal, lanes === 1 ? Number.POSITIVE_INFINITY : ALONE)
  if (!first.more) return first.did
  const rest = await Promise.all(Array.from({ length: lanes }, () => lane(act, signal, Number.POSITIVE_INFINITY)))
  return rest.reduce((sum, { did }) => sum + did, first.did)
}

async function lane(act: (limit: number) => Promise<Done>, signal: AbortSignal, batches: number): Promise<Done> {
  let limit = SMALLEST
  let done = 0
  for (let batch = 0; batch < batches; batch++) {
    if (signal.aborted) return { did: done, more: false }
    const began = performance.now()
    const { did, more } = await act(limit)
    done += did
    if (!more) return { did: done, more }
    const took = performance.now() - began
    if (took < QUICK_MS) limit = Math.min(limit * 2, LARGEST)
    else if (took > LONG_MS) limit = Math.max(Math.floor(limit / 2), SMALLEST)
  }
  return { did: done, more: true }
}
