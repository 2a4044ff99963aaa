/** Owns what dies twice in a row (F14 to F21, F39): at a step, and again at the same or the next while somebody else goes on where the first stopped. */
import { setTimeout as sleep } from 'node:timers/promises'
import { FAILPOINTS, type Failpoint } from '../../src/failpoint.js'
import { issued, ONE_JOB } from './cases-revoke.js'
import { type Clients, clientsOf } from './clients.js'
import { DEATHS, type Death, lapse, workerDies } from './deaths.js'
import type { Entry, Held } from './ledger.js'
import { rowOf, when } from './queues.js'
import type { Case, Report } from './report.js'
import { type Broker, type Endpoint, kill, NEVER_MS, type World } from './world.js'

/** Which pairs are run: all with `--long`; else each step with itself or with the one after it, the other way round with the next seed. */
export interface Choice {
  readonly seed: number
  readonly isLong: boolean
}

function twice<T>(steps: readonly T[], { seed, isLong }: Choice): [T, T][] {
  return steps.flatMap((step, i) => {
    const pairs = steps.slice(i, i + 2).map((next): [T, T] => [step, next])
    return isLong ? pairs : pairs.slice(-1 - ((i + seed) % 2)).slice(0, 1)
  })
}

const ISSUE = FAILPOINTS.filter(f => f.startsWith('issue.'))
const REVOKE = Object.keys(DEATHS) as Death[]
/** The act's own steps are the broker's; then a worker has the row. */
const COMMIT: readonly (Failpoint | Death)[] = ['revoke.1', 'revoke.2', 'revoke.3a']
/** What is left of an issue is closed by a sweep, whose worker dies over it. */
const SWEPT: readonly [Failpoint, Death][] = [
  ['issue.4b', 'revoke.3a'],
  ['issue.4c', 'revoke.3b'],
]
/** So many processes at once, and no more. */
const AT_ONCE = 7

const SILENT = { queue: 'memory' as const, ...ONE_JOB }
const SWEEPING = { timers: { reconcileMs: NEVER_MS } }
/** After the last death, with somebody there who goes on. */
const BOUND_MS = 60_000

async function died(broker: Broker, entry: Entry, step: string): Promise<void> {
  await when(`the broker dies at ${step} (it answered ${entry.status} ${entry.problem ?? ''})`, () => broker.child.hasEnded(), 5_000)
  if (entry.status !== 0) throw new Error(`the broker that died at ${step} had answered ${entry.status}`)
}

/** A pending row keeps its key for 20 s; here it is made to run out at once. */
const closeWindows = (world: World, tasks: readonly string[]) =>
  world.rows('store', `update curfew.credentials set deadline_at = curfew.now() where state = 'pending' and task = any($1::text[])`, [tasks])

const TTL_SECONDS = 60
const again = (clients: Clients, held: Held) => clients.issue(held, 'db', { ttlSeconds: TTL_SECONDS, key: 'again-after-a-crash' })

/** One broker a pair dies of one request each, all of them replicas at one public URL; the clients ask the next one the same under their key. */
async function issuing(world: World, c: Case, home: Endpoint, pairs: readonly [Failpoint, Failpoint][]): Promise<Held[]> {
  const all: Held[] = []
  for (const which of [0, 1] as const) {
    const brokers = await Promise.all(pairs.map(async pair => world.broker({ ...SILENT, at: await world.endpoint(home), failpoint: `${pair[which]}=kill` })))
    for (const [i, broker] of brokers.entries()) {
      const clients = clientsOf(world, broker, c.ledger)
      const held = all[i] ?? (await clients.opened())
      all[i] = held
      await died(broker, await again(clients, held), (pairs[i] as [Failpoint, Failpoint])[which])
    }
    await closeWindows(
      world,
      all.map(h => h.task),
    )
  }
  return all
}

export async function issueTwiceCases(world: World, report: Report, choice: Choice): Promise<void> {
  const pairs = twice(ISSUE, choice)
  await report.case(`F39 kill -9 twice in a row, at each step of an issue and at the same or the next of its retry; ${told(pairs)}`, async c => {
    const home = await world.endpoint()
    const all: Held[] = []
    for (let i = 0; i < pairs.length; i += AT_ONCE) all.push(...(await issuing(world, c, home, pairs.slice(i, i + AT_ONCE))))
    const healthy = await world.broker({ queue: 'memory', at: await world.endpoint(home) })
    try {
      const clients = clientsOf(world, healthy, c.ledger)
      for (const [i, held] of all.entries()) {
        const name = pairs[i]?.join(', ')
        const third = await again(clients, held)
        c.expect(third.status === 201, `${name}: the third was answered ${third.status} ${third.problem}`)
        const rows = await world.rows<{ id: string; state: string }>('store', 'select id, state from curfew.credentials where task = $1', [held.task])
        const live = rows.filter(r => r.state === 'active' || r.state === 'pending')
        c.expect(rows.length === 3 && live.length === 1 && live[0]?.id === third.subject, `${name}: rows ${rows.map(r => r.state)}, live ${live.length}`)
        await clients.complete(held)
      }
      const { slowestMs, rows } = await c.judge()
      return `${rows} rows, one of each key delivered, by the third; revoked within ${slowestMs} ms`
    } finally {
      await kill(healthy.child)
    }
  })
}

