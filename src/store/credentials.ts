/** Owns credentials at rest: every transition is a compare-and-set, every claim a fence. */
import { backoffSeconds, CLAIM_MS, type Credential, type CredentialState, STUCK_AFTER } from '../domain/credential.js'
import type { CredentialId } from '../domain/ids.js'
import { byBroker, type Reason } from '../domain/revocation.js'
import type { CredentialStore } from '../ports.js'
import { writeAudit } from './audit.js'
import { lockCutoffs, lockOpenTasks, refuseBarred } from './checks.js'
import { closeRows, insertCredential, issuedEvent } from './credential-writes.js'
import { toCredential } from './rows.js'
import type { Row, Sql } from './sql.js'

/** Seconds until a waiting row is looked at again: it waits for a listing, not for a backend. */
const WAIT_SECONDS = 5

export interface CredentialStoreDeps {
  /** HMAC under the server's key: a stolen database must not help to guess a secret (security.md 4). */
  readonly sealDigest: (digest: string) => string
}

export function credentialStore(sql: Sql, deps: CredentialStoreDeps): CredentialStore {
  const one = (rows: Row[]): Credential | null => (rows[0] ? toCredential(rows[0]) : null)

  return {
    intend: (grant, options) => sql.tx(tx => insertCredential(tx, grant, options, null)),
    record: (grant, minted, options) => sql.tx(tx => insertCredential(tx, grant, options, { minted, digest: deps.sealDigest(minted.secret.digest()) })),

    recordHandle: (credential, handle) =>
      sql.tx(async tx => {
        const recorded = one(
          await tx.query(
            `update curfew.credentials set handle = coalesce(handle, '{}'::jsonb) || $3::jsonb, version = version + 1
             where id = $1 and version = $2 and state = 'pending' returning *`,
            [credential.id, credential.version, JSON.stringify(handle)],
          ),
        )
        if (recorded) await writeAudit(tx, [{ kind: 'credential.handle_recorded', actor: byBroker('issue'), subject: credential.id, reason: null, requestId: null, data: {} }])
        return recorded
      }),
    async noteHandle(id, handle) {
      await sql.query(`update curfew.credentials set handle = coalesce(handle, '{}'::jsonb) || $2::jsonb where id = $1`, [id, JSON.stringify(handle)])
    },

    settle: (credential, minted, context) =>
      sql.tx(async tx => {
        await lockCutoffs(tx, 'shared')
        await lockOpenTasks(tx, [credential.task, ...credential.ancestors])
        const [run] = await tx.query<{ run: string | null }>('select run from curfew.tasks where id = $1', [credential.task])
        await refuseBarred(tx, {
          identity: credential.identity,
          issuer: credential.issuer,
          issuerId: credential.issuerId,
          capabilities: [credential.capability],
          kid: minted.kid,
          run: run?.run ?? null,
          issuedAt: credential.issuedAt,
        })
        const active = one(
          await tx.query(
            `update curfew.credentials
             set state = 'active', version = version + 1, handle = coalesce(handle, '{}'::jsonb) || $3::jsonb, digest = $4, kid = $5,
                 expires_at = least(expires_at, $6::timestamptz)
             where id = $1 and version = $2 and state = 'pending' and deadline_at > curfew.now() returning *`,
            [credential.id, credential.version, JSON.stringify(minted.handle), deps.sealDigest(minted.secret.digest()), minted.kid, minted.expiresAt],
          ),
        )
        if (active) await writeAudit(tx, [issuedEvent('credential.issued', active, context)])
        return active
      }),

    get: async id => one(await sql.query('select * from curfew.credentials where id = $1', [id])),
    async list(f) {
      const where: string[] = []
      const params: unknown[] = []
      const add = (clause: string, value: unknown) => {
        params.push(value)
        where.push(clause.replaceAll('?', `$${params.length}`))
      }
      if (f.task) add('(task = ? or ? = any(ancestors))', f.task)
      if (f.identity) add('identity = ?', f.identity)
      if (f.capability) add('capability = ?', f.capability)
      if (f.revocation) add('revocation = ?', f.revocation)
      if (f.digest) add('digest = ?', f.digest)
      if (f.after) add('id < ?', f.after)
      if (f.state === 'live') where.push(`state in ('pending', 'active', 'revoking', 'stuck')`)
      else if (f.state) add('state = ?', f.state)
      params.push(f.limit)
      const rows = await sql.query(`select * from curfew.credentials ${where.length ? `where ${where.join(' and ')}` : ''} order by id desc limit $${params.length}`, params)
      return rows.map(toCredential)
    },
    live: async id =>
      one(
        await sql.query(
          `select c.* from curfew.credentials c
           where c.id = $1 and c.state = 'active' and c.expires_at > curfew.now()
             and not exists (select 1 from curfew.tasks t where (t.id = c.task or t.id = any(c.ancestors)) and (t.state <> 'open' or t.deadline_at <= curfew.now()))
             and not exists (
               select 1 from (values ('identity', c.identity), ('issuer', c.issuer), ('issuer', c.issuer_id), ('key', c.kid), ('capability', c.capability), ('all', '*')) s(kind, key)
               join curfew.revocations r on r.kind = s.kind and r.key = s.key and r.issued_before >= c.issued_at)`,
          [id],
        ),
      ),
    async counts() {
      const rows = await sql.query<{ state: CredentialState; n: number }>('select state, count(*)::int as n from curfew.credentials group by state')
      const [late] = await sql.query<{ seconds: number | null }>(
        `select extract(epoch from curfew.now() - min(expires_at))::float8 as seconds from curfew.credentials where state = 'active' and expires_at <= curfew.now()`,
      )
      const counts = { pending: 0, active: 0, revoking: 0, stuck: 0, revoked: 0 }
      for (const r of rows) counts[r.state] = r.n
      return { ...counts, overdueSeconds: late?.seconds ?? 0 }
    },

    expire: limit =>
      sql.tx(async tx => {
        const due = await tx.query<{ id: string }>(
          `select id from curfew.credentials where state = 'active' and expires_at <= curfew.now() order by expires_at limit $1 for update skip locked`,
          [limit],
        )
        return closeRows(
          tx,
          due.map(r => r.id),
          'expired',
          null,
          byBroker('expire'),
          null,
        )
      }),
    closeOverdue: limit =>
      sql.tx(async tx => {
        const due = await tx.query<{ id: string; why: Reason }>(
          `select c.id, case when c.state = 'pending' and c.deadline_at <= curfew.now() then 'issuance_failed'
                             when exists (select 1 from curfew.tasks t where (t.id = c.task or t.id = any(c.ancestors)) and t.state <> 'open') then 'parent_ended'
                             else 'requested' end as why
           from curfew.credentials c
           where (c.state = 'pending' and c.deadline_at <= curfew.now())
              or (c.state in ('pending', 'active') and (
                   exists (select 1 from curfew.tasks t where (t.id = c.task or t.id = any(c.ancestors)) and t.state <> 'open')
                   or exists (select 1 from (values ('identity', c.identity), ('issuer', c.issuer), ('issuer', c.issuer_id), ('key', c.kid), ('capability', c.capability), ('all', '*')) s(kind, key)
                              join curfew.revocations r on r.kind = s.kind and r.key = s.key and r.issued_before >= c.issued_at)))
           limit $1 for update of c skip locked`,
          [limit],
        )
        const moved: Credential[] = []
        for (const why of new Set(due.map(r => r.why))) {
          const ids = due.filter(r => r.why === why).map(r => r.id)
          moved.push(...(await closeRows(tx, ids, why, null, byBroker('sweep'), null)))
        }
        return moved
      }),

    async due(limit, engine) {
      const rows = await sql.query(
        `select * from curfew.credentials
         where state in ('revoking', 'stuck') and ($2::text is null or engine = $2) and next_attempt_at <= curfew.now() and (claimed_until is null or claimed_until < curfew.now())
         order by next_attempt_at limit $1`,
        [limit, engine ?? null],
      )
      return rows.map(toCredential)
    },
    async claim(id, version) {
      const credential = one(
        await sql.query(
          `update curfew.credentials set version = version + 1, claimed_until = curfew.now() + make_interval(secs => $3::double precision)
           where id = (select id from curfew.credentials
                       where id = $1 and state in ('revoking', 'stuck') and ($2::int is null or version = $2) and next_attempt_at <= curfew.now()
                         and (claimed_until is null or claimed_until < curfew.now())
                       for update skip locked)
           returning *`,
          [id, version, CLAIM_MS / 1000],
        ),
      )
      return credential ? { credential, version: credential.version } : null
    },
    confirm: (claim, probe) =>
      sql.tx(async tx => {
        const rows = await tx.query(
          `update curfew.credentials set state = 'revoked', version = version + 1, revoked_at = curfew.now(), probe = $3::jsonb, failure = null, next_attempt_at = null, claimed_until = null
           where id = $1 and version = $2 and state in ('revoking', 'stuck') returning id`,
          [claim.credential.id, claim.version, JSON.stringify(probe)],
        )
        if (rows.length === 0) return false
        await writeAudit(tx, [
          {
            kind: 'credential.revoked',
            actor: byBroker('destroy'),
            subject: claim.credential.id,
            reason: claim.credential.reason,
            requestId: null,
            data: { looked: probe.looked, attempts: claim.credential.attempts },
          },
        ])
        return true
      }),
    postpone: (claim, outcome) =>
      sql.tx(async tx => {
        const attempts = claim.credential.attempts + (outcome.waiting ? 0 : 1)
        const expiryOnly = claim.credential.revocationClass === 'expiry-only'
        const stuck = !outcome.waiting && !expiryOnly && (outcome.permanent || attempts >= STUCK_AFTER)
        const credential = one(
          await tx.query(
            `update curfew.credentials
             set state = case when $3 then 'stuck' else state end, version = version + 1, attempts = $4, failure = $5, probe = $6::jsonb, claimed_until = null,
                 next_attempt_at = curfew.now() + make_interval(secs => $7::double precision)
             where id = $1 and version = $2 and state in ('revoking', 'stuck') returning *`,
            [claim.credential.id, claim.version, stuck, attempts, outcome.failure, outcome.probe ? JSON.stringify(outcome.probe) : null, outcome.waiting ? WAIT_SECONDS : backoffSeconds(attempts)],
          ),
        )
        if (!credential || outcome.waiting) return credential
        const becameStuck = credential.state === 'stuck' && claim.credential.state !== 'stuck'
        await writeAudit(tx, [
          {
            kind: becameStuck ? 'credential.stuck' : 'credential.destroy_failed',
            actor: byBroker('destroy'),
            subject: credential.id,
            reason: outcome.failure,
            requestId: null,
            data: { attempts, engine: credential.engine },
          },
        ])
        return credential
      }),

    async known(ids) {
      const rows = await sql.query(`select * from curfew.credentials where id = any($1::text[]) and state <> 'revoked'`, [ids])
      return new Map(rows.map(r => [r.id as CredentialId, toCredential(r)]))
    },
    async activeOf(engine, limit, after) {
      const rows = await sql.query(`select * from curfew.credentials where engine = $1 and state = 'active' and ($3::text is null or id > $3) order by id limit $2`, [
        engine,
        limit,
        after ?? null,
      ])
      return rows.map(toCredential)
    },
  }
}
