import { execFile, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { findPostgres, findSpire, findVault, isAbsent, repository } from '../../src/dev/find.js'

const run = promisify(execFile)
const missing = [findVault(), findSpire(), findPostgres()].flatMap(part => (isAbsent(part) ? [part.absent] : []))
if (missing.length > 0 && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${missing.join('; ')}`)

/** What a person does with `npm run real -- up`, with nothing of ours in between but the commands. */
describe.skipIf(missing.length > 0)(
  `the main job on real PostgreSQL, Redis, Vault and SPIRE${missing.length > 0 ? ` (skipped: ${missing.join('; ')})` : ''}`,
  () => {
    const dir = mkdtempSync(join(tmpdir(), 'cf-up-'))
    const up = join(repository(), 'dist', 'test', 'real', 'up.js')
    let env: NodeJS.ProcessEnv = {}

    beforeAll(async () => {
      await run(process.execPath, [up, 'up', '--dir', dir], { timeout: 170_000 })
      const { stdout } = await run('sh', ['-c', `. "${join(dir, 'env')}" && env -0`])
      env = Object.fromEntries(
        stdout.split('\0').flatMap(line => (line.includes('=') ? [[line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]] : [])),
      )
      env.XDG_STATE_HOME = join(dir, 'state')
      await freshSvid()
    })
    afterAll(async () => {
      await run(process.execPath, [up, 'down', '--dir', dir], { timeout: 60_000 }).catch(() => {})
      rmSync(dir, { recursive: true, force: true })
    })

    const sh = async (line: string) => (await run('sh', ['-c', line], { env, timeout: 60_000 })).stdout.trim()
    const curfew = (line: string) => sh(`curfew ${line}`)
    async function freshSvid(): Promise<void> {
      const answer = JSON.parse(await sh('spire-agent api fetch jwt -audience "$CURFEW_URL" -output json')) as [{ svids: [{ svid: string }] }]
      env.CURFEW_ID_TOKEN_FILE = join(dir, 'svid.jwt')
      writeFileSync(env.CURFEW_ID_TOKEN_FILE, answer[0].svids[0].svid, { mode: 0o600 })
    }
    const AS_OPERATOR = '--operator-token-file "$CURFEW_OPERATOR_TOKEN_FILE"'
    const use = async (token: string) => (await fetch(`${env.ORDERS_API_URL}/orders-bearer`, { headers: { authorization: `Bearer ${token}` } })).status
    const idOf = (token: string) => (JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString()) as { jti: string }).jti

    it('a SPIFFE workload reads the orders as a user that is gone within 2 s of its command', async () => {
      expect(await curfew("run db/orders-ro -- psql -Atc 'select count(*) from orders'")).toBe('42')
      await sleep(2_000)
      const target = new pg.Client({ connectionString: env.TARGET_URL })
      await target.connect()
      const { rows } = await target.query("select count(*)::int as n from pg_roles where rolname like 'curfew%'")
      await target.end()
      expect(rows[0].n).toBe(0)
    })

    it('the command killed with -9, its child included, is missed by its heartbeat and its user ends', async () => {
      const child = spawn('sh', ['-c', 'exec curfew run db/orders-ro --heartbeat 1s -- sleep 60'], { env, detached: true, stdio: 'ignore' })
      let held: { id: string }[] = []
      for (let i = 0; i < 100 && held.length === 0; i++) {
        await sleep(100)
        held = JSON.parse(await curfew(`list --state active --capability db/orders-ro --json ${AS_OPERATOR}`)) as { id: string }[]
      }
      expect(held).toHaveLength(1)
      process.kill(-(child.pid as number), 'SIGKILL')
      let shown = { state: '', reason: '' }
      for (let i = 0; i < 150 && shown.state !== 'revoked'; i++) {
        await sleep(100)
        shown = (JSON.parse(await curfew(`show ${held[0]?.id} --json ${AS_OPERATOR}`)) as { credential: typeof shown }).credential
      }
      expect(shown).toMatchObject({ state: 'revoked', reason: 'heartbeat_missed' })
    })

    it('a token works until its time is up, its task completes, a signal comes or a responder says so', async () => {
      const timed = await curfew('token demo/orders-bearer --ttl 5s')
      expect(await use(timed)).toBe(200)

      const completed = await curfew('token demo/orders-bearer')
      expect(await use(completed)).toBe(200)
      await curfew('complete --mine')
      expect(await use(completed)).toBe(401)

      const signalled = await curfew('token demo/orders-bearer')
      expect(await use(signalled)).toBe(200)
      await curfew(`signal send --source edr --secret-file "$SIGNAL_SECRET_FILE" --type token.leaked --severity high --credential ${idOf(signalled)}`)
      expect(await use(signalled)).toBe(401)

      const revoked = await curfew('token demo/orders-bearer')
      expect(await use(revoked)).toBe(200)
      await curfew(`revoke --credential ${idOf(revoked)} --reason INC-204 --wait 10s --operator-token-file "$CURFEW_OPERATOR_TOKEN_FILE"`)
      expect(await use(revoked)).toBe(401)

      await sleep(5_000)
      expect(await use(timed)).toBe(401)
    })

    it('K6 no secret of all this is in a log', async () => {
      const secrets = [
        env.VAULT_TOKEN,
        env.ORDERS_SECRET,
        readFileSync(env.CURFEW_OPERATOR_TOKEN_FILE as string, 'utf8').trim(),
        readFileSync(env.CURFEW_ID_TOKEN_FILE as string, 'utf8').trim(),
      ]
      for (const name of ['serve.log', 'worker.log']) {
        const log = readFileSync(join(dir, 'curfew', name), 'utf8')
        for (const secret of secrets) expect(log.includes(secret as string)).toBe(false)
        expect(log).not.toMatch(/eyJ[\w-]{10,}\.eyJ/)
      }
    })
  },
)
