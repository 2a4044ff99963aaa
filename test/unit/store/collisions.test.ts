/** What the store makes of a database that says "collided, try again", and of one that says nothing. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { Store } from '../../../src/ports.js'
import { migrate, readMigrations } from '../../../src/store/migrate.js'
import { storeOver } from '../../../src/store/open.js'
import { pgliteDriver } from '../../../src/store/pglite.js'
import { type Driver, RETRIES, type Sql, sqlOver } from '../../../src/store/sql.js'
import { context, grantFor, mark, minted, openTask, operator, sealed } from '../../conformance/store/fixtures.js'
import { emptied, MIGRATIONS, quiet } from '../../conformance/store/houses.js'

const collision = (code: string) => Object.assign(new Error('could not serialize access'), { code })

/** A database that refuses a share of all transactions: before a statement of theirs, or at the commit when all were done. */
function colliding(driver: Driver, state: { share: number; attempts: number; refused: number }): Driver {
  let n = 0
  return {
    ...driver,
    transaction: (fn, first) =>
      driver.transaction(async tx => {
        state.attempts++
        const refuse = (n++ * 37) % 100 < state.share * 100 ? 1 + (n % 9) : null
        let statements = 0
        const result = await fn({
          ...tx,
          query: (text, params) => {
            if (++statements === refuse) {
              state.refused++
              throw collision(n % 2 ? '40001' : '40P01')
            }
            return tx.query(text, params)
          },
        })
        if (refuse !== null && statements < refuse) {
          state.refused++
          throw collision('40001')
        }
        return result
      }, first),
  }
}

describe('a store whose database collides', () => {
  const state = { share: 0, attempts: 0, refused: 0 }
  let sql: Sql
  let store: Store
  beforeAll(async () => {
    sql = sqlOver(colliding(await pgliteDriver(null), state))
    await migrate(sql, await readMigrations(MIGRATIONS))
    store = await storeOver({ main: sql, urgent: sql, close: () => sql.close() }, 'pglite', { sealDigest: sealed, log: quiet }, async () => {})
  })
  beforeEach(async () => {
    Object.assign(state, { share: 0, attempts: 0, refused: 0 })
    await emptied(sql)
  })
  afterAll(() => store?.close())

  it('in every fifth transaction repeats it, and no effect happens twice (F36)', async () => {
    const tasks = [await openTask(store), await openTask(store)]
    state.share = 0.2
    const made = []
    for (let i = 0; i < 120; i++) {
      const task = tasks[i % 2] as (typeof tasks)[number]
      made.push(await store.credentials.record(grantFor(store, task), minted(), { marks: [mark(store), mark(store, { namespace: 'dpop:k' })], context }))
    }
    for (const task of tasks) await store.revocations.commit({ kind: 'task', key: task.id }, 'completed', { actor: operator })
    expect(state.refused).toBeGreaterThan(15)
    expect(await sql.query('select count(*)::int as n from curfew.credentials')).toEqual([{ n: 120 }])
    expect(await sql.query('select count(*)::int as n from curfew.marks')).toEqual([{ n: 240 }])
    const audit = await sql.query<{ kind: string; n: number }>('select kind, count(*)::int as n from curfew.audit group by kind')
    expect(Object.fromEntries(audit.map(r => [r.kind, r.n]))).toEqual({
      'task.opened': 2,
      'decision.permitted': 120,
      'credential.issued': 120,
      'credential.revoking': 120,
      'task.ended': 2,
      'revocation.committed': 2,
    })
    expect((await store.revocations.since(0, 9)).map(e => e.seq)).toEqual([1, 2])
    expect(made).toHaveLength(120)
  })

  it('without end gives up after five repeats, and says only that it is unavailable (F36, H22)', async () => {
    const task = await openTask(store)
    Object.assign(state, { share: 1, attempts: 0 })
    const grant = grantFor(store, task)
    const failure = await store.credentials.record(grant, minted(), { marks: [], context }).catch(error => error)
    expect(failure).toMatchObject({ code: 'unavailable', message: 'the store does not answer' })
    expect(state.attempts).toBe(1 + RETRIES)
    state.share = 0
    expect(await store.credentials.get(grant.id)).toBeNull()
  })

  it('a refusal of ours is not repeated', async () => {
    const used = mark(store)
    await store.replay.claim([used])
    const before = state.attempts
    await expect(store.replay.claim([used])).rejects.toMatchObject({ code: 'attestation_refused' })
    expect(state.attempts).toBe(before + 1)
  })
})
