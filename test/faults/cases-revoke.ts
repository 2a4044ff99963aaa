/** Owns what kills the walk out: F16 to F21 (the worker dies at every step) and F24 (the target is down). */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Clients, clientsOf, type IssueOptions } from './clients.js'
import { DEATHS, type Death, lapse, workerDies } from './deaths.js'
import { auditMark } from './invariants.js'
import { type Held, type Ledger, newLedger } from './ledger.js'
import { type Report, say } from './report.js'
import { type Broker, kill, NEVER_MS, type World } from './world.js'

/** A worker that lives for one job: its own sweep would do the work of the queue. */
export const ONE_JOB = { timers: { sweepMs: NEVER_MS, reconcileMs: NEVER_MS } }
/** After the claim of the dead has run out (security.md, F14 to F22). */
const BOUND_MS = 60_000

const KILLED: readonly Death[] = ['revoke.3a', 'destroying', 'revoke.3b', 'revoke.3c', 'confirming', 'revoke.4']

export async function issued(clients: Clients, options: IssueOptions = {}): Promise<Held> {
  const held = await clients.opened()
  if ((await clients.issue(held, 'db', options)).status !== 201) throw new Error('nothing was issued')
  return held
}

interface Dead {
  readonly death: Death
  readonly held: Held
  readonly at: number
}

/** All of them count as dead from the last death on: on a slow machine the next worker's first sweep would else find the claim of the first run out. */
async function killEach(world: World, clients: Clients, which = KILLED): Promise<Dead[]> {
  const dead: Omit<Dead, 'at'>[] = []
  // The next death puts off whatever else is there: these are due as they were, once their claims have run out.
  const renew = () =>
    world.rows(
      'store',
      `update curfew.credentials set claimed_until = curfew.now() + interval '30 s', next_attempt_at = curfew.now()
       where state in ('revoking', 'stuck') and claimed_until is not null and task = any($1::text[])`,
      [dead.map(d => d.held.task)],
    )
  for (const death of which) {
    const held = await issued(clients)
    await workerDies(world, death, held.credential?.id ?? '', ONE_JOB, () => clients.complete(held))
    dead.push({ death, held })
    await renew()
  }
  return dead.map(d => ({ ...d, at: Date.now() }))
}

/** @param since when somebody was there again who could go on. */
async function judge(world: World, report: Report, { death, held, at }: Dead, how: string, since = at): Promise<void> {
  await report.case(`${DEATHS[death].id} worker kill -9: ${DEATHS[death].name}, ${how}`, async c => {
    const look = () =>
      world.rows<{ state: string; at: number; n: number }>(
        'store',
        `select state, extract(epoch from revoked_at)::float8 * 1000 as at,
                (select count(*)::int from curfew.audit a where a.subject = c.id and a.kind = 'credential.revoked') as n
         from curfew.credentials c where task = $1`,
        [held.task],
      )
    let [row] = await look()
    for (; row?.state !== 'revoked' && Date.now() - since < BOUND_MS; [row] = await look()) await sleep(100)
    c.expect(row?.state === 'revoked', `it is ${row?.state} after ${((Date.now() - since) / 1000).toFixed(0)} s`)
    c.expect(row?.n === 1, `${row?.n} rows of success`)
    if (row?.state !== 'revoked') return ''
    const after = ((row.at - since) / 1000).toFixed(1)
    return `${row.at < since ? 'revoked before' : `revoked ${after} s after ${since === at ? 'the last death' : 'a broker was there again'}`}, one success`
  })
}

async function overAll(report: Report, name: string, ledger: Ledger, mark: number): Promise<void> {
  await report.case(
    name,
    async c => {
      const { rows } = await c.judge()
      return `${rows} rows`
    },
    { ledger, mark },
  )
}

