/** Owns the clients' own ledger: what they asked for, when they heard what, and a prober that shows every token they hold, over and over. */
import { createHmac, randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { createWorkload, type Workload } from '../../src/dev/workload.js'
import { DB, type Endpoint, JWT, SIGNAL_SOURCE, type World } from './world.js'

export type Op = 'open' | 'issue' | 'complete' | 'revoke' | 'signal'

/** One operation as its client saw it; status 0 is silence, which may mean done or not done. Epoch milliseconds: the database runs on this host. */
export interface Entry {
  readonly op: Op
  readonly sentAt: number
  readonly ackAt: number
  readonly status: number
  /** What the answer names: task, credential, revocation or signal. */
  readonly subject: string | null
  readonly task: string
  readonly decision?: string
  readonly problem?: string
}

/** One task of a client and what it holds. */
export interface Held {
  readonly workload: Workload
  readonly evidence: string
  readonly task: string
  readonly token: string
  credential: { readonly id: string; readonly kind: 'jwt' | 'db'; readonly secret: Readonly<Record<string, string>> } | null
  /** From when on no verifier may accept it: the acknowledgement of its end, and for a signal the sweep that hurries it at the latest. */
  refusedFrom: number | null
  isBySignal: boolean
}

export interface Ledger {
  readonly entries: Entry[]
  readonly held: Held[]
  /** Answers `active` that came too late. */
  readonly late: { readonly credential: string; readonly askedAt: number; readonly from: number; readonly isBySignal: boolean }[]
  /** When the last fault was healed: a signal is acknowledged when it is written down, and acted upon when there is somebody to act. */
  healedAt: number
  /** Answers of the prober that were looked at. */
  probes: number
  /** When nothing may be issued: the store was down, or could not be written. */
  readonly outages: { from: number; to: number }[]
}

export const newLedger = (): Ledger => ({ entries: [], held: [], late: [], healedAt: 0, probes: 0, outages: [] })

/** Every secret that a client was handed or showed, of all runs: none may lie in a sink (I11). */
export const handed = new Set<string>()

export interface Clients {
  open(capabilities?: readonly string[]): Promise<Held | null>
  /** Where a case cannot go on without one. */
  opened(): Promise<Held>
  issue(held: Held, kind: 'jwt' | 'db', ttlSeconds?: number): Promise<Entry>
  complete(held: Held): Promise<Entry>
  /** By an operator, who names the credential, or the task where there is none yet. */
  revoke(held: Held, credential?: string): Promise<Entry>
  /** By the holder, who names a credential of its task; unlike an operator's act it is for no cause, and bars nobody. */
  giveBack(held: Held, credential: string): Promise<Entry>
  signal(held: Held): Promise<Entry>
  introspect(token: string): Promise<boolean | null>
  /** Shows the evidence of a task once more, with a fresh proof; answers the status. */
  replay(held: Held): Promise<number>
}

/** A client waits longer than any deadline of ours: whoever hangs up first hears nothing, and would see nothing delivered. */
const PATIENCE_MS = 60_000
/** Introspection's own bound (I1). */
export const BOUND_MS = 1_000

interface Heard {
  readonly status: number
  // biome-ignore lint/suspicious/noExplicitAny: read as docs/http-api.md has it, and checked where it is used
  readonly body: any
  readonly sentAt: number
  readonly ackAt: number
  readonly silence?: string
}

async function send(method: string, url: string, headers: Record<string, string>, body?: string, waitMs = PATIENCE_MS): Promise<Heard> {
  const sentAt = Date.now()
  try {
    const answer = await fetch(url, { method, headers, signal: AbortSignal.timeout(waitMs), ...(body === undefined ? {} : { body }) })
    const text = await answer.text()
    return { status: answer.status, body: text === '' ? null : JSON.parse(text), sentAt, ackAt: Date.now() }
  } catch (cause) {
    const { code } = ((cause as Error).cause ?? {}) as { code?: string }
    return { status: 0, body: null, sentAt, ackAt: Date.now(), silence: code ?? (cause as Error).name }
  }
}

export function clientsOf(world: World, at: Endpoint, ledger: Ledger, lateBySignalMs = 1_000): Clients {
  const json = { 'content-type': 'application/json' }
  const operator = { ...json, authorization: `Bearer ${world.operatorToken}` }
  const basic = `Basic ${Buffer.from(`orders:${world.secrets.audience}`).toString('base64')}`
  const write = (op: Op, heard: Heard, task: string, subject: (body: Heard['body']) => string, more: Partial<Entry> = {}): Entry => {
    const isDone = heard.status >= 200 && heard.status < 300
    const problem = isDone
      ? {}
      : heard.status === 0
        ? { problem: heard.silence ?? '' }
        : { problem: `${heard.body?.code ?? heard.body?.error ?? ''} ${heard.body?.reason ?? ''}`.trim() }
    const entry = {
      op,
      sentAt: heard.sentAt,
      ackAt: heard.ackAt,
      status: heard.status,
      subject: isDone ? subject(heard.body) : null,
      task,
      ...problem,
      ...more,
    }
    ledger.entries.push(entry)
    return entry
  }
  const asHolder = async (held: Held, path: string, body: object) => {
    const url = `${at.url}/v1/tasks/${held.task}/${path}`
    return send('POST', url, { ...json, authorization: `DPoP ${held.token}`, dpop: await held.workload.proof('POST', url, held.token) }, JSON.stringify(body))
  }
  const ended = (held: Held, entry: Entry, graceMs = 0): Entry => {
    const from = entry.ackAt + graceMs
    if (entry.subject === null || from >= (held.refusedFrom ?? Number.POSITIVE_INFINITY)) return entry
    held.refusedFrom = from
    held.isBySignal = entry.op === 'signal'
    return entry
  }
  const clients: Clients = {
    async open(capabilities = [DB, JWT]) {
      const workload = await createWorkload(at.url)
      const evidence = await world.issuer.githubToken(at.url)
      const url = `${at.url}/v1/tasks`
      const body = { subject_token: evidence, purpose: 'faults', capabilities }
      const heard = await send('POST', url, { ...json, dpop: await workload.proof('POST', url) }, JSON.stringify(body))
      const entry = write('open', heard, heard.body?.task?.id ?? '', b => b.task.id)
      if (entry.subject === null) return null
      const held: Held = { workload, evidence, task: entry.subject, token: heard.body.token, credential: null, refusedFrom: null, isBySignal: false }
      ledger.held.push(held)
      for (const secret of [evidence, held.token]) handed.add(secret)
      return held
    },
    async opened() {
      const held = await clients.open()
      if (!held) throw new Error('the task was not opened')
      return held
    },
    async issue(held, kind, ttlSeconds = 300) {
      const heard = await asHolder(held, 'credentials', { capability: kind === 'db' ? DB : JWT, ttl_seconds: ttlSeconds })
      const entry = write('issue', heard, held.task, b => b.credential.id, { decision: heard.body?.credential?.decision })
      if (entry.subject !== null) {
        held.credential = { id: entry.subject, kind, secret: heard.body.secret }
        handed.add(heard.body.secret.token ?? heard.body.secret.PGPASSWORD)
      }
      return entry
    },
    complete: async held =>
      ended(
        held,
        write('complete', await asHolder(held, 'complete', {}), held.task, b => b.revocation.id),
      ),
    async revoke(held, credential = held.credential?.id) {
      const selector = credential ? { credential } : { task: held.task }
      return ended(
        held,
        write('revoke', await send('POST', `${at.url}/v1/revocations`, operator, JSON.stringify({ selector })), held.task, b => b.revocation.id),
      )
    },
    async giveBack(held, credential) {
      const url = `${at.url}/v1/credentials/${credential}`
      const heard = await send('DELETE', url, { authorization: `DPoP ${held.token}`, dpop: await held.workload.proof('DELETE', url, held.token) })
      return ended(
        held,
        write('revoke', heard, held.task, b => b.revocation.id),
      )
    },
    async signal(held) {
      const body = JSON.stringify({
        id: randomUUID(),
        type: 'account.compromised',
        severity: 'high',
        subject: held.credential ? { credential: held.credential.id } : { task: held.task },
        occurred_at: new Date().toISOString(),
      })
      const seconds = Math.floor(Date.now() / 1000)
      const mac = createHmac('sha256', world.secrets.signal).update(`${seconds}.${body}`).digest('hex')
      const headers = { ...json, 'curfew-source': SIGNAL_SOURCE, 'curfew-signature': `t=${seconds},v1=${mac}` }
      return ended(
        held,
        write('signal', await send('POST', `${at.url}/v1/signals`, headers, body), held.task, b => b.signal.id),
        lateBySignalMs,
      )
    },
    async introspect(token) {
      const headers = { 'content-type': 'application/x-www-form-urlencoded', authorization: basic }
      const { status, body } = await send('POST', `${at.url}/oauth2/introspect`, headers, `token=${token}`, 5_000)
      return status === 200 ? (body.active as boolean) : null
    },
    async replay(held) {
      const url = `${at.url}/v1/tasks`
      const body = JSON.stringify({ subject_token: held.evidence, purpose: 'faults', capabilities: [JWT] })
      return (await send('POST', url, { ...json, dpop: await held.workload.proof('POST', url) }, body)).status
    },
  }
  return clients
}

/** Shows every token that a client holds or held, each about every 50 ms, until it was told off for good. */
export function startProber(clients: Clients, ledger: Ledger): { stop(): Promise<void> } {
  const done = new Set<string>()
  let isStopping = false
  async function show(held: Held): Promise<void> {
    const { credential } = held
    if (credential?.kind !== 'jwt' || done.has(credential.id)) return
    const asked = Date.now()
    const isActive = await clients.introspect(credential.secret.token as string)
    if (isActive === null) return
    ledger.probes++
    if (held.refusedFrom === null) return
    if (isActive && asked > held.refusedFrom + BOUND_MS)
      ledger.late.push({ credential: credential.id, askedAt: asked, from: held.refusedFrom, isBySignal: held.isBySignal })
    if (!isActive && asked > held.refusedFrom + BOUND_MS * 2) done.add(credential.id)
  }
  const running = (async () => {
    while (!isStopping) {
      const next = sleep(50)
      await Promise.all(ledger.held.slice(-60).map(show))
      await next
    }
  })()
  return {
    async stop() {
      isStopping = true
      await running
    },
  }
}
