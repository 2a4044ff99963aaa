/** Owns what the queue and a worker's death make of a revocation where no claim stands: F14, F15, F22 and F23. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Child } from '../../src/dev/process.js'
import type { Redis } from '../../src/dev/redis.js'
import { issued, ONE_JOB } from './cases-revoke.js'
import { clientsOf } from './clients.js'
import { claims, dieClaiming, ends, whileClaimsWait } from './deaths.js'
import type { Held } from './ledger.js'
import { DESTROY_QUEUE, FIRST_SWEEP_MS, type Hand, handOn, type Row, redisOf, rowOf, when } from './queues.js'
import type { Case, Report } from './report.js'
import { type Broker, kill, TIMERS, type World } from './world.js'

/** After the outage (security.md, F14 to F22). */
const BOUND_MS = 60_000
/** A destruction at Vault and at the target, once somebody has found the row. */
const DESTROY_MS = 2_500
interface Place {
  readonly world: World
  readonly redis: Redis
  /** It never sweeps: what is revoked here was revoked by a job, or by a worker's first sweep. */
  readonly broker: Broker
  readonly hand: Hand
  worker: Child
}

const startWorker = (world: World, redis: Redis) => world.worker({ ...ONE_JOB, redisUrl: redis.url })

/** @param before as the death left it. */
async function revoked(c: Case, { world }: Place, held: Held, before: Row, since: number): Promise<string> {
  c.expect(before.state === 'revoking' && !before.claimed && before.successes === 0, `the death left ${JSON.stringify(before)}`)
  await when('it is revoked', async () => (await rowOf(world, held.task)).state === 'revoked', BOUND_MS)
  await c.judge()
  const row = await rowOf(world, held.task)
  c.expect(row.successes === 1, `${row.successes} rows of success`)
  c.expect(row.version === before.version + 2, `${row.version - before.version} changes of the row after the death, where a claim and a confirmation are two`)
  return `revoking and unclaimed; revoked ${(((row.revokedAt ?? Number.NaN) - since) / 1000).toFixed(1)} s after the death, by the next worker; one success`
}

async function deaths(place: Place, report: Report): Promise<void> {
  const { world, redis, hand, broker } = place
  await report.case('F14 worker kill -9: job picked up, nothing claimed', async c => {
    const clients = clientsOf(world, broker, c.ledger)
    const held = await issued(clients)
    await hand.queue.pause()
    await clients.complete(held)
    let picked = 0
    await world.whileLocked('curfew.credentials', async () => {
      await hand.queue.resume()
      await when('a claim waits for the table', async () => (await claims(world)).length > 0)
      picked = await hand.queue.getActiveCount()
      await dieClaiming(world, place.worker)
    })
    const [since, before] = [Date.now(), await rowOf(world, held.task)]
    c.expect(picked === 1, `${picked} jobs were in hand`)
    place.worker = await startWorker(world, redis)
    return revoked(c, place, held, before, since).finally(() => sleep(FIRST_SWEEP_MS))
  })

  await report.case('F15 worker kill -9: claim written, uncommitted', async c => {
    const clients = clientsOf(world, broker, c.ledger)
    const held = await issued(clients)
    const { id, version } = await rowOf(world, held.task)
    await whileClaimsWait(world, id, 'after', async () => {
      await clients.complete(held)
      await dieClaiming(world, place.worker)
    })
    const [since, before] = [Date.now(), await rowOf(world, held.task)]
    c.expect(before.version === version + 1, `the claim of the dead counts: version ${before.version} after ${version}`)
    place.worker = await startWorker(world, redis)
    return revoked(c, place, held, before, since).finally(() => sleep(FIRST_SWEEP_MS))
  })

  await report.case('F22 worker kill -9: job acknowledged', async c => {
    const clients = clientsOf(world, broker, c.ledger)
    const held = await issued(clients)
    await clients.complete(held)
    await when('the row is revoked', async () => (await rowOf(world, held.task)).state === 'revoked')
    await when('its job is acknowledged', async () =>
      (await hand.queue.getJobs(['active', 'waiting'])).every(job => job?.data.credential !== held.credential?.id),
    )
    process.kill(place.worker.mark.pid, 'SIGKILL')
    await ends(place.worker)
    const before = await rowOf(world, held.task)
    place.worker = await startWorker(world, redis)
    await c.judge()
    await sleep(500)
    const row = await rowOf(world, held.task)
    c.expect(row.successes === 1 && row.version === before.version, `afterwards ${JSON.stringify(row)}`)
    return 'revoked before; the next worker finds nothing to do; one success'
  })
}

