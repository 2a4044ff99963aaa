import { beforeEach, describe, expect, it } from 'vitest'
import type { VaultClient } from '../../../src/clients/vault.js'
import type { CertificateAsk, IssuedCertificate } from '../../../src/clients/vault-secrets.js'
import { grantOf, rowOf } from '../../../src/contract/fixtures.js'
import type { Credential } from '../../../src/domain/credential.js'
import { Grant } from '../../../src/domain/decision.js'
import { dashed } from '../../../src/domain/ids.js'
import { Secret } from '../../../src/domain/secret.js'
import { PKI_PARAMETERS, vaultPkiEngine } from '../../../src/engines/vault-pki.js'
import { type Authority, authority } from '../../x509-authority.js'

const signal = AbortSignal.timeout(60_000)
const START = Date.now()
let at: number
let ca: Authority
let calls: string[]
let asks: CertificateAsk[]
/** What the Vault of this test would answer; each case changes what it is about. */
let answer: Partial<IssuedCertificate>
let over: Partial<Parameters<Authority['issue']>[0]>
let revoked: string[]
let issuers: Map<string, Authority>
let listedBy: Authority
const now = () => new Date(START + at * 1000)

beforeEach(async () => {
  at = 0
  ca ??= await authority()
  calls = []
  asks = []
  answer = {}
  over = {}
  revoked = []
  issuers = new Map([['one', ca]])
  listedBy = ca
})

const client = {
  async createIssuanceToken(ask) {
    calls.push('token')
    return { token: Secret.token('t'), accessor: `accessor-of-${ask.credential}` }
  },
  async issueCertificate(ask) {
    asks.push(ask)
    const wanted = { serial: '12c1ab', commonName: ask.commonName, dns: [...ask.dnsNames], uris: [...ask.uris] }
    return {
      leaseId: 'pki/issue/orders/one',
      serial: '12:c1:ab',
      certificate: await ca.issue({ ...wanted, ...over }),
      privateKey: 'the key',
      issuingCa: ca.certificate,
      chain: [ca.certificate],
      ...answer,
    }
  },
  issuers: async () => [...issuers.keys()],
  issuerCertificate: async (_mount, issuer) => (issuers.get(issuer) as Authority).certificate,
  revocationList: async () => listedBy.list(revoked),
  revokeLease: async () => void calls.push('lease'),
  revokeAccessor: async () => void calls.push('accessor'),
  async revokeCertificate(mount, serial) {
    calls.push(`serial ${mount} ${serial}`)
    revoked.push(serial.replaceAll(':', ''))
  },
  leaseExists: async () => false,
  accessorExists: async () => false,
} as Partial<VaultClient> as VaultClient

const PARAMETERS = { role: 'orders', policy: 'curfew-cap-orders' }
const engineOf = (parameters: Record<string, unknown> = {}) =>
  vaultPkiEngine({
    issuer: client,
    revoker: client,
    clock: { now },
    parametersOf: () => PKI_PARAMETERS.parse({ ...PARAMETERS, ...parameters }),
    issuanceTokenSeconds: 90,
    clearSince: () => null,
  })
const grant = (ttl = 600) => grantOf(now(), { engine: 'vault-pki', parameters: PARAMETERS, ttl })
const as = (identity: string) => {
  const { decision, terms } = grant()
  return Grant.from(decision, { ...terms, attestation: { ...terms.attestation, identity } })
}

async function made(engine = engineOf(), of = grant()): Promise<{ row: Credential; fields: Readonly<Record<string, string>> }> {
  const handle = (await engine.prepare?.(of, signal)) ?? null
  const minted = await engine.mint(of, handle, signal)
  calls = []
  return { row: rowOf(of, { ...handle, ...minted.handle }), fields: minted.secret.reveal() }
}

describe('making', () => {
  it('asks for the name of the credential and for what is left of the grant', async () => {
    const engine = engineOf({ dnsNames: ['orders.example'] })
    const g = grant(600)
    const handle = (await engine.prepare?.(g, signal)) ?? null
    at = 7.5
    await engine.mint(g, handle, signal)
    expect(asks[0]).toMatchObject({ commonName: dashed(g.id), dnsNames: ['orders.example'], uris: [], csr: null })
    expect(asks[0]?.ttlSeconds).toBeLessThanOrEqual(592)
    expect(asks[0]?.ttlSeconds).toBeGreaterThanOrEqual(591)
  })

  it('without a lease it is revoked by its serial before anybody hears of it', async () => {
    answer = { leaseId: null }
    await expect(made()).rejects.toMatchObject({ code: 'engine_failed', facts: { reason: 'lease_missing' } })
    expect(calls).toEqual(['token', 'serial pki 12:c1:ab'])
  })

  it.each([
    ['another common name', { commonName: 'admin' }],
    ['one more DNS name', { dns: ['admin.example'] }],
    ['one more URI', { uris: ['spiffe://example.org/admin'] }],
  ])('a certificate with %s than was asked for is refused', async (_, names) => {
    const engine = engineOf()
    const g = grant()
    const handle = (await engine.prepare?.(g, signal)) ?? null
    over = names
    await expect(engine.mint(g, handle, signal)).rejects.toMatchObject({ code: 'engine_failed', facts: { reason: 'names_differ' } })
  })

  it('one that no issuer of the mount has signed is refused', async () => {
    issuers = new Map([['other', await authority()]])
    await expect(made()).rejects.toMatchObject({ facts: { reason: 'issuer_unknown' } })
  })

  it('finds the issuer by its key, whichever is the default', async () => {
    issuers = new Map([
      ['other', await authority()],
      ['two', ca],
    ])
    expect((await made()).row.handle).toMatchObject({ issuer: 'two', serial: '12:c1:ab', mount: 'pki' })
  })
})

