/** What a lying Vault, a proxy before it, or a name from outside can make of our transport: nothing that leaves, nothing that is believed (security.md 3.2). */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { inspect } from 'node:util'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createVault, type VaultClient } from '../../src/clients/vault.js'
import { createTransport, VaultError } from '../../src/clients/vault-transport.js'
import { Secret } from '../../src/domain/secret.js'
import { type FakeVault, fakeVault, type Misbehaviour } from '../fake-vault.js'

const ID = 'crd_00000000000000000000000001' as never
const ask = { credential: ID, displayName: 'crd-1', policy: 'curfew-cap-orders-ro', ttlSeconds: 90, maxTtlSeconds: 330 }
const signal = () => AbortSignal.timeout(15_000)
const quiet = { log: { warn: vi.fn() } }

let vault: FakeVault
let clients: VaultClient[]
const client = (role: 'issuer' | 'revoker' | 'reconciler', over: object = {}): VaultClient => {
  const identity = (name: string) => ({ method: 'approle' as const, mount: 'approle', roleId: `curfew-${name}`, secretId: Secret.token(`secret-of-${name}`) })
  const config = {
    address: vault.address,
    tokenRole: 'curfew',
    issuer: identity('issuer'),
    revoker: identity('revoker'),
    reconciler: identity('reconciler'),
    ...over,
  }
  const made = createVault(config, role, quiet)
  clients.push(made)
  return made
}
/** A secret made under an accessor, by the honest road. */
async function made() {
  const issuer = client('issuer')
  const { token, accessor } = await issuer.createIssuanceToken(ask, signal())
  return { accessor, token, ...(await issuer.readDynamic('database', 'orders-ro', token, signal())) }
}
const outcomeOf = async (act: Promise<unknown>): Promise<string> =>
  act.then(
    () => 'ok',
    error => (error instanceof VaultError ? error.outcome : `not a VaultError: ${error}`),
  )

beforeEach(async () => {
  vault = await fakeVault()
  clients = []
  quiet.log.warn.mockClear()
})
afterEach(async () => {
  await Promise.all(clients.map(c => c.close()))
  await vault.close()
})

describe('where a call may go', () => {
  const HOSTILE = [
    'database/creds/../config/x',
    'database/creds/..',
    'database/creds/.',
    'database/creds/%2e%2e/config/x',
    'database/creds/%2E%2E/config/x',
    'database/creds/..%2fconfig',
    'database/creds/a%00b',
    'database/creds/x?list=true',
    'database/creds/x?list=1&x=2',
    'database/creds/x#y',
    'database//creds/x',
    '/database/creds/x',
    'database/creds/x/',
    'database\\creds\\..\\config',
    'database/creds/..\\config',
    'database/creds/&#x2F;..&#x2F;config',
    'database/creds/x y',
    'database/creds/x\r\nX-Vault-Token: y',
    'database/creds/x;y',
    'database/creds/ｘ',
    'database/creds/{{identity}}',
    'database/creds/*',
    '@evil.example/x?',
    '',
  ]
  it.each(HOSTILE)('T64 the path %j is refused before anything is sent', async path => {
    const transport = createTransport({ address: vault.address })
    for (const method of ['read', 'list'] as const) expect(await outcomeOf(transport[method](path, { template: '<path>' }))).toBe('refused')
    expect(await outcomeOf(transport.write(path, {}, { template: '<path>' }))).toBe('refused')
    expect(vault.seen).toEqual([])
    await transport.close()
  })

  it('T64 an honest path arrives as it was written', async () => {
    const transport = createTransport({ address: vault.address })
    await transport.list('sys/leases/lookup/database/creds/orders-ro', { template: '<path>', token: vault.root }).catch(() => {})
    await transport.read('a.b/c_d-e~f@g/..h/i..', { template: '<path>', token: vault.root }).catch(() => {})
    expect(vault.seen.map(s => s.path)).toEqual(['/v1/sys/leases/lookup/database/creds/orders-ro?list=1', '/v1/a.b/c_d-e~f@g/..h/i..'])
    await transport.close()
  })

  it('H18 a redirect to another host is an error, and the token is not sent there', async () => {
    const arrived: unknown[] = []
    const thief = createServer((request, response) => {
      arrived.push(request.headers)
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"data":{}}')
    })
    await new Promise<void>(resolve => thief.listen(0, '127.0.0.1', resolve))
    vault.redirectTo = `http://127.0.0.1:${(thief.address() as AddressInfo).port}`
    const issuer = client('issuer')
    await issuer.createIssuanceToken(ask, signal())
    vault.misbehave(/create\/curfew/, 'redirect')
    expect(await outcomeOf(issuer.createIssuanceToken(ask, signal()))).toBe('down')
    expect(arrived).toEqual([])
    expect(await outcomeOf(issuer.createIssuanceToken(ask, signal()))).toBe('ok')
    thief.close()
  })

  it('what the environment says of Vault does not win over the configuration', async () => {
    const env = {
      VAULT_ADDR: 'http://127.0.0.1:9',
      VAULT_TOKEN: 'of-the-environment',
      VAULT_NAMESPACE: 'theirs',
      VAULT_PREFIX: '/theirs',
      VAULT_SKIP_VERIFY: '1',
    }
    for (const [key, value] of Object.entries(env)) vi.stubEnv(key, value)
    await client('issuer').createIssuanceToken(ask, signal())
    vi.unstubAllEnvs()
    expect(vault.seen.map(s => s.path)).toEqual(['/v1/auth/approle/login', '/v1/auth/token/create/curfew'])
    expect(JSON.stringify(vault.seen)).not.toMatch(/theirs|of-the-environment/)
  })
})

