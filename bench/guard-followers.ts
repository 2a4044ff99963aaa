/** Owns a thousand followers in one process: bare connections that note when an event reached each of them. */
import { Agent, type IncomingMessage, request } from 'node:http'
import { monotonic } from './measure.js'

export type Order =
  | { readonly kind: 'follow'; readonly url: string; readonly key: string; readonly n: number }
  /** Notes the next `revoked` of every connection. */
  | { readonly kind: 'arm' }
  | { readonly kind: 'leave' }
export type Told =
  | { readonly kind: 'following'; readonly n: number }
  | { readonly kind: 'armed' }
  /** When, for each connection. */
  | { readonly kind: 'heard'; readonly at: readonly number[] }
  | { readonly kind: 'left' }

const tell = (told: Told) => void process.send?.(told)
/** Connections opened at a time. */
const ABREAST = 50
const streams: IncomingMessage[] = []
let heard: number[] | null = null
let agent = new Agent({ keepAlive: false, maxSockets: Number.POSITIVE_INFINITY })

function open(url: string, key: string, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const asked = request(`${url}/v1/feed`, { agent, headers: { accept: 'text/event-stream', authorization: `Bearer ${key}`, 'curfew-guard-instance': name } })
    asked.once('error', reject)
    asked.once('response', stream => {
      if (stream.statusCode !== 200) return reject(new Error(`the feed answered ${stream.statusCode}`))
      streams.push(stream)
      stream.on('error', () => {})
      let isReady = false
      stream.on('data', (chunk: Buffer) => {
        if (chunk.includes('event: revoked')) {
          if (heard === null) return
          heard.push(monotonic())
          if (heard.length === streams.length) {
            tell({ kind: 'heard', at: heard })
            heard = null
          }
        }
        if (!isReady && chunk.includes('event: ready')) {
          isReady = true
          resolve()
        }
      })
    })
    asked.end()
  })
}

async function obey(order: Order): Promise<void> {
  switch (order.kind) {
    case 'follow':
      for (let from = 0; from < order.n; from += ABREAST)
        await Promise.all(Array.from({ length: Math.min(ABREAST, order.n - from) }, (_, i) => open(order.url, order.key, `follower-${from + i}`)))
      return tell({ kind: 'following', n: streams.length })
    case 'arm':
      heard = []
      return tell({ kind: 'armed' })
    case 'leave':
      for (const stream of streams.splice(0)) stream.destroy()
      agent.destroy()
      agent = new Agent({ keepAlive: false, maxSockets: Number.POSITIVE_INFINITY })
      return tell({ kind: 'left' })
  }
}

if (process.send) {
  process.on('message', order => {
    obey(order as Order).catch(error => {
      process.stderr.write(`${error instanceof Error ? error.stack : error}\n`)
      process.exit(1)
    })
  })
  process.on('disconnect', () => process.exit(0))
}
