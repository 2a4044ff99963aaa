/** Owns what a started part keeps on disk beside its data: secrets that last as long as its folder, and short or open folders elsewhere. */
import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The same answer for the same folder, so that a part started again there still knows its callers. */
export function lastingSecret(dir: string, name: string): string {
  mkdirSync(dir, { recursive: true })
  const path = join(dir, name)
  if (!existsSync(path)) writePrivate(path, randomBytes(18).toString('base64url'))
  return readFileSync(path, 'utf8')
}

/** A new file in the place of what was there: never through a link, and never readable by others, not even for a moment. */
export function writePrivate(path: string, text: string): void {
  rmSync(path, { force: true })
  writeFileSync(path, text, { mode: 0o600, flag: 'wx' })
}

/** Socket paths over 105 bytes fail, and SPIRE's server hangs on them: a folder of its own, near the root. */
export function socketDir(): string {
  const folder = mkdtempSync(join(shortBase(), 'cf-'))
  chmodSync(folder, 0o755) // workloads of other users ask there
  return folder
}

/**
 * For data of a server that runs as another user, when that user cannot walk to where they belong. Named after us, so that a later
 * run finds what a killed one left: `inUse` tells of a server that was meant to outlive us.
 */
export function outsideDir(inUse: (folder: string) => boolean): string {
  const base = shortBase()
  for (const name of readdirSync(base)) {
    const owner = /^cf-pg-(\d+)-/.exec(name)?.[1]
    if (owner && !existsSync(`/proc/${owner}`) && !inUse(join(base, name))) rmSync(join(base, name), { recursive: true, force: true })
  }
  const folder = mkdtempSync(join(base, `cf-pg-${process.pid}-`))
  chmodSync(folder, 0o755)
  return folder
}

const shortBase = (): string => (Buffer.byteLength(tmpdir()) <= 60 ? tmpdir() : '/tmp')
