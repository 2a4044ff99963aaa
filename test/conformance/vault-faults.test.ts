/** What is left at Vault when the making of a database user goes wrong half-way, and who finds it (security.md 3.5). */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createVault } from '../../src/clients/vault.js'
import { grantOf, rowOf } from '../../src/contract/fixtures.js'
import type { Handle } from '../../src/domain/credential.js'
import type { CredentialId } from '../../src/domain/ids.js'
import { Secret } from '../../src/domain/secret.js'
import { DATABASE_PARAMETERS, vaultDatabaseEngine } from '../../src/engines/vault-database.js'
import { vaultUpstream } from '../../src/engines/vault-upstream.js'
import type { CredentialEngine } from '../../src/ports.js'
import { type FakeVault, fakeVault, type Misbehaviour } from '../fake-vault.js'

const parameters = { role: 'orders-ro', policy: 'curfew-cap-orders-ro', connection: { host: 'db.example', database: 'orders' } }
const signal = () => AbortSignal.timeout(15_000)

let vault: FakeVault
let engine: CredentialEngine
let upstream: ReturnType<typeof vaultUpstream>
let close: () => Promise<void>
let ahead = 0
/** Lease ids that a row holds. */
const rows = new Map<string, CredentialId>()
const now = () => new Date(Date.now() + ahead * 1000)
/** Time passes here and there. */
const advance = (seconds: number) => {
  ahead += seconds
  vault.advance(seconds)
}
const grant = () => grantOf(now(), { name: 'db/orders-ro', engine: 'vault-database', parameters, ttl: 600 })
const prepared = async (g: ReturnType<typeof grant>) => (await engine.prepare?.(g, signal())) as Handle

beforeEach(async () => {
  ahead = 0
  rows.clear()
  vault = await fakeVault()
  const identity = (name: string) => ({ method: 'approle' as const, mount: 'approle', roleId: `curfew-${name}`, secretId: Secret.token(`secret-of-${name}`) })
  const config = { address: vault.address, tokenRole: 'curfew', issuer: identity('issuer'), revoker: identity('revoker'), reconciler: identity('reconciler') }
  const client = (role: 'issuer' | 'revoker' | 'reconciler') => createVault(config, role, { log: { warn: () => {} } })
  const [issuer, revoker, reconciler] = [client('issuer'), client('revoker'), client('reconciler')]
  upstream = vaultUpstream({
    reconciler,
    clock: { now },
    credentialOf: async ids => new Map(ids.flatMap(id => (rows.has(id) ? [[id, rows.get(id) as CredentialId] as const] : []))),
    engines: ['vault-database'],
    paths: [{ capability: 'db/orders-ro', prefix: 'database/creds/orders-ro' }],
  })
  engine = vaultDatabaseEngine({
    issuer,
    revoker,
    clock: { now },
    targetOf: () => null,
    parametersOf: () => DATABASE_PARAMETERS.parse(parameters),
    issuanceTokenSeconds: 90,
    clearSince: upstream.clearSince,
  })
  close = async () => {
    await Promise.all([issuer.close(), revoker.close(), reconciler.close()])
    await vault.close()
  }
})
afterEach(() => close())

