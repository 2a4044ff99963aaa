/** Owns workers that are out of time: F13 (a clock that is wrong) and F43 (one that stands still longer than its job's lock). */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Child } from '../../src/dev/process.js'
import { EXPIRE_QUEUE, WORKER_OPTIONS } from '../../src/queue/jobs.js'
import { issued, ONE_JOB } from './cases-revoke.js'
import { clientsOf } from './clients.js'
import { ends } from './deaths.js'
import { isStopped } from './formation.js'
import type { Held } from './ledger.js'
import { DESTROY_QUEUE, FIRST_SWEEP_MS, handOn, PREFIX, putOff, redisOf, rowOf, when } from './queues.js'
import type { Case, Report } from './report.js'
import { kill, TIMERS, type World } from './world.js'

const LIFE_SECONDS = 12
/** A round of the sweep that finds it, beside everything else that runs here. */
const SWEPT_MS = TIMERS.sweepMs + 1_500

/** Two tokens that end by themselves (Vault is other cases' meanwhile), a worker whose clock is so far ahead, and when the job for their end ran. */
async function endsByClock(world: World, c: Case, name: string, aheadMs: number): Promise<{ ranMs: number | null; lateMs: number }> {
  const redis = await redisOf(world, name)
  const at = await world.broker({ ...ONE_JOB, redisUrl: redis.url })
  const worker = await world.worker({ ...ONE_JOB, redisUrl: redis.url, aheadMs })
  const hand = await handOn(redis.url, EXPIRE_QUEUE)
  try {
    const clients = clientsOf(world, at, c.ledger)
    const all = [await clients.opened(), await clients.opened()]
    for (const [i, held] of all.entries()) await clients.issue(held, 'jwt', { ttlSeconds: LIFE_SECONDS + i })
    const rows = await Promise.all(all.map(h => rowOf(world, h.task)))
    const end = Math.max(...rows.map(r => r.expiresAt))
    const jobs = rows.map(r => `expire_${Math.floor(r.expiresAt / 1000) + 1}`)
    const [held, row] = [all[0] as Held, rows[0] as (typeof rows)[0]]
    const token = held.credential?.secret.token as string
    /** After its end, by its job: null while that waits. */
    let ranMs: number | null = null
    const look = async () => {
      if (ranMs === null && !(await hand.job(jobs[0] as string))) ranMs = Date.now() - row.expiresAt
    }
    for (; Date.now() < row.expiresAt - 500; await sleep(100)) {
      await look()
      const asked = await clients.introspect(token)
      if (asked !== true && Date.now() < row.expiresAt) c.wrong(`${name}: it was refused ${row.expiresAt - Date.now()} ms before its end`)
    }
    for (; Date.now() < end + SWEPT_MS; await sleep(50)) await look()
    for (const h of all) h.refusedFrom = Date.now()
    const seen = await Promise.all(all.map(h => rowOf(world, h.task)))
    const late = seen.map(r => (r.revokingAt ?? Number.NaN) - r.expiresAt)
    for (const ms of late) c.expect(ms >= 0 && ms <= SWEPT_MS, `${name}: closed ${ms} ms after its end`)
    c.expect((await clients.introspect(token)) === false, `${name}: it is accepted after its end`)
    return { ranMs, lateMs: Math.round(Math.max(...late)) }
  } finally {
    await Promise.all([kill(at.child), kill(worker)])
    await hand.close()
    await redis.stop()
  }
}

/** Whoever sweeps here sweeps for all three. */
export async function clockCases(world: World, report: Report): Promise<void> {
  const sweeper = await world.broker({ queue: 'memory' })
  const seconds = (ms: number | null) => `${((ms ?? Number.NaN) / 1000).toFixed(1)} s`
  try {
    await Promise.all([
      report.case('F13 worker clock 60 s ahead', async c => {
        const { ranMs, lateMs } = await endsByClock(world, c, 'ahead', 60_000)
        c.expect(ranMs !== null && ranMs < -5_000, `the job did not come early: ${ranMs} ms after the end`)
        await c.judge()
        return `the job came ${seconds(-(ranMs ?? 0))} before the end and found nothing due; closed ${lateMs} ms after it, by the sweep`
      }),
      report.case('F13 worker clock 60 s behind', async c => {
        const { ranMs, lateMs } = await endsByClock(world, c, 'behind', -60_000)
        c.expect(ranMs === null, `the job came ${ranMs} ms after the end`)
        await c.judge()
        return `the job still waits; closed ${lateMs} ms after the end, by the sweep`
      }),
      report.case('F13 twin: a worker whose clock is right', async c => {
        const { ranMs, lateMs } = await endsByClock(world, c, 'right', 0)
        c.expect(ranMs !== null && ranMs >= 0, `the job came ${ranMs} ms after the end`)
        await c.judge()
        return `the job came ${seconds(ranMs)} after the end; closed ${lateMs} ms after it`
      }),
    ])
  } finally {
    await kill(sweeper.child)
  }
}

