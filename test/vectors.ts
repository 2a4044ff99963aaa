/** Owns finding the vectors from outside: beside the repository, or where CURFEW_VECTORS says; null where they are not. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export function vectors(): string | null {
  const dir = process.env.CURFEW_VECTORS ?? fileURLToPath(new URL('../../shared/data', import.meta.url))
  if (existsSync(dir)) return dir
  if (process.env.CURFEW_REQUIRE_REAL) throw new Error('the vectors from outside are missing and this run requires them')
  return null
}
