/** Owns what Vault and time do to the issue walk: F03, F26, F28, F30, F33, F44. */
import { setTimeout as sleep } from 'node:timers/promises'
import { dashed } from '../../src/domain/ids.js'
import { clientsOf } from './clients.js'
import { endAll, type Stopped, stoppedAt } from './formation.js'
import type { Hold } from './proxy.js'
import type { Case, Report } from './report.js'
import { askVault, listAccessors, text, upstream } from './upstream.js'
import { type Broker, kill, NEVER_MS, type World } from './world.js'

const STEPS = ['issue.3', 'issue.4a', 'issue.4b', 'issue.4c', 'issue.5a'] as const
const MINT = /^GET \/v1\/database\/creds\//
const CREATE = /^(POST|PUT) \/v1\/auth\/token\/create\//
const REVOKE = /^(POST|PUT) \/v1\/sys\/leases\/revoke/

/** What several cases wait for runs side by side (20 s until a sweep, 10 s until a deadline); what they set up does not. */
function oneAtATime() {
  let last: Promise<unknown> = Promise.resolve()
  return <T>(act: () => Promise<T>): Promise<T> => {
    const next = last.then(act)
    last = next.catch(() => {})
    return next
  }
}
type InTurn = ReturnType<typeof oneAtATime>

const healthy = (world: World) => world.broker({ queue: 'memory', timers: { issuanceTokenSeconds: 30 } })

/** Resumed one and all: what their callers heard. */
async function heard(c: Case, stopped: readonly Stopped[], wanted: (s: Stopped) => boolean = () => false): Promise<string> {
  const answers = await Promise.all(stopped.map(s => s.answer))
  answers.forEach((answer, i) => {
    const s = stopped[i] as Stopped
    const isDelivered = answer.subject !== null
    if (isDelivered !== wanted(s)) c.wrong(`${s.step}: ${isDelivered ? 'DELIVERED' : 'nothing was delivered'} (${answer.status} ${answer.problem ?? ''})`)
  })
  return answers.map((a, i) => `${stopped[i]?.step.slice(6)} ${a.status}`).join(', ')
}

const statesOf = async (world: World, stopped: readonly Stopped[]) =>
  new Map(
    (
      await world.rows<{ task: string; state: string }>('store', 'select task, state from curfew.credentials where task = any($1::text[])', [
        stopped.map(s => s.held.task),
      ])
    ).map(r => [r.task, r.state]),
  )

async function zombies(world: World, report: Report, inTurn: InTurn): Promise<void> {
  await report.case('F44, R13 zombie: issuer stopped at 3, 4a, 4b, 4c, 5a, its row closed meanwhile, resumed', async c => {
    const stopped = await inTurn(() => stoppedAt(world, c.ledger, STEPS))
    const other = await healthy(world)
    try {
      const since = performance.now()
      const last = stopped.at(-1) as Stopped
      // Active already: nothing but an act closes it. The others' mint window (20 s) runs out, and another broker's sweep closes them.
      await clientsOf(world, other, c.ledger).revoke(last.held, await credentialOf(world, last))
      for (;;) {
        const states = [...(await statesOf(world, stopped)).values()]
        if (states.every(s => s === 'revoking' || s === 'revoked') || performance.now() - since > 40_000) break
        await sleep(250)
      }
      const closed = [...(await statesOf(world, stopped)).values()]
      c.expect(!closed.includes('pending') && !closed.includes('active'), `not closed meanwhile: ${closed}`)
      await sleep(500)
      for (const s of stopped) s.resume()
      const answers = await heard(c, stopped)
      for (const s of stopped) s.held.refusedFrom ??= Date.now()
      await c.judge()
      return `closed after ${((performance.now() - since) / 1000).toFixed(1)} s by another broker; heard ${answers}; nothing delivered, nothing left`
    } finally {
      await endAll(stopped)
      await kill(other.child)
    }
  })
}

