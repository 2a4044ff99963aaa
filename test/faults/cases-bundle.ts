/** Owns F39 of bundles: the broker killed at every step of making one, and of undoing one whose last part has failed; and what is left at Vault and at the target. */
import { type CredentialId, dashed } from '../../src/domain/ids.js'
import type { Failpoint } from '../../src/failpoint.js'
import { type Cleared, type Killed, killedIn, SLOW_SWITCH_SECONDS, watch } from './cases-issue.js'
import { clientsOf } from './clients.js'
import { auditMark, canLogIn } from './invariants.js'
import { type Ledger, newLedger } from './ledger.js'
import { type Report, say } from './report.js'
import { clearedWithin, type Thing, text } from './upstream.js'
import { type Broker, DB, JWT, kill, NEVER_MADE, NEVER_MS, TIMERS, TLS, type World } from './world.js'

const TTL_SECONDS = 60
const WHOLE = [TLS, DB, JWT]
const FAILING = [DB, JWT, NEVER_MADE]

interface Point {
  readonly at: Failpoint
  /** Two parts live at Vault: they pass the steps of making side by side, each for itself. */
  readonly nth?: number
  readonly asked: readonly string[]
  /** What there is at that moment at the least; a part beside the one that was reached may be further. */
  readonly least: readonly Thing['kind'][]
}

const ALL_MADE = ['certificate', 'lease', 'lease', 'role', 'token', 'token'] as const
const point = (at: Failpoint, least: Point['least'], nth?: number): Point => ({ at, asked: WHOLE, least, ...(nth === undefined ? {} : { nth }) })
const undone = (at: Failpoint, nth: number): Point => ({ at, nth, asked: FAILING, least: [] })

const ALONE: readonly Point[] = [
  point('issue.3', []),
  point('issue.4a', ['token']),
  point('issue.4a', ['token', 'token'], 2),
  point('issue.4b', ['token'], 1),
  point('issue.4b', ['token', 'token'], 2),
  point('issue.4c', ['lease', 'token'], 1),
  point('issue.4c', ALL_MADE, 2),
  point('issue.5a', ALL_MADE),
  point('issue.5b', ALL_MADE),
  point('issue.6', ALL_MADE),
]
const RETURNING: readonly Point[] = [
  point('issue.4a', ['token', 'token'], 2),
  point('issue.4b', ['token', 'token'], 2),
  point('issue.4c', ALL_MADE, 2),
  point('issue.5a', ALL_MADE),
  // The first of its parts has been revoked, the last has, or nobody was told of the first.
  undone('revoke.1', 1),
  undone('revoke.1', 3),
  undone('revoke.2', 1),
]

interface Stopped extends Killed {
  readonly point: Point
  readonly states: readonly string[]
}

const named = ({ at, nth, asked }: Point) => `${asked === FAILING ? 'undone at ' : ''}${at}${nth === undefined ? '' : ` #${nth}`}`

/** One broker a point, none of which sweeps: whoever waits for its turn must not clean up for the dead. */
async function killAll(world: World, ledger: Ledger, points: readonly Point[], issuanceTokenSeconds: number): Promise<Stopped[]> {
  const timers = { issuanceTokenSeconds, sweepMs: NEVER_MS, reconcileMs: NEVER_MS }
  const failpoint = ({ at, nth }: Point) => `${at}${nth === undefined ? '' : `#${nth}`}=kill`
  const brokers = await Promise.all(points.map(p => world.broker({ failpoint: failpoint(p), queue: 'memory', timers })))
  const stopped: Stopped[] = []
  for (const [i, p] of points.entries()) stopped.push(await killedAt(world, ledger, p, brokers[i] as Broker))
  return stopped
}

async function killedAt(world: World, ledger: Ledger, p: Point, broker: Broker): Promise<Stopped> {
  const clients = clientsOf(world, broker, ledger)
  const held = await clients.open(p.asked)
  if (!held) throw new Error('the task was not opened')
  const killed = await killedIn(world, broker, () => clients.bundle(held, p.asked, { ttlSeconds: TTL_SECONDS })).catch(cause =>
    Promise.reject(new Error(`${named(p)}: ${cause.message}`)),
  )
  const rows = await world.rows<{ state: string }>('store', 'select state from curfew.credentials where task = $1', [held.task])
  return { point: p, step: p.at, mayLive: p.at === 'issue.5b' || p.at === 'issue.6', states: rows.map(r => r.state), ...killed }
}