describe('what is believed', () => {
  const FOR_A_TOKEN: readonly [string, Misbehaviour, string][] = [
    ['429', { status: 429 }, 'down'],
    ['a standby, 473', { status: 473 }, 'down'],
    ['sealed, 503', { status: 503 }, 'down'],
    ['a redirect', 'redirect', 'down'],
    ['the lease quota, 400', { status: 400 }, 'refused'],
    ['403', { status: 403 }, 'denied'],
    ['404 of a proxy', { status: 404, body: '{"detail":"no such host"}' }, 'refused'],
    ['500', { status: 500 }, 'ambiguous'],
    ['an HTML page', 'html', 'ambiguous'],
    ['JSON that says a member twice', { status: 200, body: '{"auth":{},"auth":{"client_token":"x","accessor":"y"}}' }, 'ambiguous'],
    ['an answer cut in the middle', 'cut', 'ambiguous'],
    ['a lost answer', 'lost', 'ambiguous'],
    ['an empty answer', 'empty', 'ambiguous'],
    ['a token and an error together', 'both', 'ambiguous'],
    ['an answer above the limit', 'huge', 'ambiguous'],
  ]
  it.each(FOR_A_TOKEN)('F29 to making a token, %s is %j', async (_name, how, outcome) => {
    const issuer = client('issuer')
    await issuer.createIssuanceToken(ask, signal())
    vault.misbehave(/create\/curfew/, how, 2)
    expect(await outcomeOf(issuer.createIssuanceToken(ask, signal()))).toBe(outcome)
    vault.behave()
    expect(await outcomeOf(issuer.createIssuanceToken(ask, signal()))).toBe('ok')
  })

  it.each(FOR_A_TOKEN)('F29 to a look-up of a living lease and accessor, %s is never absence', async (_name, how) => {
    const { leaseId, accessor } = await made()
    const revoker = client('revoker')
    expect(await revoker.leaseExists(leaseId, signal())).toBe(true)
    vault.misbehave(/lookup/, how, 8)
    // An answer that says nothing plainly may at most be read as "still there".
    expect(await revoker.leaseExists(leaseId, signal()).catch(() => true)).toBe(true)
    expect(await revoker.accessorExists(accessor, signal()).catch(() => true)).toBe(true)
  })

  it('only the server’s own words mean absent', async () => {
    const { leaseId, accessor } = await made()
    const revoker = client('revoker')
    await revoker.revokeLease(leaseId, signal())
    await revoker.revokeAccessor(accessor, signal())
    expect(await revoker.leaseExists(leaseId, signal())).toBe(false)
    expect(await revoker.accessorExists(accessor, signal())).toBe(false)
    vault.misbehave(/lookup/, { status: 404, body: '{"errors":["invalid lease"]}' })
    expect(await outcomeOf(revoker.leaseExists(leaseId, signal()))).toBe('refused')
    vault.misbehave(/lookup/, { status: 503, body: '{"errors":["invalid accessor"]}' })
    expect(await outcomeOf(revoker.accessorExists(accessor, signal()))).toBe('down')
  })

  it.each<[string, Misbehaviour]>([
    ['404 with a page of its own', { status: 404, body: '{"detail":"no such host"}' }],
    ['404 with an error', { status: 404, body: '{"errors":["no handler for route"]}' }],
    ['404 without a word', { status: 404, body: '' }],
    ['200 without keys', { status: 200, body: '{"data":{}}' }],
    ['200 with something else under keys', { status: 200, body: '{"data":{"keys":[1]}}' }],
    ['an empty answer', 'empty'],
    ['204', 'lie'],
    ['a cut answer', 'cut'],
  ])('a listing is complete or an error: %s is no empty listing', async (_name, how) => {
    await made()
    const reconciler = client('reconciler')
    expect(await reconciler.listLeases('database/creds/orders-ro', signal())).toHaveLength(1)
    vault.misbehave(/list=1/, how, 2)
    await expect(reconciler.listLeases('database/creds/orders-ro', signal())).rejects.toThrow(VaultError)
    await expect(reconciler.listAccessors(signal())).rejects.toThrow(VaultError)
  })

  it('an empty listing is what Vault says it is', async () => {
    expect(await client('reconciler').listLeases('database/creds/orders-ro', signal())).toEqual([])
  })

  it('F32 a revocation that was answered and not done is seen by the look-up after it', async () => {
    const { leaseId } = await made()
    const revoker = client('revoker')
    vault.misbehave(/leases\/revoke/, 'lie')
    await revoker.revokeLease(leaseId, signal())
    expect(await revoker.leaseExists(leaseId, signal())).toBe(true)
  })
})