/** No job of these will ever end its row: each way to lose one, and beside them one that comes when all is over. */
async function lostJobs(place: Place, report: Report): Promise<void> {
  const { world, hand, broker } = place
  const { queue } = hand
  await report.case('F23 job failed for good, its id taken, removed, queue obliterated, paused: the sweep', async c => {
    const clients = clientsOf(world, broker, c.ledger)
    const all = [await issued(clients), await issued(clients), await issued(clients), await issued(clients), await issued(clients)]
    const [failed, taken, removed, obliterated, paused] = all as [Held, Held, Held, Held, Held]
    const idOf = (row: Row) => `destroy_${row.id}_${row.version}`
    const waits = async (held: Held) => Boolean(await hand.job(idOf(await rowOf(world, held.task))))

    // The store refuses its claim: the job throws, and has one attempt.
    const { id } = await rowOf(world, failed.task)
    await world.rows(
      'store',
      `create function curfew.refuse_claim() returns trigger language plpgsql as $$ begin raise exception 'refused' using errcode = '53100'; end $$`,
    )
    await world.rows(
      'store',
      `create trigger refuse_claim before update on curfew.credentials for each row when (new.claimed_until is not null and new.id = '${id}') execute function curfew.refuse_claim()`,
    )
    const told = async () => (await queue.getJobs(['active', 'waiting', 'delayed'])).some(job => job?.data.credential === id)
    await queue.pause()
    await clients.complete(failed)
    c.expect(await waits(failed), 'there was no job to fail')
    await queue.resume()
    await when('its job failed', async () => !(await told()) && !(await waits(failed)))
    await world.rows('store', 'drop trigger refuse_claim on curfew.credentials')
    await world.rows('store', 'drop function curfew.refuse_claim()')

    // What lies there under its id has failed already and is kept: the broker's own `add` changes nothing, and nobody says so.
    const was = await rowOf(world, taken.task)
    const jobId = `destroy_${was.id}_${was.version + 1}`
    const other = await queue.add('destroy', {}, { jobId, attempts: 1, removeOnFail: false, removeOnComplete: false })
    await when('the other job failed', async () => (await other.getState()) === 'failed')
    await clients.complete(taken)
    c.expect(idOf(await rowOf(world, taken.task)) === jobId && (await hand.job(jobId))?.data.credential === undefined, 'its id was not taken')

    await queue.pause()
    await clients.complete(removed)
    c.expect(await waits(removed), 'there was no job to remove')
    await (await hand.job(idOf(await rowOf(world, removed.task))))?.remove()
    await clients.complete(obliterated)
    c.expect(await waits(obliterated), 'there was no job to obliterate')
    await queue.obliterate({ force: true })
    await queue.pause()
    await clients.complete(paused)
    c.expect((await waits(paused)) && !(await waits(obliterated)) && !(await waits(removed)), 'other jobs wait than the one that should')

    await sleep(500)
    for (const held of all) {
      const row = await rowOf(world, held.task)
      c.expect(row.state === 'revoking' && !row.claimed, `somebody was there before the sweep: ${JSON.stringify(row)}`)
    }
    const sweeper = await world.broker({ queue: 'memory' })
    try {
      const since = Date.now()
      await when(
        'the sweep has revoked all five',
        async () => (await Promise.all(all.map(h => rowOf(world, h.task)))).every(r => r.state === 'revoked'),
        BOUND_MS,
      )
      const rows = await Promise.all(all.map(h => rowOf(world, h.task)))
      const late = Math.max(...rows.map(r => (r.revokedAt ?? Number.NaN) - since))
      c.expect(late <= TIMERS.sweepMs + DESTROY_MS, `the last was revoked ${late} ms after a sweeper was there`)
      c.expect((await hand.queue.count()) > 0, 'the paused job was not left waiting')
      await queue.resume()
      await when('the paused job was worked off', () => hand.isEmpty())
      await c.judge()
      for (const [i, held] of all.entries()) {
        const row = await rowOf(world, held.task)
        c.expect(row.successes === 1 && row.version === rows[i]?.version, `afterwards ${JSON.stringify(row)}`)
      }
      return `five revoked within ${Math.round(Math.max(0, late))} ms of a sweeper's start; the paused job came after all and changed nothing`
    } finally {
      await kill(sweeper.child)
    }
  })
}

/** Nobody may sweep meanwhile who is not started here. */
export async function queueCases(world: World, report: Report): Promise<void> {
  const redis = await redisOf(world, 'queue')
  const hand = await handOn(redis.url, DESTROY_QUEUE)
  const broker = await world.broker({ ...ONE_JOB, redisUrl: redis.url })
  const place: Place = { world, redis, broker, hand, worker: await startWorker(world, redis) }
  try {
    await sleep(FIRST_SWEEP_MS)
    await deaths(place, report)
    await lostJobs(place, report)
    await report.case('F14, F15, F22, F23 twin: the same acts, an open queue and a worker that lives', async c => {
      const clients = clientsOf(world, broker, c.ledger)
      for (let i = 0; i < 2; i++) await clients.complete(await issued(clients))
      const { slowestMs } = await c.judge()
      await when('the queue is empty', () => hand.isEmpty())
      return `confirmed by their jobs within ${slowestMs} ms`
    })
  } finally {
    await Promise.all([kill(broker.child), kill(place.worker)])
    await hand.close()
    await redis.stop()
  }
}
