/** Owns followers of the feed in a fault run: each at one broker, cut off and come again on demand, and what every one of them has heard in which order. */
import { setTimeout as sleep } from 'node:timers/promises'
import { sseParser } from '../../src/guard/sse.js'
import type { Endpoint, World } from './world.js'

export interface FeedFollower {
  readonly name: string
  /** Of each act that it heard, in the order in which it did. */
  readonly seqs: readonly number[]
  /** The last that it knows of, by whatever said so. */
  seq(): number
  /** Its connection ends; it comes again and says how far it was. */
  cut(): void
  stop(): Promise<void>
}

export async function addGuard(world: World, at: Endpoint, name: string): Promise<string> {
  const answer = await fetch(`${at.door}/v1/guards`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${world.operatorToken}` },
    body: JSON.stringify({ name }),
  })
  if (answer.status !== 201) throw new Error(`no guard was added: ${answer.status}`)
  return ((await answer.json()) as { key: string }).key
}

/** Answers once everything that stood was sent. What must not happen stands in `wrong`: a gap, a repeat, an act out of its order. */
export async function follow(at: Endpoint, key: string, name: string, wrong: (text: string) => void): Promise<FeedFollower> {
  const seqs: number[] = []
  let last: number | null = null
  let ending = false
  let connection = new AbortController()
  let isReady = () => {}
  const ready = new Promise<void>(resolve => {
    isReady = resolve
  })
  const connected = parserOf((event, id) => {
    if (event === 'ready') {
      if (last !== null && id < last) wrong(`R11 ${name} was told ${id} after ${last}`)
      last = Math.max(id, last ?? id)
      return isReady()
    }
    if (event === 'beat' && last !== null && id > last) wrong(`R11 ${name} is at ${last}, and the beat says that everything up to ${id} was sent`)
    if (event !== 'revoked') return
    if (last === null || id !== last + 1) wrong(`R11 ${name} heard ${id} after ${last}`)
    last = id
    seqs.push(id)
  })
  const running = (async () => {
    while (!ending) {
      connection = new AbortController()
      const headers = { accept: 'text/event-stream', authorization: `Bearer ${key}`, 'curfew-guard-instance': name }
      const from = last === null ? {} : { 'last-event-id': String(last) }
      try {
        const answer = await fetch(`${at.door}/v1/feed`, { headers: { ...headers, ...from }, signal: connection.signal })
        if (answer.status !== 200 || !answer.body) throw new Error(`the feed answered ${answer.status}`)
        const push = connected()
        for await (const chunk of answer.body) push(chunk)
      } catch (cause) {
        if (!connection.signal.aborted) wrong(`R11 ${name} could not follow: ${cause}`)
      }
      if (!ending) await sleep(20)
    }
  })()
  await Promise.race([ready, sleep(10_000).then(() => Promise.reject(new Error(`${name} never heard that everything was sent`)))])
  return {
    name,
    seqs,
    seq: () => last ?? -1,
    cut: () => connection.abort(),
    async stop() {
      ending = true
      connection.abort()
      await running
    },
  }
}

/** A parser for each connection: what one ended in the middle of is no event. */
function parserOf(on: (event: string, seq: number) => void): () => (chunk: Uint8Array) => void {
  return () => {
    const parser = sseParser(({ name, data }) => {
      if (name !== 'entries') on(name, (JSON.parse(data) as { seq: number }).seq)
    })
    return chunk => parser.push(chunk)
  }
}
