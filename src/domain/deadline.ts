/** Owns not waiting for ever: for work that has no deadline of its own, and goes on unheard when ours is over. */

/** The work's own end, or `late()` as the refusal when the signal is aborted first. */
export function untilAborted<T>(work: Promise<T>, signal: AbortSignal, late: (reason: unknown) => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(late(signal.reason))
    if (signal.aborted) stop()
    signal.addEventListener('abort', stop, { once: true })
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop))
  })
}

/** The work's own end, or `late()` as the refusal after so many milliseconds. Its fault after that is nobody's any more. */
export async function untilLate<T>(work: Promise<T>, ms: number, late: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const end = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), ms)
  })
  try {
    return await Promise.race([work, end])
  } finally {
    clearTimeout(timer)
  }
}

/** A signal that is aborted after so many milliseconds, or with `signal`. It keeps no process up. */
export function within(ms: number, signal?: AbortSignal): AbortSignal {
  const deadline = new AbortController()
  // Not AbortSignal.timeout: AbortSignal.any holds its sources weakly, and a deadline that was collected never comes (Node 20).
  setTimeout(() => deadline.abort(new DOMException(`not done within ${ms} ms`, 'TimeoutError')), ms).unref()
  return signal ? AbortSignal.any([signal, deadline.signal]) : deadline.signal
}
