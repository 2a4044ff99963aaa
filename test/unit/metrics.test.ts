/** Owns what our metrics promise: the names that alerts rely on, no ids, no unbounded series, honesty when the store is down. */
import { expect, test } from 'vitest'
import { createMetrics } from '../../src/metrics.js'

const counts = { pending: 1, active: 2, revoking: 3, stuck: 0, revoked: 9, overdueSeconds: 1.5 }
const store = { credentials: { counts: async () => counts } } as never
const down = {
  credentials: {
    counts: async () => {
      throw new Error('store down')
    },
  },
} as never

test('every name of the operators’ page that this process can know is there, with its labels', async () => {
  const { meter, text } = createMetrics()
  meter.issued('db/orders-ro', 'github', 'ok', 0.02)
  meter.decided('denied', 'no_permit')
  meter.attestationRefused('replayed')
  meter.secondKey('gitlab')
  meter.revoked('completed', 3)
  meter.confirmed('vault-database', 0.3)
  meter.engineFailed('vault-database', 'destroy')
  meter.swept()
  meter.found('orphan_lease')
  meter.abandoned('github-org')
  meter.hook('github-org', 'accepted')
  meter.rateLimited('source')
  meter.rateLimited('identity')
  const page = await text(store, { keyAgeSeconds: 86_400, jobs: { 'destroy-jwt': { waiting: 4 } } })
  for (const line of [
    'curfew_credentials_issued_total{capability="db/orders-ro",issuer="github",result="ok"} 1',
    'curfew_issue_duration_seconds_count{result="ok"} 1',
    'curfew_decisions_total{result="denied",code="no_permit"} 1',
    'curfew_attestation_failures_total{code="replayed"} 1',
    'curfew_evidence_second_key_total{issuer="gitlab"} 1',
    'curfew_revocations_total{reason="completed"} 1',
    'curfew_credentials_revoking_total{reason="completed"} 3',
    'curfew_revocation_confirm_seconds_count{engine="vault-database"} 1',
    'curfew_engine_failures_total{engine="vault-database",step="destroy"} 1',
    'curfew_reconcile_findings_total{kind="orphan_lease"} 1',
    'curfew_tasks_abandoned_total{source="github-org"} 1',
    'curfew_hooks_total{source="github-org",result="accepted"} 1',
    'curfew_rate_limited_total{limit="source"} 1',
    'curfew_rate_limited_total{limit="identity"} 1',
    'curfew_credentials{state="active"} 2',
    'curfew_revocation_overdue_seconds 1.5',
    'curfew_store_up 1',
    'curfew_signing_key_age_seconds 86400',
    'curfew_queue_jobs{queue="destroy-jwt",state="waiting"} 4',
  ])
    expect(page.split('\n')).toContain(line)
  expect(page).toMatch(/curfew_sweep_last_run_timestamp_seconds 1\.?\d+/)
})

test('two houses in one process count for themselves', async () => {
  const [a, b] = [createMetrics(), createMetrics()]
  a.meter.found('x')
  expect(await b.text(store)).not.toContain('kind="x"')
})

test('a label that comes from outside cannot make series without end', async () => {
  const { meter, text } = createMetrics()
  for (let i = 0; i < 5_000; i++) meter.attestationRefused(`forged-${i}`)
  const page = await text(store)
  expect(page.split('\n').filter(line => line.startsWith('curfew_attestation_failures_total{')).length).toBeLessThanOrEqual(501)
  expect(page).toContain('curfew_attestation_failures_total{code="other"} 4500')
})

test('a label cannot break out of its line', async () => {
  const { meter, text } = createMetrics()
  meter.attestationRefused('a"}\nforged_total 1')
  expect((await text(store)).split('\n')).not.toContain('forged_total 1')
})

test('with the store down the page is still served and shows no old number', async () => {
  const { text } = createMetrics()
  await text(store)
  const page = await text(down)
  expect(page).toContain('curfew_store_up 0')
  expect(page).toMatch(/curfew_revocation_overdue_seconds nan/i)
  expect(page).not.toContain('curfew_credentials{state="active"}')
})
