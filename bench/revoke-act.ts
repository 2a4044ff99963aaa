/** Owns the figures of one act that ends very many: when it refuses, whom it keeps waiting, when the last row is closed. */
import { setTimeout as sleep } from 'node:timers/promises'
import { middle, type Report, spread } from './report.js'
import { untilNone } from './revoke-due.js'
import { untilRefused } from './revoke-refused.js'
import { emptied, seed } from './seed.js'
import type { World } from './world.js'

const ROUNDS = 3
const PER_TASK = 100

export async function benchAct(world: World, report: Report, size: number): Promise<void> {
  report.title(
    `c. one act that ends ${size.toLocaleString('en')} credentials of ${Math.ceil(size / PER_TASK).toLocaleString('en')} tasks  (${ROUNDS} rounds each)`,
  )
  await kind(world, report, size, 'identity cut-off', identity => ({ identity }))
  await kind(world, report, size, 'attribute selector', () => ({ repository_id: '456789' }))
}

async function kind(world: World, report: Report, size: number, name: string, selector: (identity: string) => object): Promise<void> {
  const refused: number[] = []
  const closed: number[] = []
  const alone: number[] = []
  const meanwhile: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    await emptied(world.db)
    const victim = await world.issue()
    const others = await Promise.all(Array.from({ length: 150 }, () => world.issue('456790')))
    const { identity } = (await world.db.query('select identity from curfew.credentials where id = $1', [victim.id])).rows[0]
    await seed(world.db, { like: victim.id, credentials: size - 1, perTask: PER_TASK })
    await world.db.query('vacuum analyze curfew.credentials')
    // What was issued in this second would be of the same second as the act.
    await sleep(1_100)
    const revokeNext = async () => {
      const next = others.pop()
      if (!next) return null
      const began = performance.now()
      await world.revoke({ credential: next.id })
      return performance.now() - began
    }
    for (let i = 0; i < 40; i++) alone.push((await revokeNext()) ?? 0)

    const began = Date.now()
    let isOpen = true
    const [took] = await Promise.all([
      untilRefused(world, victim.token, selector(identity)),
      untilNone(world, began, `identity = '${identity}' and state in ('pending', 'active')`, 100).then(ms => {
        isOpen = false
        closed.push(ms)
      }),
      (async () => {
        for (await sleep(2); isOpen; await sleep(25)) {
          const waited = await revokeNext()
          if (waited === null) return
          meanwhile.push(waited)
        }
      })(),
    ])
    refused.push(took)
    report.say(`${name}, round ${round + 1}: refused ${took.toFixed(1)} ms, all rows closed ${closed.at(-1)} ms`)
  }
  const [before, during] = [spread(alone), spread(meanwhile)]
  report.figure({
    what: `${name}: refused by another process, median`,
    value: middle(refused),
    unit: 'ms',
    goal: { most: 100 },
    note: `worst ${Math.max(...refused).toFixed(0)} ms`,
  })
  report.figure({
    what: `${name}: delay of another revocation meanwhile, p99 over p99 alone`,
    value: Math.max(0, during.p99 - before.p99),
    unit: 'ms',
    goal: { most: 50 },
    note: `alone p50 ${before.p50.toFixed(1)} p99 ${before.p99.toFixed(1)}; meanwhile p50 ${during.p50.toFixed(1)} p99 ${during.p99.toFixed(1)} of ${during.n}`,
  })
  report.figure({ what: `${name}: all rows closed, median`, value: middle(closed) / 1000, unit: 's', goal: { most: 10 } })
  await emptied(world.db)
}