export async function vaultCases(world: World, report: Report): Promise<void> {
  const inTurn = oneAtATime()
  await Promise.all([zombies(world, report, inTurn), lostLease(world, report, inTurn), lateAnswers(world, report, inTurn)])
  await lateRevocation(world, report)

  await report.case('F26, F28 and F44 twin: stopped at 4b and 5a and resumed at once', async c => {
    const stopped = await stoppedAt(world, c.ledger, ['issue.4b', 'issue.5a'])
    try {
      for (const s of stopped) s.resume()
      const answers = await heard(c, stopped, () => true)
      for (const s of stopped) c.expect((await s.clients.complete(s.held)).subject !== null, `${s.step}: could not be completed`)
      const other = await healthy(world)
      await c.judge().finally(() => kill(other.child))
      return `heard ${answers}`
    } finally {
      await endAll(stopped)
    }
  })

  await report.case('F26 Vault sealed before each of 4a to 5b, then unsealed', async c => {
    const stopped = await stoppedAt(world, c.ledger, STEPS)
    try {
      await world.vault.seal()
      for (const s of stopped) s.resume()
      const answers = await heard(c, stopped)
      await sleep(1_000)
      await world.vault.unseal()
      await endAll(stopped)
      const other = await healthy(world)
      try {
        for (const s of stopped) s.held.refusedFrom = Date.now()
        await c.judge()
        const clients = clientsOf(world, other, c.ledger)
        const held = await clients.opened()
        c.expect(
          (await clients.issue(held, 'db', { ttlSeconds: 60 })).status === 201 && (await clients.complete(held)).status === 200,
          'nothing is issued after the unseal',
        )
      } finally {
        await kill(other.child)
      }
      return `heard ${answers}; issued again after the unseal`
    } finally {
      await world.vault.unseal().catch(() => {})
      await endAll(stopped)
    }
  })

  await report.case('F28 our login revoked before 4a and before 5b: one login more, and it goes on', async c => {
    const stopped = await stoppedAt(world, c.ledger, ['issue.3', 'issue.5a'])
    try {
      let ended = 0
      for (const { accessor, data } of await listAccessors(world)) {
        if (!(data?.policies as string[] | undefined)?.includes('curfew-issuer')) continue
        await askVault(world, 'POST', 'auth/token/revoke-accessor', [], { accessor })
        ended++
      }
      for (const s of stopped) s.resume()
      const answers = await heard(c, stopped, () => true)
      for (const s of stopped) await s.clients.complete(s.held)
      const other = await healthy(world)
      await c.judge().finally(() => kill(other.child))
      c.expect(ended >= 2, `only ${ended} logins were revoked`)
      return `${ended} logins revoked; heard ${answers}`
    } finally {
      await endAll(stopped)
    }
  })

  await report.case('F28 our policy removed at the same places: fails closed', async c => {
    const policy = (await askVault(world, 'GET', 'sys/policies/acl/curfew-issuer', [])) as { policy: string }
    const stopped = await stoppedAt(world, c.ledger, ['issue.3', 'issue.5a'])
    try {
      await askVault(world, 'DELETE', 'sys/policies/acl/curfew-issuer', [])
      for (const s of stopped) s.resume()
      const answers = await heard(c, stopped)
      for (const s of stopped) s.held.refusedFrom = Date.now()
      await askVault(world, 'PUT', 'sys/policies/acl/curfew-issuer', [], { policy: policy.policy })
      const other = await healthy(world)
      await c.judge().finally(() => kill(other.child))
      return `heard ${answers}`
    } finally {
      await askVault(world, 'PUT', 'sys/policies/acl/curfew-issuer', [], { policy: policy.policy })
      await endAll(stopped)
    }
  })
}

async function credentialOf(world: World, s: Stopped): Promise<string> {
  const [row] = await world.rows<{ id: string }>('store', 'select id from curfew.credentials where task = $1', [s.held.task])
  return row?.id as string
}

/** The proxy keeps the answer past our own deadline, although Vault has done it. */
async function lateAnswers(world: World, report: Report, inTurn: InTurn): Promise<void> {
  const at = await world.broker({ queue: 'memory', timers: { issuanceTokenSeconds: 30 } })
  const quick = await world.broker({ queue: 'memory' })
  try {
    await report.case('F30 the answers of 4a (1.5 s) and 4c (10 s) come after our deadline, though they were done', async c => {
      const [slow, soon] = [clientsOf(world, at, c.ledger), clientsOf(world, quick, c.ledger)]
      const asked = await inTurn(async () => {
        const held = [await slow.opened(), await soon.opened()] as const
        const mint = world.proxy.hold('answer', MINT, { ms: 13_000 })
        const issuing = slow.issue(held[0], 'db', { ttlSeconds: 60 })
        await mint.met
        const create = world.proxy.hold('answer', CREATE, { ms: 3_000 })
        const creating = soon.issue(held[1], 'db', { ttlSeconds: 60 })
        await create.met
        return { held, answers: Promise.all([issuing, creating]) }
      })
      const answers = await asked.answers
      for (const a of answers) c.expect(a.subject === null, `DELIVERED ${a.subject}`)
      // The token of 4a has no row that knows its accessor: its own switch (5 s here) ends it.
      const since = performance.now()
      const own = () =>
        things(
          world,
          asked.held.map(h => h.task),
        )
      let left = await own()
      for (; left.length > 0 && performance.now() - since < 10_000; left = await own()) await sleep(150)
      const took = performance.now() - since
      for (const thing of left) c.orphan(`${thing} is left 10 s after we gave up`)
      for (const h of asked.held) h.refusedFrom = Date.now()
      await c.judge()
      return `heard ${answers.map(a => a.status).join(' and ')} after ${answers.map(a => ((a.ackAt - a.sentAt) / 1000).toFixed(1)).join(' and ')} s; nothing left ${(took / 1000).toFixed(1)} s later`
    })
  } finally {
    await Promise.all([kill(at.child), kill(quick.child)])
  }
}

