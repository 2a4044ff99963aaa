/** The real Vault, over the real PostgreSQL, answers what our code relies on: the same calls as test/conformance asks of the fake. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, describe } from 'vitest'
import { createTarget } from '../../src/clients/target.js'
import { createVault } from '../../src/clients/vault.js'
import { isAbsent } from '../../src/dev/find.js'
import { type OrdersTarget, prepareOrders } from '../../src/dev/orders-target.js'
import { type Postgres, startPostgres } from '../../src/dev/postgres.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import { Secret } from '../../src/domain/secret.js'
import { DATABASE_PARAMETERS, vaultDatabaseEngine } from '../../src/engines/vault-database.js'
import { byUser, testEngine } from '../conformance/engines.js'
import { testVaultContract } from '../conformance/vault-contract.js'

const dir = mkdtempSync(join(tmpdir(), 'cf-vault-'))
const vault = await startVault({ dir: join(dir, 'vault'), own: true })
const postgres = await startPostgres({ dir: join(dir, 'target'), database: 'orders' })
const absent = isAbsent(vault) ? vault.absent : isAbsent(postgres) ? postgres.absent : null
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`this run requires the real parts: ${absent}`)

describe.skipIf(absent !== null)(`the real Vault${absent ? ` (skipped: ${absent})` : ''}`, () => {
  afterAll(async () => {
    if (!isAbsent(vault)) await vault.stop()
    if (!isAbsent(postgres)) await postgres.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  const admin = async () => {
    const client = new pg.Client({ connectionString: (postgres as Postgres).url })
    await client.connect()
    return client
  }
  // Vault's own login is shut out, which to Vault is a target that does not let it in.
  const shut = async (client: pg.Client, up: boolean) => {
    await client.query(`alter role vault_admin ${up ? 'login' : 'nologin'}`)
    if (!up) await client.query(`select pg_terminate_backend(pid) from pg_stat_activity where usename = 'vault_admin'`)
  }
  const secretId = (role: string) => readFileSync(join(dir, `vault-${role}-secret-id`), 'utf8').trim()

  testVaultContract('the real Vault', async () => {
    const { address, rootToken } = vault as Vault
    await prepareOrders({ vault: vault as Vault, postgres: postgres as Postgres, dir })
    const client = await admin()
    return {
      address,
      root: rootToken,
      async login(role) {
        const body = JSON.stringify({ role_id: `curfew-${role}`, secret_id: secretId(role) })
        const answer = await fetch(`${address}/v1/auth/approle/login`, { method: 'POST', body })
        return ((await answer.json()) as { auth: { client_token: string } }).auth.client_token
      },
      user: async name => (await client.query('select 1 from pg_roles where rolname = $1', [name])).rows.length > 0,
      target: up => shut(client, up),
      close: () => client.end(),
    }
  })

  let prepared: Promise<OrdersTarget> | null = null
  testEngine('vault-database over the real Vault and PostgreSQL', 'backend', async () => {
    const { address } = vault as Vault
    // Once: the script gives out new secret ids each time it runs.
    prepared ??= prepareOrders({ vault: vault as Vault, postgres: postgres as Postgres, dir })
    const orders = await prepared
    const { parameters } = orders.capability('db/orders-ro') as { parameters: Record<string, unknown> }
    const identity = (role: string) => ({ method: 'approle' as const, mount: 'approle', roleId: `curfew-${role}`, secretId: Secret.token(secretId(role)) })
    const config = { address, tokenRole: 'curfew', issuer: identity('issuer'), revoker: identity('revoker') }
    const quiet = { log: { warn: () => {} } }
    const [issuer, revoker] = [createVault(config, 'issuer', quiet), createVault(config, 'revoker', quiet)]
    const target = createTarget(Secret.token(orders.targetUrl))
    const client = await admin()
    const now = () => new Date()
    return {
      engine: vaultDatabaseEngine({
        issuer,
        revoker,
        clock: { now },
        targetOf: () => target,
        parametersOf: () => DATABASE_PARAMETERS.parse(parameters),
        issuanceTokenSeconds: 90,
        clearSince: () => null,
      }),
      parameters,
      now,
      ...byUser,
      async usable(fields) {
        const holder = new pg.Client({
          host: fields.PGHOST as string,
          port: Number(fields.PGPORT),
          database: fields.PGDATABASE as string,
          user: fields.PGUSER as string,
          password: fields.PGPASSWORD as string,
        })
        holder.on('error', () => {})
        try {
          await holder.connect()
          return (await holder.query('select count(*)::int as n from orders')).rows[0].n > 0
        } catch {
          return false
        } finally {
          await holder.end().catch(() => {})
        }
      },
      break: () => shut(client, false),
      heal: () => shut(client, true),
      async close() {
        await Promise.all([issuer.close(), revoker.close(), target.close(), client.end()])
      },
    }
  })
})
