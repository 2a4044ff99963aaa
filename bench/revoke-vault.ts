/** Owns the figure of database users that are made by Vault and proven dead, beside Vault's own revocation of a prefix. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { isAbsent } from '../src/dev/find.js'
import { prepareOrders } from '../src/dev/orders-target.js'
import { ciRule } from '../src/dev/policies.js'
import { startPostgres } from '../src/dev/postgres.js'
import { startVault } from '../src/dev/vault.js'
import { call } from '../src/dev/workload.js'
import { middle, type Report } from './report.js'
import { untilNone } from './revoke-due.js'
import { startWorld, type World } from './world.js'

const ROUNDS = 3
const WIDTH = 8
const DB = 'db/orders-ro'

export async function benchVault(report: Report, size: number): Promise<void> {
  report.title(`d. ${size} PostgreSQL users made by Vault, revoked until probed dead  (${ROUNDS} rounds in turn)`)
  const dir = mkdtempSync(join(tmpdir(), 'cf-bench-vault-'))
  const closing: (() => Promise<unknown> | unknown)[] = [() => rmSync(dir, { recursive: true, force: true })]
  try {
    const vault = await startVault({ dir: join(dir, 'vault'), own: true })
    const target = await startPostgres({ dir: join(dir, 'target'), database: 'orders', name: 'target' })
    for (const part of [vault, target]) if (!isAbsent(part)) closing.push(() => part.stop())
    if (isAbsent(vault) || isAbsent(target)) return report.say(`skipped: ${[vault, target].flatMap(p => (isAbsent(p) ? [p.absent] : [])).join('; ')}`)
    const orders = await prepareOrders({ vault, postgres: target, dir })
    const world = await startWorld({ vault: orders.vault, capabilities: [orders.capability(DB)], rules: ciRule('db', DB) })
    if (isAbsent(world)) return report.say(`skipped: ${world.absent}`)
    closing.push(() => world.close())
    const admin = new pg.Pool({ connectionString: target.url, max: 1 })
    closing.push(() => admin.end())
    const users = async () => Number((await admin.query(`select count(*) from pg_roles where rolvaliduntil is not null`)).rows[0].count)
    const there = await users()

    const direct = async (path: string, body?: object, token = vault.rootToken) => {
      const headers = { 'X-Vault-Token': token, 'content-type': 'application/json' }
      const answer = await call(body ? 'POST' : 'GET', `${vault.address}/v1/${path}`, { headers, ...(body ? { body: JSON.stringify(body) } : {}) })
      if (answer.status >= 300) throw new Error(`vault answered ${answer.status}: ${JSON.stringify(answer.body)}`)
      return answer.body
    }
    // The role template names the user after the token that reads it.
    const makeUser = async () => {
      const name = `crd-${randomBytes(13).toString('hex')}`
      const made = await direct('auth/token/create/curfew', { ttl: '10m', policies: ['curfew-cap-orders-ro'], display_name: name })
      await direct('database/creds/orders-ro', undefined, made.auth.client_token)
    }
    const ours: number[] = []
    const vaults: number[] = []
    for (let round = 0; round < ROUNDS; round++) {
      ours.push(await oneRound(world, size))
      await wide(size, makeUser)
      const made = (await users()) - there
      if (made < size) throw new Error(`Vault made ${made} users, not ${size}`)
      const began = performance.now()
      await direct('sys/leases/revoke-prefix/database/creds/orders-ro', { sync: true })
      while ((await users()) > there) await new Promise(resolve => setTimeout(resolve, 20))
      vaults.push(performance.now() - began)
      report.say(`round ${round + 1}: ours ${((ours.at(-1) ?? 0) / 1000).toFixed(1)} s, Vault's prefix ${((vaults.at(-1) ?? 0) / 1000).toFixed(1)} s`)
    }
    report.figure({ what: 'all revoked, sessions cut and looked for, median', value: middle(ours) / 1000, unit: 's' })
    report.figure({ what: 'lease revoke -prefix until no user is left, median', value: middle(vaults) / 1000, unit: 's' })
    report.figure({ what: 'ours against it', value: middle(ours) / middle(vaults), unit: 'x', goal: { most: 1.2 } })
  } finally {
    for (const close of closing.reverse()) await close()
  }
}

async function wide(n: number, act: () => Promise<unknown>): Promise<void> {
  let left = n
  await Promise.all(
    Array.from({ length: WIDTH }, async () => {
      while (left-- > 0) await act()
    }),
  )
}

async function oneRound({ workload, ...world }: World, size: number): Promise<number> {
  const opened = await workload.open(await world.issuerToken(), [DB], { life_seconds: 3_600 })
  const held = { task: opened.body.task.id as string, token: opened.body.token as string }
  await wide(size, async () => {
    const made = await workload.credential(held, DB)
    if (made.status !== 201) throw new Error(`the issue answered ${made.status}: ${JSON.stringify(made.body)}`)
  })
  const began = Date.now()
  await world.revoke({ task: held.task })
  return untilNone({ workload, ...world }, began, `task = '${held.task}' and state <> 'revoked'`)
}
