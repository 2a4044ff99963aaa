/** Owns the one transaction in which credentials come into being, for one caller or for a batch: judged under locks, each caller by itself. */
import { type Credential, MINT_WINDOW_MS } from '../domain/credential.js'
import type { Grant } from '../domain/decision.js'
import { CurfewError, ofPart } from '../domain/errors.js'
import type { TaskId } from '../domain/ids.js'
import type { IntendOptions, Minted } from '../ports.js'
import { capabilityFull, type Facts, issueOfGrant, issueScopes, judgeIssue, judgeOpening, openScopes, runKeys, workloadScopes } from './admission.js'
import { writeAudit } from './audit.js'
import { closeRows } from './closing.js'
import { writeDecisions } from './decisions.js'
import { credentialMade } from './events.js'
import { lockTasks, readFacts } from './facts.js'
import { consumeAll } from './marks.js'
import { toCredential } from './rows.js'
import { lockNumber, rowsJson, type Tx } from './sql.js'
import { factsOf, insertTasks, type PlannedTask } from './tasks.js'

export interface Part {
  readonly grant: Grant
  /** What was made already, of local kinds: then the row is `active` at once. */
  readonly made: { readonly minted: Minted; readonly digest: string } | null
}

/** What one caller asks for: one credential, or several of one task that come into being together or not at all. */
export interface Member {
  readonly parts: readonly Part[]
  readonly options: IntendOptions
}

export type Outcome = { readonly credentials: readonly Credential[] } | { readonly refusal: unknown }

interface AdmittedPart extends Part {
  readonly expiresAt: Date
}
interface Admitted {
  readonly parts: readonly AdmittedPart[]
  readonly options: IntendOptions
  readonly planned: PlannedTask | null
}

/**
 * Every member passes or is refused by itself; a refused one leaves nothing. Set-based, so that a hundred members cost the statements
 * of one. A member with an idempotency key comes alone.
 * @param tx under the cut-off lock, as below.
 */
export async function issueAll(tx: Tx, members: readonly Member[], rooms: Rooms): Promise<Outcome[]> {
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
  for (const [i, { parts, options }] of admitted) {
    if (!options.idempotency) continue
    const refusal = await claimKey(tx, parts, options.idempotency, facts.now)
    if (refusal) judge(i, () => raise(refusal))
  }
  const room = await roomOf(
    tx,
    [...admitted.values()].flatMap(a => a.parts),
    rooms,
  )
  for (const [i, { parts }] of admitted) judge(i, () => takeRoom(room, parts))

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
  return outcomes.map((outcome, i) => outcome ?? { credentials: (members[i] as Member).parts.map(p => written.get(p.grant.id) as Credential) })
}

/** The same judgement, of one that nobody makes. */
export async function foresee(tx: Tx, member: Member): Promise<void> {
  admit(await factsFor(tx, [member]), member)
}

const raise = (error: unknown): never => {
  throw error
}

async function factsFor(tx: Tx, members: readonly Member[]): Promise<Facts> {
  const parts = members.flatMap(m => m.parts)
  const opened = members.flatMap(m => m.options.open?.task ?? [])
  const isOpened = new Set<string>(opened.map(t => t.id))
  const tasks = await lockTasks(tx, [
    ...opened.flatMap(t => t.ancestors),
    ...parts.flatMap(({ grant: { terms } }) => (isOpened.has(terms.task) ? [] : [terms.task, ...terms.ancestors])),
  ] as TaskId[])
  const scopes = [...parts.flatMap(p => issueScopes(issueOfGrant(p.grant, p.made?.minted.kid ?? null))), ...opened.flatMap(openScopes)]
  const runs = [...parts.map(p => p.grant.terms.attestation), ...opened.map(t => t.attestation)].flatMap(runKeys)
  return readFacts(tx, tasks, [...scopes, ...[...tasks.values()].flatMap(workloadScopes)], runs)
}

/** Pure: the opening of a new task, if there is one, and then the issue, as if the task stood already. */
export function admit(facts: Facts, { parts, options }: Member): Admitted {
  const { open } = options
  const planned = open ? { task: open.task, opening: judgeOpening(facts, open.task), marks: options.marks, context: options.context } : null
  const seen = planned ? { ...facts, tasks: new Map([...facts.tasks, [planned.task.id, factsOf(planned, facts.now)]]) } : facts
  const [task] = parts.map(p => p.grant.terms.task)
  if (!parts.every(p => p.grant.terms.task === task) || (open && open.task.id !== task))
    throw new TypeError('what is issued together is for one task, and for the one that its transaction opens')
  const ends = judgeEach(parts, part => endOf(seen, part, options))
  return { parts: parts.map((part, i) => ({ ...part, expiresAt: ends[i] as Date })), options, planned }
}

function endOf(facts: Facts, { grant, made }: Part, { isInForce }: IntendOptions): Date {
  const end = judgeIssue(facts, grant, made?.minted.kid ?? null)
  // A permit is the word of one set of policies (R06); the caller asks again and hears the word of those in force.
  if (isInForce?.(grant.decision.digest) === false)
    throw new CurfewError('unavailable', 'the policies changed meanwhile', { reason: 'policy_changed', retryAfterSeconds: 1, next: 'ask again' })
  const upstream = made?.minted.expiresAt
  return upstream && upstream < end ? upstream : end
}

/** Judges every part; the first refusal is thrown. What refuses all of them is about their task or its holder, and names no part. */
function judgeEach(parts: readonly Part[], judge: (part: Part) => Date): Date[] {
  const refused: { readonly error: CurfewError; readonly named: CurfewError }[] = []
  const ends = parts.flatMap((part, i) => {
    try {
      return [judge(part)]
    } catch (error) {
      if (!(error instanceof CurfewError)) throw error
      refused.push({ error, named: ofPart(error, i, part.grant.terms.capability.name) })
      return []
    }
  })
  const [first] = refused
  if (first) throw refused.length === parts.length ? first.error : first.named
  return ends
}