/** Alone: a revocation of another case would be held in the place of its own. */
async function lateRevocation(world: World, report: Report): Promise<void> {
  const at = await healthy(world)
  try {
    await report.case('F03 the answer of a revocation comes after our deadline (10 s), though it was done', async c => {
      const clients = clientsOf(world, at, c.ledger)
      const held = await clients.opened()
      await clients.issue(held, 'db', { ttlSeconds: 300 })
      const hold = world.proxy.hold('answer', REVOKE, { ms: 12_000 })
      await clients.complete(held)
      await hold.met
      const { slowestMs } = await c.judge()
      c.expect(slowestMs > 9_000, `the answer was not late: revoked after ${slowestMs} ms`)
      const successes = await world.rows('store', `select 1 from curfew.audit where kind = 'credential.revoked' and subject = $1`, [held.credential?.id])
      c.expect(successes.length === 1, `${successes.length} successes`)
      return `ambiguous, tried again, found gone: revoked after ${(slowestMs / 1000).toFixed(1)} s, one success`
    })
    await report.case('F03 and F30 twin: the same acts without a held answer', async c => {
      const clients = clientsOf(world, at, c.ledger)
      const held = await clients.opened()
      c.expect((await clients.issue(held, 'db', { ttlSeconds: 60 })).status === 201 && (await clients.complete(held)).status === 200, 'not every act succeeded')
      const { slowestMs } = await c.judge()
      return `revoked after ${slowestMs} ms`
    })
  } finally {
    await kill(at.child)
  }
}

/** The issuer dies inside the mint call; the lease id is in an answer, or in a request, that the proxy has. */
async function lostLease(world: World, report: Report, inTurn: InTurn): Promise<void> {
  await report.case('F33 lease id lost: kill -9 inside 4c, the answer held; and the request held until its token is dead', async c => {
    const timers = { issuanceTokenSeconds: 60, sweepMs: NEVER_MS, reconcileMs: NEVER_MS }
    const brokers = await Promise.all([1, 2].map(() => world.broker({ queue: 'memory', timers })))
    const holds: Hold[] = []
    await inTurn(async () => {
      for (const [i, what] of (['answer', 'request'] as const).entries()) {
        const broker = brokers[i] as Broker
        const clients = clientsOf(world, broker, c.ledger)
        const held = await clients.opened()
        const hold = world.proxy.hold(what, MINT)
        const answer = clients.issue(held, 'db', { ttlSeconds: 120 })
        await hold.met
        if (what === 'answer') await sleep(500)
        await kill(broker.child)
        c.expect((await answer).status === 0, 'something was delivered')
        held.refusedFrom = Date.now()
        holds.push(hold)
      }
    })
    const since = performance.now()
    const other = await healthy(world)
    try {
      const tasks = c.ledger.held.map(h => h.task)
      const rows = () => world.rows<{ id: string; state: string }>('store', 'select id, state from curfew.credentials where task = any($1::text[])', [tasks])
      const live = async () => (await things(world, tasks)).length
      const before = await live()
      c.expect(before >= 3, `only ${before} things exist: two tokens and a role were to be made`)
      for (; (await live()) > 0 && performance.now() - since < 60_000; ) await sleep(250)
      const gone = ((performance.now() - since) / 1000).toFixed(1)
      holds[0]?.release()
      // Now Vault gets the read of a token that is dead.
      holds[1]?.release()
      await sleep(1_000)
      c.expect((await live()) === 0, 'something is left at Vault or the target')
      await c.judge()
      return `${before} things made, gone after ${gone} s; a read with the dead token made nothing; rows ${(await rows()).map(r => r.state).join(', ')}, waiting for a listing`
    } finally {
      await kill(other.child)
    }
  })
}

/** Tokens and roles by the names of the credentials of these tasks, whatever their rows say. */
export async function things(world: World, tasks: readonly string[]): Promise<string[]> {
  const rows = await world.rows<{ id: string }>('store', 'select id from curfew.credentials where task = any($1::text[])', [tasks])
  const names = rows.flatMap(({ id }) => [id, dashed(id).toLowerCase()])
  return (await upstream(world)).map(text).filter(t => names.some(n => t.includes(n)))
}
