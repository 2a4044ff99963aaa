/** Owns the set of real parts that `up` starts side by side, and what each adds to the state and to the env file. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type Absent, isAbsent } from '../../src/dev/find.js'
import { type OrdersTarget, prepareOrders } from '../../src/dev/orders-target.js'
import { type Postgres, startPostgres } from '../../src/dev/postgres.js'
import type { ProcessMark } from '../../src/dev/process.js'
import { type Redis, startRedis } from '../../src/dev/redis.js'
import { type Spire, startSpire } from '../../src/dev/spire.js'
import { startVault, type Vault } from '../../src/dev/vault.js'
import type { State } from './state.js'

export interface Parts {
  readonly dir: string
  readonly state: State
  readonly store: Postgres | Absent
  readonly target: Postgres | Absent
  readonly redis: Redis | Absent
  readonly vault: Vault | Absent
  readonly spire: Spire | Absent
  /** The target's table and logins, and Vault made ready for them. */
  readonly orders: OrdersTarget | Absent
}

export type Say = (name: string, text: string) => void

const SUBFOLDERS = ['store', 'target', 'redis', 'vault', 'spire', 'orders', 'curfew', 'bin']

export async function startParts(dir: string, say: Say, signal: AbortSignal): Promise<Parts> {
  mkdirSync(dir, { recursive: true, mode: 0o755 }) // PostgreSQL, which may run as another user, must walk through it
  // Vault forgets at its end, so rows that an earlier run left in the store would speak of leases that nobody knows.
  for (const name of SUBFOLDERS) rmSync(join(dir, name), { recursive: true, force: true })
  const state: State = { processes: [], folders: [] }
  const common = { keep: true, own: true, signal }
  const timed = async <T extends { version: string; origin?: string }>(name: string, start: Promise<T | Absent>): Promise<T | Absent> => {
    const since = performance.now()
    const part = await start
    say(name, isAbsent(part) ? `skipped: ${part.absent}` : `${part.version}${part.origin ? ` from ${part.origin}` : ''}, ${seconds(since)}`)
    return part
  }
  const postgres = async (name: string, database: string) => {
    const part = await timed(name, startPostgres({ ...common, dir: join(dir, name), name, database }))
    if (isAbsent(part)) return part
    state.processes.push(part.mark)
    if (!part.data.startsWith(dir)) state.folders.push(dirname(part.data))
    return part
  }
  const marked = async <T extends { version: string; mark?: ProcessMark }>(name: string, start: Promise<T | Absent>) => {
    const part = await timed(name, start)
    if (!isAbsent(part) && part.mark) state.processes.push(part.mark)
    return part
  }
  const spires = async () => {
    const part = await timed('spire', startSpire({ ...common, dir: join(dir, 'spire'), workloads: ['/ci/orders'], oidc: true }))
    if (isAbsent(part)) return part
    state.processes.push(...part.marks)
    state.folders.push(part.socketFolder)
    return part
  }

  const starting = [
    postgres('store', 'curfew'),
    postgres('target', 'orders'),
    marked('redis', startRedis({ ...common, dir: join(dir, 'redis') })),
    marked('vault', startVault({ ...common, dir: join(dir, 'vault') })),
    spires(),
  ] as const
  // All of them come to an end before a failure of one is told: what has started must be known, to be ended.
  const failed = (await Promise.allSettled(starting)).find(each => each.status === 'rejected')
  if (failed) throw new PartsError(failed.reason, state)
  const [store, target, redis, vault, spire] = await Promise.all(starting)
  try {
    const lacking = isAbsent(target) ? target : isAbsent(vault) ? vault : undefined
    const orders = lacking ?? (await prepareOrders({ vault: vault as Vault, postgres: target as Postgres, dir: join(dir, 'orders') }))
    return { dir, state, store, target, redis, vault, spire, orders }
  } catch (cause) {
    throw new PartsError(cause, state)
  }
}

/** Carries what was started before it went wrong. */
export class PartsError extends Error {
  constructor(
    cause: unknown,
    readonly state: State,
  ) {
    super(cause instanceof Error ? cause.message : String(cause), { cause })
  }
}

export function variablesOf(parts: Parts): { values: Record<string, string>; programs: string[] } {
  const { store, target, redis, vault, spire, orders } = parts
  const values = {
    ...(!isAbsent(store) && { DATABASE_URL: store.url }),
    ...(!isAbsent(target) && { TARGET_ADMIN_URL: target.url }),
    ...(!isAbsent(orders) && { TARGET_URL: orders.targetUrl }),
    ...(!isAbsent(redis) && { REDIS_URL: redis.url }),
    ...(!isAbsent(vault) && { VAULT_ADDR: vault.address, VAULT_TOKEN: vault.rootToken }),
    ...(!isAbsent(spire) && {
      SPIFFE_ENDPOINT_SOCKET: `unix://${spire.agentSocket}`,
      SPIRE_SERVER_SOCKET: spire.serverSocket,
      SPIRE_BUNDLE_FILE: spire.bundleFile,
      SPIRE_BUNDLE_PEM: spire.bundlePem,
      SPIRE_BUNDLE_ENDPOINT: spire.bundleEndpoint,
      ...(spire.oidcIssuer && { SPIRE_OIDC_ISSUER: spire.oidcIssuer }),
    }),
  }
  return {
    values,
    programs: [...(isAbsent(spire) ? [] : [spirePrograms(parts.dir, spire)]), ...(isAbsent(vault) || vault.origin === 'PATH' ? [] : [vault.origin])],
  }
}

/** SPIRE's own clients read no SPIFFE_ENDPOINT_SOCKET: these say where the sockets are, so that `spire-agent api fetch jwt -audience …` works as it stands. */
function spirePrograms(dir: string, spire: Spire): string {
  const folder = join(dir, 'bin')
  mkdirSync(folder, { recursive: true })
  const write = (name: string, program: string, socket: string, runs: string) =>
    writeFileSync(join(folder, name), `#!/bin/sh\ncase "$1" in ${runs}) exec '${program}' "$@" ;; esac\nexec '${program}' "$@" -socketPath '${socket}'\n`, {
      mode: 0o755,
    })
  write('spire-agent', spire.agentProgram, spire.agentSocket, "run|validate|-*|''")
  write('spire-server', spire.serverProgram, spire.serverSocket, "run|validate|-*|''")
  return folder
}

export const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(1)} s`
