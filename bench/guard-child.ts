/** Owns a resource server of the bench, in a process of its own: a guard that is told over IPC what to ask itself, and answers when it refused. */
import { setTimeout as sleep } from 'node:timers/promises'
import { createGuard, type Guard, GuardError } from '../src/guard/guard.js'
import { monotonic } from './measure.js'

export interface Opening {
  readonly issuer: string
  readonly audience: string
  readonly guardKey: string
  readonly feedUrls: readonly string[]
  readonly maxStaleMs: number
}
export type Order =
  | { readonly kind: 'open'; readonly with: Opening }
  | { readonly kind: 'entries'; readonly atLeast: number }
  | { readonly kind: 'memory' }
  | { readonly kind: 'passes'; readonly token: string }
  /** Every one of them is asked about each millisecond until the first refusal; then once more, all. */
  | { readonly kind: 'watch'; readonly tokens: readonly string[] }
export type Told =
  | { readonly kind: 'opened'; readonly readyMs: number; readonly entries: number }
  | { readonly kind: 'entries'; readonly entries: number }
  | { readonly kind: 'memory'; readonly heap: number; readonly rss: number; readonly entries: number }
  | { readonly kind: 'passes'; readonly code: string | null }
  | { readonly kind: 'watching' }
  | { readonly kind: 'refused'; readonly at: number; readonly code: string; readonly alsoRefused: number }

let guard: Guard | null = null
const tell = (told: Told) => void process.send?.(told)
/** The proof is somebody else's in this bench: what is measured is the feed. */
const requestOf = (token: string) => ({ method: 'GET', url: '/orders/17', headers: { authorization: `DPoP ${token}` } })
const codeOf = (token: string): Promise<string | null> =>
  (guard as Guard).verify(requestOf(token)).then(
    () => null,
    error => (error instanceof GuardError ? error.code : 'fault'),
  )

async function obey(order: Order): Promise<void> {
  switch (order.kind) {
    case 'open': {
      const began = performance.now()
      guard = createGuard({ ...order.with, proof: 'off', revocation: { maxStaleMs: order.with.maxStaleMs } })
      await guard.ready({ timeoutMs: 60_000 })
      return tell({ kind: 'opened', readyMs: performance.now() - began, entries: guard.health().entries })
    }
    case 'entries':
      while ((guard?.health().entries ?? 0) < order.atLeast) await sleep(20)
      return tell({ kind: 'entries', entries: guard?.health().entries ?? 0 })
    case 'passes':
      return tell({ kind: 'passes', code: await codeOf(order.token) })
    case 'memory': {
      for (let i = 0; i < 3; i++) {
        ;(globalThis as { gc?: () => void }).gc?.()
        await sleep(50)
      }
      const { heapUsed, external, rss } = process.memoryUsage()
      return tell({ kind: 'memory', heap: heapUsed + external, rss, entries: guard?.health().entries ?? 0 })
    }
    case 'watch': {
      for (const token of order.tokens) if ((await codeOf(token)) !== null) throw new Error('a token of the bench does not pass')
      tell({ kind: 'watching' })
      for (;;) {
        for (const token of order.tokens) {
          const code = await codeOf(token)
          if (code === null) continue
          const at = monotonic()
          const all = await Promise.all(order.tokens.map(codeOf))
          return tell({ kind: 'refused', at, code, alsoRefused: all.filter(c => c !== null).length })
        }
        await sleep(1)
      }
    }
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
