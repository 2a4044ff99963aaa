/** Owns the orders database of dev, demo, tests and bench: a table to read, the logins around it, and a Vault prepared for it by the shipped script. */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import pg from 'pg'
import { writePrivate } from './folder.js'
import type { Postgres } from './postgres.js'
import type { Vault } from './vault.js'
import { setUpVault } from './vault-setup.js'

export interface OrdersTarget {
  /** `vault:` of a configuration; its secrets are files. */
  readonly vault: object
  /** One capability for that database under a name of the caller's choice. */
  capability(name: string): object
  /** The login that ends sessions and looks: CREATEROLE, and reading the activity of all. */
  readonly targetUrl: string
}

const ROWS = 42

/** @param options.signer also prepares the key of `signer.kind: transit`. @param options.also settings of the script for other kinds. */
export async function prepareOrders(options: {
  vault: Vault
  postgres: Postgres
  dir: string
  signer?: 'transit'
  also?: Readonly<Record<string, string>>
}): Promise<OrdersTarget> {
  const { vault, postgres, dir } = options
  const passwords = { target: randomBytes(18).toString('base64url'), vault: randomBytes(18).toString('base64url') }
  await sql(postgres.url, [
    'create table if not exists orders (id int primary key, item text not null)',
    `insert into orders select i, 'item ' || i from generate_series(1, ${ROWS}) i on conflict do nothing`,
    `do $$ begin if not exists (select from pg_roles where rolname = 'app_ro') then create role app_ro; end if; end $$`,
    'grant select on orders to app_ro',
    // What Vault logs in as, and what ends sessions: neither is a superuser.
    ...login('vault_admin', passwords.vault),
    ...login('orders_target', passwords.target),
    'grant app_ro to vault_admin with admin option',
  ])
  const configured = await setUpVault(vault, dir, {
    KINDS: 'database',
    TARGET_URL_TEMPLATE: `postgresql://{{username}}:{{password}}@127.0.0.1:${postgres.port}/orders?sslmode=disable`,
    TARGET_ADMIN_USER: 'vault_admin',
    TARGET_ADMIN_PASSWORD: passwords.vault,
    ...(options.signer ? { SIGNER: options.signer } : {}),
    ...options.also,
  })
  const targetUrl = postgres.urlFor('orders_target', passwords.target, 'orders')
  const targetFile = join(dir, 'target-url')
  writePrivate(targetFile, targetUrl)
  return {
    targetUrl,
    vault: configured,
    capability: name => ({
      name,
      summary: 'read the orders database as a user that exists for this task only',
      engine: 'vault-database',
      intent: 'read',
      maxTtlSeconds: 900,
      parameters: {
        role: 'orders-ro',
        policy: 'curfew-cap-orders-ro',
        connection: { host: '127.0.0.1', port: postgres.port, database: 'orders', sslmode: 'disable' },
      },
      target: { url: { file: targetFile } },
    }),
  }
}

function login(name: string, password: string): string[] {
  return [
    `do $$ begin if not exists (select from pg_roles where rolname = '${name}') then create role ${name}; end if; end $$`,
    `alter role ${name} login createrole password '${password}'`,
    `grant pg_signal_backend, pg_read_all_stats to ${name}`,
  ]
}

async function sql(url: string, statements: readonly string[]): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    for (const statement of statements) await client.query(statement)
  } finally {
    await client.end()
  }
}