describe('how long and how often', () => {
  it('F30 a call ends at its deadline, and nobody knows what became of it', async () => {
    const issuer = client('issuer')
    await issuer.createIssuanceToken(ask, signal())
    vault.misbehave(/create\/curfew/, 'late')
    const since = performance.now()
    expect(await outcomeOf(issuer.createIssuanceToken(ask, signal()))).toBe('ambiguous')
    expect(performance.now() - since).toBeLessThan(2_500)
    // The token that we gave up is there, under our mark: what reconcile looks for.
    expect([...vault.tokens.values()].filter(t => t.meta?.credential_id === ID)).toHaveLength(2)
  })

  it('the caller’s own signal ends it sooner', async () => {
    const issuer = client('issuer')
    await issuer.createIssuanceToken(ask, signal())
    vault.misbehave(/create\/curfew/, 'late')
    const since = performance.now()
    await outcomeOf(issuer.createIssuanceToken(ask, AbortSignal.timeout(100)))
    expect(performance.now() - since).toBeLessThan(1_000)
  })

  it('a Vault that is not there is down, at once', async () => {
    const gone = await fakeVault()
    await gone.close()
    expect(await outcomeOf(client('revoker', { address: gone.address }).leaseExists('database/creds/x/y', signal()))).toBe('down')
  })

  it('F28 a login that was revoked is made again, once; one that stays refused fails closed', async () => {
    const issuer = client('issuer')
    await issuer.createIssuanceToken(ask, signal())
    vault.advance(86_401)
    expect(await outcomeOf(issuer.createIssuanceToken(ask, signal()))).toBe('ok')
    vault.misbehave(/create\/curfew/, { status: 403 }, 9)
    const before = vault.seen.length
    expect(await outcomeOf(issuer.createIssuanceToken(ask, signal()))).toBe('denied')
    expect(vault.seen.slice(before).map(s => s.path)).toEqual(['/v1/auth/token/create/curfew', '/v1/auth/approle/login', '/v1/auth/token/create/curfew'])
  })

  it('many calls share one login', async () => {
    const issuer = client('issuer')
    await Promise.all(Array.from({ length: 20 }, () => issuer.createIssuanceToken(ask, signal())))
    expect(vault.seen.filter(s => s.path.endsWith('/login'))).toHaveLength(1)
  })

  it('a given token that is refused is not asked for again', async () => {
    const auth = { method: 'token' as const, token: Secret.token(vault.tokenWith('curfew-revoker')) }
    expect(await outcomeOf(client('issuer', { issuer: auth }).createIssuanceToken(ask, signal()))).toBe('denied')
    expect(vault.seen).toHaveLength(1)
  })

  it('F26 sealed is down, and the same login works when it is unsealed', async () => {
    const issuer = client('issuer')
    await issuer.createIssuanceToken(ask, signal())
    vault.seal()
    expect(await outcomeOf(issuer.createIssuanceToken(ask, signal()))).toBe('down')
    vault.unseal()
    expect(await outcomeOf(issuer.createIssuanceToken(ask, signal()))).toBe('ok')
    expect(vault.seen.filter(s => s.path.endsWith('/login'))).toHaveLength(1)
  })
})

