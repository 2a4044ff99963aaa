/** Owns having a Vault: the one that VAULT_ADDR names, or a private one, in dev mode or with storage that survives a restart. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { within } from '../domain/deadline.js'
import { type Absent, type FoundVault, findVault, isAbsent, setting } from './find.js'
import { lastingSecret, writePrivate } from './folder.js'
import { freePort } from './ports.js'
import { type Child, type ProcessMark, startProcess, until } from './process.js'

const POSTGRES_PLUGIN = 'postgresql-database-plugin'

export interface Vault {
  readonly address: string
  readonly rootToken: string
  /** 0 when it is not ours. */
  readonly port: number
  readonly version: string
  /** For people: "VAULT_ADDR", "PATH", a folder of the cache. */
  readonly origin: string
  /** Undefined when it is not ours. */
  readonly mark?: ProcessMark
  /** Storage `disk` only: sealed, it answers 503 until it is unsealed. */
  seal(): Promise<void>
  unseal(): Promise<void>
  /** Ends it when it is ours. In memory everything is gone then; with storage `disk` the same folder and port bring it back, unsealed. */
  stop(): Promise<void>
}

export interface VaultOptions {
  readonly dir: string
  /** Private in any case, even when VAULT_ADDR is set. */
  readonly own?: boolean
  readonly port?: number
  /** `memory` is Vault's dev mode: ready within 4 s, and it forgets. `disk` (raft; our build has no `file`) is for tests that restart or seal it. */
  readonly storage?: 'memory' | 'disk'
  /** Storage `disk` only: opens `sys/raw`, by which a test puts it into a state that it takes a quarter of an hour to come to by itself. */
  readonly raw?: boolean
  readonly keep?: boolean
  readonly signal?: AbortSignal | undefined
}

export async function startVault(options: VaultOptions): Promise<Vault | Absent> {
  const named = options.own ? undefined : external()
  if (named) return named
  const found = findVault()
  if (isAbsent(found)) return found
  const dir = resolve(options.dir)
  const port = options.port ?? (await freePort())
  const address = `http://127.0.0.1:${port}`
  const rest = { dir, port, address, found, raw: options.raw ?? false, keep: options.keep, signal: options.signal }
  return options.storage === 'disk' ? startLasting(rest) : startDev(rest)
}

interface Place {
  readonly dir: string
  readonly port: number
  readonly address: string
  readonly found: FoundVault
  readonly raw: boolean
  readonly keep: boolean | undefined
  readonly signal: AbortSignal | undefined
}

function external(): Vault | undefined {
  const address = setting('VAULT_ADDR') ?? setting('BAO_ADDR')
  const rootToken = setting('VAULT_TOKEN') ?? setting('BAO_TOKEN')
  if (!address || !rootToken) return undefined
  const never = async () => {
    throw new Error('a Vault that is not ours is neither sealed nor unsealed')
  }
  return { address, rootToken, port: 0, version: '', origin: 'VAULT_ADDR', seal: never, unseal: never, stop: async () => {} }
}

async function startDev(place: Place): Promise<Vault> {
  const { dir, port, address, found } = place
  const rootToken = lastingSecret(dir, 'root-token')
  const child = await startProcess({
    ...common(place),
    args: ['server', '-dev', `-dev-listen-address=127.0.0.1:${port}`, '-dev-no-store-token', ...(found.plugins ? [`-dev-plugin-dir=${found.plugins}`] : [])],
    // Not as an argument, which every user of the machine can read.
    env: { HOME: dir, VAULT_DEV_ROOT_TOKEN_ID: rootToken, BAO_DEV_ROOT_TOKEN_ID: rootToken },
    // Plug-ins are registered after it is unsealed; a role made before that would fail.
    ready: async signal => (await health(address, signal)) === 200 && (await knowsPlugin(address, rootToken, signal)),
  })
  const never = async () => {
    throw new Error('a Vault in dev mode cannot be unsealed again: start it with storage disk')
  }
  return describe(place, child, rootToken, await versionOf(address), never, never)
}

