/** Owns what is counted: names and labels of ux.md section 10, base units, never an id in a label. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { Meter } from './broker/deps.js'
import type { Store } from './ports.js'

export interface Metrics {
  readonly meter: Meter
  /** The exposition text; what the rows and the keys know is asked of them at the time. A store that is down leaves its lines out, not the answer. */
  text(store: Pick<Store, 'credentials'>, more?: Asked): Promise<string>
}

/** What others know better than a counter does. */
export interface Asked {
  /** Seconds since the oldest signing key became current. */
  readonly keyAgeSeconds?: number | null
  /** This replica's feed. */
  readonly feed?: { readonly seq: number; readonly staleMs: number; readonly followers: number }
  /** Jobs by queue and state (`waiting`, `delayed`, `active`). */
  readonly jobs?: Readonly<Record<string, Readonly<Record<string, number>>>>
}

const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60]
/** A reason or a step comes from our own code; should one ever come from outside, it must not make a series of its own. */
const MAX_SERIES = 500

export function createMetrics(): Metrics {
  const registry = new Registry()
  const registers = [registry]
  const counter = <L extends string>(name: string, help: string, labelNames: L[]) => bounded(new Counter({ name, help, labelNames, registers }))
  const issued = counter('curfew_credentials_issued_total', 'Credentials asked for', ['capability', 'issuer', 'result'])
  const issueSeconds = new Histogram({
    name: 'curfew_issue_duration_seconds',
    help: 'From a grant to its credential',
    labelNames: ['result'],
    buckets: SECONDS,
    registers,
  })
  const decisions = counter('curfew_decisions_total', 'Decisions of policy', ['result', 'code'])
  const refused = counter('curfew_attestation_failures_total', 'Evidence refused', ['code'])
  const secondKeys = counter('curfew_evidence_second_key_total', 'Evidence tied to one key that came with another', ['issuer'])
  const revocations = counter('curfew_revocations_total', 'Acts of revocation', ['reason'])
  const ended = counter('curfew_credentials_revoking_total', 'Credentials that acts of revocation ended', ['reason'])
  const confirm = new Histogram({
    name: 'curfew_revocation_confirm_seconds',
    help: 'From the commit to the probe that found it dead',
    labelNames: ['engine'],
    buckets: SECONDS,
    registers,
  })
  const failures = counter('curfew_engine_failures_total', 'Failures of a backend', ['engine', 'step'])
  const swept = new Gauge({ name: 'curfew_sweep_last_run_timestamp_seconds', help: 'When this process swept last', registers })
  const findings = counter('curfew_reconcile_findings_total', 'What reconcile found', ['kind'])
  const abandoned = counter('curfew_tasks_abandoned_total', 'Tasks whose run was over before their holder said so', ['source'])
  const hooks = counter('curfew_hooks_total', 'Events of CI providers', ['source', 'result'])
  const limited = counter('curfew_rate_limited_total', 'Requests refused because there were too many', ['limit'])
  const states = new Gauge({ name: 'curfew_credentials', help: 'Credentials by state', labelNames: ['state'], registers })
  const overdue = new Gauge({ name: 'curfew_revocation_overdue_seconds', help: 'Age of the oldest expiry that is not closed', registers })
  const storeUp = new Gauge({ name: 'curfew_store_up', help: '1 when the store answered this scrape', registers })
  const keyAge = new Gauge({ name: 'curfew_signing_key_age_seconds', help: 'Since the oldest signing key became current', registers })
  const feedSeq = new Gauge({ name: 'curfew_feed_seq', help: 'The last act that this replica has read', registers })
  const feedStale = new Gauge({ name: 'curfew_feed_stale_seconds', help: 'Since this replica read the truth', registers })
  const feedFollowers = new Gauge({ name: 'curfew_feed_followers', help: 'Guards that follow this replica', registers })
  const jobs = new Gauge({ name: 'curfew_queue_jobs', help: 'Jobs by queue and state', labelNames: ['queue', 'state'], registers })

  return {
    meter: {
      issued(capability, issuer, result, seconds) {
        issued({ capability, issuer, result })
        issueSeconds.observe({ result }, seconds)
      },
      decided: (result, code) => decisions({ result, code }),
      attestationRefused: code => refused({ code }),
      secondKey: issuer => secondKeys({ issuer }),
      revoked(reason, credentials) {
        revocations({ reason })
        ended({ reason }, credentials)
      },
      confirmed: (engine, seconds) => confirm.observe({ engine }, seconds),
      engineFailed: (engine, step) => failures({ engine, step }),
      swept: () => swept.setToCurrentTime(),
      found: kind => findings({ kind }),
      abandoned: source => abandoned({ source }),
      hook: (source, result) => hooks({ source, result }),
      rateLimited: limit => limited({ limit }),
    },
    async text(store, more = {}) {
      try {
        const { overdueSeconds, ...counts } = await store.credentials.counts()
        for (const [state, n] of Object.entries(counts)) states.set({ state }, n)
        overdue.set(overdueSeconds)
        storeUp.set(1)
      } catch {
        // An old number would look like a healthy one.
        states.reset()
        overdue.set(Number.NaN)
        storeUp.set(0)
      }
      if (typeof more.keyAgeSeconds === 'number') keyAge.set(more.keyAgeSeconds)
      if (more.feed) {
        feedSeq.set(more.feed.seq)
        feedFollowers.set(more.feed.followers)
        // What was never read has no age: the line stays out until it has.
        if (Number.isFinite(more.feed.staleMs)) feedStale.set(more.feed.staleMs / 1000)
      }
      jobs.reset()
      for (const [queue, counts] of Object.entries(more.jobs ?? {})) for (const [state, n] of Object.entries(counts)) jobs.set({ queue, state }, n)
      return registry.metrics()
    },
  }
}

/** Counts, and puts what would be one series too many under `other`. */
function bounded<L extends string>(counter: Counter<L>): (labels: Record<L, string>, by?: number) => void {
  const met = new Set<string>()
  return (labels, by = 1) => {
    const values = Object.values(labels) as string[]
    const key = values.join('\n')
    if (!met.has(key) && met.size >= MAX_SERIES) {
      counter.inc(Object.fromEntries(Object.keys(labels).map(name => [name, 'other'])) as Record<L, string>, by)
      return
    }
    met.add(key)
    counter.inc(labels, by)
  }
}
