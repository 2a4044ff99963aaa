/** Owns the rule of how broad: one identity that asks for many different capabilities in a short time, as whoever looks around does. */
import { recent } from './rate.js'

export interface BreadthRule {
  /** So many different ones are too many. */
  readonly capabilities: number
  readonly withinSeconds: number
}

export interface Breadth {
  /** True when with these it has become too many; once within the time for each key. */
  note(key: string, capabilities: readonly string[], nowMs: number): boolean
}

interface Seen {
  /** By capability, when it was asked for last; the oldest first. */
  readonly asked: Map<string, number>
  toldMs: number
}

const MAX_KEYS = 10_000

export function breadth({ capabilities: many, withinSeconds }: BreadthRule, maxKeys = MAX_KEYS): Breadth {
  const withinMs = withinSeconds * 1000
  const seen = recent<Seen>(maxKeys)
  return {
    note(key, capabilities, nowMs) {
      const of = seen.get(key) ?? { asked: new Map(), toldMs: Number.NEGATIVE_INFINITY }
      seen.set(key, of)
      for (const name of capabilities) {
        of.asked.delete(name)
        of.asked.set(name, nowMs)
      }
      for (const [name, atMs] of of.asked) {
        // More than too many need not be remembered.
        if (nowMs - atMs < withinMs && of.asked.size <= many) break
        of.asked.delete(name)
      }
      if (of.asked.size < many || nowMs - of.toldMs < withinMs) return false
      of.toldMs = nowMs
      return true
    },
  }
}
