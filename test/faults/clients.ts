/** Owns the clients of a fault run: each request as docs/http-api.md has it, and what was asked, shown and heard written into the ledger. */
import { createHash, createHmac, randomUUID } from 'node:crypto'
import { createWorkload, type Workload } from '../../src/dev/workload.js'
import { type Entry, type Held, handed, type Ledger, noteEnd, type Op, type Shown } from './ledger.js'
import { DB, type Endpoint, JWT, SIGNAL_SOURCE, type World } from './world.js'

export interface IssueOptions {
  readonly ttlSeconds?: number
  /** `Idempotency-Key`. */
  readonly key?: string
  /** With fresh evidence of the same workload. */
  readonly fresh?: boolean
  /** Its task does not have it: this must be refused, and is no act of the run. */
  readonly hostile?: boolean
  /** Made before, and perhaps shown before. */
  readonly proof?: string
}

export interface DelegateOptions {
  readonly capabilities?: readonly string[]
  readonly lifeSeconds?: number
  /** The child has evidence of its own. */
  readonly evidence?: boolean
}

export interface Clients {
  open(capabilities?: readonly string[]): Promise<Held | null>
  /** Where a case cannot go on without one. */
  opened(): Promise<Held>
  issue(held: Held, kind: 'jwt' | 'db', options?: IssueOptions): Promise<Entry>
  /** Several at once, all of them or none; the ledger has one entry for each that was handed over, or one that says why there is none. */
  bundle(held: Held, capabilities: readonly string[], options?: IssueOptions): Promise<{ readonly status: number; readonly body: Heard['body'] }>
  /** A task below, for a key of its own: the grant, and the opening with it, with evidence of its own or without. */
  delegate(held: Held, options?: DelegateOptions): Promise<Held | null>
  /** The grant alone, and whose it is. */
  grant(held: Held, options?: DelegateOptions): Promise<Below | null>
  /** With evidence, with a grant, or both; whoever uses them. */
  openWith(workload: Workload, evidence: string | null, capabilities: readonly string[], below: Below | null): Promise<Held | null>
  heartbeat(held: Held): Promise<Entry>
  complete(held: Held): Promise<Entry>
  /** By an operator, who names the credential, or the task where there is none yet. */
  revoke(held: Held, credential?: string): Promise<Entry>
  /** By the holder, who names a credential of its task; unlike an operator's act it is for no cause, and bars nobody. */
  giveBack(held: Held, credential: string): Promise<Entry>
  signal(held: Held): Promise<Entry>
  introspect(token: string): Promise<boolean | null>
  /**
   * Shows what was good once a second time: the evidence of a task by a thief's key, its grant by the key that it names, or the very request of
   * its opening. Answers the status, or null where there was none to show.
   */
  replay(held: Held, what?: 'evidence' | 'proof' | 'grant'): Promise<number | null>
}

type Below = NonNullable<Held['below']> & { readonly workload: Workload }

/** A client waits longer than any deadline of ours: whoever hangs up first hears nothing, and would see nothing delivered. */
const PATIENCE_MS = 60_000

interface Heard {
  readonly status: number
  // biome-ignore lint/suspicious/noExplicitAny: read as docs/http-api.md has it, and checked where it is used
  readonly body: any
  readonly sentAt: number
  readonly ackAt: number
  readonly silence?: string
}

interface BundlePart {
  readonly credential: { readonly id: string; readonly decision: string }
  readonly secret: Readonly<Record<string, string>>
}

/** What a balancer in front of the broker does with a request before it sends it on. */
export type Gate = () => Promise<void>

async function sendNow(method: string, url: string, headers: Record<string, string>, body?: string, waitMs = PATIENCE_MS): Promise<Heard> {
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

const claimOf = (token: string, claim: string) => String(JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())[claim])
/** As the broker calls their marks (src/domain/dpop.ts, src/attestors/oidc.ts, src/broker/grant-token.ts). */
const proofShown = (proof: string): Shown => ({ kind: 'proof', id: createHash('sha256').update(claimOf(proof, 'jti')).digest('base64url') })
const evidenceShown = (evidence: string | null): Shown[] => (evidence === null ? [] : [{ kind: 'evidence', id: `jti:${claimOf(evidence, 'jti')}` }])
const grantShown = (grant: string | null): Shown[] => (grant === null ? [] : [{ kind: 'grant', id: claimOf(grant, 'jti') }])

