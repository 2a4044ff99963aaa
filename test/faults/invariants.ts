/** Owns the checkers that follow every run: the clients' ledger against rows, audit, Vault's listing and the target's roles (security.md section 2). */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { BOUND_MS, type Entry, type Ledger } from './ledger.js'
import { LOAD_SWEEP_MS } from './load.js'
import { narrowing } from './narrowing.js'
import { oneTime } from './one-time.js'
import { clearedWithin, text } from './upstream.js'
import type { World } from './world.js'

export interface Findings {
  readonly violations: string[]
  /** Acknowledged and without effect or evidence. */
  readonly lost: string[]
  readonly orphans: string[]
}

export interface AuditRow {
  readonly id: string
  readonly at: number
  readonly kind: string
  readonly subject: string | null
  readonly data: { readonly decision?: string; readonly evidence?: string; readonly parent?: string | null; readonly grant?: string | null }
}
export interface Row {
  readonly id: string
  readonly task: string
  readonly state: string
  readonly engine: string
  readonly decision: string
  readonly is_waiting: boolean
  readonly late_ms: number | null
}

/** How long the rows of a run may take to come to rest once everything is healed. */
const QUIET_MS = 75_000
/** One sweep and 60 s (I2). */
const ORPHAN_MS = 61_000

/** Where the audit ends now: a run is judged by what comes after. */
export async function auditMark(world: World): Promise<number> {
  const [row] = await world.rows<{ id: string }>('store', 'select coalesce(max(id), 0) as id from curfew.audit')
  return Number(row?.id)
}

export async function check(world: World, ledger: Ledger, since: number): Promise<Findings & { readonly rows: readonly Row[] }> {
  const findings: Findings = { violations: [], lost: [], orphans: [] }
  const rows = await quiet(world, ledger)
  const audit = await world.rows<AuditRow>(
    'store',
    `select id, extract(epoch from at)::float8 * 1000 as at, kind, subject, data from curfew.audit where id > $1 order by id`,
    [since],
  )
  findings.violations.push(...acceptedTooLong(ledger), ...nothingReturns(audit, rows), ...evidenceFirst(ledger, audit), ...outages(ledger))
  findings.violations.push(...(await oneTime(world, ledger, audit)), ...(await narrowing(world, ledger)))
  acknowledged(ledger, audit, rows, findings)
  await refusedAtTarget(ledger, rows, findings)
  const { left } = await clearedWithin(world, {}, ORPHAN_MS)
  findings.orphans.push(...left.map(thing => `I2 ${text(thing)}`))
  return { ...findings, rows }
}

/** Heal, and wait until what ended is dead. A credential that nobody received may wait for a listing (security.md 3.4): the end of all runs sees to it. */
async function quiet(world: World, ledger: Ledger): Promise<readonly Row[]> {
  const tasks = [...new Set(ledger.entries.map(e => e.task).filter(t => t !== ''))]
  const ended = new Set(ledger.held.filter(h => h.refusedFrom !== null).map(h => h.task))
  for (const since = performance.now(); ; await sleep(150)) {
    const rows = await world.rows<Row>(
      'store',
      `select id, task, state, engine, decision, handle ? 'accessor' and not handle ? 'leaseId' as is_waiting,
              extract(epoch from revoked_at - revoking_at)::float8 * 1000 as late_ms
       from curfew.credentials where task = any($1::text[])`,
      [tasks],
    )
    const restless = rows.filter(r => r.state !== 'revoked' && !r.is_waiting && (ended.has(r.task) || r.state !== 'active'))
    if (restless.length === 0 || performance.now() - since > QUIET_MS) return rows
  }
}

/** I1, by introspection. */
export const acceptedTooLong = (ledger: Ledger): string[] =>
  ledger.late
    .filter(l => l.askedAt > (l.isBySignal ? Math.max(l.from, ledger.healedAt + LOAD_SWEEP_MS) : l.from) + BOUND_MS)
    .map(l => `I1 ${l.credential} is accepted ${l.askedAt - l.from} ms after its end`)

/** I3: what each row went through, as the audit tells it in the order of commits. */
export function nothingReturns(audit: readonly AuditRow[], rows: readonly Row[]): string[] {
  const FROM: Readonly<Record<string, readonly [readonly string[], string | null]>> = {
    'credential.intended': [['none'], 'pending'],
    'credential.handle_recorded': [['pending'], null],
    'credential.issued': [['none', 'pending'], 'active'],
    'credential.revoking': [['pending', 'active'], 'revoking'],
    'credential.destroy_failed': [['revoking', 'stuck'], null],
    'credential.stuck': [['revoking'], 'stuck'],
    'credential.revoked': [['revoking', 'stuck'], 'revoked'],
  }
  const wrong: string[] = []
  const states = new Map<string, string>()
  for (const { kind, subject } of audit) {
    const step = FROM[kind]
    if (!step || subject === null) continue
    const [from, to] = step
    const now = states.get(subject) ?? (kind === 'credential.intended' || kind === 'credential.issued' ? 'none' : null)
    // Its beginning lies before this run.
    if (now !== null && !from.includes(now)) wrong.push(`I3 ${subject}: ${kind} when it was ${now}`)
    if (to ?? now) states.set(subject, (to ?? now) as string)
  }
  for (const row of rows) {
    const told = states.get(row.id)
    if (told !== row.state) wrong.push(`I3 ${row.id} is ${row.state}, and the audit says ${told ?? 'nothing'}`)
  }
  return wrong
}