/** Nobody looks at it until all have died. */
const setAside = (world: World, held: Held) =>
  world.rows('store', `update curfew.credentials set next_attempt_at = curfew.now() + interval '1 hour' where state in ('revoking', 'stuck') and task = $1`, [
    held.task,
  ])

async function sweeperDies(world: World, death: Death, id: string): Promise<void> {
  await lapse(world, id)
  await workerDies(world, death, id, SWEEPING)
}

interface Walk {
  readonly name: string
  readonly held: Held
}

const told = (pairs: readonly (readonly string[])[]) =>
  `${pairs.length} pairs: ${pairs.map(pair => pair.map(step => step.replace(/^(issue|revoke)\./, '')).join('+')).join(' ')}`

async function committing(world: World, c: Case, home: Endpoint, pairs: readonly [Failpoint | Death, Failpoint | Death][]): Promise<Walk[]> {
  const walks: Walk[] = []
  const doomed = async (step: string) => world.broker({ ...SILENT, at: await world.endpoint(home), failpoint: `${step}=kill` })
  for (const [first, second] of pairs) {
    const broker = await doomed(first)
    const clients = clientsOf(world, broker, c.ledger)
    const held = await issued(clients)
    await died(broker, await clients.complete(held), first)
    if (second in DEATHS) await sweeperDies(world, second as Death, held.credential?.id ?? '')
    else {
      const next = await doomed(second)
      await died(next, await clientsOf(world, next, c.ledger).complete(held), second)
    }
    await setAside(world, held)
    walks.push({ name: `${first}, ${second}`, held })
  }
  return walks
}

async function destroying(world: World, c: Case, at: Broker, pairs: readonly [Death, Death][]): Promise<Walk[]> {
  const walks: Walk[] = []
  const clients = clientsOf(world, at, c.ledger)
  for (const [first, second] of pairs) {
    const held = await issued(clients)
    const id = held.credential?.id ?? ''
    await workerDies(world, first, id, ONE_JOB, () => clients.complete(held))
    await sweeperDies(world, second, id)
    await setAside(world, held)
    walks.push({ name: `${DEATHS[first].id}, ${DEATHS[second].id}`, held })
  }
  return walks
}

async function sweeping(world: World, c: Case, home: Endpoint): Promise<Walk[]> {
  const walks: Walk[] = []
  for (const [first, second] of SWEPT) {
    const broker = await world.broker({ ...SILENT, at: await world.endpoint(home), failpoint: `${first}=kill` })
    const clients = clientsOf(world, broker, c.ledger)
    const held = await clients.opened()
    await died(broker, await again(clients, held), first)
    await closeWindows(world, [held.task])
    await sweeperDies(world, second, (await rowOf(world, held.task)).id)
    await setAside(world, held)
    walks.push({ name: `${first}, ${second}`, held })
  }
  return walks
}

/** All pairs, and then somebody who sweeps. */
export async function revokeTwiceCases(world: World, report: Report, choice: Choice): Promise<void> {
  const byBroker = twice(COMMIT, choice).filter(([first]) => !(first in DEATHS))
  // Who dies at its last step has done it all: nobody is left to die of the same row.
  const byWorker = twice(REVOKE, choice).filter(([first]) => first !== 'revoke.4')
  const all = told([...byBroker, ...byWorker, ...SWEPT])
  await report.case(`F14–F21, F39 kill -9 twice in a row, at each step of a revocation and at the same or the next of whoever goes on; ${all}`, async c => {
    const quiet = await world.broker(ONE_JOB)
    const walks = [...(await committing(world, c, quiet, byBroker)), ...(await destroying(world, c, quiet, byWorker)), ...(await sweeping(world, c, quiet))]
    await kill(quiet.child)
    const tasks = walks.map(w => w.held.task)
    await world.rows('store', `update curfew.credentials set next_attempt_at = curfew.now() where state in ('revoking', 'stuck') and task = any($1::text[])`, [
      tasks,
    ])
    await lapse(world)
    const since = Date.now()
    const healthy = await world.broker({ at: await world.endpoint(quiet) })
    try {
      const clients = clientsOf(world, healthy, c.ledger)
      for (const { held } of walks) await clients.complete(held)
      let [slowest, waiting] = [0, 0]
      for (const { name, held } of walks) {
        // Killed between the handle and the lease, what it made is gone and it waits for a listing (security.md 3.4).
        const waits = (state: string) => held.credential === null && state === 'revoking'
        let row = await rowOf(world, held.task)
        for (; row.state !== 'revoked' && !waits(row.state) && Date.now() - since < BOUND_MS; row = await rowOf(world, held.task)) await sleep(100)
        if (waits(row.state)) waiting++
        else c.expect(row.state === 'revoked' && row.successes === 1, `${name}: ${row.state} with ${row.successes} successes`)
        slowest = Math.max(slowest, (row.revokedAt ?? since) - since)
      }
      await c.judge()
      return `all revoked within ${(slowest / 1000).toFixed(1)} s of a sweeper's start (claims made to run out), one success each; ${waiting} wait for a listing`
    } finally {
      await kill(healthy.child)
    }
  })
}
