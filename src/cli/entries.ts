/** Owns where the entry files of our other processes lie: started as processes, never imported, so that nothing points back from the command line. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { passThrough } from './child.js'
import { CliError, EXIT } from './exit.js'
import type { Io } from './output.js'

const ENTRIES = {
  serve: '../main.js',
  worker: '../../workers/main.js',
  'forward-auth': '../../workers/forward-auth.js',
  dev: '../dev/main.js',
} as const

export async function startEntry(entry: keyof typeof ENTRIES, args: readonly string[], io: Io): Promise<number> {
  const file = fileURLToPath(new URL(ENTRIES[entry], import.meta.url))
  if (!existsSync(file)) {
    throw new CliError(EXIT.unexpected, { code: 'not_compiled', detail: `there is no ${file}`, next: 'compile first: npm run build' })
  }
  return passThrough(file, args, io.env)
}
