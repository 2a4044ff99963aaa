/** Owns what the holder of a task can ask of the broker, and what its answers look like here. */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { isId } from '../domain/ids.js'
import type { EvidenceSource } from './evidence/source.js'
import { CliError, EXIT } from './exit.js'
import { type Answer, type Auth, type Broker, notOurs } from './http.js'
import { clockTime, duration } from './output.js'
import type { ProofKey } from './proof.js'

export interface TaskView {
  readonly id: string
  readonly state: string
  readonly opened_at: string
  readonly deadline_at: string
  readonly heartbeat_seconds: number | null
  readonly ended_at: string | null
  readonly end_reason: string | null
}

export interface CredentialView {
  readonly id: string
  readonly state: string
  readonly task: string
  readonly identity: string
  readonly capability: string
  readonly revocation: string
  readonly issued_at: string
  readonly expires_at: string
  readonly reason: string | null
  readonly ended_by?: string | null
  readonly revoked_at: string | null
  readonly exposed_until?: string | null
  readonly failure: string | null
}

export interface RevocationView {
  readonly id: string
  readonly reason: string
  /** Nothing issued before is accepted from here on. */
  readonly refused_since: string
  readonly credentials: number
  readonly tasks: number
}

export interface Held {
  readonly task: TaskView
  readonly token: string
  readonly key: ProofKey
}

export interface Issued {
  readonly credential: CredentialView
  readonly secret: Readonly<Record<string, string>>
  readonly tokenType: string | null
}

export interface TaskAsk {
  readonly source: EvidenceSource
  readonly key: ProofKey
  readonly purpose: string
  readonly capabilities: readonly string[]
  readonly lifeSeconds?: number | undefined
  readonly labels?: Readonly<Record<string, string>> | undefined
  readonly heartbeatSeconds?: number | undefined
}

/** Making a database user may take a backend's time. Milliseconds. */
const ISSUE_MS = 30_000

const asHolder = (held: Pick<Held, 'key' | 'token'>): Auth => ({ kind: 'holder', key: held.key, token: held.token })

export async function openTask(broker: Broker, ask: TaskAsk, signal: AbortSignal): Promise<Held> {
  const { advised } = await import('./evidence/source.js')
  const { body } = await advised(ask.source, () =>
    broker.call(
      {
        method: 'POST',
        path: '/v1/tasks',
        auth: { kind: 'proof', key: ask.key },
        body: async () => ({
          subject_token: await ask.source.fresh(await broker.issuer(signal), signal),
          subject_token_type: ask.source.type,
          purpose: ask.purpose,
          capabilities: ask.capabilities,
          ...(ask.lifeSeconds === undefined ? {} : { life_seconds: ask.lifeSeconds }),
          ...(ask.labels === undefined ? {} : { labels: ask.labels }),
          ...(ask.heartbeatSeconds === undefined ? {} : { heartbeat_seconds: ask.heartbeatSeconds }),
        }),
      },
      signal,
    ),
  )
  const task = member<TaskView>(body, 'task')
  // It becomes a part of paths, and the name of a file.
  if (!isId('task', task.id)) throw notOurs('its task has no id')
  return { task, token: textMember(body, 'token'), key: ask.key }
}

/** What a capability needs of the caller, by capability. */
export type ParamsOf = (capability: string) => Readonly<Record<string, string>>

export async function askCredential(
  broker: Broker,
  held: Held,
  capability: string,
  ttlSeconds: number | undefined,
  signal: AbortSignal,
  paramsOf?: ParamsOf,
  stale?: EvidenceSource,
): Promise<Issued> {
  return issuedOf(await askFor(broker, held, partOf(capability, ttlSeconds, paramsOf), signal, stale))
}

