/** The engine of database users where the road forks: what it asks of Vault, in which order it ends, and when it may believe a listing. */
import { beforeEach, describe, expect, it } from 'vitest'
import type { Target } from '../../../src/clients/target.js'
import type { IssuanceToken, VaultClient } from '../../../src/clients/vault.js'
import { grantOf, rowOf } from '../../../src/contract/fixtures.js'
import { Secret } from '../../../src/domain/secret.js'
import { DATABASE_PARAMETERS, vaultDatabaseEngine } from '../../../src/engines/vault-database.js'
import { vaultUpstream } from '../../../src/engines/vault-upstream.js'

const PARAMETERS = { role: 'orders-ro', policy: 'curfew-cap-orders-ro', connection: { host: 'db.example', database: 'orders' } }
const PATHS = [{ capability: 'db/orders-ro', prefix: 'database/creds/orders-ro' }]
const signal = AbortSignal.timeout(60_000)
const START = Date.parse('2026-01-01T00:00:00Z')

let at: number
let calls: string[]
let asked: Record<string, unknown>[]
let leaseSeconds: number
let leases: Map<string, Date>
let known: Set<string>
/** At the target. */
let users: Set<string>
const now = () => new Date(START + at * 1000)

beforeEach(() => {
  at = 0
  calls = []
  asked = []
  leaseSeconds = 900
  leases = new Map()
  known = new Set()
  users = new Set()
})

/** Only what the engine calls; anything else is a mistake and throws. */
const client = {
  async createIssuanceToken(ask): Promise<IssuanceToken> {
    asked.push({ ...ask })
    return { token: Secret.token(`token-of-${ask.credential}`), accessor: `accessor-of-${ask.credential}` }
  },
  readDynamic: async () => ({ leaseId: 'database/creds/orders-ro/one', leaseSeconds, username: 'curfew_x', password: 'p' }),
  renewAccessor: async (_accessor: string, seconds: number) => void calls.push(`renew ${seconds}`),
  revokeLease: async () => void calls.push('lease'),
  revokeAccessor: async () => void calls.push('accessor'),
  leaseExists: async () => false,
  accessorExists: async () => false,
  listLeases: async () => [...leases.keys()],
  leaseIssuedAt: async (id: string) => leases.get(id) ?? null,
  listAccessors: async () => [],
} as Partial<VaultClient> as VaultClient

const target = {
  oidOf: async () => 77,
  noLogin: async () => void calls.push('nologin'),
  endSessions: async (oid: number) => {
    calls.push(`sessions ${oid}`)
    return 0
  },
  drop: async (role: string) => {
    calls.push(`drop ${role}`)
    users.delete(role)
  },
  look: async (role: string) => ({ role: users.has(role), sessions: 0 }),
} as Partial<Target> as Target

const house = (withTarget = true) => {
  const upstream = vaultUpstream({
    reconciler: client,
    clock: { now },
    credentialOf: async ids => new Map(ids.filter(id => known.has(id)).map(id => [id, 'crd_x' as never])),
    engines: ['vault-database'],
    paths: PATHS,
  })
  const engine = vaultDatabaseEngine({
    issuer: client,
    revoker: client,
    clock: { now },
    targetOf: () => (withTarget ? target : null),
    parametersOf: () => DATABASE_PARAMETERS.parse(PARAMETERS),
    issuanceTokenSeconds: 90,
    clearSince: upstream.clearSince,
  })
  return { engine, upstream }
}
const grant = (ttl: number) => grantOf(now(), { name: 'db/orders-ro', engine: 'vault-database', parameters: PARAMETERS, ttl })

describe('making', () => {
  it('asks for a token of 90 seconds at most, and a maximum just above the grant', async () => {
    const { engine } = house()
    await engine.prepare?.(grant(600), signal)
    await engine.prepare?.(grant(30), signal)
    expect(asked).toMatchObject([
      { ttlSeconds: 90, maxTtlSeconds: 630, policy: 'curfew-cap-orders-ro' },
      { ttlSeconds: 30, maxTtlSeconds: 60 },
    ])
    expect(asked[0]?.displayName).toMatch(/^crd-[0-9a-z]{26}$/)
  })

  it('a lease that is shorter than the grant caps its end', async () => {
    leaseSeconds = 120
    const { engine } = house()
    const g = grant(600)
    const handle = (await engine.prepare?.(g, signal)) ?? null
    expect((await engine.mint(g, handle, signal)).expiresAt).toEqual(new Date(START + 120_000))
  })

  it('keeps no token of a credential that was overtaken before mint', async () => {
    const { engine } = house()
    const g = grant(600)
    const handle = (await engine.prepare?.(g, signal)) ?? null
    await engine.destroy(rowOf(g, handle), signal)
    await expect(engine.mint(g, handle, signal)).rejects.toMatchObject({ code: 'engine_failed', facts: { reason: 'overtaken' } })
  })

  it('mints once: the token is gone from memory after it', async () => {
    const { engine } = house()
    const g = grant(600)
    const handle = (await engine.prepare?.(g, signal)) ?? null
    await engine.mint(g, handle, signal)
    await expect(engine.mint(g, handle, signal)).rejects.toMatchObject({ code: 'engine_failed', facts: { reason: 'overtaken' } })
  })
})

