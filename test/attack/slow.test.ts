/** Owns slow and idle clients (H06), against the listener of production with its own limits: one run of them takes as long as the longest, ten seconds. */
import type { RequestListener, Server } from 'node:http'
import type { Socket } from 'node:net'
import type { Express } from 'express'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type Listener, listen } from '../../src/http/listen.js'
import { type House, makeHouse } from '../house.js'
import { closed, dial, say } from './wire.js'

/** Longer than our longest limit and a check behind it, and much shorter than Node's own: a minute for headers, five for a message. */
const PATIENCE_MS = 25_000
const IDLE = 300
const LIVEZ = 'GET /livez HTTP/1.1\r\nHost: curfew.example\r\n\r\n'

let house: House
let server: Server
const open: Listener[] = []
const sockets: Socket[] = []

beforeAll(async () => {
  house = await makeHouse()
})
afterAll(() => house?.close())
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy()
  for (const listener of open.splice(0)) await listener.close()
})

async function listening(maxConnections: number): Promise<string> {
  const app: RequestListener = (req, res) => {
    server = (req.socket as unknown as { server: Server }).server
    house.http(req, res)
  }
  const listener = await listen(app as Express, '127.0.0.1:0', maxConnections)
  open.push(listener)
  return listener.address
}

async function dialled(address: string): Promise<Socket> {
  const socket = await dial(address)
  socket.on('error', () => {})
  sockets.push(socket)
  return socket
}
const idlers = (address: string, n: number) => Promise.all(Array.from({ length: n }, () => dialled(address)))
const honest = async (address: string) => (await say(address, LIVEZ, false)).statuses

/** Says a little each time, for as long as anybody listens. What it hears, once it is cut off. */
async function drip(address: string, first: string, each: string): Promise<string> {
  const socket = await dialled(address)
  let heard = ''
  socket.on('data', chunk => {
    heard += chunk.toString('latin1')
  })
  socket.write(first)
  const dripping = setInterval(() => socket.writable && socket.write(each), 200)
  await closed(socket)
  clearInterval(dripping)
  return heard
}

describe('H06 slow and idle clients', () => {
  it('the listener has the limits of production, and the configuration a bound on connections', async () => {
    const address = await listening(17)
    expect(await honest(address)).toEqual([200])
    expect(server).toMatchObject({
      headersTimeout: 5_000,
      requestTimeout: 10_000,
      keepAliveTimeout: 15_000,
      maxConnections: 17,
      maxRequestsPerSocket: 10_000,
      maxHeaderSize: 16_384,
    })
    expect(house.app.config.server.maxConnections).toBeGreaterThan(0)
  })

  it(
    'headers and bodies that come by drops are cut off, silence is too, and meanwhile whoever is honest is answered',
    async () => {
      const address = await listening(1_000)
      const idle = await idlers(address, IDLE)
      const post = 'POST /v1/tasks HTTP/1.1\r\nHost: curfew.example\r\nContent-Type: application/json\r\n'
      const slow = Promise.all([
        drip(address, 'GET /livez HTTP/1.1\r\nHost: curfew.example\r\n', 'X-Note: a\r\n'),
        drip(address, 'GET /livez HTTP/1.1\r\nHost: curfew.example\r\nX-Note: ', 'a'),
        drip(address, `${post}Content-Length: 10000\r\n\r\n{"purpose":"`, 'a'),
        drip(address, `${post}Transfer-Encoding: chunked\r\n\r\n`, '1\r\na\r\n'),
        // Nobody reads a body here: the answer is out, and the message is still not over.
        drip(address, 'GET /livez HTTP/1.1\r\nHost: curfew.example\r\nContent-Length: 10000\r\n\r\n', 'a'),
      ])
      const gone = Promise.all(idle.map(closed))
      let answered = 0
      let isOver = false
      const over = Promise.all([slow, gone]).then(() => {
        isOver = true
      })
      while (!isOver) {
        // The twin: the same request, sent at once.
        expect(await honest(address)).toEqual([200])
        answered++
        await Promise.race([over, new Promise(resolve => setTimeout(resolve, 250))])
      }
      expect(answered).toBeGreaterThan(5)
      const [byHeaders, byOneHeader, byBody, byChunks, unread] = await slow
      expect(byHeaders).toMatch(/^HTTP\/1\.1 408 /)
      expect(byOneHeader).toMatch(/^HTTP\/1\.1 408 /)
      for (const heard of [byBody, byChunks]) expect(heard).not.toMatch(/HTTP\/1\.1 2/)
      expect(unread).toMatch(/^HTTP\/1\.1 200 /)
    },
    PATIENCE_MS,
  )

  it(
    'when silent clients hold every connection nobody is let in, until they are cut off; then all is as before',
    async () => {
      const address = await listening(20)
      expect(await honest(address)).toEqual([200])
      const idle = await idlers(address, 20)
      expect((await say(address, LIVEZ, true)).statuses).toEqual([])
      await Promise.all(idle.map(closed))
      expect(await honest(address)).toEqual([200])
    },
    PATIENCE_MS,
  )
})
