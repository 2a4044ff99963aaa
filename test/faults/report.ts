/** Owns the telling of a fault run: one line a case, what was wrong below it, and the counts at the end. */
import { writeFileSync } from 'node:fs'
import { auditMark, check } from './invariants.js'
import { type Ledger, newLedger } from './ledger.js'
import type { World } from './world.js'

export const say = (text: string) => void process.stdout.write(`${text}\n`)

export interface Case {
  readonly ledger: Ledger
  /** Something that must hold did not. */
  wrong(text: string): void
  orphan(text: string): void
  lost(text: string): void
  expect(isSo: boolean, text: string): void
  /** Follows the run with every checker, and adds what they find; answers how late the rows of this run died. */
  judge(): Promise<{ readonly slowestMs: number; readonly rows: number }>
}

/** In the shape of vitest's JSON reporter, so that one reader names the failures of every suite. */
interface Failure {
  readonly fullName: string
  readonly status: 'failed'
  readonly failureMessages: readonly string[]
}

export interface Report {
  readonly counts: { passed: number; failed: number; pending: number }
  /** Of the cases that came to their end. */
  readonly names: readonly string[]
  readonly failed: readonly Failure[]
  /** Runs one case; the text that it answers is what was seen. */
  case(name: string, act: (c: Case) => Promise<string>, over?: { readonly ledger: Ledger; readonly mark: number }): Promise<void>
  /** The last line, and the code to end with. */
  end(): number
}

export function newReport(world: World): Report {
  const counts = { passed: 0, failed: 0, pending: 0 }
  const sum = { violations: 0, lost: 0, orphans: 0 }
  const names: string[] = []
  const failed: Failure[] = []
  return {
    counts,
    names,
    failed,
    async case(name, act, over) {
      const since = performance.now()
      const bad = { violations: [] as string[], lost: [] as string[], orphans: [] as string[] }
      const ledger = over?.ledger ?? newLedger()
      let seen = ''
      try {
        const mark = over?.mark ?? (await auditMark(world))
        seen = await act({
          ledger,
          wrong: text => void bad.violations.push(text),
          orphan: text => void bad.orphans.push(text),
          lost: text => void bad.lost.push(text),
          expect: (isSo, text) => void (isSo || bad.violations.push(text)),
          async judge() {
            const found = await check(world, ledger, mark)
            for (const kind of ['violations', 'lost', 'orphans'] as const) bad[kind].push(...found[kind])
            return { slowestMs: Math.round(Math.max(0, ...found.rows.map(r => r.late_ms ?? 0))), rows: found.rows.length }
          },
        })
        names.push(name)
      } catch (cause) {
        bad.violations.push(`the case did not come to its end: ${cause instanceof Error ? cause.message : String(cause)}`)
      }
      for (const kind of ['violations', 'lost', 'orphans'] as const) sum[kind] += bad[kind].length
      const all = [...bad.violations, ...bad.lost.map(l => `LOST ${l}`), ...bad.orphans.map(o => `ORPHAN ${o}`)]
      counts[all.length === 0 ? 'passed' : 'failed']++
      if (all.length > 0) failed.push({ fullName: name, status: 'failed', failureMessages: all })
      say(`${all.length === 0 ? 'ok  ' : 'FAIL'} ${name}${seen ? `: ${seen}` : ''} (${((performance.now() - since) / 1000).toFixed(1)} s)`)
      for (const text of all.slice(0, 12)) say(`       ${text}`)
      if (all.length > 12) say(`       and ${all.length - 12} more`)
    },
    end() {
      say(`violations ${sum.violations}, lost ${sum.lost}, orphans ${sum.orphans} (${counts.passed} cases passed, ${counts.failed} failed)`)
      return counts.failed === 0 ? 0 : 1
    },
  }
}

export function writeReport(path: string | undefined, { counts, failed }: Pick<Report, 'counts' | 'failed'>): void {
  if (!path) return
  const testResults = [{ name: 'test/faults', status: counts.failed > 0 ? 'failed' : 'passed', assertionResults: failed }]
  writeFileSync(path, JSON.stringify({ numPassedTests: counts.passed, numFailedTests: counts.failed, numPendingTests: counts.pending, testResults }))
}
