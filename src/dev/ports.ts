/** Owns the choice of a free loopback port. */
import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'

const given = new Set<number>()

/**
 * Below the range that the kernel gives to outgoing connections (from 32768 on): a port asked of it with `0` may be some connection's
 * own by the time a child listens on it.
 */
export async function freePort(prefer: readonly number[] = []): Promise<number> {
  const candidates = [...prefer, ...Array.from({ length: 100 }, () => randomInt(20_000, 32_000))]
  for (const port of candidates) {
    if (given.has(port) || !(await isFree(port))) continue
    given.add(port) // two starters side by side never get the same
    return port
  }
  throw new Error('no free port on 127.0.0.1 between 20000 and 32000')
}

function isFree(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)))
  })
}
