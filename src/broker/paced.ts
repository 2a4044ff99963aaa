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

/**
 * Acts until there is no more to do or time is up. Answers how much was done.
 * @param lanes batches at a time, once the first has shown that there are more: the act must leave to the other what the other has in hand.
 */
export async function inBatches(act: (limit: number) => Promise<Done>, signal: AbortSignal, lanes = 1): Promise<number> {
  if (signal.aborted) return 0
  const first = await act(SMALLEST)
  if (!first.more) return first.did
  const rest = await Promise.all(Array.from({ length: lanes }, () => lane(act, signal)))
  return rest.reduce((sum, did) => sum + did, first.did)
}

async function lane(act: (limit: number) => Promise<Done>, signal: AbortSignal): Promise<number> {
  let limit = SMALLEST * 2
  let done = 0
  while (!signal.aborted) {
    const began = performance.now()
    const { did, more } = await act(limit)
    done += did
    if (!more) break
    const took = performance.now() - began
    if (took < QUICK_MS) limit = Math.min(limit * 2, LARGEST)
    else if (took > LONG_MS) limit = Math.max(Math.floor(limit / 2), SMALLEST)
  }
  return done
}
