/** Owns the text of the feed (docs/http-api.md, Feed): each event is written once, whoever follows. */
import type { FeedEntry } from '../domain/revocation.js'
import { writtenEntry } from '../domain/selector.js'

const event = (name: string, data: unknown, id?: number) =>
  Buffer.from(`${id === undefined ? '' : `id: ${id}\n`}event: ${name}\ndata: ${JSON.stringify(data)}\n\n`)

export const partOf = (entries: readonly FeedEntry[]): Buffer => event('entries', { entries: entries.map(writtenEntry) })
export const readyAt = (seq: number): Buffer => event('ready', { seq }, seq)
export const revoked = (seq: number, entries: readonly FeedEntry[]): Buffer => event('revoked', { seq, entries: entries.map(writtenEntry) }, seq)
export const beat = (seq: number, staleMs: number, at: number | null): Buffer =>
  event('beat', { seq, stale_ms: Math.round(staleMs), ...(at === null ? {} : { at }) })
