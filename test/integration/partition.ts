/** Owns a line between two processes whose either direction can be held up: bytes that do not arrive, or arrive late, on a connection that stands. */
import { connect, createServer, type Socket } from 'node:net'
import { freePort } from '../../src/dev/ports.js'

/** `to` the server behind it, or `from` it. */
export type Way = 'to' | 'from'

export interface Partition {
  readonly url: string
  /** Nothing passes that way, the end of a connection included, and nobody is told. What waits arrives in order when it passes again. */
  hold(way: Way, held?: boolean): void
  /** From here on everything takes so long that way. Milliseconds. */
  slow(way: Way, ms: number): void
  /** Every connection is reset. New ones are let in. */
  cut(): void
  readonly open: number
  close(): Promise<void>
}

type Pass = () => void

export async function partition(target: number): Promise<Partition> {
  const held = { to: false, from: false }
  const slowBy = { to: 0, from: 0 }
  const sockets = new Set<Socket>()
  /** One for each direction of each connection. */
  const gates = new Set<{ readonly way: Way; open(): void }>()

  /** In order, and each no sooner than it may. */
  function gate(way: Way): (pass: Pass) => void {
    const waiting: { readonly pass: Pass; readonly due: number }[] = []
    let timer: NodeJS.Timeout | null = null
    const open = () => {
      timer = null
      while (!held[way] && waiting.length > 0) {
        const wait = (waiting[0]?.due ?? 0) - performance.now()
        if (wait > 0) {
          timer = setTimeout(open, wait)
          return
        }
        waiting.shift()?.pass()
      }
    }
    gates.add({ way, open: () => timer ?? open() })
    return pass => {
      waiting.push({ pass, due: performance.now() + slowBy[way] })
      if (!timer) open()
    }
  }

  function pump(source: Socket, sink: Socket, way: Way): void {
    const through = gate(way)
    source.on('data', chunk => through(() => void (sink.destroyed || sink.write(chunk))))
    source.on('end', () => through(() => sink.end()))
    // A reset is as little heard of as anything else.
    source.on('close', () => through(() => sink.destroySoon()))
    source.on('error', () => {})
  }

  const server = createServer({ allowHalfOpen: true }, near => {
    const far = connect({ port: target, host: '127.0.0.1', allowHalfOpen: true })
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.setNoDelay(true).on('close', () => sockets.delete(socket))
    }
    pump(near, far, 'to')
    pump(far, near, 'from')
  })
  const port = await freePort()
  await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
  const cut = () => {
    for (const socket of sockets) socket.resetAndDestroy()
  }
  return {
    url: `http://127.0.0.1:${port}`,
    hold(way, isHeld = true) {
      held[way] = isHeld
      for (const g of gates) if (g.way === way) g.open()
    },
    slow(way, ms) {
      slowBy[way] = ms
    },
    cut,
    get open() {
      return sockets.size / 2
    },
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        cut()
      }),
  }
}
