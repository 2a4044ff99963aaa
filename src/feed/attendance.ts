/** Owns what instances of guards say they have applied: gathered here, written in batches, so that a thousand of them cost one statement. */
import type { GuardInstance } from '../domain/guard.js'
import type { GuardId } from '../domain/ids.js'

export interface Attending {
  /** A `seq` that leaves now: the lag of an instance counts from here. */
  sent(seq: number): void
  /** It is there; with a `seq`, it has applied everything up to that. */
  heard(guard: GuardId, instance: string, seq: number | null): void
  stop(): Promise<void>
}

type Write = (instances: readonly Omit<GuardInstance, 'seenAt'>[]) => Promise<void>

/** Gathered for so long: short enough for a receipt that somebody waits for. Milliseconds. */
const GATHER_MS = 100
/** Sendings remembered for their lag. */
const REMEMBERED = 2_000

export function attend(write: Write, onFault: (fault: unknown) => void): Attending {
  const waiting = new Map<string, Omit<GuardInstance, 'seenAt'>>()
  const sentAt = new Map<number, number>()
  let writing: Promise<void> | null = null
  let timer: NodeJS.Timeout | null = null

  async function flush(): Promise<void> {
    const batch = [...waiting.values()]
    waiting.clear()
    if (batch.length === 0) return
    try {
      await write(batch)
    } catch (fault) {
      // Said again with the next beat or act: nothing is lost but time.
      onFault(fault)
    }
  }

  /** One batch at a time: what comes meanwhile is in the next. */
  function soon(): void {
    timer ??= setTimeout(() => {
      timer = null
      writing = (writing ?? Promise.resolve()).then(flush)
    }, GATHER_MS).unref()
  }

  return {
    sent(seq) {
      sentAt.set(seq, performance.now())
      if (sentAt.size > REMEMBERED) sentAt.delete(sentAt.keys().next().value as number)
    },
    heard(guard, instance, seq) {
      const name = `${guard} ${instance}`
      const known = waiting.get(name)
      const since = seq === null ? undefined : sentAt.get(seq)
      const lagMs = since === undefined ? (known?.lagMs ?? null) : performance.now() - since
      waiting.set(name, { guard, instance, seq: Math.max(seq ?? 0, known?.seq ?? 0), lagMs })
      soon()
    },
    async stop() {
      if (timer) clearTimeout(timer)
      await writing
      await flush()
    },
  }
}