/** Below this many places left, members of one capability take turns, so that the cap is exact. Above it, at most this many are in flight at once. */
const EXACT_BELOW = 256
/** With more places left than this, a count is good for a while, the longer the more there are: all replicas together do not issue so many in that time. */
const AMPLE = 1_000
const AMPLE_MS = 250
/** A count of a million rows takes a tenth of a second, and its age is nobody's to see. */
const LONGEST_MS = 10_000

const goodForMs = (left: number) => (left > AMPLE ? Math.min((left / AMPLE) * AMPLE_MS, LONGEST_MS) : 0)

/** What this process remembers of capabilities with ample room: counting a hundred thousand rows for every issue would be its whole cost. */
export type Rooms = Map<string, { left: number; readonly cap: number; readonly countedAt: number }>

async function roomOf(tx: Tx, parts: readonly Part[], rooms: Rooms): Promise<Map<string, number>> {
  const wanted = new Map<string, { cap: number; members: number }>()
  for (const { grant } of parts) {
    const { name, maxLive: cap } = grant.terms.capability
    wanted.set(name, { cap, members: (wanted.get(name)?.members ?? 0) + 1 })
  }
  const room = new Map<string, number>()
  const uncounted: string[] = []
  for (const [name, { cap, members }] of wanted) {
    const known = rooms.get(name)
    if (known && known.cap === cap && performance.now() - known.countedAt < goodForMs(known.left - members)) {
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

/** The parts of one member count together, and a member that finds no room takes none. */
export function takeRoom(room: Map<string, number>, parts: readonly Part[]): void {
  const left = new Map(room)
  parts.forEach(({ grant }, i) => {
    const { name } = grant.terms.capability
    const places = left.get(name) ?? 0
    if (places <= 0) throw parts.length > 1 ? ofPart(capabilityFull(), i, name) : capabilityFull()
    left.set(name, places - 1)
  })
  for (const [name, places] of left) room.set(name, places)
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

/** The same key and request ends what came of it before, whose secrets were lost with its answer; another request under the key is a mistake. */
async function claimKey(tx: Tx, parts: readonly Part[], { key, hash }: { key: string; hash: string }, now: Date): Promise<CurfewError | null> {
  const task = parts[0]?.grant.terms.task as TaskId
  const known = await tx.query('select id from curfew.tasks where id = $1', [task])
  // Its first credential opens the task: nobody can have used a key of it.
  if (known.length === 0) return null
  const ids = parts.map(p => p.grant.id)
  const fresh = await tx.query(
    `insert into curfew.idempotency (task, key, part, hash, credential)
     select $1, $2, p.n - 1, $3, p.id from unnest($4::text[]) with ordinality as p(id, n) order by p.n on conflict do nothing returning part`,
    [task, key, hash, ids],
  )
  if (fresh.length === ids.length) return null
  // Two statements: a join that waited for the key would look for the credential it led to before.
  const met = await tx.query<{ hash: string; credential: string }>(
    'select hash, credential from curfew.idempotency where task = $1 and key = $2 order by part for update',
    [task, key],
  )
  if (met.some(m => m.hash !== hash)) return keyReused()
  const earlier = await tx.query<{ id: string; state: string; deadline_at: Date }>(
    'select id, state, deadline_at from curfew.credentials where id = any($1::text[]) order by id for update',
    [met.map(m => m.credential)],
  )
  if (earlier.some(c => c.state === 'pending' && c.deadline_at > now)) return inFlight()
  await tx.query(
    `update curfew.idempotency i set credential = p.id from unnest($3::text[]) with ordinality as p(id, n) where i.task = $1 and i.key = $2 and i.part = p.n - 1`,
    [task, key, ids],
  )
  await closeRows(
    tx,
    earlier.map(({ id }) => ({ id, reason: 'cancelled', revocation: null })),
    { kind: 'holder', id: task },
    null,
  )
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
    admitted.flatMap(({ parts, options: { open, context } }) =>
      [
        ...(open?.decisions ?? []).map(d => ({ ...d, task: open?.task.id ?? null })),
        ...parts.map(({ grant }) => ({ ...grant.decision, task: grant.terms.task })),
      ].map(decision => ({ decision, context })),
    ),
  )
  const rows = await tx.query(
    `insert into curfew.credentials (id, task, ancestors, identity, issuer, issuer_id, capability, audience, engine, class, decision, jkt, kid, digest, state, version,
                                     issued_at, expires_at, deadline_at, handle, attempts)
     select id, task, ancestors, identity, issuer, issuer_id, capability, audience, engine, class, decision, jkt, kid, digest, state, 1,
            issued_at, expires_at, deadline_at, handle, 0
     from jsonb_populate_recordset(null::curfew.credentials, $1::jsonb) returning *`,
    [rowsJson(admitted.flatMap(a => a.parts).map(part => rowOf(part, now)))],
  )
  const written = new Map(rows.map(r => [r.id as string, toCredential(r)]))
  await writeAudit(
    tx,
    admitted.flatMap(({ parts, options: { context } }) =>
      parts.map(({ grant, made }) =>
        credentialMade(made ? 'credential.issued' : 'credential.intended', written.get(grant.id) as Credential, grant.decision, context),
      ),
    ),
  )
  return written
}

function rowOf({ grant, made, expiresAt }: AdmittedPart, now: Date) {
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
