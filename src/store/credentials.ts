/** Owns credentials at rest: how they come to be, are found and fall due; every transition is a compare-and-set. */
import { type Closed, type Credential, type CredentialState, KRL_MARGIN_SECONDS } from '../domain/credential.js'
import { CurfewError } from '../domain/errors.js'
import type { CredentialId } from '../domain/ids.js'
import { byBroker } from '../domain/revocation.js'
import type { Context, CredentialStore, Made } from '../ports.js'
import { issueOfRow, issueScopes, judgeStanding, runKeys, workloadScopes } from './admission.js'
import { writeAudit } from './audit.js'
import { actOf, closeBehind, closeFound, drain } from './closing.js'
import { destroying } from './destroying.js'
import { credentialMade, handleRecorded } from './events.js'
import { lockTasks, readFacts } from './facts.js'
import { foresee, issueAll, type Member, type Rooms } from './issue.js'
import { toCredential } from './rows.js'
import { inState, type Row, rowsJson, type Sql, type Tx } from './sql.js'

export interface CredentialStoreDeps {
  /** HMAC under the server's key: a stolen database must not help to guess a secret. */
  readonly sealDigest: (digest: string) => string
}

const one = (rows: Row[]): Credential | null => (rows[0] ? toCredential(rows[0]) : null)

/** The plain road: one member, one transaction, a refusal undoes it. */
export const issueTogether = (sql: Sql, member: Member, rooms: Rooms): Promise<readonly Credential[]> =>
  sql.tx(async tx => {
    const [outcome] = await issueAll(tx, [member], rooms)
    if (!outcome || 'refusal' in outcome) throw outcome?.refusal
    return outcome.credentials
  }, 'shared')

/** How local kinds are committed: one by one, or in batches. */
export type Recording = (sql: Sql, rooms: Rooms) => (member: Member) => Promise<readonly Credential[]>
export const oneByOne: Recording = (sql, rooms) => member => issueTogether(sql, member, rooms)