/** All of them, in their order, or none. @param stale what gives fresh evidence when the task's has grown too old for what is asked. */
export async function askBundle(
  broker: Broker,
  held: Held,
  capabilities: readonly string[],
  ttlSeconds: number | undefined,
  signal: AbortSignal,
  paramsOf?: ParamsOf,
  stale?: EvidenceSource,
): Promise<readonly Issued[]> {
  const body = await askFor(broker, held, { capabilities: capabilities.map(c => partOf(c, ttlSeconds, paramsOf)) }, signal, stale)
  const parts = body.credentials
  if (!Array.isArray(parts) || parts.length !== capabilities.length) throw unexpected('credentials')
  return parts.map(issuedOf)
}

function partOf(capability: string, ttlSeconds: number | undefined, paramsOf: ParamsOf = () => ({})): object {
  const params = paramsOf(capability)
  return { capability, ...(ttlSeconds === undefined ? {} : { ttl_seconds: ttlSeconds }), ...(Object.keys(params).length === 0 ? {} : { params }) }
}

async function askFor(broker: Broker, held: Held, what: object, signal: AbortSignal, stale?: EvidenceSource): Promise<Answer['body']> {
  try {
    return await askWith(broker, held, async () => what, signal)
  } catch (error) {
    if (stale === undefined || !(error instanceof CliError) || error.problem.code !== 'attestation_stale') throw error
    // Only now: evidence that is good once is not spent where the task's own still does.
    const fresh = async () => ({ ...what, subject_token: await stale.fresh(await broker.issuer(signal), signal), subject_token_type: stale.type })
    return askWith(broker, held, fresh, signal)
  }
}

async function askWith(broker: Broker, held: Held, body: () => Promise<object>, signal: AbortSignal): Promise<Answer['body']> {
  // One key for all attempts: a retry after a lost answer closes what nobody received.
  const idempotency = randomUUID()
  const answer = await broker.call(
    {
      method: 'POST',
      path: `/v1/tasks/${held.task.id}/credentials`,
      auth: asHolder(held),
      headers: () => ({ 'Idempotency-Key': idempotency }),
      timeoutMs: ISSUE_MS,
      body,
    },
    signal,
  )
  return answer.body
}

/** What was issued is refused from here on, and destroyed at its target. Given back twice, it is gone. */
export async function giveBack(broker: Broker, held: Held, id: string, signal: AbortSignal): Promise<void> {
  await broker.call({ method: 'DELETE', path: `/v1/credentials/${id}`, auth: asHolder(held), retries: 1 }, signal)
}

const issuedOf = (body: Answer['body']): Issued => ({
  credential: member<CredentialView>(body, 'credential'),
  secret: member<Record<string, string>>(body, 'secret'),
  tokenType: typeof body.token_type === 'string' ? body.token_type : null,
})

export async function beat(broker: Broker, held: Held, timeoutMs: number, signal: AbortSignal): Promise<TaskView> {
  const { body } = await broker.call(
    { method: 'POST', path: `/v1/tasks/${held.task.id}/heartbeat`, auth: asHolder(held), body: () => ({}), timeoutMs, retries: 1 },
    signal,
  )
  return member<TaskView>(body, 'task')
}

export async function endTask(
  broker: Broker,
  held: Pick<Held, 'key' | 'token'> & { readonly task: { readonly id: string } },
  how: 'complete' | 'cancel',
  outcome: string | null,
  signal: AbortSignal,
): Promise<{ task: TaskView; revocation: RevocationView }> {
  const { body } = await broker.call(
    { method: 'POST', path: `/v1/tasks/${held.task.id}/${how}`, auth: asHolder(held), body: () => (outcome === null ? {} : { outcome }), timeoutMs: 5_000 },
    signal,
  )
  return { task: member<TaskView>(body, 'task'), revocation: member<RevocationView>(body, 'revocation') }
}

export async function readTask(broker: Broker, auth: Auth, id: string, signal: AbortSignal): Promise<TaskView> {
  return member<TaskView>((await broker.call({ method: 'GET', path: `/v1/tasks/${id}`, auth, retries: 1 }, signal)).body, 'task')
}

