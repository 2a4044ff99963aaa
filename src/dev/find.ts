/** Owns where the parts are that Curfew does not bring: a setting, the PATH, the cache; with src/config.ts the only reader of the environment. */
import { createHash } from 'node:crypto'
import { accessSync, constants, existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { homedir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** What cannot be had here, and why: said to a person, never an error. */
export interface Absent {
  readonly absent: string
}

export const isAbsent = (part: object): part is Absent => 'absent' in part

export interface Found {
  readonly command: string
  /** For people: "PATH", "the cache". */
  readonly origin: string
}

export interface FoundVault extends Found {
  /** Our own build is without the database plug-ins and takes PostgreSQL's from this folder; released binaries have them built in. */
  readonly plugins?: string
}

export interface FoundSpire {
  readonly origin: string
  readonly server: string
  readonly agent: string
  readonly oidc?: string
}

export type Setting = 'CURFEW_TOKEN' | 'REDIS_URL' | 'DATABASE_URL' | 'VAULT_ADDR' | 'BAO_ADDR' | 'VAULT_TOKEN' | 'BAO_TOKEN' | 'PATH'

export const setting = (name: Setting): string | undefined => process.env[name] || undefined

/** Nothing may be downloaded. */
export const isOffline = (): boolean => process.env.CURFEW_OFFLINE === '1'

export const configDir = (): string => join(process.env.XDG_CONFIG_HOME || join(homedir(), '.config'), 'curfew')

export const cacheDir = (): string => process.env.CURFEW_CACHE || join(homedir(), '.cache', 'curfew')

/** The user behind `sudo`: a workload of theirs must be known to SPIRE as well as ours. */
export function callerUids(): readonly number[] {
  const own = process.getuid?.() ?? 0
  const real = Number(process.env.SUDO_UID)
  return Number.isInteger(real) && real > 0 && real !== own ? [own, real] : [own]
}

/** What a child inherits. A setting meant for another Vault, SPIRE or PostgreSQL must not reach into one of ours. */
export function inherited(more: Readonly<Record<string, string>> = {}): Record<string, string> {
  const kept: Record<string, string> = {}
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && !/^(VAULT_|BAO_|SPIFFE_|PG[A-Z]|LC_|LANG)/.test(name)) kept[name] = value
  }
  return { ...kept, LC_ALL: 'C', ...more }
}

export function onPath(...names: readonly string[]): Found | undefined {
  for (const name of names) {
    for (const folder of (setting('PATH') ?? '').split(delimiter)) {
      if (folder && isExecutable(join(folder, name))) return { command: join(folder, name), origin: 'PATH' }
    }
  }
  return undefined
}

const NEXT = 'npm run real builds it'

export function findVault(): FoundVault | Absent {
  const built = builtPart('vault', ['vault', 'plugins/postgresql-database-plugin'])
  // Ours first: tests speak of one version, and a `vault` on the PATH may be any.
  if (built) return { command: join(built, 'vault'), plugins: join(built, 'plugins'), origin: built }
  return onPath('vault', 'bao') ?? { absent: `vault is neither on the PATH nor in ${cacheDir()}: ${NEXT}` }
}

export function findSpire(): FoundSpire | Absent {
  const built = builtPart('spire', ['spire-server', 'spire-agent', 'oidc-discovery-provider'])
  if (built) return { origin: built, server: join(built, 'spire-server'), agent: join(built, 'spire-agent'), oidc: join(built, 'oidc-discovery-provider') }
  const server = onPath('spire-server')
  const agent = onPath('spire-agent')
  const oidc = onPath('oidc-discovery-provider')
  if (server && agent) return { origin: 'PATH', server: server.command, agent: agent.command, ...(oidc && { oidc: oidc.command }) }
  return { absent: `spire-server and spire-agent are neither on the PATH nor in ${cacheDir()}: ${NEXT}` }
}

export interface FoundPostgres {
  /** Where initdb, postgres and pg_isready lie together. */
  readonly folder: string
}

export function findPostgres(): FoundPostgres | Absent {
  const initdb = onPath('initdb')
  // Debian keeps the server's programs off the PATH, one folder per major version.
  const debian = listed('/usr/lib/postgresql').sort((a, b) => Number(b) - Number(a))
  const folders = [...(initdb ? [dirname(realpathSync(initdb.command))] : []), ...debian.map(version => `/usr/lib/postgresql/${version}/bin`)]
  const folder = folders.find(each => ['initdb', 'postgres', 'pg_isready'].every(name => isExecutable(join(each, name))))
  return folder
    ? { folder }
    : { absent: 'no PostgreSQL server: initdb is neither on the PATH nor under /usr/lib/postgresql (Debian: apt-get install postgresql)' }
}

export const unpackedRedis = (): string | undefined =>
  listed(cacheDir())
    .filter(name => name.startsWith('redis-') && isExecutable(join(cacheDir(), name, 'usr/bin/redis-server')))
    .sort()
    .map(name => join(cacheDir(), name))
    .at(-1)

/** The repository (or package) that this file was compiled in. */
export function repository(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder
    if (folder === dirname(folder)) throw new Error('no package.json above this file')
  }
}

/** As test/real/build.mjs names it. Where its go.sum is not at hand (an installed package), any build of the part does. */
function builtPart(name: string, binaries: readonly string[]): string | undefined {
  const sums = join(repository(), 'test', 'real', name, 'go.sum')
  const digest = existsSync(sums) ? createHash('sha256').update(readFileSync(sums)).digest('hex').slice(0, 12) : ''
  return listed(cacheDir())
    .filter(folder => folder.startsWith(`${name}-`) && folder.endsWith(`-${digest}`.replace(/^-$/, '')))
    .map(folder => join(cacheDir(), folder))
    .find(folder => binaries.every(binary => isExecutable(join(folder, binary))))
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

/** With `CURFEW_NO_PARTS=1` every part counts as absent: so the tests that would start them can be listed and start nothing. */
function isExecutable(path: string): boolean {
  if (process.env.CURFEW_NO_PARTS === '1') return false
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