async function startLasting(place: Place): Promise<Vault> {
  const { dir, address, found } = place
  const config = join(dir, 'vault.hcl')
  const data = join(dir, 'data')
  mkdirSync(data, { recursive: true, mode: 0o700 })
  const lines = [
    'disable_mlock = true',
    'ui = false',
    `api_addr = "${address}"`,
    // Its own peer traffic goes to a port of its own, and raft wants to know which.
    `cluster_addr = "https://127.0.0.1:${await freePort()}"`,
    `storage "raft" {\n  path = "${data}"\n  node_id = "one"\n  performance_multiplier = "1"\n}`,
    `listener "tcp" {\n  address = "127.0.0.1:${place.port}"\n  tls_disable = true\n}`,
    ...(found.plugins ? [`plugin_directory = "${found.plugins}"`] : []),
    ...(place.raw ? ['raw_storage_endpoint = true'] : []),
  ]
  writePrivate(config, lines.join('\n'))
  const child = await startProcess({
    ...common(place),
    args: ['server', `-config=${config}`],
    env: { HOME: dir },
    // 501: not initialised, 503: sealed; both mean that it listens.
    ready: async signal => [200, 501, 503].includes(await health(address, signal)),
  })
  try {
    const { key, rootToken } = await keys(dir, address)
    const unseal = async () => {
      await ask(address, 'PUT', 'sys/unseal', '', { key })
      await until(async signal => (await health(address, signal)) === 200, { what: 'the unsealed vault', deadlineMs: 30_000 })
    }
    await unseal()
    if (found.plugins) await registerPlugin(address, rootToken, join(found.plugins, POSTGRES_PLUGIN))
    return describe(place, child, rootToken, await versionOf(address), () => ask(address, 'PUT', 'sys/seal', rootToken).then(() => {}), unseal)
  } catch (cause) {
    await child.stop()
    throw cause
  }
}

const common = (place: Place) => ({ name: 'vault', command: place.found.command, dir: place.dir, deadlineMs: 60_000, keep: place.keep, signal: place.signal })

const describe = (place: Place, child: Child, rootToken: string, version: string, seal: () => Promise<void>, unseal: () => Promise<void>): Vault => ({
  address: place.address,
  rootToken,
  port: place.port,
  version,
  origin: place.found.origin,
  mark: child.mark,
  seal,
  unseal,
  stop: child.stop,
})

/** Made once for a folder; one share is enough where nobody is to be kept out. */
async function keys(dir: string, address: string): Promise<{ key: string; rootToken: string }> {
  const path = join(dir, 'keys.json')
  if (!existsSync(path)) {
    const made = await ask(address, 'PUT', 'sys/init', '', { secret_shares: 1, secret_threshold: 1 })
    writePrivate(path, JSON.stringify({ key: (made.keys as string[])[0], rootToken: made.root_token }))
  }
  return JSON.parse(readFileSync(path, 'utf8'))
}

async function registerPlugin(address: string, token: string, path: string): Promise<void> {
  const sha256 = createHash('sha256').update(readFileSync(path)).digest('hex')
  await ask(address, 'PUT', `sys/plugins/catalog/database/${POSTGRES_PLUGIN}`, token, { command: POSTGRES_PLUGIN, sha256 })
}

async function knowsPlugin(address: string, token: string, signal: AbortSignal): Promise<boolean> {
  const answer = await fetch(`${address}/v1/sys/plugins/catalog/database/${POSTGRES_PLUGIN}`, { headers: { 'X-Vault-Token': token }, signal })
  return answer.ok
}

async function health(address: string, signal: AbortSignal): Promise<number> {
  const answer = await fetch(`${address}/v1/sys/health`, { signal })
  await answer.body?.cancel()
  return answer.status
}

async function versionOf(address: string): Promise<string> {
  const { version } = (await (await fetch(`${address}/v1/sys/health`)).json()) as { version?: string }
  return version ?? 'unknown'
}

async function ask(address: string, method: string, path: string, token: string, body?: object): Promise<Record<string, unknown>> {
  const answer = await fetch(`${address}/v1/${path}`, {
    method,
    headers: token ? { 'X-Vault-Token': token } : {},
    signal: within(30_000),
    ...(body && { body: JSON.stringify(body) }),
  })
  if (!answer.ok) throw new Error(`vault: ${method} ${path} answered ${answer.status}`)
  return answer.status === 204 ? {} : ((await answer.json()) as Record<string, unknown>)
}
