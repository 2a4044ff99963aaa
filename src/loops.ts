/** Owns the loops that run beside the requests: sweep, reconcile. Their timers wake; what is due, the database says. */
import type { Broker } from './broker/broker.js'
import type { Log } from './broker/deps.js'

export interface Loops {
  stop(): Promise<void>
}

/** Each loop waits for its round to end before it counts to the next; a round that fails is told, and the next one comes. */
export function startLoops(broker: Broker, timers: { sweepMs: number; reconcileMs: number }, log: Log): Loops {
  const ending = new AbortController()
  const running = [loop('sweep', timers.sweepMs, broker.sweep), loop('reconcile', timers.reconcileMs, broker.reconcile)]

  async function loop(name: string, everyMs: number, round: (signal: AbortSignal) => Promise<void>): Promise<void> {
    while (!ending.signal.aborted) {
      try {
        await round(ending.signal)
      } catch (error) {
        if (!ending.signal.aborted) log.error({ err: error, loop: name }, 'a round failed')
      }
      await rest(everyMs)
    }
  }

  function rest(ms: number): Promise<void> {
    return new Promise(resolve => {
      const wake = () => {
        clearTimeout(timer)
        ending.signal.removeEventListener('abort', wake)
        resolve()
      }
      const timer = setTimeout(wake, ms)
      ending.signal.addEventListener('abort', wake)
      if (ending.signal.aborted) wake()
    })
  }

  return {
    async stop() {
      ending.abort()
      await Promise.race([Promise.all(running), new Promise(resolve => setTimeout(resolve, 5_000).unref())])
    },
  }
}
