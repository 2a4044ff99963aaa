/** Owns what a started part keeps on disk beside its data: secrets that last as long as its folder, and short folders for sockets. */
import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The same answer for the same folder, so that a part started again there still knows its callers. */
export function lastingSecret(dir: string, name: string): string {
  mkdirSync(dir, { recursive: true })
  const path = join(dir, name)
  if (!existsSync(path)) writePrivate(path, randomBytes(18).toString('base64url'))
  return readFileSync(path, 'utf8')
}

export function writePrivate(path: string, text: string): void {
  writeFileSync(path, text, { mode: 0o600 })
  chmodSync(path, 0o600) // the mode above counts for new files only
}

/** Socket paths over 105 bytes fail, and SPIRE's server hangs on them: a folder of its own, near the root. */
export function socketDir(): string {
  const base = Buffer.byteLength(tmpdir()) <= 60 ? tmpdir() : '/tmp'
  const folder = mkdtempSync(join(base, 'cf-'))
  chmodSync(folder, 0o755) // workloads of other users ask there
  return folder
}
