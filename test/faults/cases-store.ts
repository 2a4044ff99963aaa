/** Owns what happens to the store and to us under load: F34, F40, F41, I8. */
import { setTimeout as sleep } from 'node:timers/promises'
import { LOAD_TIMERS } from './cases-redis.js'
import { clientsOf } from './clients.js'
import { tally, underLoad } from './load.js'
import type { Report } from './report.js'
import { kill, type World } from './world.js'

/** Two looks and some: the balancer has heard before the listener closes. */
const LOOK_MS = 250
const DRAIN_MS = 1_000

export async function storeCases(world: World, report: Report, seed: number): Promise<void> {
  let broker = await world.broker(LOAD_TIMERS)
  let worker = await world.worker(LOAD_TIMERS)
  const at = broker
  try {
    await report.case('F34 store stopped "immediate" under load and restarted', async c => {
      const outage = { from: 0, to: 0 }
      const seen = await underLoad(world, c, at, {
        seed,
        async during() {
          await sleep(800)
          await world.stopPostgres('store', 'immediate')
          outage.from = Date.now()
          await sleep(1_500)
          outage.to = Date.now()
          c.ledger.outages.push(outage)
          await world.startPostgres('store')
          c.ledger.healedAt = Date.now()
          await sleep(1_500)
        },
      })
      const during = c.ledger.entries.filter(e => e.sentAt >= outage.from && e.ackAt <= outage.to)
      const other = [...new Set(during.filter(e => e.status !== 503).map(e => e.status))]
      c.expect(other.length === 0, `answers that are no 503 while the store was down: ${other}`)
      return `${tally(seen)}; ${during.length} asked for and refused while it was down; slowest confirmation ${seen.slowestMs} ms`
    })

    await report.case('I8 the audit cannot be written: nothing is issued, nothing is half done', async c => {
      const clients = clientsOf(world, at, c.ledger)
      const held = await clients.opened()
      await world.rows(
        'store',
        `create or replace function curfew.refuse_audit() returns trigger language plpgsql as $$ begin raise exception 'disk full' using errcode = '53100'; end $$`,
      )
      await world.rows('store', 'create trigger refuse_audit before insert on curfew.audit for each row execute function curfew.refuse_audit()')
      const from = Date.now()
      const answers = [await clients.issue(held, 'jwt'), await clients.issue(held, 'db'), await clients.complete(held)]
      const opened = await clients.open()
      const to = Date.now()
      c.ledger.outages.push({ from, to })
      await world.rows('store', 'drop trigger refuse_audit on curfew.audit')
      c.expect(opened === null && answers.every(a => a.status === 503), `heard ${answers.map(a => a.status).join(', ')}`)
      const made = await world.rows('store', 'select 1 from curfew.credentials where task = $1', [held.task])
      c.expect(made.length === 0, `${made.length} rows without evidence`)
      const twin = [await clients.issue(held, 'db'), await clients.complete(held)]
      c.expect(
        twin.every(a => a.subject !== null),
        'the twin with an audit did not succeed',
      )
      await c.judge()
      return `heard ${answers.map(a => a.status).join(', ')}, afterwards ${twin.map(a => a.status).join(', ')}`
    })

    await report.case('F41 SIGTERM of broker and worker under load, and back', async c => {
      let [down, up] = [0, 0]
      const seen = await underLoad(world, c, at, {
        seed,
        width: 6,
        async during() {
          await sleep(1_200)
          down = Date.now()
          await Promise.all([broker.child.stop(), worker.stop()])
          up = Date.now()
          ;[broker, worker] = await Promise.all([world.broker({ ...LOAD_TIMERS, at }), world.worker(LOAD_TIMERS)])
          c.ledger.healedAt = Date.now()
          await sleep(1_000)
        },
      })
      const all = c.ledger.entries.filter(e => e.ackAt <= up)
      const faults = all.filter(e => e.status >= 500)
      // In hand when the signal came, and not one of them may be dropped.
      const dropped = all.filter(e => e.sentAt < down - 5 && e.ackAt >= down && e.status === 0)
      c.expect(faults.length <= all.length / 100, `${faults.length} of ${all.length} answers are 5xx`)
      c.expect(dropped.length === 0, `${dropped.length} acts in hand were dropped: ${dropped.map(e => e.op).join(', ')}`)
      // Every answer of the drain says that it is the last on its connection, so that nobody asks on one once nothing listens. Whoever connects
      // in the moment in which the listener closes may hear nothing: the kernel had let him in, and we had not. A drain is for that, below.
      const refused = Math.min(...all.filter(e => e.sentAt >= down && e.problem === 'ECONNREFUSED').map(e => e.ackAt))
      const cut = all.filter(e => e.status === 0 && e.sentAt >= down && e.problem !== 'ECONNREFUSED')
      const late = cut.filter(e => e.sentAt > refused)
      c.expect(
        late.length === 0,
        `${late.length} acts were cut on kept connections: ${late.map(e => `${e.op} ${e.problem} ${e.sentAt - refused} ms after`).join(', ')}`,
      )
      const inHand = all.filter(e => e.sentAt < down && e.ackAt >= down).length
      return `${tally(seen)}; drained in ${up - down} ms with ${inHand} acts in hand, ${faults.length} answers 5xx, ${cut.length} cut as it closed; slowest confirmation ${seen.slowestMs} ms`
    })

    await report.case(`F41 SIGTERM under load, behind a balancer that asks /readyz every ${LOOK_MS} ms; drain ${DRAIN_MS} ms (5 s)`, async c => {
      await kill(broker.child)
      broker = await world.broker({ ...LOAD_TIMERS, at, drainMs: DRAIN_MS })
      let isReady = true
      let lastAnswers = 0
      const look = async () => {
        const answer = await fetch(`${at.url}/readyz`).catch(() => null)
        isReady = answer?.status === 200
        if (answer?.status === 503 && answer.headers.get('connection') === 'close') lastAnswers++
      }
      const looking = setInterval(look, LOOK_MS)
      let [down, up] = [0, 0]
      const seen = await underLoad(world, c, at, {
        seed,
        width: 6,
        async gate() {
          while (!isReady) await sleep(20)
        },
        async during() {
          await sleep(1_200)
          down = Date.now()
          await Promise.all([broker.child.stop(), worker.stop()])
          up = Date.now()
          ;[broker, worker] = await Promise.all([world.broker({ ...LOAD_TIMERS, at }), world.worker(LOAD_TIMERS)])
          c.ledger.healedAt = Date.now()
          await sleep(1_000)
        },
      }).finally(() => clearInterval(looking))
      for (const e of seen.failed.slice(0, 5)) c.wrong(`${e.op} was answered ${e.status} ${e.problem}, ${e.sentAt - down} ms after the signal`)
      const served = c.ledger.entries.filter(e => e.ackAt >= down && e.ackAt <= up).length
      c.expect(lastAnswers > 0 && served > 0, `${lastAnswers} looks heard that it goes, ${served} acts were answered meanwhile: nothing was drained`)
      return `${tally(seen)}; gone after ${up - down} ms, ${served} of the acts answered in that time; slowest confirmation ${seen.slowestMs} ms`
    })

    await report.case('F40 restart of everything, Redis wiped', async c => {
      const clients = clientsOf(world, at, c.ledger)
      const holding = async (kind: 'jwt' | 'db') => {
        const held = await clients.opened()
        await clients.issue(held, kind)
        return held
      }
      const [byHolder, byOperator, atTarget, alive] = [await holding('jwt'), await holding('jwt'), await holding('db'), await holding('jwt')] as const
      await clients.complete(byHolder)
      await clients.revoke(byOperator)
      await clients.signal(atTarget)
      // What a killed worker has in hand stays claimed for 30 s; that is F16's to show.
      await sleep(700)
      await world.redisCommand('flushall')
      process.kill(broker.child.mark.pid, 'SIGKILL')
      process.kill(worker.mark.pid, 'SIGKILL')
      await Promise.all([broker.child.stop(), worker.stop(), world.stopRedis()])
      await Promise.all([world.stopPostgres('store', 'immediate'), world.vault.seal()])
      await Promise.all([world.startPostgres('store'), world.startRedis(), world.vault.unseal()])
      ;[broker, worker] = await Promise.all([world.broker({ ...LOAD_TIMERS, at }), world.worker(LOAD_TIMERS)])
      const since = Date.now()
      for (const held of [byHolder, byOperator]) {
        c.expect((await clients.introspect(held.credential?.secret.token as string)) === false, `${held.credential?.id} was revoked and is accepted again`)
      }
      c.expect((await clients.introspect(alive.credential?.secret.token as string)) === true, 'the twin that nobody revoked is refused')
      const replayed = await clients.replay(byHolder)
      c.expect(replayed !== null && replayed >= 400 && replayed < 500, `evidence used before the restart was answered ${replayed}`)
      await clients.complete(alive)
      const { slowestMs } = await c.judge()
      return `refused at once; evidence used before is answered ${replayed}; dead at the target within ${slowestMs} ms, judged ${Date.now() - since} ms after the start`
    })
  } finally {
    await Promise.all([kill(broker.child), kill(worker)])
  }
}
