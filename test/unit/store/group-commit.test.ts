/** Many issues in one transaction: each passes or is refused by itself, whatever becomes of the others. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { Selector } from '../../../src/domain/revocation.js'
import type { CredentialStore, Store } from '../../../src/ports.js'
import { credentialStore } from '../../../src/store/credentials.js'
import { groupCommit } from '../../../src/store/group-commit.js'
import { migrate, readMigrations } from '../../../src/store/migrate.js'
import { storeOver } from '../../../src/store/open.js'
import { pgliteDriver } from '../../../src/store/pglite.js'
import { type Driver, type Sql, sqlOver } from '../../../src/store/sql.js'
import { childOf, context, grantFor, mark, minted, newTask, openTask, operator, permit, quarantine, sealed } from '../../conformance/store/fixtures.js'
import { emptied, MIGRATIONS, quiet } from '../../conformance/store/houses.js'

interface Hands {
  transactions: number
  /** Thrown by the next transactions, after their work and before their commit. */
  fail: (statements: string[]) => unknown
  /** Thrown after the commit: the answer is lost. */
  loseAnswer: unknown
}

function held(driver: Driver, hands: Hands): Driver {
  return {
    ...driver,
    async transaction(fn, first) {
      hands.transactions++
      const result = await driver.transaction(async tx => {
        const seen: string[] = []
        const done = await fn({
          ...tx,
          query: (text, params) => {
            seen.push(`${text} ${JSON.stringify(params ?? [])}`)
            return tx.query(text, params)
          },
        })
        const failure = hands.fail(seen)
        if (failure) throw failure
        return done
      }, first)
      if (hands.loseAnswer) throw hands.loseAnswer
      return result
    },
  }
}

