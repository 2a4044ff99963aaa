/** Owns F39: the broker killed at every step of the issue walk, and what is left at Vault and at the target. */
import { setTimeout as sleep } from 'node:timers/promises'
import { FAILPOINTS, type Failpoint } from '../../src/failpoint.js'
import { clientsOf } from './clients.js'
import { auditMark } from './invariants.js'
import { type Ledger, newLedger } from './ledger.js'
import { shuffled } from './load.js'
import { type Report, say } from './report.js'
import { clearedWithin, type Thing, text, upstream } from './upstream.js'
import { type Broker, kill, NEVER_MS, TIMERS, type World } from './world.js'

/** When the broker comes back, Vault's switch must be the slower of the two, or it would clean up before the sweep (20 s after intend) has a chance to. */
export const SLOW_SWITCH_SECONDS = 30
const TTL_SECONDS = 60
export const BOUND_MS = 180_000

const STEPS = FAILPOINTS.filter(f => f.startsWith('issue.'))
/** After these two the credential has its full life and a row that answers for it: nobody holds it, and it lives until its end (security.md 3.5). */
const MAY_LIVE: readonly Failpoint[] = ['issue.5b', 'issue.6']
/** What a kill at a step must leave behind at that moment; a case that made nothing proves nothing. */
const MADE: Readonly<Record<string, string>> = { 'issue.3': 'nothing', 'issue.4a': 'token', 'issue.4b': 'token' }
const madeAt = (step: Failpoint): string => MADE[step] ?? 'lease, role, token'

export interface Killed {
  readonly step: Failpoint
  /** It is active by then, and lives until its end. */
  readonly mayLive: boolean
  readonly isTold: boolean
  readonly made: readonly Thing[]
  readonly at: number
}

/** One broker a step, each killed in the middle of one request. None of them sweeps: whoever still waits for its turn must not clean up for the dead. */
async function killAll(world: World, ledger: Ledger, seed: number, issuanceTokenSeconds: number): Promise<Killed[]> {
  const timers = { issuanceTokenSeconds, sweepMs: NEVER_MS, reconcileMs: NEVER_MS }
  const steps = shuffled(STEPS, seed)
  const brokers = await Promise.all(steps.map(step => world.broker({ failpoint: `${step}=kill`, queue: 'memory', timers })))
  const killed: Killed[] = []
  for (const [i, step] of steps.entries()) killed.push(await killedAt(world, ledger, step, brokers[i] as Broker))
  return killed
}

async function killedAt(world: World, ledger: Ledger, step: Failpoint, broker: Broker): Promise<Killed> {
  const clients = clientsOf(world, broker, ledger)
  const held = await clients.opened()
  return { step, mayLive: MAY_LIVE.includes(step), ...(await killedIn(world, broker, () => clients.issue(held, 'db', { ttlSeconds: TTL_SECONDS }))) }
}

/** Whether the caller was told anything by a broker that must not survive its request, and what was made until then. */
export async function killedIn(world: World, broker: Broker, ask: () => Promise<{ readonly status: number }>): Promise<Omit<Killed, 'step' | 'mayLive'>> {
  const before = new Set((await upstream(world)).map(text))
  const { status } = await ask()
  for (let i = 0; i < 100 && !broker.child.hasEnded(); i++) await sleep(20)
  if (!broker.child.hasEnded()) throw new Error(`the broker was not killed: it answered ${status}`)
  const made = (await upstream(world)).filter(t => !before.has(text(t)) && !t.id.startsWith('unreadable'))
  return { isTold: status !== 0, made, at: performance.now() }
}

export type Cleared<K extends Killed = Killed> = K & {
  /** When the last of what it made was gone; null: never. */
  readonly clearedMs: number | null
  readonly left: readonly Thing[]
}

/** All of them are watched at once: one that takes long must not hide how quick another was. */
export async function watch<K extends Killed>(world: World, killed: readonly K[]): Promise<Cleared<K>[]> {
  const cleared = new Map<K, Cleared<K>>()
  for (const since = performance.now(); cleared.size < killed.length; await sleep(150)) {
    const there = new Set((await upstream(world)).map(text))
    for (const one of killed) {
      const left = one.mayLive ? [] : one.made.filter(t => there.has(text(t)))
      if (cleared.has(one) || (left.length > 0 && performance.now() - since < BOUND_MS)) continue
      cleared.set(one, { ...one, left, clearedMs: left.length > 0 ? null : performance.now() - one.at })
    }
  }
  return killed.map(one => cleared.get(one) as Cleared<K>)
}

