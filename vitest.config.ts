import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

/** What production reads compiled, tests read as it is written. */
const alias = {
  '#failpoint': new URL('./src/failpoint.ts', import.meta.url).pathname,
  // What an example imports is the very thing that the tests look at.
  'curfew/engine': new URL('./src/contract/engine.ts', import.meta.url).pathname,
}

/** The models stop a verb at its failpoints, in the process that tests it. */
const armed = { '#failpoint': new URL('./test/models/failpoint.ts', import.meta.url).pathname }

/** One project a suite, so that each can be run, counted and reported alone. A test that hangs is ended; how long one takes is nothing that a test says. */
const suite = (name: string, include: string[], extra: Record<string, unknown> = {}, at = alias) => ({
  resolve: { alias: at },
  test: {
    name,
    include,
    setupFiles: ['test/witness-setup.ts'],
    environment: 'node' as const,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // What must come is waited for as long as a crowded machine may take; by itself vitest gives up after a second.
    expect: { poll: { timeout: 15_000 } },
    ...extra,
  },
})

export default defineConfig({
  test: {
    // By itself vitest leaves one processor free, and of two that is half of the time: much of a test is waiting.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    // A machine-readable count beside the one for people: what decides whether a change lands adds the suites up.
    reporters: process.env.CURFEW_REPORT ? ['default', 'json'] : ['default'],
    ...(process.env.CURFEW_REPORT ? { outputFile: { json: process.env.CURFEW_REPORT } } : {}),
    projects: [
      suite('unit', ['test/*.test.ts', 'test/unit/**/*.test.ts']),
      suite('http', ['test/http/**/*.test.ts']),
      suite('conformance', ['test/conformance/**/*.test.ts']),
      suite('attack', ['test/attack/**/*.test.ts']),
      suite('models', ['test/models/**/*.test.ts'], { testTimeout: 120_000 }, armed),
      suite('integration', ['test/integration/**/*.test.ts'], {
        testTimeout: 120_000,
        hookTimeout: 180_000,
        // After the others, for they keep the processors busy, and these start processes of their own, which mostly wait.
        maxWorkers: 2,
        sequence: { groupOrder: 1 },
      }),
    ],
  },
})
