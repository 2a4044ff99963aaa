/** Owns one run of the code twin: a walk of commands, then everything is healed, comes to rest, and is judged. */
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { expect } from 'vitest'
import type { Credential } from '../../src/domain/credential.js'
import type { Task } from '../../src/domain/task.js'
import type { Store } from '../../src/ports.js'
import { outlives, widened } from '../narrowing.js'
import { endAll, heal, type Known, look, nothingKnown, type Real, Step, type Text, WEIGHTS } from './commands.js'
import { expectAtRest, expectTold, expectWhole, monitorOf, upstream } from './monitor.js'
import type { Stores, Time } from './stores.js'
import { AT_VAULT, LOCAL, type Mistake, makeWorld, ORDERS, type Process, signal, type World } from './world.js'

export interface Twin {
  readonly stores: Stores
  readonly time: Time
  readonly mistake?: Mistake
}

/** Past the mint window and every read that may have begun in it; then past every claim and backoff. Seconds. */
export const WINDOW = 125
const ROUND = 31
const ROUNDS = 8

export async function runWalk(twin: Twin, steps: Iterable<fc.AsyncCommand<Known, Real>>): Promise<void> {
  const world = await makeWorld(await twin.stores.fresh(), twin.time)
  const start = () => world.start(twin.mistake ? { mistake: twin.mistake } : {})
  const known = nothingKnown()
  const real: Real = { world, monitor: monitorOf(world), start, api: start(), worker: start() }
  const settle = () => rest(world, real.worker as Process, () => look(known, real))
  try {
    await fc.asyncModelRun(() => ({ model: known, real }), steps)
    await heal(known, real)
    await world.advance(WINDOW)
    await settle()
    const now = world.store.clock.now()
    for (const id of known.delivered) {
      const row = await world.store.credentials.get(id)
      if (known.ended.has(id) || known.replaced.has(id) || !row || row.expiresAt <= now) continue
      expect(row.state, `${id} was handed over, nobody ended it, and its time is not up (${row.reason})`).toBe('active')
    }
    await endAll(known, real)
    await settle()
    const rows = await real.monitor.look()
    expect(
      rows.filter(r => r.state !== 'revoked').map(r => r.id),
      'every task has ended',
    ).toEqual([])
    for (const id of known.delivered) expect(await world.store.credentials.live(id), `I1: ${id} is accepted after its task`).toBeNull()
    await expectTold(world.store, rows)
    await expectWhole(world.store)
    await expectNarrow(world.store, known, rows)
  } finally {
    await Promise.all([real.api?.die(), real.worker?.die()])
    await world.close()
  }
}

const CAPABILITIES = { [AT_VAULT.name]: { audience: null, rule: 'orders-read' }, [LOCAL.name]: { audience: ORDERS.uri, rule: 'orders-read' } }

/** I7 of everything that was ever opened and issued, and I1 of what stands below. */
async function expectNarrow({ tasks, decisions }: Store, known: Known, credentials: readonly Credential[]): Promise<void> {
  const taskRows = (await Promise.all(known.tasks.map(t => tasks.get(t.task.id)))).map(task => {
    const { actors, attestation, openedAt, deadlineAt, ...t } = task as Task
    return { ...t, identity: attestation.identity, actors: actors.map(a => a.identity), openedAt: openedAt.getTime(), deadlineAt: deadlineAt.getTime() }
  })
  const rows = await Promise.all(credentials.map(async c => ({ ...c, expiresAt: c.expiresAt.getTime(), decided: await decisions.get(c.decision) })))
  expect(widened(taskRows, rows, new Map(), CAPABILITIES), 'I7').toEqual([])
  expect(outlives(taskRows, rows), 'I1').toEqual([])
}

/** Sweeps and reconciles until nothing moves any more; I2 must hold then. */
export async function rest(world: World, worker: Process, looked: () => Promise<unknown> = async () => {}): Promise<void> {
  const all = () => world.store.credentials.list({ limit: 10_000 })
  for (let round = 0; round < ROUNDS; round++) {
    await worker.broker.sweep(signal())
    await worker.broker.reconcile(signal())
    // Vault ends the leases of a dead token behind it, in its own time.
    const { tokens, leases } = upstream(world)
    if ([...leases].some(id => !tokens.has(id))) await sleep(40)
    await looked()
    const rows = await all()
    const now = upstream(world)
    const living = rows.filter(c => c.engine === 'vault-database' && c.state === 'active').length
    if (rows.every(c => c.state === 'active' || c.state === 'revoked') && living === now.leases.size && living === now.tokens.size) break
    await world.advance(ROUND)
  }
  expectAtRest(world, await all())
}

/** The walks of the twin. @param begun hears of every step that is run, for the record of a failure. */
export const walks = (length: number, begun: (text: Text) => void, weights = WEIGHTS) =>
  fc.commands(
    Object.entries(weights).flatMap(([name, weight]) => Array.from({ length: weight }, () => fc.nat(1_023).map(n => new Step([name, n], begun)))),
    { maxCommands: length, size: 'max' },
  )

export const stepsOf = (texts: readonly Text[]): Step[] => texts.map(t => new Step(t))