export function credentialStore(sql: Sql, deps: CredentialStoreDeps, recording: Recording = oneByOne): CredentialStore {
  const rooms: Rooms = new Map()
  const recordMember = recording(sql, rooms)
  return {
    foresee: (grant, options) => sql.tx(tx => foresee(tx, { parts: [{ grant, made: null }], options: { ...options, marks: [] } }), 'shared'),
    intend: (grants, options) => issueTogether(sql, { parts: grants.map(grant => ({ grant, made: null })), options }, rooms),
    async record(grant, minted, options) {
      const [credential] = await recordMember({ parts: [{ grant, made: { minted, digest: deps.sealDigest(minted.secret.digest()) } }], options })
      return credential as Credential
    },

    recordHandle: (credential, handle) =>
      sql.tx(async tx => {
        const recorded = one(
          await tx.query(
            `update curfew.credentials set handle = coalesce(handle, '{}'::jsonb) || $3::jsonb, version = version + 1
             where id = $1 and version = $2 and ${inState('state', 'pending')} and deadline_at > curfew.now() returning *`,
            [credential.id, credential.version, JSON.stringify(handle)],
          ),
        )
        if (recorded) await writeAudit(tx, [handleRecorded(recorded)])
        return recorded
      }),
    async noteHandle(id, handle) {
      await sql.query(`update curfew.credentials set handle = coalesce(handle, '{}'::jsonb) || $2::jsonb where id = $1`, [id, JSON.stringify(handle)])
    },

    settle: (made, context) => sql.tx(tx => settle(tx, made, context, deps.sealDigest), 'shared'),

    get: async id => one(await sql.query('select * from curfew.credentials where id = $1', [id])),
    async list(f) {
      const where: string[] = []
      const params: unknown[] = []
      const add = (clause: string, value: unknown) => {
        params.push(value)
        where.push(clause.replaceAll('?', `$${params.length}`))
      }
      // A task's own and those of all below it, by way of the tasks: their index is small.
      if (f.task)
        add(
          'task in (with recursive tree as (select r.id from curfew.tasks r where r.id = ? union select t.id from curfew.tasks t join tree on t.parent = tree.id) select id from tree)',
          f.task,
        )
      if (f.identity) add('identity = ?', f.identity)
      if (f.capability) add('capability = ?', f.capability)
      if (f.digest) add('digest = ?', f.digest)
      if (f.after) add('id < ?', f.after)
      if (f.state === 'live') where.push(`state in ('pending', 'active', 'revoking', 'stuck')`)
      else if (f.state) add('state = ?', f.state)
      const ofAct = f.revocation ? `$${params.push(f.revocation)}` : null
      const first = `order by id desc limit $${params.push(f.limit)}`
      const found = (conditions: readonly string[]) =>
        `select * from curfew.credentials ${conditions.length ? `where ${conditions.join(' and ')}` : ''} ${first}`
      // Act by act: to a plan that was made while nothing was revoked, all that is since would be a small table to read.
      const rows = await sql.query(
        ofAct
          ? `select c.* from curfew.revocations r cross join lateral (${found(['revocation = r.id', ...where])}) c where r.id = ${ofAct} or r.part_of = ${ofAct} ${first}`
          : found(where),
        params,
      )
      return rows.map(toCredential)
    },
    live: async id => one(await sql.query(`select c.* ${LIVE} and c.id = $1`, [id])),
    liveAmong: async ids => new Set((await sql.query<{ id: CredentialId }>(`select c.id ${LIVE} and c.id = any($1::text[])`, [ids])).map(r => r.id)),
    async counts() {
      // Each from the index that holds just its rows: an index on the state itself would tempt the planner away from all others.
      const [counts] = await sql.query<Record<CredentialState, number>>(
        `select (select count(*) from curfew.credentials where state = 'pending') as pending,
                (select count(*) from curfew.credentials where state = 'active') as active,
                (select count(*) from curfew.credentials where state in ('revoking', 'stuck') and state = 'revoking') as revoking,
                (select count(*) from curfew.credentials where state in ('revoking', 'stuck') and state = 'stuck') as stuck,
                (select count(*) from curfew.credentials where state = 'revoked') as revoked`,
      )
      const [late] = await sql.query<{ seconds: number }>(
        `select greatest(0, extract(epoch from n.at - least(
           (select min(expires_at) from curfew.credentials where state = 'active'),
           (select min(deadline_at) from curfew.credentials where state = 'pending'),
           (select min(next_attempt_at) from curfew.credentials where state in ('revoking', 'stuck')))))::float8 as seconds
         from (select curfew.now() as at) n`,
      )
      return { ...(counts as Record<CredentialState, number>), overdueSeconds: late?.seconds ?? 0 }
    },

    expire: limit =>
      sql.tx(tx =>
        closeFound(
          tx,
          `select id, 'expired' as reason, null as revocation from curfew.credentials
           where state = 'active' and expires_at <= (select curfew.now()) order by expires_at limit $1 for update skip locked`,
          [limit],
          byBroker('expire'),
          null,
        ),
      ),
    async untold(limit) {
      const rows = await sql.query<{ id: CredentialId }>(
        `select id from curfew.credentials where revocation is null and reason = 'cancelled' and expires_at > (select curfew.now()) order by id limit $1`,
        [limit],
      )
      return rows.map(r => r.id)
    },
    closeOverdue: limit => closeOverdue(sql, limit),

    ...destroying(sql),

    async known(ids) {
      const rows = await sql.query(`select * from curfew.credentials where id = any($1::text[])`, [ids])
      return new Map(rows.map(r => [r.id as CredentialId, toCredential(r)]))
    },
    async leaseOwners(leaseIds) {
      if (leaseIds.length === 0) return new Map()
      const rows = await sql.query<{ lease: string; id: CredentialId }>(
        `select handle->>'leaseId' as lease, id from curfew.credentials where handle->>'leaseId' = any($1::text[])`,
        [leaseIds],
      )
      return new Map(rows.map(r => [r.lease, r.id]))
    },
    async closedOf(engine) {
      const rows = await sql.query<{ id: CredentialId }>(
        `select id from curfew.credentials where engine = $1 and state in ('revoking', 'stuck')
         union all
         select id from curfew.credentials
         where engine = $1 and state = 'revoked' and class = 'expiry-only' and revoked_at > (select curfew.now()) - make_interval(secs => $2::double precision)`,
        [engine, KRL_MARGIN_SECONDS],
      )
      return rows.map(r => r.id)
    },
    async activeOf(engine, limit, after) {
      const rows = await sql.query(`select * from curfew.credentials where engine = $1 and state = 'active' and id > $3 order by id limit $2`, [
        engine,
        limit,
        after ?? '',
      ])
      return rows.map(toCredential)
    },
  }
}