/** I4, and the half of I8 that is seen from outside: a secret left, so its decision, its row and its audit rows had been committed. */
export function evidenceFirst(ledger: Ledger, audit: readonly AuditRow[]): string[] {
  const wrong: string[] = []
  const at = new Map(audit.map(a => [`${a.kind} ${a.subject}`, a.at]))
  for (const e of delivered(ledger)) {
    const issued = at.get(`credential.issued ${e.subject}`)
    // The client's clock tells whole milliseconds.
    if (issued === undefined || Math.floor(issued) > e.ackAt)
      wrong.push(`I4 ${e.subject} was delivered at ${e.ackAt}, its audit row is of ${issued ?? 'never'}`)
    if (!e.decision || !at.has(`decision.permitted ${e.decision}`)) wrong.push(`I8 ${e.subject} was delivered without its decision in evidence`)
  }
  return wrong
}

const delivered = (ledger: Ledger) => ledger.entries.filter(e => e.op === 'issue' && e.subject !== null)

/** I8: asked for and answered while the store could not be written. */
export const outages = (ledger: Ledger): string[] =>
  ledger.outages.flatMap(({ from, to }) =>
    ledger.entries.filter(e => e.subject !== null && e.sentAt >= from && e.ackAt <= to).map(e => `I8 ${e.op} ${e.subject} was acknowledged without a store`),
  )

/** A heartbeat is no decision, and has no row of its own. */
const EVIDENCE: Readonly<Record<Entry['op'], string | null>> = {
  open: 'task.opened',
  issue: 'credential.issued',
  delegate: 'task.delegated',
  heartbeat: null,
  complete: 'revocation.committed',
  revoke: 'revocation.committed',
  signal: 'signal.received',
}

/** I6 and nothing lost: one audit row for each acknowledged act, and the act's effect in the rows. */
export function acknowledged(ledger: Ledger, audit: readonly AuditRow[], rows: readonly Row[], findings: Findings): void {
  const count = new Map<string, number>()
  // A delegation is told of the task that it hands on, and named by its grant.
  const named = (a: AuditRow) => `${a.kind} ${a.kind === 'task.delegated' ? a.data.grant : a.subject}`
  for (const a of audit) count.set(named(a), (count.get(named(a)) ?? 0) + 1)
  const expectOne = (e: Entry, kind: string, subject: string) => {
    const n = count.get(`${kind} ${subject}`) ?? 0
    if (n === 0) findings.lost.push(`I6 ${e.op} ${subject} was acknowledged and has no ${kind}`)
    else if (n > 1) findings.violations.push(`I6 ${subject} has ${n} rows ${kind}`)
  }
  for (const e of ledger.entries) {
    if (e.subject === null) continue
    const evidence = EVIDENCE[e.op]
    if (evidence !== null) expectOne(e, evidence, e.subject)
    if (e.op === 'complete') expectOne(e, 'task.ended', e.task)
    if (e.op === 'signal') expectOne(e, 'signal.handled', e.subject)
    if (e.op === 'issue' && !rows.some(r => r.id === e.subject)) findings.lost.push(`${e.subject} was delivered and has no row`)
  }
  for (const held of ledger.held) {
    if (held.refusedFrom === null) continue
    for (const row of rows) {
      if (row.task !== held.task || row.state === 'revoked' || row.is_waiting) continue
      findings.lost.push(`${row.id} was ended and is ${row.state} after ${QUIET_MS / 1000} s`)
    }
  }
}

/** I1 at the target: the password that was handed over opens nothing once its row says dead. */
async function refusedAtTarget(ledger: Ledger, rows: readonly Row[], findings: Findings): Promise<void> {
  const revoked = new Set(rows.filter(r => r.state === 'revoked').map(r => r.id))
  for (const { credential } of ledger.held) {
    if (credential?.kind !== 'db' || !revoked.has(credential.id)) continue
    if (await canLogIn(credential.secret)) findings.violations.push(`I1 ${credential.id} is revoked and its user can log in`)
  }
}

export async function canLogIn(secret: Readonly<Record<string, string>>): Promise<boolean> {
  const client = new pg.Client({
    host: secret.PGHOST,
    port: Number(secret.PGPORT),
    database: secret.PGDATABASE,
    user: secret.PGUSER,
    password: secret.PGPASSWORD,
    connectionTimeoutMillis: 3_000,
  })
  client.on('error', () => {})
  try {
    await client.connect()
    await client.query('select count(*) from orders')
    return true
  } catch {
    return false
  } finally {
    await client.end().catch(() => {})
  }
}
