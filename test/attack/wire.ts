/** Owns bytes on a socket: what no HTTP client would send, and everything that comes back until it is quiet or closed. */
import { connect, type Socket } from 'node:net'

export interface Heard {
  readonly text: string
  /** The status of each answer, in order. */
  readonly statuses: readonly number[]
  readonly isClosed: boolean
}

const QUIET_MS = 80
const statusesIn = (text: string) => [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(m => Number(m[1]))

export function dial(address: string): Promise<Socket> {
  const [host, port] = [address.slice(0, address.lastIndexOf(':')), Number(address.slice(address.lastIndexOf(':') + 1))]
  return new Promise((resolve, reject) => {
    const socket = connect(port, host, () => resolve(socket))
    socket.once('error', reject)
  })
}

/** Until the other side closes. A reset is a close. */
export const closed = (socket: Socket): Promise<void> =>
  new Promise(resolve => {
    socket.on('error', () => {})
    if (socket.closed) return resolve()
    socket.once('close', () => resolve())
    socket.resume()
  })

/** @param untilClosed waits for the other side to hang up; else until an answer is here and nothing more comes. */
export async function say(address: string, bytes: string, untilClosed: boolean): Promise<Heard> {
  const socket = await dial(address)
  let text = ''
  let quiet: NodeJS.Timeout | undefined
  await new Promise<void>(resolve => {
    socket.on('data', chunk => {
      text += chunk.toString('latin1')
      clearTimeout(quiet)
      if (!untilClosed) quiet = setTimeout(resolve, QUIET_MS)
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve())
    // An intermediary that reads on, not one that has hung up.
    socket.write(Buffer.from(bytes, 'latin1'))
  })
  clearTimeout(quiet)
  const isClosed = socket.readableEnded || socket.closed
  socket.destroy()
  return { text, statuses: statusesIn(text), isClosed }
}
