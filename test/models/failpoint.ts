/** Owns the failpoints of the models, in the place of src/failpoint.ts: every walk through a verb stops where its own test says, and no other with it. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { FAILPOINTS, type Failpoint } from '../../src/failpoint.js'

export { FAILPOINTS, type Failpoint }

/** Where a walk can be stopped: the product's failpoints, a read that Vault has begun and not answered, a token signed and not recorded, a permit not acted on. */
export type Place = Failpoint | 'in flight' | 'signed' | 'judged'

/** Whoever runs now, across everything that it awaits. */
const walking = new AsyncLocalStorage<Walk<unknown>>()

export async function fp(at: Failpoint): Promise<void> {
  await walking.getStore()?.reached(at)
}

/** True when whoever runs now wants to stop there: some places must be prepared. */
export const wanted = (at: Place): boolean => walking.getStore()?.stopsAt(at) ?? false
export const reached = async (at: Place): Promise<void> => walking.getStore()?.reached(at)

/** How often walks have stopped where: a suite that never came somewhere has shown nothing about it. */
export const visited = new Map<Place, number>()

/** One call of a verb, stopped and let go by hand. What is stopped and never let go has died: no `catch` of it runs. */
export class Walk<T> {
  /** Where it stands; null while it runs and when it has ended. */
  at: Place | null = null
  outcome: PromiseSettledResult<T> | null = null
  #until: Place | 'any' | null = null
  #go = () => {}
  #halted = () => {}

  #begun = false

  /** @param places where `any` stops it. */
  constructor(
    private readonly act: () => Promise<T>,
    private readonly places: readonly Place[] = FAILPOINTS,
  ) {}

  stopsAt(at: Place): boolean {
    return this.#until === 'any' ? this.places.includes(at) : this.#until === at
  }

  async reached(at: Place): Promise<void> {
    if (!this.stopsAt(at)) return
    const go = new Promise<void>(resolve => {
      this.#go = resolve
    })
    this.at = at
    visited.set(at, (visited.get(at) ?? 0) + 1)
    this.#halted()
    await go
  }

  /** Begins it, or lets it go on, until it stands at `until` (any of its places, with `any`) or has ended. */
  async to(until: Place | 'any' | null): Promise<this> {
    this.#until = until
    const halted = new Promise<void>(resolve => {
      this.#halted = resolve
    })
    if (this.at) {
      this.at = null
      this.#go()
    } else {
      if (this.#begun) throw new TypeError('a walk that runs, or has ended, cannot be let go')
      this.#begun = true
      walking
        .run(this as Walk<unknown>, this.act)
        .then(
          value => ({ status: 'fulfilled' as const, value }),
          reason => ({ status: 'rejected' as const, reason }),
        )
        .then(outcome => {
          this.outcome = outcome
          this.#halted()
        })
    }
    await halted
    return this
  }
}
