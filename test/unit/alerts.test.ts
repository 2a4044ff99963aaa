/** Owns that the rules for Prometheus speak of metrics and labels that there are, and that the page says the same as they. */
import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { parse } from 'yaml'
import { createMetrics } from '../../src/metrics.js'

const ROOT = new URL('../../', import.meta.url).pathname
const rules: { alert: string; expr: string; for?: string; labels: { severity: string }; annotations: { summary: string; fix: string } }[] = parse(
  readFileSync(`${ROOT}config/prometheus-alerts.yaml`, 'utf8'),
).groups[0].rules

const metrics = createMetrics()
const text = await metrics.text({
  credentials: { counts: async () => ({ pending: 0, active: 0, revoking: 0, stuck: 0, revoked: 0, overdueSeconds: 0 }) },
} as never)
const known = new Map([...text.matchAll(/^# TYPE (\w+) (\w+)$/gm)].map(m => [m[1] as string, m[2] as string]))

it.each(rules.map(r => [r.alert, r] as const))('%s: its metrics exist, and are used as what they are', (_, rule) => {
  const named = rule.expr.match(/curfew_\w+/g) ?? []
  expect(named.length).toBeGreaterThan(0)
  for (const name of named) {
    expect(known.get(name), name).toBeDefined()
    // A counter says nothing by its height, a gauge nothing by its rate.
    expect([name, new RegExp(`(?:rate|increase)\\(${name}\\b`).test(rule.expr)]).toEqual([name, known.get(name) === 'counter'])
  }
  expect(rule.labels.severity).toMatch(/^(page|ticket)$/)
  expect(rule.annotations.summary && rule.annotations.fix).toBeTruthy()
})

it('the labels that rules ask for are written by us', () => {
  metrics.meter.decided('denied', 'no_permit')
  expect(text).toContain('curfew_credentials{state="stuck"} 0')
})

it('what the page says to watch is a rule', () => {
  const page = readFileSync(`${ROOT}docs/operators.md`, 'utf8')
  const watched = [...page.matchAll(/^\| `([^`]*curfew_[^`]*)` \|/gm)].map(m => m[1] as string)
  expect(watched.length).toBeGreaterThan(6)
  for (const expr of watched) expect(rules.map(r => r.expr)).toContain(expr)
})