describe('a fault while the secret is read', () => {
  it.each<Misbehaviour>(['both', 'cut', 'lost', 'empty', 'html', { status: 500 }])(
    'F29 %j: the caller gets an error, and the accessor alone takes it all away',
    async how => {
      const g = grant()
      const handle = await prepared(g)
      vault.misbehave(/creds/, how)
      await expect(engine.mint(g, handle, signal())).rejects.toMatchObject({ name: 'CurfewError', code: 'engine_failed', facts: { reason: 'vault_ambiguous' } })
      await engine.destroy(rowOf(g, handle), signal())
      await expect.poll(() => vault.leases.size + vault.users.size, { timeout: 2_000 }).toBe(0)
    },
  )

  it('a fault before anything was made leaves a token that reconcile finds by its mark', async () => {
    const g = grant()
    vault.misbehave(/create\/curfew/, 'lost')
    await expect(engine.prepare?.(g, signal())).rejects.toMatchObject({ code: 'engine_failed' })
    advance(61)
    const [found, ...others] = await upstream.list(signal())
    expect(found).toMatchObject({ kind: 'accessor', credential: g.id })
    expect(found?.ageSeconds).toBeGreaterThanOrEqual(60)
    expect(others).toEqual([])
    if (found) await upstream.destroyUpstream(found, signal())
    expect(await upstream.list(signal())).toEqual([])
  })

  it('and the same token dies alone when nobody looks', async () => {
    vault.misbehave(/create\/curfew/, 'lost')
    await engine.prepare?.(grant(), signal()).catch(() => {})
    advance(91)
    await expect.poll(() => [...vault.tokens.values()].filter(t => t.meta).length).toBe(0)
  })
})

describe('F33 the token dies while the read is in flight', () => {
  it('the lease that appears afterwards keeps the row waiting until reconcile has ended it and seen it gone', async () => {
    const g = grant()
    const handle = await prepared(g)
    const letGo = vault.holdReads()
    const abandoned = engine.mint(g, handle, AbortSignal.timeout(300)).catch(() => 'gave up')
    expect(await abandoned).toBe('gave up')
    const row = rowOf(g, handle)
    await engine.destroy(row, signal())
    expect(await engine.probe(row, signal())).toMatchObject({ outcome: 'waiting' })

    // Past the queue in which Vault ends what it knows of that token; the lease comes after it.
    await new Promise(resolve => setTimeout(resolve, 100))
    advance(15)
    letGo()
    await expect.poll(() => vault.leases.size).toBe(1)
    await upstream.list(signal())
    expect(await engine.probe(row, signal())).toMatchObject({ outcome: 'waiting' })

    advance(120)
    const stray = (await upstream.list(signal())).find(t => t.kind === 'lease')
    expect(stray).toMatchObject({ credential: null })
    expect(stray?.ageSeconds).toBeGreaterThan(60)
    expect(await engine.probe(row, signal())).toMatchObject({ outcome: 'waiting' })
    if (stray) await upstream.destroyUpstream(stray, signal())
    expect(vault.users.size).toBe(0)

    advance(80)
    await upstream.list(signal())
    expect(await engine.probe(row, signal())).toMatchObject({ outcome: 'dead', looked: ['accessor', 'listing'] })
  })

  it('an issuer that gets its answer after all has the lease in hand, and the row goes the usual way', async () => {
    const g = grant()
    const handle = await prepared(g)
    const letGo = vault.holdReads()
    const late = engine.mint(g, handle, signal())
    await expect.poll(() => vault.seen.some(s => s.path.includes('creds'))).toBe(true)
    await engine.destroy(rowOf(g, handle), signal())
    letGo()
    const row = rowOf(g, { ...handle, ...(await late).handle })
    expect(await engine.probe(row, signal())).toMatchObject({ outcome: 'alive' })
    await engine.destroy(row, signal())
    expect(await engine.probe(row, signal())).toMatchObject({ outcome: 'dead' })
    expect(vault.users.size).toBe(0)
  })
})

describe('F32 a Vault that says done and does nothing', () => {
  it('is not believed: the probe finds the lease, and the next try ends it', async () => {
    const g = grant()
    const handle = await prepared(g)
    const row = rowOf(g, { ...handle, ...(await engine.mint(g, handle, signal())).handle })
    vault.misbehave(/revoke/, 'lie', 2)
    await engine.destroy(row, signal())
    expect(await engine.probe(row, signal())).toMatchObject({ outcome: 'alive', detail: 'the lease is still there' })
    await engine.destroy(row, signal())
    expect(await engine.probe(row, signal())).toMatchObject({ outcome: 'dead' })
  })
})
