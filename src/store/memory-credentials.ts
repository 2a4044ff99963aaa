/** Owns credentials in memory. */

import { CLAIM_MS, type Claim, type Credential, type CredentialFilter, type CredentialState, KRL_MARGIN_SECONDS, type Probe } from '../domain/credential.js'
import { CurfewError } from '../domain/errors.js'
import { byBroker } from '../domain/revocation.js'
import type { CredentialStore, Minted } from '../ports.js'
import { type Facts, isCut, issueOfRow, issueScopes, judgeStanding, workloadScopes } from './admission.js'
import type { CutOff } from './closing.js'
import { assertDead, postponed } from './destroying.js'
import { credentialDead, credentialMade, destroyFailed, handleRecorded } from './events.js'
import { admit } from './issue.js'
import { issueInMemory } from './memory-issue.js'
import {
  after,
  bare,
  type CredentialRow,
  closeBehind,
  closeCredentialsOf,
  closeRows,
  earliest,
  factsOf,
  newestFirst,
  type RevocationRow,
  type State,
  write,
} from './memory-state.js'

export function memoryCredentials(state: State, sealDigest: (digest: string) => string): CredentialStore {
  const find = (id: string): CredentialRow | undefined => state.credentials.get(id)
  const put = (c: CredentialRow, fields: Partial<CredentialRow>): CredentialRow => {
    const changed = { ...c, ...fields }
    state.credentials.set(c.id, changed)
    return changed
  }
  /** Closed, due, and claimed by nobody. */
  const isDue = (c: CredentialRow, now: Date): boolean =>
    (c.state === 'revoking' || c.state === 'stuck') && (c.nextAttemptAt as Date) <= now && (c.claimedUntil === null || c.claimedUntil < now)
  const heldBy = (claim: Claim): CredentialRow | null => {
    const c = find(claim.credential.id)
    return c && c.version === claim.version && (c.state === 'revoking' || c.state === 'stuck') ? c : null
  }
  const die = (c: CredentialRow, probe: Probe) => {
    put(c, { state: 'revoked', version: c.version + 1, revokedAt: state.now(), probe, failure: null, nextAttemptAt: null, claimedUntil: null })
    write(state, [credentialDead({ credential: bare(c), version: c.version }, probe)])
  }
  const rows = () => [...state.credentials.values()]

  return {
    async foresee(grant, options) {
      admit(factsOf(state), { parts: [{ grant, made: null }], options: { ...options, marks: [] } })
    },
    intend: async (grants, options) => issueInMemory(state, { parts: grants.map(grant => ({ grant, made: null })), options }),
    async record(grant, minted, options) {
      const [credential] = issueInMemory(state, { parts: [{ grant, made: { minted, digest: sealDigest(minted.secret.digest()) } }], options })
      return credential as Credential
    },

    async recordHandle({ id, version }, handle) {
      const c = find(id)
      if (c?.state !== 'pending' || c.version !== version || c.deadlineAt <= state.now()) return null
      const recorded = put(c, { handle: { ...c.handle, ...handle }, version: version + 1 })
      write(state, [handleRecorded(recorded)])
      return bare(recorded)
    },
    async noteHandle(id, handle) {
      const c = find(id)
      if (c) put(c, { handle: { ...c.handle, ...handle } })
    },
    async settle(made, context) {
      const facts = factsOf(state)
      const standing: { readonly c: CredentialRow; readonly minted: Minted }[] = []
      for (const { credential, minted } of made) {
        const c = find(credential.id)
        if (!c) return null
        try {
          judgeStanding(facts, issueOfRow(c, minted.kid, facts.tasks.get(c.task)?.run ?? null), null)
        } catch (error) {
          if (error instanceof CurfewError && error.code !== 'unavailable') return null
          throw error
        }
        if (c.state !== 'pending' || c.version !== credential.version || c.deadlineAt <= facts.now) return null
        standing.push({ c, minted })
      }
      return standing.map(({ c, minted }) => {
        const handle = { ...c.handle, ...minted.handle }
        const active = put(c, {
          state: 'active',
          version: c.version + 1,
          handle: Object.keys(handle).length > 0 ? handle : null,
          digest: sealDigest(minted.secret.digest()),
          kid: minted.kid,
          expiresAt: earliest(c.expiresAt, minted.expiresAt),
        })
        write(state, [credentialMade('credential.issued', active, null, context)])
        return bare(active)
      })
    },

    async get(id) {
      const c = find(id)
      return c ? bare(c) : null
    },
    async list(f) {
      return rows()
        .filter(c => matches(c, f))
        .sort(newestFirst)
        .slice(0, f.limit)
        .map(bare)
    },
    async live(id) {
      const c = find(id)
      return isLive(factsOf(state), c) ? bare(c) : null
    },
    async liveAmong(ids) {
      const facts = factsOf(state)
      return new Set(ids.filter(id => isLive(facts, find(id))))
    },
    async counts() {
      const now = state.now()
      const counts: Record<CredentialState, number> = { pending: 0, active: 0, revoking: 0, stuck: 0, revoked: 0 }
      let overdueSeconds = 0
      for (const c of rows()) {
        counts[c.state]++
        const due = c.state === 'active' ? c.expiresAt : c.state === 'pending' ? c.deadlineAt : c.nextAttemptAt
        if (due) overdueSeconds = Math.max(overdueSeconds, (now.getTime() - due.getTime()) / 1000)
      }
      return { ...counts, overdueSeconds }
    },

    async expire(limit) {
      const now = state.now()
      const due = rows()
        .filter(c => c.state === 'active' && c.expiresAt <= now)
        .sort((a, b) => a.expiresAt.getTime() - b.expiresAt.getTime())
        .slice(0, limit)
      return closeRows(
        state,
        due,
        () => 'expired',
        () => null,
        byBroker('expire'),
        null,
      )
    },
    async untold(limit) {
      const now = state.now()
      const rows = [...state.credentials.values()].filter(c => c.revocation === null && c.reason === 'cancelled' && c.expiresAt > now)
      return rows
        .map(c => c.id)
        .sort()
        .slice(0, limit)
    },
    async closeOverdue(limit) {
      const now = state.now()
      const lapsed = rows()
        .filter(c => c.state === 'pending' && c.deadlineAt <= now)
        .slice(0, limit)
      const moved = closeRows(
        state,
        lapsed,
        () => 'issuance_failed',
        () => null,
        byBroker('sweep'),
        null,
      )
      for (const r of state.revocations) {
        if (r.closed || moved.length >= limit) continue
        const { credentials, done } = closeBehind(state, cutOffOf(r), limit - moved.length)
        moved.push(...credentials)
        r.closed = done
      }
      return [...moved, ...closeCredentialsOf(state, null, limit - moved.length, byBroker('sweep'), null)]
    },

    async due(limit, engine) {
      const now = state.now()
      return rows()
        .filter(c => isDue(c, now) && (engine === undefined || c.engine === engine))
        .sort((a, b) => (a.nextAttemptAt as Date).getTime() - (b.nextAttemptAt as Date).getTime())
        .slice(0, limit)
        .map(bare)
    },
    async claim(id, version) {
      const c = find(id)
      const now = state.now()
      if (!c || !isDue(c, now) || (version !== null && c.version !== version)) return null
      const claimed = put(c, { version: c.version + 1, claimedUntil: new Date(now.getTime() + CLAIM_MS) })
      return { credential: bare(claimed), version: claimed.version }
    },
    async confirm(claim, probe) {
      assertDead(probe)
      const c = heldBy(claim)
      if (!c) return false
      die(c, probe)
      return true
    },
    async confirmMany(dead) {
      for (const { probe } of dead) assertDead(probe)
      const now = state.now()
      return dead.flatMap(({ credential, probe }) => {
        const c = heldBy({ credential, version: credential.version })
        if (!c || (c.claimedUntil !== null && c.claimedUntil >= now)) return []
        die(c, probe)
        return [c.id]
      })
    },
    async postpone(claim, outcome) {
      const c = heldBy(claim)
      if (!c) return null
      const { attempts, stuck, seconds } = postponed(claim, outcome)
      const next = after(state.now(), seconds)
      const nextAttemptAt = c.revocationClass === 'expiry-only' && c.expiresAt > next ? c.expiresAt : next
      const row = put(c, {
        state: stuck ? 'stuck' : c.state,
        version: c.version + 1,
        attempts,
        failure: outcome.failure,
        probe: outcome.probe,
        claimedUntil: null,
        nextAttemptAt,
      })
      if (!outcome.waiting) write(state, [destroyFailed(row, row.state === 'stuck' && c.state !== 'stuck')])
      return bare(row)
    },

    async known(ids) {
      return new Map(
        ids.flatMap(id => {
          const row = find(id)
          return row ? [[id, bare(row)] as const] : []
        }),
      )
    },
    async leaseOwners(leaseIds) {
      const wanted = new Set(leaseIds)
      return new Map(rows().flatMap(c => (typeof c.handle?.leaseId === 'string' && wanted.has(c.handle.leaseId) ? [[c.handle.leaseId, c.id] as const] : [])))
    },
    async closedOf(engine) {
      const recent = state.now().getTime() - KRL_MARGIN_SECONDS * 1000
      return rows().flatMap(c =>
        c.engine === engine &&
        (c.state === 'revoking' ||
          c.state === 'stuck' ||
          (c.state === 'revoked' && c.revocationClass === 'expiry-only' && (c.revokedAt?.getTime() ?? 0) > recent))
          ? [c.id]
          : [],
      )
    },
    async activeOf(engine, limit, cursor) {
      const page = rows().filter(c => c.engine === engine && c.state === 'active' && c.id > (cursor ?? ''))
      return page
        .sort((a, b) => newestFirst(b, a))
        .slice(0, limit)
        .map(bare)
    },
  }

  function matches(c: CredentialRow, f: CredentialFilter): boolean {
    if (f.task && c.task !== f.task && !c.ancestors.includes(f.task)) return false
    if (f.identity && c.identity !== f.identity) return false
    if (f.capability && c.capability !== f.capability) return false
    if (f.revocation && c.revocation !== f.revocation) return false
    if (f.digest && c.digest !== f.digest) return false
    if (f.after && c.id >= f.after) return false
    return f.state === undefined || (f.state === 'live' ? c.state !== 'revoked' : c.state === f.state)
  }
}

const isLive = (facts: Facts, c: CredentialRow | undefined): c is CredentialRow => c?.state === 'active' && c.expiresAt > facts.now && stands(facts, c)

/** Task and ancestors open by their own rows, and no cut-off at or after this row's `iat`. */
function stands(facts: Facts, c: CredentialRow): boolean {
  const tasks = [c.task, ...c.ancestors].map(id => facts.tasks.get(id))
  if (tasks.some(t => t?.state !== 'open' || t.deadlineAt <= facts.now || isCut(facts, workloadScopes(t), t.openedAt))) return false
  return !isCut(facts, issueScopes(issueOfRow(c, c.kid, null)), c.issuedAt)
}

export function cutOffOf({ revocation: r, issuedBefore }: RevocationRow): CutOff {
  return {
    id: r.id,
    // Only a scope has a cut-off.
    kind: r.selector.kind as CutOff['kind'],
    key: r.selector.key,
    issuedBefore: issuedBefore as Date,
    act: { id: r.id, reason: r.reason, actor: r.actor, requestId: null, outcome: null },
  }
}