async function killedWorkers(world: World, report: Report): Promise<void> {
  // The broker never sweeps: a worker that comes back must do it, and waits for the claim of the dead one as it stands, 30 s.
  const quiet = await world.broker(ONE_JOB)
  const ledger = newLedger()
  const mark = await auditMark(world)
  const clients = clientsOf(world, quiet, ledger)
  try {
    const dead = await killEach(world, clients)
    const worker = await world.worker()
    for (const one of dead) await judge(world, report, one, 'it returns')
    await report.case('F14–F22 twin: the same acts with a worker that lives', async c => {
      const healthy = clientsOf(world, quiet, c.ledger)
      for (let i = 0; i < 4; i++) await healthy.complete(await issued(healthy))
      c.expect(
        c.ledger.entries.every(e => e.subject !== null),
        'not every act succeeded',
      )
      return `confirmed within ${(await c.judge()).slowestMs} ms`
    })
    await kill(worker)
    await overAll(report, 'F14–F22 the invariants, worker returned', ledger, mark)

    const second = { ledger: newLedger(), mark: await auditMark(world) }
    const again = clientsOf(world, quiet, second.ledger)
    const gone = await killEach(world, again, ['revoke.3a', 'destroying', 'confirming'])
    await lapse(world)
    const sweeping = await world.broker({ timers: { issuanceTokenSeconds: 30 } })
    const back = Date.now()
    for (const one of gone) await judge(world, report, one, 'it never returns, a broker sweeps; claim made to run out (30 s)', back)
    await kill(sweeping.child)
    await overAll(report, 'F14–F22 the invariants, worker never returned', second.ledger, second.mark)
  } finally {
    await kill(quiet.child)
  }
}

export const metric = async (broker: Broker, line: RegExp): Promise<number> => {
  const text = await (await fetch(`http://127.0.0.1:${broker.internal}/metrics`)).text()
  return Number(line.exec(text)?.[1] ?? Number.NaN)
}

async function targetDown(world: World, report: Report, outageMs: number): Promise<void> {
  const broker = await world.broker({ timers: { issuanceTokenSeconds: 30 } })
  const worker = await world.worker()
  try {
    await report.case(`F24 target down for ${outageMs / 1000} s during a revocation`, async c => {
      const clients = clientsOf(world, broker, c.ledger)
      const held = await Promise.all([1, 2, 3].map(() => issued(clients)))
      await world.stopPostgres('target', 'fast')
      const down = performance.now()
      for (const h of held) await clients.complete(h)
      let alarmed = Number.NaN
      while (performance.now() - down < outageMs) {
        if (Number.isNaN(alarmed) && (await metric(broker, /^curfew_credentials\{state="stuck"\} (\d+)/m)) >= 3) alarmed = performance.now() - down
        await sleep(250)
      }
      const rows = await world.rows<{ state: string; failure: string | null; attempts: number }>(
        'store',
        'select state, failure, attempts from curfew.credentials where task = any($1::text[])',
        [held.map(h => h.task)],
      )
      c.expect(rows.length === 3 && rows.every(r => r.state === 'stuck' && r.failure !== null), `not stuck with a reason: ${JSON.stringify(rows)}`)
      c.expect(alarmed < 60_000, 'no alarm within 60 s')
      await world.startPostgres('target')
      const back = Date.now()
      await c.judge()
      const [last] = await world.rows<{ at: number }>(
        'store',
        'select extract(epoch from max(revoked_at))::float8 * 1000 as at from curfew.credentials where task = any($1::text[])',
        [held.map(h => h.task)],
      )
      const late = (last?.at ?? Number.NaN) - back
      c.expect(late < 60_000, `revoked ${late} ms after the return`)
      return `stuck after ${(alarmed / 1000).toFixed(1)} s with "${rows[0]?.failure}" and ${rows[0]?.attempts} attempts, revoked ${(late / 1000).toFixed(1)} s after the return`
    })
  } finally {
    await Promise.all([kill(broker.child), kill(worker)])
  }
}

export async function revokeCases(world: World, report: Report, isLong: boolean): Promise<void> {
  say('  the revoke walk')
  await killedWorkers(world, report)
  await targetDown(world, report, isLong ? 180_000 : 25_000)
}
