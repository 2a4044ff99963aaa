/** Every suite of the store over a real PostgreSQL server, and what only a server with several connections can show. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Claim } from '../../src/domain/credential.js'
import { Secret } from '../../src/domain/secret.js'
import type { Store } from '../../src/ports.js'
import { checkMigrations, migrate, readMigrations } from '../../src/store/migrate.js'
import { connect, openStore } from '../../src/store/open.js'
import { CUTOFF_LOCK, type Sql } from '../../src/store/sql.js'
import { testBatches } from '../conformance/store/batches.js'
import { testBundles } from '../conformance/store/bundles.js'
import { testCredentials } from '../conformance/store/credentials.js'
import { testDelegation } from '../conformance/store/delegation.js'
import {
  active,
  attestation,
  context,
  grantFor,
  intendOne,
  mark,
  minted,
  openTask,
  operator,
  pending,
  sealed,
  settleOne,
} from '../conformance/store/fixtures.js'
import { testGuards } from '../conformance/store/guards.js'
import { emptied, houseOver, MIGRATIONS, quiet, type SqlHouse } from '../conformance/store/houses.js'
import { testRecords } from '../conformance/store/records.js'
import { testResponders } from '../conformance/store/responders.js'
import { testRevocations } from '../conformance/store/revocations.js'
import { testRuns } from '../conformance/store/runs.js'
import { testTasks } from '../conformance/store/tasks.js'
import { testWalk } from '../conformance/store/walk.js'
import { type Cluster, startCluster, whyNoPostgres } from './postgres-cluster.js'

const why = whyNoPostgres()

describe.skipIf(why !== null)(`the store on a PostgreSQL server${why ? `: skipped, ${why}` : ''}`, () => {
  let cluster: Cluster
  let house: SqlHouse
  const config = () => ({ kind: 'postgres' as const, url: Secret.token(cluster.url), maxConnections: 16 })
  const open = (): Promise<Store> => openStore(config(), { migrationsDir: MIGRATIONS, sealDigest: sealed, log: quiet })
  beforeAll(async () => {
    cluster = await startCluster()
    house = await houseOver(await connect(config(), quiet), 'postgres')
  })
  afterAll(async () => {
    await house?.close()
    await cluster?.stop()
  })

  const make = () => house.make()
  testTasks('PostgreSQL', make)
  testCredentials('PostgreSQL', make)
  testBatches('PostgreSQL', make)
  testBundles('PostgreSQL', make)
  testRevocations('PostgreSQL', make)
  testRuns('PostgreSQL', make)
  testGuards('PostgreSQL', make)
  testResponders('PostgreSQL', make)
  testDelegation('PostgreSQL', make)
  testRecords('PostgreSQL', make)
  testWalk('PostgreSQL', make, 25)

  describe('two replicas', () => {
    let other: Store
    let sql: Sql
    beforeAll(async () => {
      await emptied(house.sql)
      other = await open()
      sql = house.sql
    })
    afterAll(() => other?.close())

    it('a one-time mark has one winner among 200 uses on both (R01, P50)', async () => {
      const { store } = await house.make()
      for (let burst = 0; burst < 5; burst++) {
        const task = await openTask(store)
        const used = mark(store)
        const results = await Promise.allSettled(
          Array.from({ length: 200 }, (_, i) =>
            (i % 2 ? store : other).credentials.record(grantFor(store, task), minted(), { marks: [used, mark(store, { namespace: 'dpop:k' })], context }),
          ),
        )
        expect(results.filter(r => r.status === 'fulfilled')).toHaveLength(1)
        for (const r of results) if (r.status === 'rejected') expect(r.reason).toMatchObject({ facts: { reason: 'replayed' } })
        expect(await store.credentials.list({ task: task.id, limit: 9 })).toHaveLength(1)
      }
    })

    it('T71 tasks of one run have one tombstone, whatever the planner makes of the table', async () => {
      const { store } = await house.make()
      for (let i = 0; i < 10; i++) await Promise.all(Array.from({ length: 30 }, () => openTask(store)))
      const own = attestation(store, { identity: 'github:repository_id=71', run: 'run-71' })
      for (let i = 0; i < 6; i++) await openTask(store, { attestation: own })
      // It knows now that next to no task has a run, and expects one row where there are six.
      await sql.query('analyze curfew.tasks')
      const revoked = await store.revocations.commit({ kind: 'identity', key: own.identity }, 'requested', { actor: operator })
      while ((await store.credentials.closeOverdue(100)).length > 0);
      expect(await sql.query('select run, revocation from curfew.tombstones')).toEqual([{ run: `${own.issuerId} run-71`, revocation: revoked.id }])
    })

    it('a revocation waits for an issue that began before it, and whoever begins after waits for the revocation (R02)', async () => {
      const { store } = await house.make()
      const task = await openTask(store)
      const order: string[] = []
      let release = () => {}
      const held = new Promise<void>(resolve => {
        release = resolve
      })
      const issuing = sql.tx(async tx => {
        await tx.query('select pg_advisory_xact_lock_shared($1::bigint)', [CUTOFF_LOCK])
        await held
        order.push('issued')
      })
      await sleep(50)
      const cut = other.revocations.commit({ kind: 'all', key: '*' }, 'requested', { actor: operator }).then(r => {
        order.push('cut')
        return r
      })
      await sleep(50)
      const late = store.credentials.record(grantFor(store, task), minted(), { marks: [], context }).catch(error => {
        order.push('refused')
        return error
      })
      await sleep(100)
      expect(order).toEqual([])
      release()
      const [, , refusal] = await Promise.all([issuing, cut, late])
      expect(order).toEqual(['issued', 'cut', 'refused'])
      expect(refusal).toMatchObject({ code: 'task_ended' })
    })

    it('issuing on both while scopes, tasks and credentials are revoked on both: nothing issued up to an act outlives it, and no seq is missing (R02, R11)', async () => {
      const { store } = await house.make()
      const tasks = await Promise.all(Array.from({ length: 8 }, () => openTask(store)))
      const made: { id: string; at: number }[] = []
      const seen: number[] = []
      let done = false
      const reader = (async () => {
        while (!done) {
          seen.push(...(await other.revocations.since(seen.at(-1) ?? 0, 5)).map(e => e.seq))
          await sleep(1)
        }
        for (let more = await other.revocations.since(seen.at(-1) ?? 0, 100); more.length > 0; more = await other.revocations.since(seen.at(-1) ?? 0, 100))
          seen.push(...more.map(e => e.seq))
      })()
      const issuers = tasks.flatMap((task, t) =>
        [store, other].map(async (replica, r) => {
          for (let i = 0; i < 20; i++) {
            const local = (t + r + i) % 2 === 0
            const grant = grantFor(store, task, { name: `cap/n${i % 6}`, issuedAt: replica.clock.now() })
            const c = local
              ? await replica.credentials.record(grant, minted(), { marks: [mark(store)], context }).catch(() => null)
              : await intendOne(replica, grant, { marks: [mark(store)], context })
                  .then(p => settleOne(replica, p, minted()))
                  .catch(() => null)
            if (c) made.push({ id: c.id, at: c.issuedAt.getTime() })
          }
        }),
      )
      const acts: { kind: string; key: string; at: number }[] = []
      const revokers = [store, other].map(async (replica, r) => {
        for (let i = 0; i < 15; i++) {
          await sleep(10)
          const victim = made.at(-1)
          const act =
            i % 3 === 0 && victim
              ? ({ kind: 'credential', key: victim.id } as const)
              : i % 5 === 0
                ? ({ kind: 'task', key: tasks[(i + r) % tasks.length]?.id } as const)
                : ({ kind: 'capability', key: `cap/n${i % 3}` } as const)
          const done = await replica.revocations.commit(act as never, 'requested', { actor: operator })
          acts.push({ ...act, key: act.key as string, at: done.at.getTime() })
        }
      })
      await Promise.all([...issuers, ...revokers])
      done = true
      await reader
      expect(seen).toEqual(Array.from({ length: 30 }, (_, i) => i + 1))
      for (const { id } of made) {
        const c = (await store.credentials.get(id as never)) as NonNullable<Awaited<ReturnType<Store['credentials']['get']>>>
        const hit = acts.some(
          a =>
            (a.kind === 'credential' && a.key === id) ||
            (a.kind === 'task' && a.key === c.task) ||
            (a.kind === 'capability' && a.key === c.capability && c.issuedAt.getTime() <= a.at),
        )
        expect((await store.credentials.live(c.id)) !== null, id).toBe(!hit)
      }
      expect(made.length).toBeGreaterThan(20)
      expect(await store.audit.list({ kind: 'credential.issued', limit: 1_000 })).toHaveLength(made.length)
    })

    it('one row is claimed by one of many on both (R12)', async () => {
      const { store } = await house.make()
      const task = await openTask(store)
      for (let i = 0; i < 10; i++) {
        const c = await active(store, task)
        await store.revocations.commit({ kind: 'credential', key: c.id }, 'requested', { actor: operator })
        const claims = await Promise.all(Array.from({ length: 20 }, (_, n) => (n % 2 ? store : other).credentials.claim(c.id, null)))
        expect(claims.filter(x => x !== null)).toHaveLength(1)
      }
    })

    it('a named lock is held by one of them at a time, and freed with the process that held it', async () => {
      const { store } = await house.make()
      let inside = () => {}
      const held = store.withLock('sweep', () => new Promise<void>(resolve => (inside = resolve)))
      await sleep(50)
      expect(await other.withLock('sweep', async () => {})).toBe(false)
      expect(await other.withLock('reconcile', async () => {})).toBe(true)
      inside()
      expect(await held).toBe(true)
      expect(await other.withLock('sweep', async () => {})).toBe(true)
      const third = await open()
      void third.withLock('sweep', () => new Promise<void>(() => {})).catch(() => {})
      await sleep(50)
      expect(await other.withLock('sweep', async () => {})).toBe(false)
      await sql.query(`select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()`)
      await sleep(100)
      expect(await other.withLock('sweep', async () => {})).toBe(true)
      await sql.query('select 1')
    })

    it('revocation has connections of its own: it commits while issuing has used up all others (F38)', async () => {
      const small = await openStore({ ...config(), maxConnections: 2 }, { migrationsDir: MIGRATIONS, sealDigest: sealed, log: quiet })
      const { store } = await house.make()
      const task = await openTask(store)
      const c = await active(store, task)
      try {
        // Somebody holds the task's row: every issue for it waits, with a connection each.
        let release = () => {}
        const blocker = sql.tx(async tx => {
          await tx.query('select id from curfew.tasks where id = $1 for update', [task.id])
          await new Promise<void>(resolve => (release = resolve))
        })
        await sleep(50)
        const waiting = Array.from({ length: 4 }, () => small.tasks.list({ limit: 1 }).then(() => sleep(1)))
        const hogs = Array.from({ length: 2 }, () => small.withLock(`hog-${Math.random()}`, async () => void (await sleep(1))))
        await small.revocations.commit({ kind: 'credential', key: c.id }, 'requested', { actor: operator })
        release()
        await Promise.all([blocker, ...waiting, ...hogs])
        expect(await store.credentials.live(c.id)).toBeNull()
      } finally {
        await small.close()
      }
    })
  })

  it('finds the rows of one act by their ids, whatever an incident has put into the indexes of states since the planner looked', async () => {
    const { store } = await house.make()
    const task = await openTask(store)
    const made = await active(store, task)
    const rows = 4_000
    await house.sql.query(
      `insert into curfew.credentials select (jsonb_populate_record(c, jsonb_build_object('id', 'crd_' || lpad(n::text, 26, '0'), 'digest', md5(n::text)))).*
       from curfew.credentials c, generate_series(1, ${rows}) n where c.id = $1`,
      [made.id],
    )
    await house.sql.query('analyze curfew.credentials')
    // The planner has seen no row that ends and none that an act ended; by the end all of them are.
    await store.revocations.commit({ kind: 'task', key: task.id }, 'requested', { actor: operator })
    const others = await openTask(store)
    const read = async () => {
      // What a session has read is told by it within a second of being idle.
      await sleep(1_500)
      await house.sql.query('select pg_stat_clear_snapshot()')
      const [row] = await house.sql.query<{ n: number }>(
        `select sum(idx_tup_read) as n from pg_stat_user_indexes where indexrelname in ('credentials_due', 'credentials_due_engine', 'credentials_revocation')`,
      )
      return Number(row?.n)
    }
    const before = await read()
    const acts = 10
    for (let i = 0; i < acts; i++) {
      const c = await active(store, others)
      const act = await store.revocations.commit({ kind: 'credential', key: c.id }, 'requested', { actor: operator })
      expect((await store.credentials.list({ revocation: act.id, limit: 200 })).map(l => l.id)).toEqual([c.id])
      const claim = await store.credentials.claim(c.id, null)
      expect(await store.credentials.confirm(claim as Claim, { outcome: 'dead', looked: ['introspection'], detail: null })).toBe(true)
      expect((await store.revocations.outcome(act.id)).revoked).toBe(1)
    }
    expect((await read()) - before).toBeLessThan(rows)
  })

  describe('connections', () => {
    it('commit to disk, whatever the server’s default says (I4)', async () => {
      await house.sql.query(`alter database postgres set synchronous_commit = 'off'`)
      const fresh = await connect(config(), quiet)
      try {
        expect(await fresh.main.query('show synchronous_commit')).toEqual([{ synchronous_commit: 'on' }])
        expect(await fresh.urgent.query('show synchronous_commit')).toEqual([{ synchronous_commit: 'on' }])
        expect(await fresh.main.query('show statement_timeout')).toEqual([{ statement_timeout: '5s' }])
        await fresh.main.tx(tx => tx.script('select pg_sleep(6.5)'))
      } finally {
        await fresh.close()
        await house.sql.query('alter database postgres reset synchronous_commit')
      }
    })

    it('prepare what they ask, and prepare it again when a migration changed a table under them', async () => {
      const { store } = await house.make()
      const issuedAndRevoked = async () => {
        const c = await active(store, await openTask(store))
        await store.revocations.commit({ kind: 'credential', key: c.id }, 'requested', { actor: operator })
        return (await store.credentials.get(c.id))?.state
      }
      // Wide, so that many connections hold plans of the tables as they were.
      const wide = () => Promise.all(Array.from({ length: 24 }, issuedAndRevoked))
      const wanted = Array.from({ length: 24 }, () => 'revoking')
      expect(await wide()).toEqual(wanted)
      expect((await house.sql.query(`select name from pg_prepared_statements where name like 'curfew_%'`)).length).toBeGreaterThan(0)
      const tables = ['tasks', 'credentials', 'revocations']
      for (const change of ['add column later text', 'drop column later']) {
        for (const table of tables) await house.sql.query(`alter table curfew.${table} ${change}`)
        expect(await wide()).toEqual(wanted)
      }
    })

    it('lost in the middle of a transaction: unavailable, nothing half-done, no crash, and the next one works (F34, F38, H22)', async () => {
      const { store } = await house.make()
      const task = await openTask(store)
      const failure = await house.sql
        .tx(async tx => {
          await tx.query(`update curfew.tasks set purpose = 'half' where id = $1`, [task.id])
          const [self] = await tx.query<{ pid: number }>('select pg_backend_pid() as pid')
          await house.sql.query('select pg_terminate_backend($1)', [self?.pid])
          await sleep(50)
          await tx.query('select 1')
        })
        .catch(error => error)
      expect(failure).toMatchObject({ code: 'unavailable', message: 'the store does not answer' })
      expect((await store.tasks.get(task.id))?.purpose).toBe('nightly build')
    })

    it('a transaction left idle is ended by the server: a stopped process holds no lock against revocations (F38)', async () => {
      const { store } = await house.make()
      const c = await active(store, await openTask(store))
      const stopped = house.sql
        .tx(async tx => {
          await tx.query('select pg_advisory_xact_lock_shared($1::bigint)', [CUTOFF_LOCK])
          await sleep(3_000)
          await tx.query('select 1')
        })
        .catch(error => error)
      await sleep(100)
      await store.revocations.commit({ kind: 'credential', key: c.id }, 'requested', { actor: operator })
      expect(await stopped).toMatchObject({ code: 'unavailable' })
      expect(await store.credentials.live(c.id)).toBeNull()
    })

    it('an error tells nothing of the database (H22)', async () => {
      const failure = await house.sql.query(`select * from curfew.no_such_table where secret = 'hunter2'`).catch(error => error)
      expect(JSON.stringify({ ...failure, message: failure.message })).not.toMatch(/no_such_table|hunter2|relation|select/)
      expect(failure.cause).toBeInstanceOf(Error)
    })

    it('the database itself refuses a transition that does not exist, and a change of evidence (I3)', async () => {
      const { store } = await house.make()
      const c = await active(store, await openTask(store))
      await store.revocations.commit({ kind: 'credential', key: c.id }, 'requested', { actor: operator })
      await expect(house.sql.query(`update curfew.credentials set state = 'active', reason = null where id = $1`, [c.id])).rejects.toMatchObject({
        code: 'unavailable',
      })
      await expect(house.sql.query(`update curfew.audit set reason = 'nicer'`)).rejects.toMatchObject({ code: 'unavailable' })
      await expect(house.sql.query('delete from curfew.audit')).rejects.toMatchObject({ code: 'unavailable' })
      await house.sql.query('update curfew.audit set leaf = id')
      await expect(house.sql.query('update curfew.audit set leaf = 1')).rejects.toMatchObject({ code: 'unavailable' })
    })
  })

  describe('TLS', () => {
    it('with a CA named, only a server that shows its certificate is spoken to, whatever the URL says', async () => {
      const dir = mkdtempSync(join(tmpdir(), 'curfew-tls-'))
      const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: dir, stdio: 'ignore' })
      const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
      openssl('req', '-x509', ...key, '-keyout', 'server.key', '-out', 'server.crt', '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost')
      openssl('req', '-x509', ...key, '-keyout', 'other.key', '-out', 'other.crt', '-subj', '/CN=localhost')
      const port = await new Promise<number>(resolve => {
        const probe = createServer().listen(0, '127.0.0.1', () => {
          const { port } = probe.address() as AddressInfo
          probe.close(() => resolve(port))
        })
      })
      const secure = await startCluster(
        { listen_addresses: 'localhost', port: String(port) },
        { 'server.key': readFileSync(join(dir, 'server.key')), 'server.crt': readFileSync(join(dir, 'server.crt')) },
      )
      const attempt = async (url: string, ca: string) => {
        const connections = await connect({ kind: 'postgres', url: Secret.token(url), maxConnections: 2, caFile: join(dir, ca) }, quiet)
        try {
          return await connections.main.query('select ssl from pg_stat_ssl where pid = pg_backend_pid()')
        } finally {
          await connections.close()
        }
      }
      try {
        const url = `postgresql://curfew@localhost:${port}/postgres`
        expect(await attempt(url, 'server.crt')).toEqual([{ ssl: true }])
        expect(await attempt(`${url}?sslmode=disable`, 'server.crt')).toEqual([{ ssl: true }])
        for (const mode of ['', '?sslmode=disable', '?sslmode=no-verify', '?sslmode=require&uselibpqcompat=true']) {
          await expect(attempt(url + mode, 'other.crt'), mode).rejects.toMatchObject({ code: 'unavailable' })
        }
      } finally {
        await secure.stop()
        rmSync(dir, { recursive: true, force: true })
      }
    })
  })

  describe('a crash of the server under load (F34, I4)', () => {
    it('loses nothing that was acknowledged, and leaves nothing of what was not', async () => {
      const { store } = await house.make()
      const task = await openTask(store)
      const acknowledged: string[] = []
      const attempted = new Map<string, string>()
      let stop = false
      const writers = Array.from({ length: 8 }, async () => {
        while (!stop) {
          const grant = grantFor(store, task, { maxLive: 100_000 })
          attempted.set(grant.id, grant.decision.id)
          try {
            await store.credentials.record(grant, minted(), { marks: [mark(store)], context })
            acknowledged.push(grant.id)
          } catch {
            await sleep(20)
          }
        }
      })
      await sleep(400)
      await cluster.crash()
      await sleep(300)
      stop = true
      await Promise.all(writers)
      await cluster.start()
      for (let i = 0; i < 50; i++)
        if (
          await store.ping().then(
            () => true,
            () => sleep(100).then(() => false),
          )
        )
          break
      expect(acknowledged.length).toBeGreaterThan(20)
      const rows = await house.sql.query<{ id: string; issued: number; permitted: number }>(
        `select c.id, (select count(*)::int from curfew.audit a where a.subject = c.id and a.kind = 'credential.issued') as issued,
                (select count(*)::int from curfew.audit a where a.subject = c.decision and a.kind = 'decision.permitted') as permitted from curfew.credentials c`,
      )
      const there = new Set(rows.map(r => r.id))
      expect(acknowledged.filter(id => !there.has(id))).toEqual([])
      for (const r of rows) expect(r).toMatchObject({ issued: 1, permitted: 1 })
      // What was not acknowledged is there as a whole or not at all.
      const decisions = new Set((await house.sql.query<{ id: string }>('select id from curfew.decisions')).map(r => r.id))
      for (const [credential, decision] of attempted) expect(decisions.has(decision)).toBe(there.has(credential))
    })
  })

  describe('migrations', () => {
    it('are applied once by two that start at once, and again change nothing', async () => {
      await house.sql.query('create database twice')
      const twice = { ...config(), url: Secret.token(cluster.url.replace('/postgres?', '/twice?')) }
      const [a, b] = await Promise.all([connect(twice, quiet), connect(twice, quiet)])
      try {
        const migrations = await readMigrations(MIGRATIONS)
        await expect(openStore(twice, { migrationsDir: MIGRATIONS, sealDigest: sealed, log: quiet })).rejects.toMatchObject({
          code: 'unavailable',
          facts: { reason: 'migrations_missing' },
        })
        const applied = (await Promise.all([migrate(a.main, migrations), migrate(b.main, migrations)])).flat()
        expect(applied.sort()).toEqual(migrations.map(m => m.name))
        expect(await migrate(a.main, migrations)).toEqual([])
        await checkMigrations(b.main, migrations)
        // Idempotent even by hand.
        for (const m of migrations) await a.main.tx(tx => tx.script(m.text))
      } finally {
        await Promise.all([a.close(), b.close()])
      }
    })
  })

  it('intends and settles on the server as well after all of this', async () => {
    const { store } = await house.make()
    const c = await pending(store, await openTask(store))
    expect(await settleOne(store, c, minted())).toMatchObject({ state: 'active' })
  })
})