export async function listCredentials(
  broker: Broker,
  auth: Auth,
  query: Record<string, string | undefined>,
  most: number,
  signal: AbortSignal,
): Promise<CredentialView[]> {
  const found: CredentialView[] = []
  let after: string | undefined
  do {
    const limit = String(Math.min(200, most - found.length))
    const { body }: Answer = await broker.call({ method: 'GET', path: '/v1/credentials', query: { ...query, after, limit }, auth }, signal)
    if (!Array.isArray(body.credentials)) throw unexpected('credentials')
    found.push(...(body.credentials as CredentialView[]))
    after = typeof body.next === 'string' ? body.next : undefined
  } while (after !== undefined && found.length < most)
  return found
}

export interface Ending {
  /** All that the task ever held, as last seen. */
  readonly credentials: readonly CredentialView[]
  /** Neither `revoked` nor on the way out by time alone. */
  readonly unconfirmed: readonly CredentialView[]
  /** What nobody can end early. */
  readonly exposed: readonly CredentialView[]
}

/** Waits, at most so long, until the probe of every credential found it dead. `look` answers what there is to wait for. */
export async function untilDead(look: () => Promise<readonly CredentialView[]>, waitMs: number, signal: AbortSignal): Promise<Ending> {
  const until = performance.now() + waitMs
  let pause = 50
  for (;;) {
    const credentials = await look()
    const alive = credentials.filter(c => c.state !== 'revoked')
    const exposed = alive.filter(c => c.state === 'revoking' && c.revocation === 'expiry-only')
    const unconfirmed = alive.filter(c => !exposed.includes(c))
    const left = until - performance.now()
    // Nothing more to learn: dead, only time can end it, or a person must look.
    if (unconfirmed.every(c => c.state === 'stuck') || left <= 0) return { credentials, unconfirmed, exposed }
    await sleep(Math.min(pause, left), undefined, { signal })
    pause = Math.min(pause * 2, 500)
  }
}

/** "refused at once, confirmed dead in 0.9 s, 14m19s of life not used": what was seen, and nothing more. */
export function tellEnding(revocation: RevocationView, ending: Ending): string {
  const since = Date.parse(revocation.refused_since)
  const dead = ending.credentials.filter(c => c.state === 'revoked' && c.revoked_at !== null)
  const ours = dead.filter(c => c.ended_by === undefined || c.ended_by === null || c.ended_by === revocation.id)
  const parts = [ending.credentials.length === 0 ? 'it held no credential' : 'refused at once']
  if (dead.length > 0 && ours.length === 0) parts[0] = 'confirmed dead before'
  if (ours.length > 0) {
    const slowest = Math.max(0, ...ours.map(c => Date.parse(c.revoked_at as string) - since))
    const all = ending.unconfirmed.length + ending.exposed.length === 0
    parts.push(`${all ? 'confirmed dead' : `${ours.length} confirmed dead`} in ${slowest < 100 ? `${slowest} ms` : `${(slowest / 1000).toFixed(1)} s`}`)
    const unused = Math.max(...ours.map(c => Date.parse(c.expires_at) - since)) / 1000
    if (unused >= 1) parts.push(`${duration(unused)} of life not used`)
  }
  for (const c of ending.exposed) parts.push(`${c.id} stays usable until ${clockTime(c.exposed_until ?? c.expires_at)}Z where nobody asks the broker`)
  for (const c of ending.unconfirmed) parts.push(`${c.id} not yet confirmed dead (${c.state}${c.failure ? `: ${c.failure}` : ''})`)
  return parts.join(', ')
}

function unexpected(name: string): CliError {
  return new CliError(EXIT.unexpected, { code: 'unexpected_answer', detail: `the server's answer has no ${name}` })
}

export function member<T>(body: Answer['body'], name: string): T {
  const value = body[name]
  if (typeof value !== 'object' || value === null) throw unexpected(name)
  return value as T
}

export function textMember(body: Answer['body'], name: string): string {
  const value = body[name]
  if (typeof value !== 'string' || value === '') throw unexpected(name)
  return value
}
