/** Owns what is counted: names and labels of ux.md section 10, base units, never an id in a label. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { Meter } from './broker/deps.js'
import type { Store } from './ports.js'

export interface Metrics {
  readonly meter: Meter
  /** The exposition text; what the rows know is asked of them at the time. */
  text(store: Pick<Store, 'credentials'>): Promise<string>
}

const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60]

export function createMetrics(): Metrics {
  const registers = [new Registry()]
  const issued = new Counter({ name: 'curfew_credentials_issued_total', help: 'Credentials asked for', labelNames: ['capability', 'issuer', 'result'], registers })
  const issueSeconds = new Histogram({ name: 'curfew_issue_duration_seconds', help: 'From a grant to its credential', labelNames: ['result'], buckets: SECONDS, registers })
  const decisions = new Counter({ name: 'curfew_decisions_total', help: 'Decisions of policy', labelNames: ['result', 'code'], registers })
  const refused = new Counter({ name: 'curfew_attestation_failures_total', help: 'Evidence refused', labelNames: ['code'], registers })
  const revocations = new Counter({ name: 'curfew_revocations_total', help: 'Acts of revocation', labelNames: ['reason'], registers })
  const ended = new Counter({ name: 'curfew_credentials_revoking_total', help: 'Credentials that acts of revocation ended', labelNames: ['reason'], registers })
  const confirm = new Histogram({ name: 'curfew_revocation_confirm_seconds', help: 'From the commit to the probe that found it dead', labelNames: ['engine'], buckets: SECONDS, registers })
  const failures = new Counter({ name: 'curfew_engine_failures_total', help: 'Failures of a backend', labelNames: ['engine', 'step'], registers })
  const swept = new Gauge({ name: 'curfew_sweep_last_run_timestamp_seconds', help: 'When this process swept last', registers })
  const findings = new Counter({ name: 'curfew_reconcile_findings_total', help: 'What reconcile found', labelNames: ['kind'], registers })
  const states = new Gauge({ name: 'curfew_credentials', help: 'Credentials by state', labelNames: ['state'], registers })
  const overdue = new Gauge({ name: 'curfew_revocation_overdue_seconds', help: 'Age of the oldest expiry that is not closed', registers })

  return {
    meter: {
      issued(capability, issuer, result, seconds) {
        issued.inc({ capability, issuer, result })
        issueSeconds.observe({ result }, seconds)
      },
      decided: (result, code) => decisions.inc({ result, code }),
      attestationRefused: code => refused.inc({ code }),
      revoked(reason, credentials) {
        revocations.inc({ reason })
        ended.inc({ reason }, credentials)
      },
      confirmed: (engine, seconds) => confirm.observe({ engine }, seconds),
      engineFailed: (engine, step) => failures.inc({ engine, step }),
      swept: () => swept.setToCurrentTime(),
      found: kind => findings.inc({ kind }),
    },
    async text(store) {
      const { overdueSeconds, ...counts } = await store.credentials.counts()
      for (const [state, n] of Object.entries(counts)) states.set({ state }, n)
      overdue.set(overdueSeconds)
      return (registers[0] as Registry).metrics()
    },
  }
}