describe('keeping', () => {
  it.each([
    [600, 5, ['renew 595']],
    // The token was made for 90 of these 94 seconds: not renewed, the credential would die before its time.
    [94, 5, ['renew 89']],
    [90, 5, []],
    [30, 1, []],
  ])('a grant of %i s, settled after %i s, asks for %j', async (ttl, after, wanted) => {
    const { engine } = house()
    const g = grant(ttl)
    at = after
    await engine.extend?.(rowOf(g, { accessor: 'a' }, { state: 'active' }), signal)
    expect(calls).toEqual(wanted)
  })
})

describe('ending', () => {
  const full = { accessor: 'a', leaseId: 'l', role: 'r', oid: 77 }

  it('shuts the door, ends the lease, then the token, then the sessions, in this order', async () => {
    await house().engine.destroy(rowOf(grant(600), full), signal)
    expect(calls).toEqual(['nologin', 'lease', 'accessor', 'sessions 77'])
  })

  it('without a target login it ends lease and token, and its probe claims no more', async () => {
    const { engine } = house(false)
    await engine.destroy(rowOf(grant(600), full), signal)
    expect(calls).toEqual(['lease', 'accessor'])
    expect(await engine.probe(rowOf(grant(600), full), signal)).toEqual({ outcome: 'dead', looked: ['lease', 'accessor'], detail: null })
  })

  it('with one the probe names all that it looked at', async () => {
    expect(await house().engine.probe(rowOf(grant(600), full), signal)).toMatchObject({ outcome: 'dead', looked: ['lease', 'accessor', 'role', 'sessions'] })
  })
})

describe('a read that was cut off', () => {
  it('F33 a user that Vault registered no lease for is dropped at the target, by its name, and is not dead before', async () => {
    const { engine, upstream } = house()
    const g = grant(600)
    const row = rowOf(g, { accessor: 'a' })
    const user = `curfew_${row.id.replaceAll('_', '-')}`
    users.add(user)
    at = 260
    await upstream.list(signal)
    expect(await engine.probe(row, signal)).toMatchObject({ outcome: 'alive', detail: 'the role is still there' })
    await engine.destroy(row, signal)
    expect(calls).toEqual(['nologin', 'accessor', `drop ${user}`])
    expect(await engine.probe(row, signal)).toMatchObject({ outcome: 'dead', looked: ['accessor', 'role', 'sessions', 'listing'] })
  })

  it('what Vault has a lease of is left to Vault', async () => {
    const row = rowOf(grant(600), { accessor: 'a', leaseId: 'l', role: 'r', oid: 77 })
    await house().engine.destroy(row, signal)
    expect(calls.some(c => c.startsWith('drop'))).toBe(false)
  })
})

describe('F33 a lease that may be in flight', () => {
  /** Made at 0, its handle recorded by 20 s at the latest, so its token is dead by 110 s; a read that began then can make a lease until 200 s. */
  const probeOf = (engine: ReturnType<typeof house>['engine'], row: Parameters<typeof engine.probe>[0]) => engine.probe(row, signal).then(p => p.outcome)

  it('waits for a listing that began after its last moment', async () => {
    const { engine, upstream } = house()
    const row = rowOf(grant(600), { accessor: 'a' })
    expect(await probeOf(engine, row)).toBe('waiting')
    at = 199
    await upstream.list(signal)
    expect(await probeOf(engine, row)).toBe('waiting')
    at = 215
    await upstream.list(signal)
    expect(await probeOf(engine, row)).toBe('dead')
  })

  it('waits while a lease of that time is there that no row knows, and no longer', async () => {
    const { engine, upstream } = house()
    const row = rowOf(grant(600), { accessor: 'a' })
    leases.set('database/creds/orders-ro/stray', new Date(START + 15_000))
    at = 260
    await upstream.list(signal)
    expect(await probeOf(engine, row)).toBe('waiting')
    leases.clear()
    at = 320
    await upstream.list(signal)
    expect(await probeOf(engine, row)).toBe('dead')
  })

  it('on a busy path the unsettled leases of later credentials do not keep it waiting', async () => {
    const { engine, upstream } = house()
    const row = rowOf(grant(600), { accessor: 'a' })
    for (at = 130; at < 400; at += 60) {
      leases.clear()
      leases.set(`database/creds/orders-ro/fresh-${at}`, new Date(START + (at - 1) * 1000))
      await upstream.list(signal)
    }
    expect(await probeOf(engine, row)).toBe('dead')
  })

  it('a lease that a row knows keeps nobody waiting', async () => {
    const { engine, upstream } = house()
    leases.set('database/creds/orders-ro/known', new Date(START))
    known.add('database/creds/orders-ro/known')
    const row = rowOf(grant(600), { accessor: 'a' })
    at = 260
    await upstream.list(signal)
    expect(await probeOf(engine, row)).toBe('dead')
  })

  it('a listing that failed proves nothing', async () => {
    at = 300
    const broken = { ...client, listLeases: async () => Promise.reject(new Error('cut')) }
    const upstream = vaultUpstream({ reconciler: broken, clock: { now }, credentialOf: async () => new Map(), engines: ['vault-database'], paths: PATHS })
    await expect(upstream.list(signal)).rejects.toThrow('cut')
    expect(upstream.clearSince('db/orders-ro')).toBeNull()
  })

  it('an older listing that was clear stays true when a later one is not', async () => {
    const { engine, upstream } = house()
    const row = rowOf(grant(600), { accessor: 'a' })
    at = 220
    await upstream.list(signal)
    leases.set('database/creds/orders-ro/odd', new Date(START))
    at = 280
    await upstream.list(signal)
    expect(await probeOf(engine, row)).toBe('dead')
  })
})
