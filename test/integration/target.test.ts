/** The login at a target against the real PostgreSQL: what another session, Vault above all, does to the same user at the same moment. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createTarget, type Target } from '../../src/clients/target.js'
import { isAbsent } from '../../src/dev/find.js'
import { type Postgres, startPostgres } from '../../src/dev/postgres.js'
import { Secret } from '../../src/domain/secret.js'

const dir = mkdtempSync(join(tmpdir(), 'cf-target-'))
const postgres = await startPostgres({ dir: join(dir, 'target'), database: 'orders' })
const absent = isAbsent(postgres) ? postgres.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

describe.skipIf(absent !== null)(`the login at a target${absent ? ` (skipped: ${absent})` : ''}`, () => {
  let target: Target
  let other: pg.Client
  const user = 'curfew_crd-1'

  beforeAll(async () => {
    const { url } = postgres as Postgres
    target = createTarget(Secret.token(url))
    other = new pg.Client({ connectionString: url })
    await other.connect()
  })
  afterAll(async () => {
    await other?.end()
    await target?.close()
    if (!isAbsent(postgres)) await postgres.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  /** The other session's statement is done and not yet committed when ours comes. */
  async function meanwhile(statement: string, ours: () => Promise<void>): Promise<void> {
    await other.query('begin')
    await other.query(statement)
    const done = ours()
    while ((await other.query('select 1 from pg_locks where not granted')).rows.length === 0) await sleep(10)
    await other.query('commit')
    await done
  }
  const there = async () => (await other.query('select rolcanlogin from pg_roles where rolname = $1', [user])).rows[0]?.rolcanlogin ?? null
  const signal = new AbortController().signal

  it.each([
    ['changes', `alter role "${user}" valid until 'infinity'`],
    ['drops', `drop role "${user}"`],
  ])('drops a user that another session %s at the same moment', async (_what, statement) => {
    await other.query(`create role "${user}" login`)
    await meanwhile(statement, () => target.drop(user, signal))
    expect(await there()).toBe(null)
  })
  it('shuts out a user that another session changes at the same moment', async () => {
    await other.query(`create role "${user}" login`)
    await meanwhile(`alter role "${user}" valid until 'infinity'`, () => target.noLogin(user))
    expect(await there()).toBe(false)
    await other.query(`drop role "${user}"`)
  })
  it('knows nobody of whom there is none', async () => {
    await target.noLogin(user)
    await target.drop(user, signal)
    expect(await target.look(user, null)).toEqual({ role: false, sessions: 0 })
  })
  it('fails where PostgreSQL refuses, and tells none of its words', async () => {
    await other.query(`create role "${user}" login`)
    await other.query(`create table theirs (n int)`)
    await other.query(`grant select on theirs to "${user}"`)
    const refused = await target.drop(user, signal).catch((error: unknown) => error)
    expect(refused).toMatchObject({ code: 'engine_failed', facts: { reason: 'target_failed' }, message: 'the target database does not answer as it should' })
    expect(await there()).toBe(false)
  })
})
