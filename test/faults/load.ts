/** Owns the load of a run: clients whose sequence of acts follows from a seed, and the ending of what they still hold. */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Clients, clientsOf, type Gate } from './clients.js'
import { type Entry, type Held, startProber } from './ledger.js'
import type { Case } from './report.js'
import { DB, type Endpoint, JWT, type World } from './world.js'

export type Random = () => number

/** The same seed, the same numbers; derived ones do not depend on how many were drawn before. */
export function randomOf(...seed: readonly (string | number)[]): Random {
  let state = createHash('sha256').update(seed.join('.')).digest().readUInt32BE()
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

export function shuffled<T>(items: readonly T[], seed: number): T[] {
  const random = randomOf('shuffle', seed)
  return items
    .map(item => ({ item, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item)
}

export const pick = <T>(random: Random, items: readonly T[]): T => items[Math.floor(random() * items.length)] as T

/** In production 5 s. */
export const LOAD_SWEEP_MS = 1_000
/** In production 90 s: what dies between 4a and 4b leaves a token that nobody can name, and its run waits for the switch. */
export const LOAD_SWITCH_SECONDS = 10

/** One client: a task, a credential, sometimes a task below it or a thing shown twice, a while, one of the ways to end it; and again, until it is called off. */
async function live(clients: Clients, random: Random, goesOn: () => boolean): Promise<void> {
  while (goesOn()) {
    const held = await clients.open()
    if (!held) {
      await sleep(100)
      continue
    }
    const isBundle = random() < 0.2
    if (isBundle) await clients.bundle(held, random() < 0.5 ? [DB, JWT] : [JWT, DB])
    else await clients.issue(held, random() < 0.5 ? 'jwt' : 'db', random() < 0.2 ? { fresh: true } : {})
    const child = random() < 0.3 ? await delegateTo(clients, held, random) : null
    if (random() < 0.3) await clients.replay(child ?? held, pick(random, ['evidence', 'proof', 'grant'] as const))
    await sleep(random() * 200)
    // Of several, an act that names one ends one.
    const end = isBundle ? 'complete' : pick(random, ['complete', 'revoke', 'signal'] as const)
    if (held.credential || end === 'complete') await clients[end](held)
  }
}

/** A task below that may do one of two things, does it, and now and then asks for the other. */
export async function delegateTo(clients: Clients, held: Held, random: Random): Promise<Held | null> {
  const [mine, other] = random() < 0.5 ? (['jwt', 'db'] as const) : (['db', 'jwt'] as const)
  const child = await clients.delegate(held, { capabilities: [mine === 'jwt' ? JWT : DB], evidence: random() < 0.5 })
  if (!child) return null
  await clients.issue(child, mine)
  if (random() < 0.3) await clients.issue(child, other, { hostile: true })
  return child
}

/** What a client still holds is ended, over and over until that is acknowledged: an act that can never be ended would be no act of revocation. */
export async function endHeld(clients: Clients, c: Case): Promise<void> {
  for (const held of c.ledger.held) {
    let last: Entry | null = null
    for (const until = performance.now() + 20_000; held.refusedFrom === null && performance.now() < until; ) {
      last = await clients.complete(held)
      if (last.subject === null) await sleep(200)
    }
    if (held.refusedFrom === null) c.wrong(`${held.task} cannot be completed: ${last?.status} ${last?.problem}`)
  }
}

/** Load with a prober beside it while `during` happens; afterwards everything is healed, ended, at rest and judged. */
export async function underLoad(
  world: World,
  c: Case,
  at: Endpoint,
  options: { seed: number; width?: number; gate?: Gate; during: (clients: Clients) => Promise<void>; heal?: () => Promise<void> },
): Promise<{ readonly slowestMs: number; readonly rows: number; readonly acts: number; readonly failed: readonly Entry[] }> {
  const clients = clientsOf(world, at, c.ledger, LOAD_SWEEP_MS, options.gate)
  const prober = startProber(clients, c.ledger)
  let isOver = false
  const running = Array.from({ length: options.width ?? 4 }, (_, i) => live(clients, randomOf('client', options.seed, i), () => !isOver))
  try {
    await options.during(clients)
  } finally {
    isOver = true
    await options.heal?.()
    await Promise.all(running)
  }
  const acts = c.ledger.entries.length
  const failed = c.ledger.entries.filter(e => e.subject === null)
  await endHeld(clients, c)
  await sleep(300)
  await prober.stop()
  return { ...(await c.judge()), acts, failed }
}

/** For a case's line: how the acts went. */
export const tally = ({ acts, failed }: { acts: number; failed: readonly Entry[] }): string => {
  const kinds = new Map<string, number>()
  for (const e of failed) kinds.set(e.status === 0 ? 'silence' : String(e.status), (kinds.get(e.status === 0 ? 'silence' : String(e.status)) ?? 0) + 1)
  return `${acts} acts, ${failed.length === 0 ? 'all acknowledged' : `${acts - failed.length} acknowledged, ${[...kinds].map(([k, n]) => `${n} ${k}`).join(', ')}`}`
}