async function judge(report: Report, one: Cleared<Stopped>, name: string, boundMs: number): Promise<void> {
  const { point: p, states, made, left, clearedMs, isTold } = one
  await report.case(`F39 a bundle ${named(p)} killed, ${name}`, async c => {
    const kinds = made.map(t => t.kind).sort()
    const lacks = p.least.filter((kind, i) => kinds.filter(k => k === kind).length < p.least.slice(0, i + 1).filter(k => k === kind).length)
    c.expect(!isTold, 'something was delivered')
    c.expect(lacks.length === 0, `it made ${kinds.join(', ') || 'nothing'}, and no ${lacks}`)
    c.expect(states.length === p.asked.length, `it has ${states.length} rows`)
    if (p.asked === FAILING) c.expect(!states.includes('active'), `of a bundle that failed a part is active: ${states}`)
    else c.expect(new Set(states).size === 1, `some parts are further than others: ${states}`)
    for (const thing of left) c.orphan(`${text(thing)} is left`)
    c.expect(clearedMs === null || clearedMs < boundMs, `gone only after ${clearedMs} ms`)
    const end = one.mayLive ? 'active and undelivered, allowed until its end' : `gone after ${((clearedMs ?? 0) / 1000).toFixed(1)} s`
    return `rows ${[...new Set(states)].join(', ')}; made ${kinds.join(', ') || 'nothing'}; ${made.length === 0 ? 'nothing to clean' : end}`
  })
}

export async function bundleCases(world: World, report: Report): Promise<void> {
  say(`  bundles of a certificate, a database user and a token, life ${TTL_SECONDS} s`)
  const ledger = newLedger()
  const mark = await auditMark(world)
  const alone = await watch(world, await killAll(world, ledger, ALONE, TIMERS.issuanceTokenSeconds))
  for (const one of alone) await judge(report, one, 'not restarted', (TIMERS.issuanceTokenSeconds + 5) * 1000)
  const stopped = await killAll(world, ledger, RETURNING, SLOW_SWITCH_SECONDS)
  const healthy = await world.broker({ queue: 'memory', timers: { issuanceTokenSeconds: SLOW_SWITCH_SECONDS } })
  try {
    // What has a handle and is not active is our sweep's; the switch is slower.
    const bySweep = (p: Point) => p.asked === FAILING || p.at === 'issue.4b' || p.at === 'issue.4c'
    for (const one of await watch(world, stopped)) await judge(report, one, 'restarted', (SLOW_SWITCH_SECONDS + (bySweep(one.point) ? -3 : 5)) * 1000)
    await report.case('F39 a bundle whose last part fails, and nobody is killed', async c => {
      const clients = clientsOf(world, healthy, c.ledger)
      const held = await clients.open(FAILING)
      if (!held) throw new Error('the task was not opened')
      const { status, body } = await clients.bundle(held, FAILING)
      c.expect(status === 502 && body.field === 'capabilities.2' && body.capability === NEVER_MADE, `it was answered ${status} ${JSON.stringify(body)}`)
      const { left, took } = await clearedWithin(world, { strict: new Set((await namedAfter(world, held.task)).map(text)) }, 10_000)
      for (const thing of left) c.orphan(`${text(thing)} is left`)
      await c.judge()
      return `refused by the name of its part, nothing left after ${(took / 1000).toFixed(1)} s`
    })
    await report.case(
      'F39 the bundle without a fault, and the invariants over all of them',
      async c => {
        const clients = clientsOf(world, healthy, c.ledger)
        const held = await clients.open(WHOLE)
        if (!held) throw new Error('the task was not opened')
        const { status, body } = await clients.bundle(held, WHOLE, { ttlSeconds: TTL_SECONDS })
        const [, db, token] = status === 201 ? body.credentials : []
        c.expect(status === 201 && (await canLogIn(db.secret)) && (await clients.introspect(token.secret.token)) === true, `it does not work: ${status}`)
        c.expect((await clients.complete(held)).status === 200, 'its task was not completed')
        const { rows } = await c.judge()
        c.expect(status !== 201 || !(await canLogIn(db.secret)), 'I1 its user can log in')
        return `${rows} rows`
      },
      { ledger, mark },
    )
  } finally {
    await kill(healthy.child)
  }
}

/** What the rows of a task would answer for, if they were live. */
async function namedAfter(world: World, task: string): Promise<Thing[]> {
  const rows = await world.rows<{ id: string; lease: string | null }>(
    'store',
    `select id, handle->>'leaseId' as lease from curfew.credentials where task = $1`,
    [task],
  )
  return rows.flatMap(({ id, lease }): Thing[] => [
    { kind: 'token', id },
    { kind: 'role', id: `curfew_${dashed(id as CredentialId)}`.toLowerCase() },
    ...(lease === null ? [] : [{ kind: 'lease' as const, id: lease }]),
  ])
}
