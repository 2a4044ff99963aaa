/** Owns the figure of everything that falls due in one second, beside one job per credential. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { inherited, repository } from '../src/dev/find.js'
import { startProcess } from '../src/dev/process.js'
import { addEach, hurried } from './job-each.js'
import { middle, type Report } from './report.js'
import { emptied, seed } from './seed.js'
import type { World } from './world.js'

const ROUNDS = 3
const EACH = 'bench:each'

/** Milliseconds from an instant until nothing answers the condition any more. */
export async function untilNone(world: World, since: number, condition: string, everyMs = 50): Promise<number> {
  for (;;) {
    const { rows } = await world.db.query(`select exists (select 1 from curfew.credentials where ${condition}) as left`)
    if (!rows[0].left) return Date.now() - since
    await sleep(everyMs)
  }
}

const waitFor = async (at: number) => {
  while (Date.now() < at) await sleep(Math.max(1, Math.min(50, at - Date.now())))
}

export async function benchDue(world: World, report: Report, size: number): Promise<void> {
  const each = Math.min(size, 20_000)
  report.title(
    `b. ${size.toLocaleString('en')} signed tokens due in the same second  (${ROUNDS} rounds; a job each with ${each.toLocaleString('en')}, in turn)`,
  )
  const closed: number[] = []
  const revoked: number[] = []
  const beside: number[] = []
  let rate = 5_000
  for (let round = 0; round < ROUNDS; round++) {
    await emptied(world.db)
    const like = (await world.issue('456790')).id
    const second = Math.floor(Date.now() / 1000) + Math.ceil((size / rate) * 1.7) + 4
    rate = await seed(world.db, { like, credentials: size, perTask: 100, expiresAt: second })
    if (Date.now() > second * 1000 - 500) throw new Error('seeding took longer than thought: run it again')
    await hurried(world.redis.url, second)
    await waitFor(second * 1000)
    closed.push(await untilNone(world, second * 1000, `state = 'active' and expires_at <= to_timestamp(${second})`))
    revoked.push(await untilNone(world, second * 1000, `state in ('revoking', 'stuck')`))
    beside.push(await jobEach(world, like, each))
    report.say(`round ${round + 1}: closed ${closed.at(-1)} ms, all revoked ${revoked.at(-1)} ms; a job each ${beside.at(-1)?.toFixed(0)} ms`)
  }
  const ours = middle(closed)
  report.figure({ what: 'all closed (no longer active), median', value: ours / 1000, unit: 's', goal: { most: 3 } })
  report.figure({ what: 'all revoked, each after a probe, median', value: middle(revoked) / 1000, unit: 's' })
  report.figure({ what: `one BullMQ job per credential, ${each.toLocaleString('en')} closed, median`, value: middle(beside) / 1000, unit: 's' })
  report.figure({ what: 'rows closed a second against a job per credential', value: size / ours / (each / middle(beside)), unit: 'x', goal: { least: 6 } })
  await emptied(world.db)
}

/** Far from their end, so that nobody else closes them. */
async function jobEach(world: World, like: string, n: number): Promise<number> {
  const dir = mkdtempSync(join(tmpdir(), 'cf-each-'))
  const worker = await startProcess({
    name: 'each',
    dir,
    command: process.execPath,
    args: [join(repository(), 'dist/bench/job-each.js'), world.redis.url, world.store.url],
    env: inherited(),
    ready: async () => readFileSync(join(dir, 'each.log'), 'utf8').includes('working'),
  })
  try {
    await seed(world.db, { like, credentials: n, perTask: 100, identity: EACH })
    const ids = (await world.db.query(`select id from curfew.credentials where identity = $1 and state = 'active'`, [EACH])).rows.map(r => r.id as string)
    const at = Date.now() + Math.ceil(n / 3) + 2_000
    await addEach(world.redis.url, ids, at)
    if (Date.now() > at) throw new Error('adding a job each took longer than thought: run it again')
    await waitFor(at)
    return await untilNone(world, at, `identity = '${EACH}' and state in ('pending', 'active')`)
  } finally {
    await worker.stop()
    rmSync(dir, { recursive: true, force: true })
  }
}
