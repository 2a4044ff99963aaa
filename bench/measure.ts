/** Owns measuring: the same number of requests by the same number of hands, and what is said of them. */
export interface Figures {
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
}

/** Closed loop: `width` requests in flight until the list is done. Milliseconds. */
export async function timed<T>(items: readonly T[], width: number, act: (item: T) => Promise<void>): Promise<Figures> {
  const took: number[] = []
  const queue = items.values()
  const began = performance.now()
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (const item of queue) {
        const since = performance.now()
        await act(item)
        took.push(performance.now() - since)
      }
    }),
  )
  const seconds = (performance.now() - began) / 1000
  took.sort((a, b) => a - b)
  const at = (q: number) => took[Math.min(took.length - 1, Math.floor(took.length * q))] ?? 0
  return { perSecond: items.length / seconds, p50: at(0.5), p99: at(0.99) }
}

/** The round in the middle by its rate, and how far the others lay from it. */
export function median(rounds: readonly Figures[]): Figures & { readonly spread: string } {
  const sorted = [...rounds].sort((a, b) => a.perSecond - b.perSecond)
  const middle = sorted[Math.floor(sorted.length / 2)] as Figures
  return { ...middle, spread: `${sorted[0]?.perSecond.toFixed(0)}–${sorted.at(-1)?.perSecond.toFixed(0)}` }
}

/** One clock for all processes of this machine. Milliseconds. */
export const monotonic = (): number => Number(process.hrtime.bigint()) / 1e6
