/** Owns a TCP proxy in front of a dependency: it holds requests or answers, puts others in their place, cuts connections, and refuses new ones, on demand. */
import { connect, createServer, type Socket } from 'node:net'
import { freePort } from '../../src/dev/ports.js'

export interface Hold {
  /** When so many requests as asked for were held. */
  readonly met: Promise<void>
  /** Everything held goes on its way, also when the one who asked has gone. */
  release(): void
}

/** An answer of ours in the place of the server's, after which the connection ends. */
export interface Forgery {
  /** Whether the request is done all the same. */
  readonly reaches: boolean
  /** @param body the server's own, empty when it was not asked or had nothing to say. */
  readonly answer: (body: string) => string
  readonly times?: number
}

export interface TcpProxy {
  readonly address: string
  /** The next `times` requests whose first line matches: the request does not reach the server, or its answer does not come back. */
  hold(what: 'request' | 'answer', line: RegExp, options?: { times?: number; ms?: number }): Hold
  /** The next `times` requests whose first line matches are answered by us. */
  forge(line: RegExp, forgery: Forgery): { readonly left: () => number; release(): void }
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

interface Forged extends Forgery {
  readonly line: RegExp
  left: number
}

/** The body of an answer that is all there, or null. */
function bodyOf(answer: string): string | null {
  const end = answer.indexOf('\r\n\r\n')
  if (end < 0) return null
  const [head, body] = [answer.slice(0, end), answer.slice(end + 4)]
  if (/^HTTP\/1\.1 (204|304)/.test(head)) return ''
  const length = /^content-length: (\d+)/im.exec(head)?.[1]
  if (length === undefined) throw new Error(`an answer without a length cannot be put in another's place: ${head.split('\r\n', 1)}`)
  return body.length < Number(length) ? null : body
}

export async function startProxy(target: { host: string; port: number }): Promise<TcpProxy> {
  const rules = new Set<Rule>()
  const forgeries = new Set<Forged>()
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
    let forged: Forged | null = null
    let real = ''
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
      const forgery = forged ? undefined : [...forgeries].find(f => f.left > 0 && f.line.test(first))
      if (forgery) {
        forged = forgery
        forgery.left--
        if (!forgery.reaches) near.end(forgery.answer(''), 'latin1')
      }
      if (forged && !forged.reaches) return
      const rule = [...rules].find(r => r.left > 0 && r.line.test(first))
      if (rule) {
        held = rule
        rule.held.push(release)
        if (--rule.left === 0) rule.meet()
        if (rule.ms !== undefined) setTimeout(release, rule.ms)
      }
      pass(far, 'request', chunk)
    })
    far.on('data', chunk => {
      if (!forged) return pass(near, 'answer', chunk)
      real += chunk.toString('latin1')
      const body = bodyOf(real)
      if (body !== null) near.end(forged.answer(body), 'latin1')
    })
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
    forge(line, forgery) {
      const rule: Forged = { ...forgery, line, left: forgery.times ?? 1 }
      forgeries.add(rule)
      return { left: () => rule.left, release: () => void forgeries.delete(rule) }
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
