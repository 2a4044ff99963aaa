/** Owns telling the replica what this guard refuses: the last `seq` only, and not more often than it helps anybody. */
import { parseStrictBytes } from '../domain/json.js'
import { ask, type Outward } from './outward.js'

export interface AcksOptions {
  readonly urls: readonly string[]
  readonly key: string
  readonly instance: string
  readonly out: Outward
  /** Calls with each answer, and when it was asked for. */
  readonly onAnswer: (answer: AckAnswer, askedAt: number) => void
}

export interface AckAnswer {
  /** Processes that serve as this guard, as far as that replica knows. */
  readonly instances: number | null
  /** By the broker. Milliseconds since the epoch. */
  readonly at: number | null
}

const BATCH_MS = 50
const WITHIN_MS = 3_000
/** The same again, so that the guard is seen and a lost word is repeated. */
const REPEAT_MS = 5_000

/** `applied` may be called at every event and never throws: what is lost is said again with the next. */
export function acknowledge({ urls, key, instance, out, onAnswer }: AcksOptions): { applied(seq: number): void } {
  let seq = 0
  let said: number | null = null
  let saidAt = Number.NEGATIVE_INFINITY
  let at = 0
  let timer: NodeJS.Timeout | null = null
  let busy = false

  async function say(): Promise<void> {
    timer = null
    if (busy || out.signal.aborted) return
    busy = true
    const saying = seq
    const askedAt = performance.now()
    try {
      const { status, bytes } = await ask(out, `${urls[at % urls.length]}/v1/feed/acks`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', 'curfew-guard-instance': instance },
        body: JSON.stringify({ seq: saying }),
        withinMs: WITHIN_MS,
        maxBytes: 16_384,
      })
      if (status !== 204 && status !== 200) throw new Error(`answered ${status}`)
      said = saying
      saidAt = performance.now()
      if (status === 200) onAnswer(readAnswer(bytes), askedAt)
    } catch {
      // It only counts for receipts; another replica may take it.
      at++
      said = null
      saidAt = performance.now()
    } finally {
      busy = false
    }
    if (seq !== saying) plan()
  }

  function plan(): void {
    if (timer) return
    timer = setTimeout(() => void say(), BATCH_MS)
    timer.unref()
  }

  return {
    applied(now) {
      if (seq === now && said === now && performance.now() - saidAt < REPEAT_MS) return
      seq = now
      plan()
    },
  }
}

/** What is missing in it is not known; what it says amiss is not believed. */
function readAnswer(bytes: Uint8Array): AckAnswer {
  const { instances, at } = (parseStrictBytes(bytes) ?? {}) as { readonly instances?: unknown; readonly at?: unknown }
  const counted = (value: unknown) => (Number.isSafeInteger(value) && (value as number) > 0 ? (value as number) : null)
  return { instances: counted(instances), at: counted(at) }
}
