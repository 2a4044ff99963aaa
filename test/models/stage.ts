/** Owns the stage of the races: two brokers over one store and one Vault, and how to tell that nothing of it is left. */
import { afterAll, beforeAll, expect } from 'vitest'
import type { AuditKind } from '../../src/domain/audit.js'
import type { Credential } from '../../src/domain/credential.js'
import type { Reason, Selector } from '../../src/domain/revocation.js'
import type { Task } from '../../src/domain/task.js'
import type { Store } from '../../src/ports.js'
import { childOf, context, newTask, operator } from '../conformance/store/fixtures.js'
import { Walk } from './failpoint.js'
import { expectTold } from './monitor.js'
import { movableTime, pgliteStores, plainStores, type Stores, type Time } from './stores.js'
import { rest, WINDOW } from './twin.js'
import { AT_VAULT, LOCAL, type Mistake, makeWorld, type Process, type World } from './world.js'

/** A test that must hold over both stores. They are opened once a file, and the time is moved for all of it. */
export const STORES: readonly [string, () => Stores][] = [
  ['maps', plainStores],
  ['PostgreSQL', () => database],
]
let time: Time
let database: Stores
export function onBothStores(): void {
  beforeAll(async () => {
    time = movableTime()
    database = await pgliteStores()
  })
  afterAll(async () => {
    await database?.close()
    time?.restore()
  })
}

const capabilities = [AT_VAULT.name, LOCAL.name]
export const openTask = (store: Store) => store.tasks.open(newTask(store, { capabilities }), [], [], context)
export const openChild = (store: Store, parent: Task) => store.tasks.open(childOf(store, parent, { capabilities }), [], [], context)

export interface Stage {
  readonly world: World
  readonly a: Process
  readonly b: Process
  all(): Promise<readonly Credential[]>
  /** A revocation in one step. */
  ending(by: Process, selector: Selector, reason: Reason): Walk<unknown>
  /** How often it was told. */
  told(kind: AuditKind, subject?: string): Promise<number>
  /** Everything was ended: nothing is left, everything is dead and told so. */
  over(): Promise<void>
}

export async function onStage(stores: Stores, act: (stage: Stage) => Promise<void>, mistake?: Mistake): Promise<void> {
  const world = await makeWorld(await stores.fresh(), time)
  const start = () => world.start(mistake ? { mistake } : {})
  const [a, b] = [start(), start()]
  const all = () => world.store.credentials.list({ limit: 10_000 })
  try {
    await act({
      world,
      a,
      b,
      all,
      ending: (by, selector, reason) => new Walk(() => by.broker.revoke(selector, reason, { actor: operator }), []),
      told: async (kind, subject) => (await world.store.audit.list({ kind, ...(subject === undefined ? {} : { subject }), limit: 1_000 })).length,
      async over() {
        await world.advance(WINDOW)
        await rest(world, b)
        const rows = await all()
        expect(rows.filter(r => r.state !== 'revoked').map(r => `${r.id} ${r.state}`)).toEqual([])
        await expectTold(world.store, rows)
      },
    })
  } finally {
    await world.close()
  }
}