const SHORT_MS = 5_000
const LONG_MS = 35_000

/**
 * One worker stands still for 5 s and one for longer than its job's lock, both with a claim. The lock is no setting: the wait is real, and passes
 * beside `meanwhile`, in which nobody may sweep.
 */
export async function stillCases(world: World, report: Report, meanwhile: () => Promise<void>): Promise<void> {
  const redis = await redisOf(world, 'still')
  const hand = await handOn(redis.url, DESTROY_QUEUE)
  const at = await world.broker({ ...ONE_JOB, redisUrl: redis.url })
  const started: Child[] = []
  const start = async (failpoint?: string) => {
    const child = await world.worker({ ...(failpoint ? { ...ONE_JOB, failpoint } : {}), redisUrl: redis.url })
    started.push(child)
    return child
  }
  const end = async (child: Child) => {
    process.kill(child.mark.pid, 'SIGKILL')
    await ends(child)
  }
  const resume = (child: Child) => void process.kill(child.mark.pid, 'SIGCONT')
  /** The only one there with free hands stops in the middle of it. */
  async function stops(c: Case, step: string) {
    const clients = clientsOf(world, at, c.ledger)
    const held = await issued(clients)
    const worker = await start(`${step}=stop`)
    await sleep(FIRST_SWEEP_MS)
    await clients.complete(held)
    await when(`it stands at ${step}`, () => isStopped(worker.mark.pid))
    return { clients, held, worker, since: performance.now(), row: await rowOf(world, held.task) }
  }
  const revoked = (held: Held, ms: number) => when('it is revoked', async () => (await rowOf(world, held.task)).state === 'revoked', ms)
  let isSet = () => {}
  const set = new Promise<void>(resolve => {
    isSet = resolve
  })
  let isBoth = () => {}
  const both = new Promise<void>(resolve => {
    isBoth = resolve
  })
  let short: Awaited<ReturnType<typeof stops>> | null = null
  try {
    await putOff(world)
    await Promise.all([
      report.case(`F43 worker stopped for ${SHORT_MS / 1000} s, after the destruction (3b)`, async c => {
        short = await stops(c, 'revoke.3b')
        isSet()
        const { held, worker, since, row } = short
        // Awake, it would take the other's job.
        await both
        await sleep(SHORT_MS - (performance.now() - since))
        const stood = performance.now() - since
        const still = await rowOf(world, held.task)
        c.expect(still.version === row.version && still.claimed, `somebody else was there meanwhile: ${JSON.stringify(still)}`)
        resume(worker)
        await revoked(held, 5_000)
        const late = performance.now() - since
        await c.judge()
        const last = await rowOf(world, held.task)
        c.expect(last.successes === 1 && last.version === row.version + 1, `afterwards ${JSON.stringify(last)}`)
        return `its claim and its job were still its own; confirmed ${Math.round(late - stood)} ms after it went on, one success`
      }),
      report.case(`F43 worker stopped for ${LONG_MS / 1000} s, before the destruction (3a); job lock ${WORKER_OPTIONS.lockDuration / 1000} s`, async c => {
        await set
        const { clients, held, worker, since, row } = await stops(c, 'revoke.3a').finally(isBoth)
        const lock = `${PREFIX}:${DESTROY_QUEUE}:destroy_${row.id}_${row.version - 1}:lock`
        const hasLock = async () => (await world.redisCommand({ url: redis.url }, 'exists', lock)) === 1
        // On a crowded machine a first sweep may come late and take the row before the job does: told, since then no lock can be lost.
        const byJob = await hasLock()
        await meanwhile()
        const other = await start()
        await revoked(held, 60_000)
        const done = performance.now() - since
        await sleep(LONG_MS - done)
        c.expect(!(await hasLock()), 'the lock of its job still stood')
        const before = await rowOf(world, held.task)
        c.expect(before.successes === 1 && before.version > row.version, `the other's success: ${JSON.stringify(before)}`)
        resume(worker)
        await sleep(1_500)
        c.expect(!worker.hasEnded(), 'it died of what it found')
        const after = await rowOf(world, held.task)
        c.expect(after.version === before.version && after.successes === 1, `it changed the row: ${JSON.stringify(after)}`)
        // The twin: nobody else is there now, and the same worker does the same work.
        await end(other)
        if (short) await end(short.worker)
        const twin = await issued(clients)
        await clients.complete(twin)
        await revoked(twin, 10_000)
        await c.judge()
        c.expect((await rowOf(world, twin.task)).successes === 1, 'the twin has no success')
        return `taken by ${byJob ? 'its job, whose lock ran out' : 'its sweep'}; another confirmed it after ${(done / 1000).toFixed(1)} s (claim run out); it went on, destroyed again and confirmed nothing; its next job succeeded`
      }),
    ])
  } finally {
    await Promise.all([at.child, ...started].map(kill))
    await hand.close()
    await redis.stop()
  }
}
