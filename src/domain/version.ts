/** Owns which release this is. */
import { readFileSync } from 'node:fs'

/** As the manifest has it, which lies two folders up beside the sources and three beside what is built. */
export function version(): string {
  for (const path of ['../../package.json', '../../../package.json']) {
    try {
      return (JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')) as { version: string }).version
    } catch {}
  }
  return 'unknown'
}
