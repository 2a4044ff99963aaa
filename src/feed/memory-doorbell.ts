/** Owns the doorbell of a single process. */
import type { Doorbell } from './doorbell.js'

/** For one process: rings after the current turn, like the real one never inside `publish`. */
export function memoryDoorbell(): Doorbell {
  const hearers = new Set<() => void>()
  return {
    async publish() {
      setImmediate(() => {
        for (const hear of hearers) hear()
      })
    },
    listen(onRing) {
      hearers.add(onRing)
      return () => void hearers.delete(onRing)
    },
    async close() {
      hearers.clear()
    },
  }
}
