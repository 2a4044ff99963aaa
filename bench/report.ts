/** Owns what is said of figures: each with its goal and whether it was met, for people and as JSON. */
import { writeFileSync } from 'node:fs'
import { cpus, loadavg } from 'node:os'

export interface Spread {
  readonly p50: number
  readonly p99: number
  readonly max: number
  readonly n: number
}

export function spread(samples: readonly number[]): Spread {
  const sorted = [...samples].sort((a, b) => a - b)
  const at = (q: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN
  return { p50: at(0.5), p99: at(0.99), max: sorted.at(-1) ?? Number.NaN, n: samples.length }
}

export const middle = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN

export interface Figure {
  readonly what: string
  readonly value: number
  readonly unit: string
  /** At most, or at least, this. */
  readonly goal?: { readonly most: number } | { readonly least: number }
  readonly note?: string
}

export interface Report {
  title(text: string): void
  say(text: string): void
  figure(figure: Figure): void
  readonly figures: readonly (Figure & { readonly part: string; readonly isMet: boolean | null })[]
}

const shown = (value: number) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(value !== 0 && Math.abs(value) < 10 ? 2 : 1))

function createReport(write: (text: string) => void): Report {
  const figures: (Figure & { part: string; isMet: boolean | null })[] = []
  let part = ''
  return {
    figures,
    title(text) {
      part = text
      write(`\n${text}`)
    },
    say: text => write(`  ${text}`),
    figure(f) {
      const isMet = f.goal === undefined ? null : 'most' in f.goal ? f.value <= f.goal.most : f.value >= f.goal.least
      figures.push({ ...f, part, isMet })
      const goal = f.goal === undefined ? '' : 'most' in f.goal ? `goal ≤ ${f.goal.most}` : `goal ≥ ${f.goal.least}`
      write(
        `  ${f.what.padEnd(66)} ${shown(f.value).padStart(8)} ${f.unit.padEnd(8)} ${goal.padEnd(13)} ${isMet === null ? '' : isMet ? 'met' : 'MISSED'}${f.note ? `  ${f.note}` : ''}`,
      )
    },
  }
}

export interface Run {
  readonly report: Report
  /** Where it ran, and how busy that was before. */
  readonly machine: string
  readonly loadBefore: string
  /** Says how many goals were met. @param json where to write it all @param of what was asked for */
  end(json: string | null, of: object): void
}

/** A bench from its first line to its last, told to whoever watches. */
export function startRun(): Run {
  const report = createReport(text => void process.stdout.write(`${text}\n`))
  const cpu = cpus()[0]?.model.trim()
  const before = loadavg()[0] ?? 0
  return {
    report,
    machine: `Node ${process.version}, ${cpus().length} cores (${cpu})`,
    loadBefore: before.toFixed(1),
    end(json, of) {
      const after = loadavg()[0] ?? 0
      const judged = report.figures.filter(f => f.isMet !== null)
      process.stdout.write(`\n  ${judged.filter(f => f.isMet).length} of ${judged.length} goals met; load average after ${after.toFixed(1)}\n`)
      if (!json) return
      const machine = { node: process.version, cores: cpus().length, cpu, load: { before, after } }
      writeFileSync(json, JSON.stringify({ machine, ...of, figures: report.figures }, null, 2))
    },
  }
}
