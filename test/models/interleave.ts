/** Owns trying every order: walks that stop at their places are let go one step at a time, in each of the ways there are. */
import type { Walk } from './failpoint.js'

/**
 * Begins the same walks again for every interleaving of their steps, depth first, and hands each finished run to `judge` with its order
 * as text (`0012…`, the index of the walk that took each step). Answers how many there were.
 */
export async function everyInterleaving<W extends readonly Walk<unknown>[]>(
  begin: () => Promise<W>,
  judge: (walks: W, order: string) => Promise<void>,
): Promise<number> {
  let script: number[] = []
  for (let count = 1; ; count++) {
    const walks = await begin()
    const taken: { choice: number; of: number }[] = []
    let order = ''
    for (;;) {
      const ready = walks.filter(w => !w.outcome)
      if (ready.length === 0) break
      const choice = script[taken.length] ?? 0
      taken.push({ choice, of: ready.length })
      const next = ready[choice] as Walk<unknown>
      order += walks.indexOf(next)
      await next.to('any')
    }
    try {
      await judge(walks, order)
    } catch (error) {
      if (error instanceof Error) error.message = `in the order ${order}: ${error.message}`
      throw error
    }
    while (taken.length > 0 && (taken.at(-1) as { choice: number; of: number }).choice + 1 === taken.at(-1)?.of) taken.pop()
    const last = taken.pop()
    if (!last) return count
    script = [...taken.map(t => t.choice), last.choice + 1]
  }
}
