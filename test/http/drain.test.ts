/** Owns how a replica goes (F41): it says so, serves all that still comes, and is met by nobody on a kept connection. */
import { Agent, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import express from 'express'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { freePort } from '../../src/dev/ports.js'
import { type Listener, listen } from '../../src/http/listen.js'
import { type Serving, serve } from '../../src/serve.js'
import { type House, makeHouse } from '../house.js'

interface Answer {
  readonly status: number
  readonly connection: string | undefined
  readonly body: string
}

const ask = (url: string, agent?: Agent): Promise<Answer> =>
  new Promise((resolve, reject) => {
    request(url, { agent: agent ?? new Agent() }, res => {
      let body = ''
      res.setEncoding('utf8').on('data', part => {
        body += part
      })
      res.on('end', () => resolve({ status: res.statusCode ?? 0, connection: res.headers.connection, body }))
    })
      .on('error', reject)
      .end()
  })

describe('a listener that retires and closes', () => {
  let listener: Listener
  let url: string
  let arrived: () => void
  let release: () => void

  beforeEach(async () => {
    const app = express()
    const held = new Promise<void>(resolve => {
      release = resolve
    })
    app.get('/', (_req, res) => void res.send('here'))
    app.get('/slow', async (_req, res) => {
      arrived()
      await held
      res.send('late')
    })
    listener = await listen(app, '127.0.0.1:0', 100)
    url = `http://${listener.address}`
  })
  afterEach(() => listener.close())

  it('keeps a connection until then, and afterwards says on each answer that it is the last, to old and to new connections', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    expect(await ask(url, agent)).toMatchObject({ status: 200, connection: 'keep-alive' })
    listener.retire()
    listener.retire()
    expect(await ask(url, agent)).toEqual({ status: 200, connection: 'close', body: 'here' })
    expect(await ask(url)).toEqual({ status: 200, connection: 'close', body: 'here' })
    agent.destroy()
  })

  it('closed it lets nobody in, and answers what it has in hand', async () => {
    const reached = new Promise<void>(resolve => {
      arrived = resolve
    })
    const inHand = ask(`${url}/slow`)
    await reached
    const closed = listener.close()
    await expect(ask(url)).rejects.toThrow(/ECONNREFUSED/)
    release()
    expect(await inHand).toEqual({ status: 200, connection: 'close', body: 'late' })
    await closed
  })
})

describe('a replica that goes', () => {
  let house: House
  let serving: Serving
  beforeEach(async () => {
    const [port, internal] = [await freePort(), await freePort()]
    house = await makeHouse({ more: { server: { url: 'https://curfew.example', listen: `127.0.0.1:${port}`, internal: `127.0.0.1:${internal}` } } })
    serving = await serve(house.app)
  })
  afterEach(async () => {
    await serving.stop()
    await house.close()
  })
  const ready = async (verbose = false) => ask(`http://${verbose ? serving.internal : serving.address}/readyz${verbose ? '?verbose' : ''}`)

  it('says so on both listeners and serves on for as long as it was told, and then listens no more', async () => {
    expect((await ready()).status).toBe(200)
    const stopped = serving.stop(600)
    await sleep(50)
    expect(await ready()).toMatchObject({ status: 503, connection: 'close' })
    const { status, body } = await ready(true)
    expect(status).toBe(503)
    expect(JSON.parse(body).lines).toContainEqual({ name: 'listener', status: 'down', detail: expect.stringContaining('this replica is going') })
    for (const path of ['/livez', '/.well-known/jwks.json'])
      expect(await ask(`http://${serving.address}${path}`)).toMatchObject({ status: 200, connection: 'close' })
    await stopped
    await expect(ready()).rejects.toThrow(/ECONNREFUSED/)
    await expect(ready(true)).rejects.toThrow(/ECONNREFUSED/)
  })

  it('waits for nobody where it was not told to', async () => {
    await serving.stop()
    await expect(ready()).rejects.toThrow(/ECONNREFUSED/)
  })
})
