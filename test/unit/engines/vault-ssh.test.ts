import { beforeEach, describe, expect, it } from 'vitest'
import type { VaultClient } from '../../../src/clients/vault.js'
import type { KeyAsk } from '../../../src/clients/vault-secrets.js'
import { grantOf, rowOf } from '../../../src/contract/fixtures.js'
import { Secret } from '../../../src/domain/secret.js'
import { sshKeyId } from '../../../src/domain/ssh-krl.js'
import { sshString, uint32, uint64 } from '../../../src/domain/ssh-wire.js'
import { SSH_PARAMETERS, vaultSshEngine } from '../../../src/engines/vault-ssh.js'

const signal = AbortSignal.timeout(60_000)
const START = Date.parse('2026-01-01T00:00:00Z')
const key = (fill: number) => Buffer.alloc(32, fill)
const line = (point: Buffer) => `ssh-ed25519 ${Buffer.concat([sshString('ssh-ed25519'), sshString(point)]).toString('base64')}`

interface Certificate {
  point: Buffer
  kind: number
  keyId: string
  principals: readonly string[]
  validBefore: number
  extensions: Readonly<Record<string, string>>
  criticalOptions: Readonly<Record<string, string>>
}
/** As an authority writes it (PROTOCOL.certkeys); its signature is nobody's here. */
function certificate(c: Certificate): string {
  const options = (of: Readonly<Record<string, string>>) =>
    sshString(Buffer.concat(Object.entries(of).map(([name, value]) => Buffer.concat([sshString(name), sshString(value === '' ? '' : sshString(value))]))))
  const type = 'ssh-ed25519-cert-v01@openssh.com'
  const parts = [sshString(type), sshString('nonce'), sshString(c.point), uint64(7), uint32(c.kind), sshString(c.keyId)]
  const rest = [sshString(Buffer.concat(c.principals.map(sshString))), uint64(0), uint64(c.validBefore), options(c.criticalOptions), options(c.extensions)]
  return `${type} ${Buffer.concat([...parts, ...rest, sshString(''), sshString('ca'), sshString('signature')]).toString('base64')}`
}

let at: number
let calls: string[]
let asks: KeyAsk[]
let over: Partial<Certificate>
let accessorAlive: boolean
/** Vault's clock, ahead of ours by so many seconds. */
let ahead: number
const now = () => new Date(START + at * 1000)
beforeEach(() => {
  at = 0
  ahead = 0
  calls = []
  asks = []
  over = {}
  accessorAlive = false
})

let keyId = ''
const client = {
  createIssuanceToken: async ask => ({ token: Secret.token('t'), accessor: `accessor-of-${ask.credential}` }),
  async signKey(ask) {
    asks.push(ask)
    const validBefore = Math.floor(now().getTime() / 1000) + ahead + ask.ttlSeconds
    return certificate({ point: key(7), kind: 1, keyId, validBefore, ...ask, ...over })
  },
  revokeAccessor: async () => void calls.push('accessor'),
  accessorExists: async () => accessorAlive,
} as Partial<VaultClient> as VaultClient

const PARAMETERS = {
  role: 'login',
  policy: 'curfew-cap-login',
  principals: ['deploy', 'backup'],
  extensions: { 'permit-pty': '' },
  criticalOptions: { 'force-command': 'id' },
}
const engine = vaultSshEngine({
  issuer: client,
  revoker: client,
  clock: { now },
  parametersOf: () => SSH_PARAMETERS.parse(PARAMETERS),
  issuanceTokenSeconds: 90,
})
const grant = (ttl = 600) => {
  const made = grantOf(now(), {
    engine: 'vault-ssh',
    parameters: PARAMETERS,
    revocation: 'expiry-only',
    ttl,
    params: { public_key: `${line(key(7))} me@laptop` },
  })
  keyId = sshKeyId(made.id)
  return made
}
async function made(of = grant()) {
  const handle = (await engine.prepare?.(of, signal)) ?? null
  const minted = await engine.mint(of, handle, signal)
  return { minted, row: rowOf(of, { ...handle, ...minted.handle }, { expiresAt: minted.expiresAt ?? of.expiresAt, revocationClass: 'expiry-only' }) }
}

