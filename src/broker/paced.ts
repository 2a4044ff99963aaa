/** Owns the size of batches: as large as is quick, so that a hundred thousand rows take seconds and no call waits long behind one transaction. */

const SMALLEST = 200
/** What a statement of it may answer and write at once; beyond, larger batches save nothing (performance.md section 1). */
const LARGEST = 2_000
/** A batch that took less may double; one that took more than LONG_MS is halved. Milliseconds. */
const QUICK_MS = 40
const LONG_MS = 100

/** Acts until there is no more to do or time is up. Answers how much was done. */
export async function inBatches(act: (limit: number) => Promise<{ did: number; more: boolean }>, signal: AbortSignal): Promise<number> {
  let limit = SMALLEST
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