describe('group commit', () => {
  const hands: Hands = { transactions: 0, fail: () => null, loseAnswer: null }
  let sql: Sql
  let store: Store
  let credentials: CredentialStore
  beforeAll(async () => {
    sql = sqlOver(held(await pgliteDriver(null), hands))
    await migrate(sql, await readMigrations(MIGRATIONS))
    store = await storeOver({ main: sql, urgent: sql, close: () => sql.close() }, 'pglite', { sealDigest: sealed, log: quiet }, async () => {})
    credentials = credentialStore(sql, { sealDigest: sealed }, groupCommit)
  })
  beforeEach(async () => {
    Object.assign(hands, { fail: () => null, loseAnswer: null })
    await emptied(sql)
    hands.transactions = 0
  })
  afterAll(() => store?.close())

  const record = (task: Parameters<typeof grantFor>[1], over: Parameters<typeof grantFor>[2] = {}, marks = [mark(store)]) =>
    credentials.record(grantFor(store, task, over), minted(), { marks, context })
  const rows = async (table: string) => (await sql.query<{ n: number }>(`select count(*)::int as n from curfew.${table}`))[0]?.n

  it('takes what comes together in few transactions, with a row and its evidence for each', async () => {
    const tasks = [await openTask(store), await openTask(store)]
    hands.transactions = 0
    const made = await Promise.all(Array.from({ length: 100 }, (_, i) => record(tasks[i % 2] as never)))
    expect(hands.transactions).toBeLessThan(5)
    expect(new Set(made.map(c => c.id)).size).toBe(100)
    for (const c of made) expect(await store.credentials.live(c.id)).toEqual(c)
    expect(await store.audit.list({ kind: 'credential.issued', limit: 500 })).toHaveLength(100)
    expect(await store.audit.list({ kind: 'decision.permitted', limit: 500 })).toHaveLength(100)
  })

  it('refuses each failing member alone, for its own reason, and burns nothing of it (I4, R01)', async () => {
    const good = await openTask(store)
    const ended = await openTask(store)
    await store.revocations.commit({ kind: 'task', key: ended.id }, 'completed', { actor: operator })
    const barred = await openTask(store)
    await quarantine(store, { kind: 'identity', key: barred.attestation.identity } as Selector, 60)
    const used = mark(store)
    await store.replay.claim([used])
    const spared = mark(store, { namespace: 'dpop:spared' })
    const twice = mark(store)
    const lost = newTask(store)
    const opened = newTask(store)
    hands.transactions = 0
    const results = await Promise.allSettled([
      record(good),
      record(ended),
      record(barred),
      record(good, {}, [spared, used]),
      record(good, {}, [twice]),
      record(good, {}, [twice]),
      record(newTask(store)),
      record(good, { name: 'full', maxLive: 1 }),
      record(good, { name: 'full', maxLive: 1 }),
      credentials.record(grantFor(store, opened), minted(), {
        marks: [mark(store)],
        context,
        open: { task: opened, decisions: [permit(opened, 'api/read', store.clock.now())] },
      }),
      credentials.record(grantFor(store, lost), minted(), { marks: [used], context, open: { task: lost, decisions: [] } }),
      record(good, { issuedAt: new Date(store.clock.now().getTime() + 5_000) }),
      record(good),
    ])
    expect(hands.transactions).toBe(1)
    expect(results.map(r => (r.status === 'fulfilled' ? 'made' : `${r.reason.code} ${r.reason.facts.reason}`))).toEqual([
      'made',
      'task_ended completed',
      'policy_denied quarantined',
      'attestation_refused replayed',
      'made',
      'attestation_refused replayed',
      'not_found not_found',
      'made',
      'rate_limited capability_full',
      'made',
      'attestation_refused replayed',
      'unavailable clock_skew',
      'made',
    ])
    expect(await rows('credentials')).toBe(5)
    expect(await store.replay.seen(spared)).toBe(false)
    expect(await store.tasks.get(lost.id)).toBeNull()
    expect((await store.tasks.get(opened.id))?.state).toBe('open')
    expect(await store.audit.list({ kind: 'decision.permitted', limit: 500 })).toHaveLength(6)
  })

  it('bounded evidence of one holder passes twice in one batch, of two holders once', async () => {
    const task = await openTask(store)
    const mine = mark(store, { holder: 'jkt-1' })
    const results = await Promise.allSettled([record(task, {}, [mine]), record(task, {}, [mine]), record(task, {}, [{ ...mine, holder: 'jkt-2' }])])
    expect(results.map(r => r.status)).toEqual(['fulfilled', 'fulfilled', 'rejected'])
  })

  it('splits a batch that the database refuses, until only the member at fault has failed (F36)', async () => {
    const task = await openTask(store)
    const bad = grantFor(store, task)
    hands.fail = statements =>
      statements.some(s => s.includes('insert into curfew.credentials') && s.includes(bad.id)) ? Object.assign(new Error('serialize'), { code: '40001' }) : null
    const all = [
      ...Array.from({ length: 7 }, () => record(task)),
      credentials.record(bad, minted(), { marks: [], context }),
      ...Array.from({ length: 4 }, () => record(task)),
    ]
    const results = await Promise.allSettled(all)
    expect(results.filter(r => r.status === 'fulfilled')).toHaveLength(11)
    expect(results[7]).toMatchObject({ status: 'rejected', reason: { code: 'unavailable' } })
    expect(await rows('credentials')).toBe(11)
    expect(await rows('marks')).toBe(11)
    expect(await store.audit.list({ kind: 'credential.issued', limit: 500 })).toHaveLength(11)
  })

  it('a text that no database holds fails its own member only (T60)', async () => {
    const task = await openTask(store)
    const nul = newTask(store, { purpose: 'a\0b' })
    const results = await Promise.allSettled([
      record(task),
      credentials.record(grantFor(store, nul), minted(), { marks: [], context, open: { task: nul, decisions: [] } }),
      record(task),
    ])
    expect(results.map(r => r.status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(results[1]).toMatchObject({ reason: { code: 'malformed' } })
  })

  it('tells all of a batch whose commit nobody knows of that it is unavailable, and repeats nothing (F34)', async () => {
    const task = await openTask(store)
    hands.transactions = 0
    hands.loseAnswer = new Error('Connection terminated unexpectedly')
    const results = await Promise.allSettled([record(task), record(task), record(task)])
    for (const r of results) expect(r).toMatchObject({ status: 'rejected', reason: { code: 'unavailable' } })
    expect(hands.transactions).toBe(1)
    // They are there, handed to nobody: a retry with the same key, or their own end, sees to them.
    expect(await rows('credentials')).toBe(3)
  })

  it('keeps children and parents of one batch apart from what they may not see: a child of a task opened beside it is refused', async () => {
    const parent = newTask(store)
    const child = childOf(store, { ...(parent as never as Parameters<typeof childOf>[1]), ancestors: [] })
    const results = await Promise.allSettled([
      credentials.record(grantFor(store, parent), minted(), { marks: [], context, open: { task: parent, decisions: [] } }),
      credentials.record(grantFor(store, child), minted(), { marks: [], context, open: { task: child, decisions: [] } }),
    ])
    expect(results.map(r => r.status)).toEqual(['fulfilled', 'rejected'])
    expect(results[1]).toMatchObject({ reason: { code: 'not_found' } })
  })
})
