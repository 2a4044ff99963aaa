import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, it } from 'vitest'
import { within } from '../../src/domain/deadline.js'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** Waits on `signal` as our calls do: through a listener, with the memory collected all the while. */
async function endsIn(make: () => AbortSignal, ms: number): Promise<unknown> {
  let reason: unknown = 'never'
  const heard = (signal: AbortSignal) => signal.addEventListener('abort', () => (reason = (signal.reason as Error).name), { once: true })
  const waiting = heard(make())
  const end = performance.now() + ms
  while (reason === 'never' && performance.now() < end) {
    collect()
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  void waiting
  return reason
}

const never = new AbortController().signal

it('a deadline comes, whatever is collected meanwhile', async () => {
  expect(await endsIn(() => within(100), 2_000)).toBe('TimeoutError')
  expect(await endsIn(() => within(100, never), 2_000)).toBe('TimeoutError')
  expect(await endsIn(() => within(5_000, within(100, never)), 2_000)).toBe('TimeoutError')
})

it("the caller's end is passed on with its own reason, before and after", async () => {
  const caller = new AbortController()
  const signal = within(60_000, caller.signal)
  expect(signal.aborted).toBe(false)
  const reason = new Error('the client hung up')
  caller.abort(reason)
  expect(signal.reason).toBe(reason)
  expect(within(60_000, caller.signal).reason).toBe(reason)
})