describe('T65 an identity', () => {
  it.each(['spiffe://example.org/*', 'spiffe://example.org/a,b', 'github:{{x}}', 'spiffe://example.org/a+b', 'x:a b', 'x:a%2fb', 'no-scheme', 'x:"a"'])(
    '%s stands in no certificate, and nothing is asked of Vault',
    async identity => {
      await expect(engineOf({ identity: true }).prepare?.(as(identity), signal)).rejects.toMatchObject({
        code: 'policy_denied',
        facts: { reason: 'identity_not_a_uri' },
      })
      expect(calls).toEqual([])
    },
  )
  it.each(['spiffe://example.org/ci/orders', 'github:repository_id=456789'])('the twin: %s does, whole', async identity => {
    await made(engineOf({ identity: true, uris: ['urn:orders:reader'] }), as(identity))
    expect(asks[0]?.uris).toEqual(['urn:orders:reader', identity])
  })
  it('is not looked at where the capability does not ask for it', async () => {
    await made(engineOf(), as('spiffe://example.org/*'))
    expect(asks[0]?.uris).toEqual([])
  })
})

describe('parameters', () => {
  const { check } = engineOf()
  const wrong: [string, Record<string, unknown>][] = [
    ['parameters.uris.0', { uris: ['spiffe://example.org/{{identity}}'] }],
    ['parameters.uris.0', { uris: ['spiffe://example.org/a,spiffe://example.org/b'] }],
    ['parameters.dnsNames.0', { dnsNames: ['a.example,b.example'] }],
    ['parameters.dnsNames.0', { dnsNames: ['A.example'] }],
    ['parameters.role', { role: '../../sys' }],
    ['parameters.mount', { mount: 'pki/issue' }],
    ['parameters.policy', { policy: 'root' }],
    ['parameters.key', { key: 'both' }],
  ]
  it.each(wrong)('T64 T65 %s is refused: %j', (field, over) => {
    expect(() => check({ ...PARAMETERS, ...over })).toThrow(expect.objectContaining({ code: 'malformed', facts: expect.objectContaining({ field }) }))
  })
  it('the twin: what an operator would write passes', () => {
    check({ ...PARAMETERS, mount: 'pki-int', dnsNames: ['orders.example', '*.orders.example'], uris: ['urn:orders:reader'], identity: true, key: 'either' })
  })
})

describe('ending', () => {
  it('ends the lease, the token, and the certificate itself', async () => {
    const { row } = await made()
    await engineOf().destroy(row, signal)
    expect(calls).toEqual(['lease', 'accessor', 'serial pki 12:c1:ab'])
    expect(await engineOf().probe(row, signal)).toEqual({ outcome: 'dead', looked: ['lease', 'accessor', 'crl'], detail: null })
  })

  it('a lease that is gone is no death: only the list says so', async () => {
    const { row } = await made()
    expect(await engineOf().probe(row, signal)).toMatchObject({ outcome: 'alive', detail: 'the revocation list does not name it yet' })
    revoked = ['12c1ac', '2c1ab']
    expect((await engineOf().probe(row, signal)).outcome).toBe('alive')
    revoked = ['12c1ab']
    expect((await engineOf().probe(row, signal)).outcome).toBe('dead')
  })

  it('a list that another key has signed says nothing', async () => {
    const { row } = await made()
    revoked = ['12c1ab']
    listedBy = await authority()
    await expect(engineOf().probe(row, signal)).rejects.toMatchObject({ code: 'engine_failed' })
  })

  it('an issuer that has another key than the one that signed it is not believed, whatever it lists', async () => {
    const { row } = await made()
    revoked = ['12c1ab']
    const other = await authority()
    issuers = new Map([['one', other]])
    listedBy = other
    await expect(engineOf().probe(row, signal)).rejects.toMatchObject({ code: 'engine_failed', facts: { reason: 'issuer_changed' } })
  })

  it('past its own end it is dead without any list, and is not revoked once more', async () => {
    const { row } = await made()
    at = 3_700
    await engineOf().destroy(row, signal)
    expect(calls).toEqual(['lease', 'accessor'])
    expect(await engineOf().probe(row, signal)).toMatchObject({ outcome: 'dead', looked: ['lease', 'accessor', 'expiry'] })
  })

  it('F33 one whose serial nobody recorded waits for a listing', async () => {
    const { row } = await made()
    const bare = { ...row, handle: { accessor: 'a' } }
    await engineOf().destroy(bare, signal)
    expect(calls).toEqual(['accessor'])
    expect((await engineOf().probe(bare, signal)).outcome).toBe('waiting')
  })
})
