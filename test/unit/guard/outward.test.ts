import { setMaxListeners } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, test } from 'vitest'
import { createGuard } from '../../../src/guard/guard.js'
import { ask } from '../../../src/guard/outward.js'
import { testIssuer } from '../../../src/guard/testing.js'

const out = (signal = new AbortController().signal) => ({ fetch: (url: string, init: RequestInit) => globalThis.fetch(url, init), signal })
const limits = { withinMs: 200, maxBytes: 100 }

async function served<T>(answer: Parameters<typeof createServer>[1], act: (url: string) => Promise<T>): Promise<T> {
  const server = createServer(answer as never)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  try {
    return await act(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
  } finally {
    server.closeAllConnections()
    server.close()
  }
}

describe('every way out has an end', () => {
  test.each<[string, (req: unknown, res: { writeHead(s: number, h?: object): void; write(t: string): void; end(t?: string): void }) => void]>([
    ['no answer', () => {}],
    [
      'a head without a body',
      (_q, r) => {
        r.writeHead(200)
        r.write('x')
      },
    ],
    [
      'a redirect (H18)',
      (_q, r) => {
        r.writeHead(302, { location: 'http://127.0.0.1:9/' })
        r.end()
      },
    ],
    ['more than is read', (_q, r) => r.end('x'.repeat(101))],
    ['no end of bytes', (_q, r) => setInterval(() => r.write('x'.repeat(50)), 5).unref()],
  ])('%s', async (_, answer) => {
    const since = performance.now()
    await expect(served(answer as never, url => ask(out(), url, limits))).rejects.toThrow()
    expect(performance.now() - since).toBeLessThan(1_500)
  })
  test('their twin is read', async () => {
    const { status, bytes } = await served(
      (_q, r) => void r.end('x'.repeat(100)),
      url => ask(out(), url, limits),
    )
    expect([status, bytes.length]).toEqual([200, 100])
  })
  test('nothing of a request stays at the guard', async () => {
    const signal = new AbortController().signal
    setMaxListeners(0, signal)
    let held = 0
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)]
    signal.addEventListener = ((...args: Parameters<typeof add>) => {
      held++
      add(...args)
    }) as never
    signal.removeEventListener = ((...args: Parameters<typeof remove>) => {
      held--
      remove(...args)
    }) as never
    await served(
      (_q, r) => void r.end('{}'),
      async url => Promise.all(Array.from({ length: 20 }, () => ask(out(signal), url, { ...limits, withinMs: 10_000 }))),
    )
    expect(held).toBe(0)
  })
  test('closed, it stops asking', async () => {
    const stop = new AbortController()
    const pending = served(
      () => {},
      url => ask(out(stop.signal), url, { ...limits, withinMs: 60_000 }),
    )
    setTimeout(() => stop.abort(new Error('the guard is closed')), 20)
    await expect(pending).rejects.toThrow('closed')
  })
})

test('a replica that takes the line and says nothing is given up after 3 s', async () => {
  const iss = await testIssuer()
  let calls = 0
  const guard = createGuard({
    issuer: iss.issuer,
    audience: iss.audience,
    proof: 'off',
    guardKey: 'k',
    fetch: (url, init) => (url.endsWith('/v1/feed') && calls++ === 0 ? new Promise(() => {}) : iss.fetch(url, init)),
  })
  const since = performance.now()
  await guard.ready()
  expect([calls, Math.round((performance.now() - since) / 1_000)]).toEqual([2, 3])
  guard.close()
  iss.close()
})
