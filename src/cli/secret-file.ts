/** Owns the file that a secret is handed over in: new, and readable by its owner only. */
import { writeFileSync } from 'node:fs'
import { CliError, EXIT } from './exit.js'

/** Never over something that is there already. */
export function writeSecret(path: string, secret: string): void {
  try {
    writeFileSync(path, `${secret}\n`, { mode: 0o600, flag: 'wx' })
  } catch (cause) {
    const there = (cause as NodeJS.ErrnoException).code === 'EEXIST'
    throw new CliError(EXIT.usage, { code: 'usage', detail: there ? `${path} is there already` : `${path} cannot be written` }, { cause })
  }
}