export function clientsOf(world: World, at: Endpoint, ledger: Ledger, lateBySignalMs = 1_000, gate: Gate = async () => {}): Clients {
  const send: typeof sendNow = async (method, url, ...rest) => {
    await gate()
    return sendNow(method, url.replace(at.url, at.door), ...rest)
  }
  const json = { 'content-type': 'application/json' }
  const operator = { ...json, authorization: `Bearer ${world.operatorToken}` }
  const basic = `Basic ${Buffer.from(`orders:${world.secrets.audience}`).toString('base64')}`
  /** The requests that opened tasks, as they were sent. */
  const openings = new Map<Held, { headers: Record<string, string>; body: string; shown: readonly Shown[] }>()

  const entryOf = (op: Op, heard: Heard, task: string, subject: (body: Heard['body']) => string, more: Partial<Entry> = {}): Entry => {
    const isDone = heard.status >= 200 && heard.status < 300
    const told = heard.status === 0 ? (heard.silence ?? '') : `${heard.body?.code ?? heard.body?.error ?? ''} ${heard.body?.reason ?? ''}`.trim()
    const { sentAt, ackAt, status } = heard
    return { op, sentAt, ackAt, status, subject: isDone ? subject(heard.body) : null, task, shown: [], ...(isDone ? {} : { problem: told }), ...more }
  }
  const write = (entry: Entry, into = ledger.entries): Entry => {
    into.push(entry)
    return entry
  }
  const asHolder = async (held: Held, method: string, path: string, body?: object, headers: Record<string, string> = {}, made?: string) => {
    const url = at.url + path
    const proof = made ?? (await held.workload.proof(method, url, held.token))
    const all = { ...headers, ...(body ? json : {}), authorization: `DPoP ${held.token}`, dpop: proof }
    return { heard: await send(method, url, all, body && JSON.stringify(body)), shown: [proofShown(proof)] }
  }
  const onTask = (held: Held, path: string, body: object, headers?: Record<string, string>, made?: string) =>
    asHolder(held, 'POST', `/v1/tasks/${held.task}/${path}`, body, headers, made)
  const ended = (held: Held, entry: Entry, ofTask: boolean, graceMs = 0): Entry => {
    if (entry.subject !== null) noteEnd(ledger, held, entry.ackAt + graceMs, { ofTask, isBySignal: entry.op === 'signal' })
    return entry
  }

  /** @param below the task above, and what it gave; its child shows evidence, or the grant alone. */
  async function openTask(workload: Held['workload'], evidence: string | null, capabilities: readonly string[], below: Held['below']): Promise<Held | null> {
    const url = `${at.url}/v1/tasks`
    const proof = await workload.proof('POST', url)
    const [headers, shown] = [{ ...json, dpop: proof }, [proofShown(proof), ...evidenceShown(evidence), ...grantShown(below?.grant ?? null)]]
    const body = JSON.stringify({
      ...(evidence === null ? {} : { subject_token: evidence }),
      ...(below ? { parent_grant: below.grant, life_seconds: below.bounds.lifeSeconds } : {}),
      purpose: 'faults',
      capabilities,
    })
    const heard = await send('POST', url, headers, body)
    const entry = write(entryOf('open', heard, heard.body?.task?.id ?? '', b => b.task.id, { shown }))
    if (entry.subject === null) return null
    const held: Held = {
      ...{ workload, evidence, task: entry.subject, token: heard.body.token, below, credential: null },
      // Opened in the moment in which the task above ended: then it was never good for anything.
      ...{ refusedFrom: below?.parent.endedFrom ?? null, endedFrom: below?.parent.endedFrom ?? null, isBySignal: below?.parent.isBySignal ?? false },
    }
    ledger.held.push(held)
    openings.set(held, { headers, body, shown })
    for (const secret of [evidence, held.token]) if (secret !== null) handed.add(secret)
    return held
  }

  const clients: Clients = {
    open: async (capabilities = [DB, JWT]) => openTask(await createWorkload(at.url), await world.issuer.githubToken(at.url), capabilities, null),
    async opened() {
      const held = await clients.open()
      if (!held) throw new Error('the task was not opened')
      return held
    },
    async issue(held, kind, { ttlSeconds = 300, key, fresh, hostile, proof } = {}) {
      const evidence = fresh ? await world.issuer.githubToken(at.url) : null
      const body = { capability: kind === 'db' ? DB : JWT, ttl_seconds: ttlSeconds, ...(evidence === null ? {} : { subject_token: evidence }) }
      const { heard, shown } = await onTask(held, 'credentials', body, key === undefined ? {} : { 'idempotency-key': key }, proof)
      const more = { decision: heard.body?.credential?.decision, shown: [...shown, ...evidenceShown(evidence)] }
      const entry = write(
        entryOf('issue', heard, held.task, b => b.credential.id, more),
        hostile ? ledger.hostile : ledger.entries,
      )
      if (evidence !== null) handed.add(evidence)
      if (entry.subject !== null) {
        held.credential = { id: entry.subject, kind, secret: heard.body.secret }
        handed.add(heard.body.secret.token ?? heard.body.secret.PGPASSWORD)
      }
      return entry
    },
    async bundle(held, capabilities, { ttlSeconds = 300, key } = {}) {
      const parts = capabilities.map(capability => ({ capability, ttl_seconds: ttlSeconds }))
      const { heard, shown } = await onTask(held, 'credentials', { capabilities: parts }, key === undefined ? {} : { 'idempotency-key': key })
      const issued = (heard.status === 201 ? heard.body.credentials : []) as BundlePart[]
      for (const [i, { credential, secret }] of issued.entries()) {
        // One proof was shown for all of them.
        const more = { decision: credential.decision, shown: i === 0 ? shown : [] }
        write(entryOf('issue', heard, held.task, () => credential.id, more))
        handed.add((secret.token ?? secret.PGPASSWORD ?? secret.private_key) as string)
        if (secret.token !== undefined) held.credential = { id: credential.id, kind: 'jwt', secret }
      }
      if (issued.length === 0) write(entryOf('issue', heard, held.task, () => '', { shown }))
      return heard
    },
    openWith: openTask,
    async grant(held, { capabilities = [JWT], lifeSeconds = 300 } = {}) {
      const workload = await createWorkload(at.url)
      const { heard, shown } = await onTask(held, 'grants', { capabilities, to: { jkt: workload.jkt }, life_seconds: lifeSeconds })
      const entry = write(entryOf('delegate', heard, held.task, b => claimOf(b.grant, 'jti'), { shown }))
      if (entry.subject === null) return null
      const grant = heard.body.grant as string
      handed.add(grant)
      return { workload, parent: held, grant, bounds: { jkt: workload.jkt, capabilities, lifeSeconds } }
    },
    async delegate(held, options = {}) {
      const below = await clients.grant(held, options)
      const own = options.evidence ? await world.issuer.githubToken(at.url) : null
      return below && openTask(below.workload, own, below.bounds.capabilities, below)
    },
    async heartbeat(held) {
      const { heard, shown } = await onTask(held, 'heartbeat', {})
      return write(entryOf('heartbeat', heard, held.task, b => b.task.id, { shown }))
    },
    async complete(held) {
      const { heard, shown } = await onTask(held, 'complete', {})
      return ended(held, write(entryOf('complete', heard, held.task, b => b.revocation.id, { shown })), true)
    },
    async revoke(held, credential = held.credential?.id) {
      const body = JSON.stringify({ selector: credential ? { credential } : { task: held.task } })
      const heard = await send('POST', `${at.url}/v1/revocations`, operator, body)
      return ended(held, write(entryOf('revoke', heard, held.task, b => b.revocation.id)), !credential)
    },
    async giveBack(held, credential) {
      const { heard, shown } = await asHolder(held, 'DELETE', `/v1/credentials/${credential}`)
      return ended(held, write(entryOf('revoke', heard, held.task, b => b.revocation.id, { shown })), false)
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
      const heard = await send('POST', `${at.url}/v1/signals`, headers, body)
      return ended(held, write(entryOf('signal', heard, held.task, b => b.signal.id)), held.credential === null, lateBySignalMs)
    },
    async introspect(token) {
      const headers = { 'content-type': 'application/x-www-form-urlencoded', authorization: basic }
      const { status, body } = await send('POST', `${at.url}/oauth2/introspect`, headers, `token=${token}`, 5_000)
      return status === 200 ? (body.active as boolean) : null
    },
    async replay(held, what = 'evidence') {
      const url = `${at.url}/v1/tasks`
      const opening = openings.get(held)
      if (!opening || (what === 'evidence' && held.evidence === null) || (what === 'grant' && held.below === null)) return null
      const fresh = what === 'evidence' ? await createWorkload(at.url) : held.workload
      const headers = what === 'proof' ? opening.headers : { ...json, dpop: await fresh.proof('POST', url) }
      const shown = what === 'proof' ? opening.shown : what === 'evidence' ? evidenceShown(held.evidence) : grantShown(held.below?.grant ?? null)
      const { subject_token: _evidence, parent_grant: _grant, ...bare } = JSON.parse(opening.body)
      const alone = what === 'evidence' ? { subject_token: held.evidence } : { parent_grant: held.below?.grant }
      const body = what === 'proof' ? opening.body : JSON.stringify({ ...bare, ...alone })
      const heard = await send('POST', url, headers, body)
      write(
        entryOf('open', heard, heard.body?.task?.id ?? '', b => b.task.id, { shown }),
        ledger.hostile,
      )
      return heard.status
    },
  }
  return clients
}
