/** Owns the run of the engines' contract (`curfew/engine/testing`) by this test runner. */
import { describe, it } from 'vitest'
import { type EngineHouse, engineCases } from '../../src/contract/engine-testing.js'

export function testEngine(name: string, revocation: 'backend' | 'expiry-only', make: () => Promise<EngineHouse>): void {
  describe(`the engine ${name}`, () => {
    // What a class need not hold is no test of it.
    for (const { name, skipped, run } of engineCases(revocation, make)) if (skipped === null) it(name, run, 60_000)
  })
}

/** What the holder of a database user is given. */
export const byUser = {
  attribution: (fields: Readonly<Record<string, string>>) => fields.PGUSER as string,
  secrets: (fields: Readonly<Record<string, string>>) => [fields.PGPASSWORD as string],
}
