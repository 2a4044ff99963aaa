/** Owns what a credential costs at rest, and what a large store costs the two walks. */
import { Redis } from 'ioredis'
import { type Report, spread } from './report.js'
import { emptied, seed } from './seed.js'
import type { World } from './world.js'

const MEASURED = 2_000
const SAMPLES = 200

export async function benchStore(world: World, report: Report, rows: number): Promise<void> {
  report.title(`e. at rest, and latency at 1,000 against ${rows.toLocaleString('en')} active rows`)
  await emptied(world.db)
  await bytes(world, report)
  await emptied(world.db)

  const like = (await world.issue('456790')).id
  await latencies(world)
  await seed(world.db, { like, credentials: 1_000, perTask: 10 })
  const few = await latencies(world)
  await seed(world.db, { like, credentials: rows - 1_000, perTask: 10 })
  await world.db.query('vacuum analyze curfew.credentials')
  const many = await latencies(world)
  for (const walk of ['issue', 'revoke'] as const)
    report.figure({
      what: `${walk}: p50 at ${rows.toLocaleString('en')} rows against 1,000`,
      value: many[walk].p50 / few[walk].p50,
      unit: 'x',
      goal: { most: 1.2 },
      note: `${few[walk].p50.toFixed(2)} → ${many[walk].p50.toFixed(2)} ms; p99 ${few[walk].p99.toFixed(1)} → ${many[walk].p99.toFixed(1)}`,
    })
  await emptied(world.db)
}

async function bytes(world: World, report: Report): Promise<void> {
  const size = async () =>
    (
      await world.db.query(
        `select pg_total_relation_size('curfew.credentials') + pg_total_relation_size('curfew.audit') + pg_total_relation_size('curfew.decisions') as ours,
                pg_total_relation_size('curfew.tasks') as tasks`,
      )
    ).rows[0] as { ours: string; tasks: string }
  const redis = new Redis(world.redis.url)
  const keys = async () => new Set(await redis.keys('*'))
  const [before, known] = [await size(), await keys()]
  const ids: string[] = []
  for (let i = 0; i < MEASURED; i += 50) ids.push(...(await Promise.all(Array.from({ length: 50 }, () => world.issue('456790')))).map(made => made.id))
  const after = await size()
  const fresh = [...(await keys())].filter(key => !known.has(key))
  let held = 0
  for (const key of fresh) held += Number(await redis.call('MEMORY', 'USAGE', key))
  const naming = fresh.filter(key => ids.some(id => key.includes(id))).length
  redis.disconnect()
  report.figure({
    what: 'PostgreSQL: credentials, audit and decisions, a credential',
    value: (Number(after.ours) - Number(before.ours)) / MEASURED,
    unit: 'bytes',
  })
  report.figure({ what: 'PostgreSQL: its task (here one each)', value: (Number(after.tasks) - Number(before.tasks)) / MEASURED, unit: 'bytes' })
  report.figure({ what: 'Redis: keys that are a signed credential’s own', value: naming, unit: 'keys', goal: { most: 0 } })
  report.figure({
    what: 'Redis: one job a second in which something ends, a credential',
    value: held / MEASURED,
    unit: 'bytes',
    note: `${fresh.length} new keys for ${MEASURED} credentials`,
  })
}

/** One after the other: what a lone caller waits. */
async function latencies(world: World) {
  const issue: number[] = []
  const revoke: number[] = []
  for (let i = 0; i < SAMPLES; i++) {
    const ask = await world.prepared('456790')
    const began = performance.now()
    const { id } = await ask()
    const issued = performance.now()
    await world.revoke({ credential: id })
    issue.push(issued - began)
    revoke.push(performance.now() - issued)
  }
  return { issue: spread(issue), revoke: spread(revoke) }
}
