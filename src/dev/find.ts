/** Owns finding what is on this machine: the environment, the PATH, the cache; together with config.ts and cli/ the only reader of the environment. */
import { accessSync, constants, existsSync, readdirSync } from 'node:fs'
import { homedir } from 'node:os'
import { delimiter, join } from 'node:path'

/** What cannot be had, and why: said to people as it stands. */
export interface Absent {
  readonly absent: string
}

export const isAbsent = (found: object): found is Absent => 'absent' in found

export const setting = (name: string): string | undefined => process.env[name] || undefined

export const environment = (): NodeJS.ProcessEnv => ({ ...process.env })

export const cacheDir = (): string => setting('CURFEW_CACHE') ?? join(homedir(), '.cache', 'curfew')

export const configDir = (): string => join(setting('XDG_CONFIG_HOME') ?? join(homedir(), '.config'), 'curfew')

/** Debian keeps the server programs of PostgreSQL out of the PATH. */
const MORE_PLACES = ['/usr/lib/postgresql/17/bin', '/usr/lib/postgresql/16/bin', '/usr/lib/postgresql/15/bin', '/usr/lib/postgresql/14/bin', '/usr/local/bin', '/usr/sbin']

export function findProgram(...names: string[]): string | null {
  for (const name of names) {
    for (const dir of [...(setting('PATH') ?? '').split(delimiter), ...MORE_PLACES]) {
      const path = join(dir, name)
      if (dir !== '' && executable(path)) return path
    }
  }
  return null
}

/** A program that `npm run real` built: the newest folder of that name in the cache. */
export function findBuilt(part: 'vault' | 'spire', program: string): string | null {
  if (!existsSync(cacheDir())) return null
  const dirs = readdirSync(cacheDir())
    .filter(d => d.startsWith(`${part}-`))
    .sort()
    .reverse()
  return dirs.map(d => join(cacheDir(), d, program)).find(executable) ?? null
}

function executable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