describe('making', () => {
  it('certifies the caller’s key for the accounts of the capability, and takes its token back', async () => {
    const { minted } = await made()
    expect(asks[0]).toMatchObject({
      publicKey: line(key(7)),
      principals: ['deploy', 'backup'],
      extensions: { 'permit-pty': '' },
      criticalOptions: { 'force-command': 'id' },
    })
    expect(minted.handle).toEqual({ serial: '7', validBefore: START / 1000 + 595 })
    expect(calls).toEqual(['accessor'])
  })

  it.each([
    [600, 0, 595],
    [600, 7.5, 587],
    [12, 0, 9],
    [5, 0, 4],
  ])('a grant of %i s, asked after %f s, asks for %i s: clocks may be apart, and nobody could end it', async (ttl, after, wanted) => {
    const of = grant(ttl)
    const handle = (await engine.prepare?.(of, signal)) ?? null
    at = after
    await engine.mint(of, handle, signal)
    expect(asks[0]?.ttlSeconds).toBe(wanted)
  })

  it.each<[string, Partial<Certificate>, string]>([
    ['another name', { keyId: 'curfew-token-crd-other' }, 'key_id_differs'],
    ['no name', { keyId: '' }, 'key_id_differs'],
    ['another key', { point: key(8) }, 'names_differ'],
    ['one account more', { principals: ['deploy', 'backup', 'root'] }, 'names_differ'],
    ['no account, which is every account', { principals: [] }, 'names_differ'],
    ['one extension more', { extensions: { 'permit-pty': '', 'permit-agent-forwarding': '' } }, 'names_differ'],
    ['its forced command missing', { criticalOptions: {} }, 'names_differ'],
    ['the kind of a host', { kind: 2 }, 'names_differ'],
    ['a longer life', { validBefore: START / 1000 + 601 }, 'outlives_grant'],
    ['no end', { validBefore: Number.MAX_SAFE_INTEGER }, 'outlives_grant'],
  ])('a certificate with %s is not handed over', async (_, wrong, reason) => {
    over = wrong
    await expect(made()).rejects.toMatchObject({ code: 'engine_failed', facts: { reason } })
  })

  it('the twin: accounts in another order, and a clock that is a little ahead, are as asked', async () => {
    over = { principals: ['backup', 'deploy'] }
    ahead = 4
    expect((await made()).row.handle).toMatchObject({ serial: '7' })
    over = {}
    ahead = 6
    await expect(made()).rejects.toMatchObject({ facts: { reason: 'outlives_grant' } })
  })
})

describe('ending', () => {
  it('asks nobody for what was handed over: it waits for its own end, and says why', async () => {
    const { row } = await made()
    calls = []
    await engine.destroy(row, signal)
    expect(calls).toEqual([])
    expect(await engine.probe(row, signal)).toMatchObject({ outcome: 'waiting', detail: expect.stringContaining('list of revoked keys') })
    at = 594
    expect((await engine.probe(row, signal)).outcome).toBe('waiting')
    at = 595
    expect(await engine.probe(row, signal)).toMatchObject({ outcome: 'dead', looked: ['expiry'] })
  })

  it('what was never settled is dead when its token is, for nobody was given it', async () => {
    const { row } = await made()
    const bare = { ...row, handle: { accessor: 'a' } }
    calls = []
    await engine.destroy(bare, signal)
    expect(calls).toEqual(['accessor'])
    accessorAlive = true
    expect((await engine.probe(bare, signal)).outcome).toBe('alive')
    accessorAlive = false
    expect(await engine.probe(bare, signal)).toMatchObject({ outcome: 'dead', looked: ['accessor'] })
  })

  it('past the life of its token there is nobody to ask, and no Vault is needed', async () => {
    const { row } = await made()
    calls = []
    at = 111
    await engine.destroy({ ...row, handle: { accessor: 'a' } }, signal)
    expect(calls).toEqual([])
  })
})

describe('parameters', () => {
  const wrong: [string, Record<string, unknown>][] = [
    ['parameters.principals', { principals: [] }],
    ['parameters.principals.0', { principals: ['deploy,root'] }],
    ['parameters.principals.0', { principals: ['{{identity.entity.name}}'] }],
    ['parameters.principals.0', { principals: ['*'] }],
    ['parameters.role', { role: '../../sys' }],
    ['parameters.mount', { mount: 'ssh/sign' }],
    ['parameters.policy', { policy: 'root' }],
    ['parameters.extra', { extra: 1 }],
  ]
  it.each(wrong)('T64 T65 %s is refused: %j', (field, more) => {
    expect(() => engine.check({ ...PARAMETERS, ...more })).toThrow(expect.objectContaining({ code: 'malformed', facts: expect.objectContaining({ field }) }))
  })
  it('the twin: what an operator would write passes', () => {
    engine.check({
      ...PARAMETERS,
      mount: 'ssh-client',
      principals: ['deploy', 'svc-backup', 'ada@example.org'],
      criticalOptions: { 'source-address': '10.0.0.0/8' },
    })
  })
})