describe('what is told', () => {
  /** Everything of an error that a log could print, its causes too. */
  const told = (error: unknown): string => {
    const parts: string[] = []
    for (let e = error; e instanceof Error; e = e.cause) parts.push(inspect(e, { depth: 6, showHidden: false }), e.message, JSON.stringify(e))
    return parts.join('\n')
  }

  it('K6 no error holds upstream text, a token, an accessor or a lease id', async () => {
    const { leaseId, accessor, token } = await made()
    const revoker = client('revoker')
    vault.target(false)
    const errors: unknown[] = [await revoker.revokeLease(leaseId, signal()).catch(e => e)]
    for (const how of [{ status: 500 }, { status: 400 }, { status: 403 }, 'cut', 'lost', 'html', 'both'] as Misbehaviour[]) {
      vault.misbehave(/./, how, 3)
      errors.push(await revoker.accessorExists(accessor, signal()).catch(e => e))
      errors.push(
        await client('issuer')
          .readDynamic('database', 'orders-ro', token, signal())
          .catch(e => e),
      )
      vault.behave()
    }
    const text = errors.map(told).join('\n')
    expect(errors.filter(e => e instanceof VaultError).length).toBeGreaterThan(10)
    for (const secret of [
      leaseId,
      leaseId.split('/').at(-1),
      accessor,
      token.reveal().token,
      'secret-of-',
      '10.9.8.7',
      'vault_admin',
      'hvs.',
      ...vault.users.keys(),
    ])
      expect(text).not.toContain(secret)
    for (const user of vault.users.values()) expect(text).not.toContain(user.password)
  })

  it('K6 DEBUG=* prints nothing', async () => {
    vi.stubEnv('DEBUG', '*')
    const written: string[] = []
    const spies = [process.stdout, process.stderr].map(stream =>
      vi.spyOn(stream, 'write').mockImplementation(chunk => {
        written.push(String(chunk))
        return true
      }),
    )
    vi.resetModules()
    const { createVault: fresh } = await import('../../src/clients/vault.js')
    const auth = { method: 'token' as const, token: Secret.token(vault.root) }
    const debugged = fresh({ address: vault.address, tokenRole: 'curfew', issuer: auth, revoker: auth }, 'issuer', quiet)
    await debugged.createIssuanceToken(ask, signal())
    for (const spy of spies) spy.mockRestore()
    vi.unstubAllEnvs()
    await debugged.close()
    expect(written.join('')).not.toMatch(/hvs\.|node-vault|curfew-cap/)
  })
})
