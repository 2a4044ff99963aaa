/** Owns the one transaction in which credentials come into being, for one grant or for a batch: judged under locks, each by itself. */
import { type Credential, MINT_WINDOW_MS } from '../domain/credential.js'
import type { Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { TaskId } from '../domain/ids.js'
import type { IntendOptions, Minted } from '../ports.js'
import { capabilityFull, type Facts, issueOfGrant, issueScopes, judgeIssue, judgeOpening, openScopes, runKeys, workloadScopes } from './admission.js'
import { writeAudit } from './audit.js'
import { closeRows } from './closing.js'
import { writeDecisions } from './decisions.js'
import { credentialMade } from './events.js'
import { lockCutoffs, lockTasks, readFacts } from './facts.js'
import { consumeAll } from './marks.js'
import { toCredential } from './rows.js'
import { lockNumber, rowsJson, type Tx } from './sql.js'
import { factsOf, insertTasks, type PlannedTask } from './tasks.js'

export interface Member {
  readonly grant: Grant
  readonly options: IntendOptions
  /** What was made already, of local kinds: then the row is `active` at once. */
  readonly made: { readonly minted: Minted; readonly digest: string } | null
}

export type Outcome = { readonly credential: Credential } | { readonly refusal: unknown }

interface Admitted {
  readonly member: Member
  readonly expiresAt: Date
  readonly planned: PlannedTask | null
}

/**
 * Every member passes or is refused by itself; a refused one leaves nothing. Set-based, so that a hundred members cost the statements
 * of one. A member with an idempotency key comes alone.
 */
export async function issueAll(tx: Tx, members: readonly Member[], rooms: Rooms): Promise<Outcome[]> {
  await lockCutoffs(tx, 'shared')
  const facts = await factsFor(tx, members)
  const outcomes: (Outcome | null)[] = members.map(() => null)
  const admitted = new Map<number, Admitted>()
  /** Runs one judgement of one member; what it throws is that member's refusal. */
  const judge = (i: number, act: () => void) => {
    try {
      act()
    } catch (refusal) {
      outcomes[i] = { refusal }
      admitted.delete(i)
    }
  }

  members.forEach((member, i) => {
    judge(i, () => admitted.set(i, admit(facts, member)))
  })
  for (const [i, { member }] of admitted) {
    if (!member.options.idempotency) continue
    const refusal = await claimKey(tx, member.grant, member.options.idempotency, facts.now)
    if (refusal) judge(i, () => raise(refusal))
  }
  const room = await roomOf(tx, [...admitted.values()], rooms)
  for (const [i, { member }] of admitted) judge(i, () => takeRoom(room, member.grant.terms.capability.name))

  const order = [...admitted.keys()]
  const refusals = await consumeAll(
    tx,
    order.map(i => members[i]?.options.marks ?? []),
  )
  order.forEach((i, n) => {
    const refusal = refusals[n]
    if (refusal) judge(i, () => raise(refusal))
  })

  const written = await write(tx, [...admitted.values()], facts.now)
  return outcomes.map((outcome, i) => outcome ?? { credential: written.get(members[i]?.grant.id ?? '') as Credential })
}

const raise = (error: unknown): never => {
  throw error
}

async function factsFor(tx: Tx, members: readonly Member[]): Promise<Facts> {
  const tasks = await lockTasks(
    tx,
    members.flatMap(m => (m.options.open ? m.options.open.task.ancestors : [m.grant.terms.task, ...m.grant.terms.ancestors]) as TaskId[]),
  )
  const scopes = members.flatMap(m => [
    ...issueScopes(issueOfGrant(m.grant, m.made?.minted.kid ?? null)),
    ...(m.options.open ? openScopes(m.options.open.task) : []),
  ])
  const runs = members.flatMap(m => [...runKeys(m.grant.terms.attestation), ...(m.options.open ? runKeys(m.options.open.task.attestation) : [])])
  return readFacts(tx, tasks, [...scopes, ...[...tasks.values()].flatMap(workloadScopes)], runs)
}

/** Pure: the opening of a new task, if there is one, and then the issue, as if the task stood already. */
export function admit(facts: Facts, { grant, options, made }: Member): Admitted {
  const open = options.open
  let planned: PlannedTask | null = null
  let seen = facts
  if (open) {
    if (open.task.id !== grant.terms.task) throw new TypeError('a grant is for the task that its transaction opens')
    planned = { task: open.task, opening: judgeOpening(facts, open.task), context: options.context }
    seen = { ...facts, tasks: new Map([...facts.tasks, [open.task.id, factsOf(planned, facts.now)]]) }
  }
  const end = judgeIssue(seen, grant, made?.minted.kid ?? null)
  // A permit is the word of one set of policies (R06); the caller asks again and hears the word of those in force.
  if (options.isInForce?.(grant.decision.digest) === false)
    throw new CurfewError('unavailable', 'the policies changed meanwhile', { reason: 'policy_changed', retryAfterSeconds: 1, next: 'ask again' })
  const upstream = made?.minted.expiresAt
  return { member: { grant, options, made }, planned, expiresAt: upstream && upstream < end ? upstream : end }
}

/** Below this many places left, members of one capability take turns, so that the cap is exact. Above it, at most this many are in flight at once. */
const EXACT_BELOW = 256
/** With more places left than this, a count is good for a while: all replicas together do not issue so many in that time. */
const AMPLE = 1_000
const AMPLE_MS = 250

/** What this process remembers of capabilities with ample room: counting a hundred thousand rows for every issue would be its whole cost. */
export type Rooms = Map<string, { left: number; readonly cap: number; readonly countedAt: number }>

async function roomOf(tx: Tx, admitted: readonly Admitted[], rooms: Rooms): Promise<Map<string, number>> {
  const wanted = new Map<string, { cap: number; members: number }>()
  for (const { member } of admitted) {
    const { name, maxLive: cap } = member.grant.terms.capability
    wanted.set(name, { cap, members: (wanted.get(name)?.members ?? 0) + 1 })
  }
  const room = new Map<string, number>()
  const uncounted: string[] = []
  for (const [name, { cap, members }] of wanted) {
    const known = rooms.get(name)
    if (known && known.cap === cap && known.left - members > AMPLE && performance.now() - known.countedAt < AMPLE_MS) {
      known.left -= members
      room.set(name, members)
    } else uncounted.push(name)
  }
  if (uncounted.length === 0) return room
  const count = async (names: readonly string[]) => {
    const rows = await tx.query<{ name: string; live: number }>(
      `select m.name, (select count(*)::int from (select 1 from curfew.credentials c where c.capability = m.name and c.state in ('pending', 'active') limit m.cap) l) as live
       from jsonb_to_recordset($1::jsonb) as m(name text, cap integer)`,
      [rowsJson(names.map(name => ({ name, cap: wanted.get(name)?.cap })))],
    )
    for (const r of rows) room.set(r.name, (wanted.get(r.name)?.cap ?? 0) - r.live)
  }
  await count(uncounted)
  // Sorted, one after the other: the same order in every transaction.
  const tight = uncounted.filter(name => (room.get(name) ?? 0) < EXACT_BELOW).sort()
  for (const name of tight) await tx.query('select pg_advisory_xact_lock($1::bigint)', [lockNumber(`capability ${name}`)])
  if (tight.length > 0) await count(tight)
  for (const name of uncounted) {
    const { cap, members } = wanted.get(name) as { cap: number; members: number }
    rooms.set(name, { left: (room.get(name) ?? 0) - members, cap, countedAt: performance.now() })
  }
  return room
}

export function takeRoom(room: Map<string, number>, capability: string): void {
  const left = room.get(capability) ?? 0
  if (left <= 0) throw capabilityFull()
  room.set(capability, left - 1)
}

export const keyReused = () =>
  new CurfewError('conflict', 'this Idempotency-Key was used for another request', { reason: 'idempotency_key_reused', field: 'Idempotency-Key' })
/** Its first call is still at work: to end that would hand the caller of the first a credential that is dead on arrival. */
export const inFlight = () =>
  new CurfewError('conflict', 'a request with this Idempotency-Key is still being worked on', {
    reason: 'in_flight',
    field: 'Idempotency-Key',
    retryAfterSeconds: 1,
    next: 'send the same request again',
  })

/** The same key and request ends the earlier credential, whose secret was lost with its answer; another request under the key is a mistake. */
async function claimKey(tx: Tx, grant: Grant, { key, hash }: { key: string; hash: string }, now: Date): Promise<CurfewError | null> {
  const task = grant.terms.task
  const known = await tx.query('select id from curfew.tasks where id = $1', [task])
  // Its first credential opens the task: nobody can have used a key of it.
  if (known.length === 0) return null
  const [fresh] = await tx.query('insert into curfew.idempotency (task, key, hash, credential) values ($1, $2, $3, $4) on conflict do nothing returning key', [
    task,
    key,
    hash,
    grant.id,
  ])
  if (fresh) return null
  const [met] = await tx.query<{ hash: string; credential: string; state: string; deadline_at: Date }>(
    `select i.hash, i.credential, c.state, c.deadline_at from curfew.idempotency i join curfew.credentials c on c.id = i.credential
     where i.task = $1 and i.key = $2 for update`,
    [task, key],
  )
  if (met?.hash !== hash) return keyReused()
  if (met.state === 'pending' && met.deadline_at > now) return inFlight()
  await tx.query('update curfew.idempotency set credential = $3 where task = $1 and key = $2', [task, key, grant.id])
  await closeRows(tx, [{ id: met.credential, reason: 'cancelled', revocation: null }], { kind: 'holder', id: task }, null)
  return null
}

async function write(tx: Tx, admitted: readonly Admitted[], now: Date): Promise<Map<string, Credential>> {
  if (admitted.length === 0) return new Map()
  await insertTasks(
    tx,
    admitted.flatMap(a => a.planned ?? []),
    now,
  )
  await writeDecisions(
    tx,
    admitted.flatMap(({ member: { grant, options } }) =>
      [...(options.open?.decisions ?? []), grant.decision].map(d => ({ decision: { ...d, task: grant.terms.task }, context: options.context })),
    ),
  )
  const rows = await tx.query(
    `insert into curfew.credentials (id, task, ancestors, identity, issuer, issuer_id, capability, audience, engine, class, decision, jkt, kid, digest, state, version,
                                     issued_at, expires_at, deadline_at, handle, attempts)
     select id, task, ancestors, identity, issuer, issuer_id, capability, audience, engine, class, decision, jkt, kid, digest, state, 1,
            issued_at, expires_at, deadline_at, handle, 0
     from jsonb_populate_recordset(null::curfew.credentials, $1::jsonb) returning *`,
    [rowsJson(admitted.map(a => rowOf(a, now)))],
  )
  const written = new Map(rows.map(r => [r.id as string, toCredential(r)]))
  await writeAudit(
    tx,
    admitted.map(({ member: { grant, options, made } }) =>
      credentialMade(made ? 'credential.issued' : 'credential.intended', written.get(grant.id) as Credential, grant.decision, options.context),
    ),
  )
  return written
}

export function rowOf({ member: { grant, made }, expiresAt }: Admitted, now: Date) {
  const { terms } = grant
  const handle = made?.minted.handle
  return {
    id: grant.id,
    task: terms.task,
    ancestors: terms.ancestors,
    identity: terms.attestation.identity,
    issuer: terms.attestation.issuer,
    issuer_id: terms.attestation.issuerId,
    capability: terms.capability.name,
    audience: terms.audience?.uri ?? null,
    engine: terms.capability.engine,
    class: grant.revocation,
    decision: grant.decision.id,
    jkt: grant.confirmation,
    kid: made?.minted.kid ?? null,
    digest: made?.digest ?? null,
    state: made ? 'active' : 'pending',
    issued_at: new Date(grant.issuedAt * 1000),
    expires_at: expiresAt,
    deadline_at: new Date(now.getTime() + MINT_WINDOW_MS),
    handle: handle && Object.keys(handle).length > 0 ? handle : null,
  }
}