async function judge(report: Report, { step, mayLive, isTold, made, left, clearedMs }: Cleared, name: string, boundMs: number): Promise<void> {
  await report.case(`F39 ${step} killed, ${name}`, async c => {
    const what =
      made
        .map(t => t.kind)
        .sort()
        .join(', ') || 'nothing'
    c.expect(!isTold, 'something was delivered')
    c.expect(what === madeAt(step), `it made ${what} instead of ${madeAt(step)}`)
    for (const thing of left) c.orphan(`${text(thing)} is left`)
    c.expect(clearedMs === null || clearedMs < boundMs, `gone only after ${clearedMs} ms`)
    const end = mayLive
      ? 'active and undelivered, allowed until its end'
      : made.length === 0
        ? 'nothing to clean'
        : `gone after ${((clearedMs ?? 0) / 1000).toFixed(1)} s`
    return `made ${what}; ${end}`
  })
}

export async function issueCases(world: World, report: Report, seed: number): Promise<void> {
  say(`  the issue walk, life ${TTL_SECONDS} s, dead man's switch ${TIMERS.issuanceTokenSeconds} s, ${SLOW_SWITCH_SECONDS} s where the broker returns (90 s)`)
  const ledger = newLedger()
  const mark = await auditMark(world)
  // Nobody of ours lives while the clock runs: Vault alone must clean up.
  const alone = await watch(world, await killAll(world, ledger, seed, TIMERS.issuanceTokenSeconds))
  for (const one of alone) await judge(report, one, 'not restarted', (TIMERS.issuanceTokenSeconds + 5) * 1000)
  const killed = await killAll(world, ledger, seed + 1, SLOW_SWITCH_SECONDS)
  const healthy = await world.broker({ queue: 'memory', timers: { issuanceTokenSeconds: SLOW_SWITCH_SECONDS } })
  try {
    // What has a handle is our sweep's, 20 s after intend and before the switch; a token without one, and an active that was not kept, are the switch's.
    const bySweep: readonly Failpoint[] = ['issue.4b', 'issue.4c']
    for (const one of await watch(world, killed)) await judge(report, one, 'restarted', (SLOW_SWITCH_SECONDS + (bySweep.includes(one.step) ? -3 : 5)) * 1000)
    await report.case(
      'F39 the twin without a fault, and the invariants over all fourteen',
      async c => {
        const clients = clientsOf(world, healthy, c.ledger)
        const held = await clients.opened()
        const made = await clients.issue(held, 'db', { ttlSeconds: TTL_SECONDS })
        c.expect(made.status === 201 && (await clients.complete(held)).status === 200, 'an issue without a fault did not succeed')
        const { rows } = await c.judge()
        return `${rows} rows`
      },
      { ledger, mark },
    )
  } finally {
    await kill(healthy.child)
  }
}

/**
 * At the end of everything, with one broker: every row of every run ends `revoked`, undelivered actives at their end, and nothing at all is left
 * upstream. What may have had a read in flight waits for a listing after its deadline and 90 s (security.md 3.4), which is no timer of ours to shrink.
 */
export async function settled(world: World, report: Report): Promise<void> {
  await report.case('I2 everything at rest, all rows revoked and nothing upstream', async c => {
    const healthy = await world.broker({ queue: 'memory' })
    try {
      const open = await world.rows<{ id: string }>('store', `select id from curfew.tasks where state = 'open'`)
      const states = () => world.rows<{ state: string; n: number }>('store', 'select state, count(*)::int as n from curfew.credentials group by state')
      for (const since = performance.now(); (await states()).some(r => r.state !== 'revoked') && performance.now() - since < BOUND_MS; ) await sleep(500)
      const seen = await states()
      for (const { state, n } of seen) if (state !== 'revoked') c.wrong(`${n} rows are ${state}`)
      const { left } = await clearedWithin(world, { atRest: true }, 10_000)
      for (const thing of left) c.orphan(`${text(thing)} is left`)
      return `rows ${seen.map(r => `${r.n} ${r.state}`).join(', ')}, ${left.length} things upstream, ${open.length} tasks still open`
    } finally {
      await kill(healthy.child)
    }
  })
}
