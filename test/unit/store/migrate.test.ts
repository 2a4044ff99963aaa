/** The schema's way forward. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { checkMigrations, type Migration, migrate, migrationOf, readMigrations } from '../../../src/store/migrate.js'
import { pgliteDriver } from '../../../src/store/pglite.js'
import { type Sql, sqlOver } from '../../../src/store/sql.js'
import { MIGRATIONS } from '../../conformance/store/houses.js'

describe('migrations', () => {
  let sql: Sql
  let ours: Migration[]
  beforeAll(async () => {
    sql = sqlOver(await pgliteDriver(null))
    ours = await readMigrations(MIGRATIONS)
  })
  beforeEach(() => sql.query('drop schema if exists curfew cascade'))
  afterAll(() => sql?.close())

  it('are applied in order, each once, and recorded', async () => {
    await expect(checkMigrations(sql, ours)).rejects.toMatchObject({ code: 'unavailable', facts: { reason: 'migrations_missing' } })
    expect(await migrate(sql, ours)).toEqual(ours.map(m => m.name))
    expect(await migrate(sql, ours)).toEqual([])
    await checkMigrations(sql, ours)
    expect(await sql.query('select name, hash from curfew.migrations order by name')).toEqual(ours.map(m => ({ name: m.name, hash: m.hash })))
  })

  it('do nothing to a schema that has them already, when run by hand', async () => {
    await migrate(sql, ours)
    await sql.query(`update curfew.counters set value = 7`)
    for (const m of ours) await sql.tx(tx => tx.script(m.text))
    expect(await sql.query('select value from curfew.counters')).toEqual([{ value: 7 }])
  })

  it('give the runs of an older release the names of ours: what was buried stays buried', async () => {
    await migrate(sql, ours.slice(0, 1))
    const attestation = (profile: string, run: string) => ({ profile, run, attributes: { repository_owner_id: '123456' } })
    for (const [id, profile, run] of [
      ['tsk_1', 'github', 'github:456789:9912:1:501'],
      ['tsk_2', 'kubernetes', 'cluster:pod:uid'],
    ] as const)
      await sql.query(
        `insert into curfew.tasks (id, purpose, capabilities, ancestors, labels, attestation, identity, issuer, issuer_id, run, jkt, state, opened_at, deadline_at, heartbeat_at, due_at,
                                   drained, version)
         values ($1, 'x', '{}', '{}', '{}', $2::jsonb, 'x', 'x', 'iss_x', $3, 'x', 'open', now(), now(), now(), now(), true, 1)`,
        [id, JSON.stringify(attestation(profile, run)), run],
      )
    await sql.query(`insert into curfew.tombstones (run, until, revocation) values ('iss_x github:456789:9912:1:501', now() + interval '1 day', 'rev_x')`)
    await migrate(sql, ours)
    const named = 'github:123456:456789:9912:1:501'
    expect(await sql.query(`select run, attestation->>'run' as told from curfew.tasks order by id`)).toEqual([
      { run: named, told: named },
      { run: 'cluster:pod:uid', told: 'cluster:pod:uid' },
    ])
    expect(await sql.query('select run, ending from curfew.tombstones')).toEqual([{ run: `iss_x ${named}`, ending: false }])
  })

  it('that fail leave nothing, not even their row', async () => {
    await migrate(sql, ours)
    const broken = migrationOf('9000_broken.sql', 'create table curfew.half (id text); select * from curfew.no_such_table;')
    await expect(migrate(sql, [...ours, broken])).rejects.toMatchObject({ code: 'unavailable' })
    expect(await sql.query(`select to_regclass('curfew.half') as t`)).toEqual([{ t: null }])
    expect(await sql.query(`select name from curfew.migrations where name = '9000_broken.sql'`)).toEqual([])
    await checkMigrations(sql, ours)
  })

  it('that were changed after they were applied are refused, before anything is done', async () => {
    await migrate(sql, ours)
    const [first, ...rest] = ours as [Migration, ...Migration[]]
    const edited = [migrationOf(first.name, `${first.text}\n-- edited`), ...rest]
    await expect(checkMigrations(sql, edited)).rejects.toMatchObject({ facts: { reason: 'migrations_changed' } })
    await expect(migrate(sql, [...edited, migrationOf('9000_more.sql', 'create table curfew.more (id text)')])).rejects.toMatchObject({
      facts: { reason: 'migrations_changed' },
    })
    expect(await sql.query(`select to_regclass('curfew.more') as t`)).toEqual([{ t: null }])
  })

  it('of a newer release are refused when they say that they break us, and tolerated while both releases run (F48)', async () => {
    const gentle = migrationOf('9000_gentle.sql', 'alter table curfew.tasks add column note text')
    await migrate(sql, [...ours, gentle])
    await checkMigrations(sql, ours)
    const harsh = migrationOf('9001_harsh.sql', '--! breaking-change\nalter table curfew.tasks drop column note')
    expect(harsh.breaking).toBe(true)
    await migrate(sql, [...ours, gentle, harsh])
    await expect(checkMigrations(sql, ours)).rejects.toMatchObject({ facts: { reason: 'migrations_newer' } })
    await expect(migrate(sql, ours)).rejects.toMatchObject({ facts: { reason: 'migrations_newer' } })
    await checkMigrations(sql, [...ours, gentle, harsh])
  })
})
