/** The property over all walks: whatever is called in whatever order, rows only take the transitions there are, and what ended stays so. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Claim, type Credential, type CredentialState, TRANSITIONS } from '../../../src/domain/credential.js'
import type { Task } from '../../../src/domain/task.js'
import { alive, dead } from './credentials.js'
import { active, attestation, childOf, context, type MakeStore, minted, openTask, operator, pending, type StoreHouse, settleOne } from './fixtures.js'

interface Model {
  readonly tasks: Task[]
  readonly credentials: Map<string, { seen: Credential[]; stale: Credential[] }>
  readonly claims: Claim[]
  /** Ids that a committed act named: they must never be live again. */
  readonly ended: Set<string>
}
interface Real extends StoreHouse {
  readonly identities: readonly string[]
}

const pick = <T>(list: readonly T[], n: number): T | undefined => list[n % Math.max(list.length, 1)]
const ids = (m: Model) => [...m.credentials.keys()] as Credential['id'][]

/** A step of the walk: what it does, and nothing of what it expects; the invariants are looked at after every one. */
class Step implements fc.AsyncCommand<Model, Real> {
  constructor(
    readonly name: string,
    readonly n: number,
    readonly act: (m: Model, r: Real, n: number) => Promise<void>,
  ) {}
  check(): boolean {
    return true
  }
  async run(m: Model, r: Real): Promise<void> {
    await this.act(m, r, this.n)
    await invariants(m, r)
  }
  toString(): string {
    return `${this.name}(${this.n})`
  }
}

async function invariants(m: Model, { store }: Real): Promise<void> {
  for (const [id, { seen }] of m.credentials) {
    const row = (await store.credentials.get(id as Credential['id'])) as Credential
    const last = seen.at(-1) as Credential
    if (row.version !== last.version || row.state !== last.state) {
      expect(reachable(last.state, row.state), `${id}: ${last.state} to ${row.state}`).toBe(true)
      expect(row.version, `${id}: versions only grow`).toBeGreaterThanOrEqual(last.version)
      seen.push(row)
    }
    const first = seen.find(c => c.reason !== null)
    if (first) expect(row.reason, `${id}: the first reason stands`).toBe(first.reason)
    expect(row.expiresAt.getTime()).toBeLessThanOrEqual((seen[0] as Credential).expiresAt.getTime())
    const live = await store.credentials.live(row.id)
    if (live) {
      expect(row.state).toBe('active')
      expect(m.ended.has(id), `${id} was ended and is live`).toBe(false)
      expect(m.ended.has(row.task) || row.ancestors.some(a => m.ended.has(a)), `the task of ${id} was ended`).toBe(false)
    }
  }
}

/** In one step of ours a row may take several of its own (a commit that closes, a sweep behind it). */
function reachable(from: CredentialState, to: CredentialState): boolean {
  return from === to || TRANSITIONS[from].some(next => reachable(next, to))
}

const know = (m: Model, c: Credential | null) => {
  if (!c) return
  const known = m.credentials.get(c.id)
  if (known) known.stale.push(c)
  else m.credentials.set(c.id, { seen: [c], stale: [c] })
}
/** Refusals are fine on a random walk; anything that is not a CurfewError is not. */
const unlessRefused = async <T>(act: Promise<T>): Promise<T | null> =>
  act.catch(error => {
    if (error?.name !== 'CurfewError' || error.code === 'unavailable') throw error
    return null
  })

const STEPS: Record<string, (m: Model, r: Real, n: number) => Promise<void>> = {
  open: async (m, { store, identities }, n) => {
    const a = attestation(store, { identity: pick(identities, n) as string, evidenceAt: store.clock.now() })
    const parent = n % 3 === 0 ? pick(m.tasks, n) : undefined
    const task = await unlessRefused(
      parent ? store.tasks.open(childOf(store, parent), [], [], context) : openTask(store, { attestation: a, lifeSeconds: 120 + (n % 500) }),
    )
    if (task) m.tasks.push(task)
  },
  intend: async (m, { store }, n) => {
    const task = pick(m.tasks, n)
    if (task) know(m, await unlessRefused(pending(store, { ...task, deadlineAt: undefined as never }, { ttl: 30 + (n % 200) })))
  },
  record: async (m, { store }, n) => {
    const task = pick(m.tasks, n)
    if (task) know(m, await unlessRefused(active(store, { ...task, deadlineAt: undefined as never }, { ttl: 30 + (n % 200) })))
  },
  handle: async (m, { store }, n) => {
    const stale = pick(m.credentials.get(pick(ids(m), n) ?? '')?.stale ?? [], n)
    if (stale) know(m, await store.credentials.recordHandle(stale, { accessor: `a${n}` }))
  },
  settle: async (m, { store }, n) => {
    const stale = pick(m.credentials.get(pick(ids(m), n) ?? '')?.stale ?? [], n)
    if (stale) know(m, await settleOne(store, stale, minted()))
  },
  revokeCredential: async (m, { store }, n) => {
    const key = pick(ids(m), n)
    if (!key) return
    await store.revocations.commit({ kind: 'credential', key }, n % 2 ? 'requested' : 'holder_revoked', { actor: operator })
    m.ended.add(key)
  },
  endTask: async (m, { store }, n) => {
    const task = pick(m.tasks, n)
    if (!task) return
    await store.revocations.commit({ kind: 'task', key: task.id }, n % 2 ? 'completed' : 'risk_signal', { actor: operator })
    m.ended.add(task.id)
  },
  cut: async (m, { store, identities }, n) => {
    const key = pick(identities, n) as string
    await store.revocations.commit({ kind: 'identity', key }, 'requested', { actor: operator })
    for (const t of m.tasks) if (t.attestation.identity === key) m.ended.add(t.id)
  },
  expire: async (_m, { store }, n) => void (await store.credentials.expire(1 + (n % 5))),
  sweep: async (_m, { store }, n) => void (await store.credentials.closeOverdue(1 + (n % 5))),
  claim: async (m, { store }, n) => {
    const due = pick(await store.credentials.due(10), n)
    const claim = due && (await store.credentials.claim(due.id, n % 2 ? due.version : null))
    if (claim) m.claims.push(claim)
  },
  confirm: async (m, { store }, n) => {
    const claim = pick(m.claims, n)
    if (claim) await store.credentials.confirm(claim, dead)
  },
  postpone: async (m, { store }, n) => {
    const claim = pick(m.claims, n)
    if (claim) await store.credentials.postpone(claim, { probe: alive, failure: 'x', waiting: n % 4 === 0, permanent: n % 7 === 0 })
  },
  advance: async (_m, { advance }, n) => advance(1 + (n % 60)),
}

export function testWalk(name: string, makeStore: MakeStore, runs: number): void {
  describe(`any walk in ${name}`, () => {
    it('takes only the transitions there are, keeps the first reason, and nothing ended is live again (I3)', { timeout: 120_000 }, async () => {
      const steps = Object.entries(STEPS).map(([step, act]) => fc.nat(1_000).map(n => new Step(step, n, act)))
      await fc.assert(
        fc.asyncProperty(fc.commands(steps, { maxCommands: 40, size: '+1' }), async commands => {
          const house = await makeStore()
          await fc.asyncModelRun(
            () => ({ model: { tasks: [], credentials: new Map(), claims: [], ended: new Set<string>() }, real: { ...house, identities: ['id:a', 'id:b'] } }),
            commands,
          )
        }),
        { numRuns: runs },
      )
    })
  })
}
