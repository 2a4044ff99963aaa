/** Owns a TCP proxy in front of a dependency: it holds requests or answers, cuts connections, and refuses new ones, on demand. */
import { connect, createServer, type Socket } from 'node:net'
import { freePort } from '../../src/dev/ports.js'

export interface Hold {
  /** When so many requests as asked for were held. */
  readonly met: Promise<void>
  /** Everything held goes on its way, also when the one who asked has gone. */
  release(): void
}

export interface TcpProxy {
  readonly address: string
  /** The next `times` requests whose first line matches: the request does not reach the server, or its answer does not come back. */
  hold(what: 'request' | 'answer', line: RegExp, options?: { times?: number; ms?: number }): Hold
  /** Every open connection is reset; new ones are let in, unless refused. */
  cut(): void
  refuse(refused: boolean): void
  close(): Promise<void>
}

interface Rule {
  readonly what: 'request' | 'answer'
  readonly line: RegExp
  readonly ms: number | undefined
  left: number
  readonly held: (() => void)[]
  readonly meet: () => void
}

export async function startProxy(target: { host: string; port: number }): Promise<TcpProxy> {
  const rules = new Set<Rule>()
  const sockets = new Set<Socket>()
  let isRefusing = false

  function serve(near: Socket): void {
    if (isRefusing) return void near.resetAndDestroy()
    const far = connect(target.port, target.host)
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.setNoDelay(true).on('error', () => {})
      socket.on('close', () => sockets.delete(socket))
    }
    let held: Rule | null = null
    const waiting: (() => void)[] = []
    /** Both ways wait while one is held: a connection carries one request at a time. */
    const pass = (to: Socket, way: Rule['what'], chunk: Buffer) => {
      const write = () => void (to.destroyed || to.write(chunk))
      if (held?.what === way) waiting.push(write)
      else write()
    }
    const release = () => {
      held = null
      for (const go of waiting.splice(0)) go()
      // Who asked may be dead; what he asked is done all the same, and its answer goes nowhere.
      if (near.destroyed) setTimeout(() => far.destroy(), 5_000).unref()
    }
    near.on('data', chunk => {
      const first = chunk.toString('latin1', 0, 300).split('\r\n', 1)[0] ?? ''
      const rule = [...rules].find(r => r.left > 0 && r.line.test(first))
      if (rule) {
        held = rule
        rule.held.push(release)
        if (--rule.left === 0) rule.meet()
        if (rule.ms !== undefined) setTimeout(release, rule.ms)
      }
      pass(far, 'request', chunk)
    })
    far.on('data', chunk => pass(near, 'answer', chunk))
    near.on('close', () => held || far.destroy())
    far.on('close', () => near.destroy())
  }

  const server = createServer(serve)
  const port = await freePort()
  await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
  const cut = () => {
    for (const socket of sockets) socket.resetAndDestroy()
  }
  return {
    address: `http://127.0.0.1:${port}`,
    hold(what, line, options = {}) {
      let meet = () => {}
      const met = new Promise<void>(resolve => {
        meet = resolve
      })
      const rule: Rule = { what, line, ms: options.ms, left: options.times ?? 1, held: [], meet }
      rules.add(rule)
      return {
        met,
        release() {
          rules.delete(rule)
          for (const go of rule.held.splice(0)) go()
        },
      }
    },
    cut,
    refuse(refused) {
      isRefusing = refused
      if (refused) cut()
    },
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        cut()
      }),
  }
}