async function settle(tx: Tx, made: readonly Made[], context: Context, sealDigest: CredentialStoreDeps['sealDigest']): Promise<readonly Credential[] | null> {
  const tasks = await lockTasks(
    tx,
    made.flatMap(({ credential: c }) => [c.task, ...c.ancestors]),
  )
  const issues = made.map(({ credential: c, minted }) => issueOfRow(c, minted.kid, tasks.get(c.task)?.run ?? null))
  const facts = await readFacts(tx, tasks, [...issues.flatMap(issueScopes), ...[...tasks.values()].flatMap(workloadScopes)], issues.flatMap(runKeys))
  try {
    for (const issue of issues) judgeStanding(facts, issue, null)
  } catch (error) {
    // Ended, barred or cut off while it was made: overtaken, and the caller destroys what he made.
    if (error instanceof CurfewError && error.code !== 'unavailable') return null
    throw error
  }
  // One statement, so that all move or none: which of them stand is counted under their locks, before the first is touched.
  const rows = await tx.query(
    `with made as materialized (
       select * from jsonb_to_recordset($1::jsonb) as m(id text, version integer, handle jsonb, digest text, kid text, expires_at timestamptz)),
     standing as materialized (
       select c.id from curfew.credentials c join made on made.id = c.id and made.version = c.version
       where ${inState('c.state', 'pending')} and c.deadline_at > (select curfew.now()) order by c.id for update of c)
     update curfew.credentials c
     set state = 'active', version = c.version + 1, handle = nullif(coalesce(c.handle, '{}'::jsonb) || made.handle, '{}'::jsonb),
         digest = made.digest, kid = made.kid, expires_at = least(c.expires_at, made.expires_at)
     from made where c.id = made.id and (select count(*) from standing) = (select count(*) from made) returning c.*`,
    [
      rowsJson(
        made.map(({ credential: { id, version }, minted: { handle, secret, kid, expiresAt } }) => ({
          ...{ id, version, handle, kid },
          ...{ digest: sealDigest(secret.digest()), expires_at: expiresAt },
        })),
      ),
    ],
  )
  if (rows.length === 0) return null
  const active = new Map(rows.map(r => [r.id as CredentialId, toCredential(r)]))
  const settled = made.map(m => active.get(m.credential.id) as Credential)
  await writeAudit(
    tx,
    settled.map(c => credentialMade('credential.issued', c, null, context)),
  )
  return settled
}

/** What a verifier may accept, of `c`. */
const LIVE = `from curfew.credentials c
  where ${inState('c.state', 'active')} and c.expires_at > curfew.now()
    and not exists (select 1 from curfew.tasks t where t.id = any(array_append(c.ancestors, c.task)) and (t.state <> 'open' or t.deadline_at <= curfew.now()))
    -- A task that a scope hits has ended with all below it, though its rows are closed behind the cut-off.
    and not exists (
      select 1 from curfew.tasks t join curfew.revocations r
        on r.scope = any(array['identity:' || t.identity, 'issuer:' || t.issuer, 'issuer:' || t.issuer_id, 'all:*']) and r.issued_before >= t.opened_at
      where t.id = any(array_append(c.ancestors, c.task)))
    and not exists (
      select 1 from curfew.revocations r
      where r.scope = any(array['identity:' || c.identity, 'issuer:' || c.issuer, 'issuer:' || c.issuer_id, 'key:' || c.kid, 'capability:' || c.capability, 'all:*',
                                'credential:' || c.id, 'task:' || c.task] || array(select 'task:' || a from unnest(c.ancestors) a))
        and (r.issued_before is null or r.issued_before >= c.issued_at))`

/** A pass may end tasks and find no credential of them yet: whoever asks is answered with nothing only when nothing is left. */
async function closeOverdue(sql: Sql, limit: number): Promise<readonly Closed[]> {
  for (;;) {
    const { closed, more } = await sql.tx(tx => overduePass(tx, limit))
    if (closed.length > 0 || !more) return closed
  }
}

/** Lapsed mint windows, then what is behind standing cut-offs, then what hangs on tasks that those ended. */
async function overduePass(tx: Tx, limit: number): Promise<{ closed: Closed[]; more: boolean }> {
  const sweep = byBroker('sweep')
  const closed = await closeFound(
    tx,
    `select id, 'issuance_failed' as reason, null as revocation from curfew.credentials
     where state = 'pending' and deadline_at <= (select curfew.now()) order by deadline_at limit $1 for update skip locked`,
    [limit],
    sweep,
    null,
  )
  let more = false
  const standing = await tx.query('select * from curfew.revocations where closed_at is null order by seq')
  for (const r of standing) {
    if (closed.length >= limit) return { closed, more: true }
    const cut = { id: r.id as string, kind: r.kind as never, key: r.key as string, issuedBefore: r.issued_before as Date, act: actOf(r) }
    const behind = await closeBehind(tx, cut, limit - closed.length)
    closed.push(...behind.credentials)
    more ||= behind.tasks.length > 0
    if (behind.done) await tx.query('update curfew.revocations set closed_at = curfew.now() where id = $1 and closed_at is null', [r.id])
  }
  if (closed.length >= limit) return { closed, more: true }
  const drained = await drain(tx, limit - closed.length, sweep)
  closed.push(...drained.closed)
  return { closed, more: more || drained.more }
}
