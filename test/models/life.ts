/** Owns the life of a process in the models: what it is given hears nothing more of it once it has died, and it of nothing. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Store } from '../../src/ports.js'

/** Decides when a call of a process is made: at once, or when a scheduler says. */
export type Order = <T>(call: () => Promise<T>) => Promise<T>
const atOnce: Order = call => call()

export const never = () => new Promise<never>(() => {})

export class Life {
  alive = true
  #underWay = 0

  constructor(private readonly order: Order = atOnce) {}

  /** The same object, as this process reaches it. */
  guard<T extends object>(target: T): T {
    return new Proxy(target, {
      get: (on, key) => {
        const member = Reflect.get(on, key)
        return typeof member === 'function' ? (...args: unknown[]) => this.#call(async () => member.apply(on, args)) : member
      },
    })
  }

  async #call(act: () => Promise<unknown>): Promise<unknown> {
    if (!this.alive) return never()
    this.#underWay += 1
    try {
      return await this.order(act)
    } finally {
      this.#underWay -= 1
      if (!this.alive) await never()
    }
  }

  /** What was sent has been sent, and is waited for; its answers reach nobody. */
  async end(): Promise<void> {
    this.alive = false
    while (this.#underWay > 0) await sleep(1)
  }
}

/** One session a process, whose locks fall with it. Its clock needs nobody. */
export function sessionOf(store: Store, life: Life, locks: Map<string, Life>): Store {
  const guarded = Object.fromEntries(
    Object.entries(store).map(([name, part]) => [name, name !== 'clock' && typeof part === 'object' && part !== null ? life.guard(part) : part]),
  )
  return {
    ...(guarded as unknown as Store),
    async withLock(name, fn) {
      if (!life.alive) return never()
      if (locks.get(name)?.alive) return false
      locks.set(name, life)
      try {
        await fn()
        return true
      } finally {
        locks.delete(name)
      }
    },
  }
}
