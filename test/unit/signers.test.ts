/** Owns what our signing keys promise: sealed at rest, one a class, rotated without a refused token, useless to a thief of the store. */
import { createCipheriv, createDecipheriv, createHmac, generateKeyPairSync, randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import { calculateJwkThumbprint, createLocalJWKSet, decodeProtectedHeader, jwtVerify } from 'jose'
import { describe, expect, test } from 'vitest'
import { CurfewError } from '../../src/domain/errors.js'
import { byBroker } from '../../src/domain/revocation.js'
import { Secret } from '../../src/domain/secret.js'
import type { SealedKey } from '../../src/domain/signing-key.js'
import type { Context, KeyStore } from '../../src/ports.js'
import type { DataKeyWrapper } from '../../src/signers/envelope.js'
import { type LoadedSigner, openRing } from '../../src/signers/key-ring.js'
import { listKeys, rotateKeys } from '../../src/signers/keys.js'
import { loadSigner, masterKeyWrapper, sealDigest } from '../../src/signers/sealed.js'
import { loadTransitSigner, type TransitKey, transitWrapper } from '../../src/signers/transit.js'

const T0 = Date.UTC(2026, 10, 24, 12)
const context: Context = { requestId: null, actor: byBroker('test') }
const RETAIN = { access: 3_600, task: 21_600, receipt: 86_400 }

/** A key store by the rules of the port, with hands on its clock. */
function keyStore() {
  let nowMs = T0
  let rows: SealedKey[] = []
  const now = () => new Date(nowMs)
  const keys: KeyStore = {
    async list() {
      return [...rows]
    },
    async add({ activatesInSeconds, ...key }) {
      const met = rows.find(r => r.keyClass === key.keyClass && r.alg === key.alg && r.state === key.state)
      if (met) return met
      const row = { ...key, createdAt: now(), activatesAt: new Date(nowMs + activatesInSeconds * 1000), retiresAt: null }
      rows.push(row)
      return row
    },
    async promote(kid, retainSeconds) {
      const next = rows.find(r => r.kid === kid && r.state === 'next' && r.activatesAt.getTime() <= nowMs)
      if (!next) return
      rows = rows.map(r => {
        if (r.kid === kid) return { ...r, state: 'current' }
        if (r.keyClass === next.keyClass && r.alg === next.alg && r.state === 'current')
          return { ...r, state: 'retired', retiresAt: new Date(nowMs + retainSeconds * 1000) }
        return r
      })
    },
  }
  return {
    keys,
    clock: { now },
    pass: (seconds: number) => {
      nowMs += seconds * 1000
    },
    rows: () => rows,
    damage: (change: (row: SealedKey) => SealedKey) => {
      rows = rows.map(change)
    },
  }
}

const master = () => Secret.token(randomBytes(32).toString('base64'))
const sealedOn = (store: ReturnType<typeof keyStore>, masterKey: Secret, publishAheadSeconds = 600): Promise<LoadedSigner> =>
  loadSigner({ keys: store.keys, clock: store.clock, masterKey, publishAheadSeconds, retainSeconds: RETAIN, refreshMs: 0 })

/** What Vault's transit does with an `aes256-gcm96` key, in a few lines. */
function transitKey(down = () => false): TransitKey {
  const key = randomBytes(32)
  const check = () => {
    if (down()) throw new Error('connect ECONNREFUSED vault.internal with hvs.secrettoken')
  }
  return {
    async encrypt(plain, associated) {
      check()
      const nonce = randomBytes(12)
      const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(associated))
      return `vault:v1:${Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]).toString('base64')}`
    },
    async decrypt(text, associated) {
      check()
      const all = Buffer.from(text.slice('vault:v1:'.length), 'base64')
      const decipher = createDecipheriv('aes-256-gcm', key, all.subarray(0, 12)).setAAD(Buffer.from(associated)).setAuthTag(all.subarray(-16))
      return Buffer.concat([decipher.update(all.subarray(12, -16)), decipher.final()])
    },
    async hmac(input) {
      check()
      return `vault:v1:${createHmac('sha256', key).update(input).digest('base64')}`
    },
  }
}

const ways: [string, () => (store: ReturnType<typeof keyStore>, publishAheadSeconds?: number) => Promise<LoadedSigner>][] = [
  [
    'sealed',
    () => {
      const masterKey = master()
      return (store, ahead = 600) => sealedOn(store, masterKey, ahead)
    },
  ],
  [
    'transit',
    () => {
      const transit = transitKey()
      return (store, publishAheadSeconds = 600) =>
        loadTransitSigner({ keys: store.keys, clock: store.clock, transit, publishAheadSeconds, retainSeconds: RETAIN, refreshMs: 0 })
    },
  ],
]

describe.each(ways)('the %s signer', (_, way) => {
  test('makes its first keys at start: one a class and algorithm, named by their thumbprint (K1, K3)', async () => {
    const store = keyStore()
    const signer = await way()(store)
    expect(listKeys(signer).map(k => [k.keyClass, k.alg, k.state])).toEqual([
      ['access', 'ES256', 'current'],
      ['access', 'RS256', 'current'],
      ['receipt', 'ES256', 'current'],
      ['task', 'ES256', 'current'],
    ])
    for (const row of store.rows()) expect(row.kid).toBe(await calculateJwkThumbprint(row.publicJwk))
    expect(new Set(store.rows().map(r => r.kid)).size).toBe(4)
    signer.close()
  })

  test('signs what a library that we did not write verifies, and the classes never meet', async () => {
    const signer = await way()(keyStore())
    const access = createLocalJWKSet(await signer.jwks('access'))
    const task = createLocalJWKSet(await signer.jwks('task'))
    for (const alg of ['ES256', 'RS256'] as const) {
      const { token, kid } = await signer.sign('access', 'at+jwt', { sub: 'a', n: 1 }, alg)
      const { payload, protectedHeader } = await jwtVerify(token, access, { algorithms: [alg], typ: 'at+jwt' })
      expect(payload).toEqual({ sub: 'a', n: 1 })
      expect(protectedHeader).toEqual({ alg, typ: 'at+jwt', kid })
      await expect(jwtVerify(token, task)).rejects.toThrow()
    }
    const own = await signer.sign('task', 'curfew-task+jwt', { sub: 'a' }, 'ES256')
    await expect(jwtVerify(own.token, access)).rejects.toThrow()
    expect((await jwtVerify(own.token, task)).payload.sub).toBe('a')
    await expect(signer.sign('task', 'x', {}, 'RS256')).rejects.toMatchObject({ code: 'unavailable' })
  })

  test('publishes public members only', async () => {
    const signer = await way()(keyStore())
    const { keys } = await signer.jwks('access')
    expect(keys.map(k => Object.keys(k).sort().join())).toEqual(['alg,crv,kid,kty,use,x,y', 'alg,e,kid,kty,n,use'])
  })

  test('a second process reads the same keys; two that begin at once end with one set', async () => {
    const load = way()
    const store = keyStore()
    const [a, b] = await Promise.all([load(store), load(store)])
    const c = await load(store)
    expect(store.rows()).toHaveLength(4)
    const kids = (s: LoadedSigner) => listKeys(s).map(k => k.kid)
    expect(kids(b as LoadedSigner)).toEqual(kids(a as LoadedSigner))
    expect(kids(c)).toEqual(kids(a as LoadedSigner))
    const { token } = await (a as LoadedSigner).sign('access', 'at+jwt', { sub: 'x' }, 'ES256')
    await expect(jwtVerify(token, createLocalJWKSet(await c.jwks('access')))).resolves.toBeTruthy()
  })

  test('rotation: the next key is published, signs when due, and the former stays until its last token is dead (K2)', async () => {
    const store = keyStore()
    const signer = await way()(store)
    const before = decodeProtectedHeader((await signer.sign('access', 'at+jwt', {}, 'ES256')).token).kid as string
    const next = await signer.rotate('access', 'ES256', context)
    expect(next).toMatchObject({ state: 'next', activatesAt: new Date(T0 + 600_000) })
    expect((await signer.rotate('access', 'ES256', context)).kid).toBe(next.kid)
    const kids = async () => (await signer.jwks('access')).keys.filter(k => k.alg === 'ES256').map(k => k.kid)
    expect(await kids()).toEqual([before, next.kid])

    store.pass(599)
    await signer.refresh()
    expect((await signer.sign('access', 'at+jwt', {}, 'ES256')).kid).toBe(before)
    store.pass(1)
    await signer.refresh()
    expect((await signer.sign('access', 'at+jwt', {}, 'ES256')).kid).toBe(next.kid)
    expect(await kids()).toEqual([before, next.kid])
    store.pass(RETAIN.access + 59)
    expect(await kids()).toEqual([before, next.kid])
    store.pass(1)
    expect(await kids()).toEqual([next.kid])
    await signer.refresh()
    expect(await kids()).toEqual([next.kid])
  })

  test('through ten rotations no live token is refused, and a replica that lags still signs what verifies (K2)', async () => {
    const load = way()
    const store = keyStore()
    const [signer, lagging] = [await load(store, 60), await load(store, 60)]
    const live: { token: string; until: number }[] = []
    for (let step = 0; step < 200; step++) {
      if (step % 20 === 0) await signer.rotate('access', 'ES256', context)
      store.pass(30)
      await signer.refresh()
      if (step % 2 === 0) await lagging.refresh()
      const now = store.clock.now().getTime()
      for (const from of [signer, lagging]) live.push({ token: (await from.sign('access', 'at+jwt', {}, 'ES256')).token, until: now + RETAIN.access * 1000 })
      const set = createLocalJWKSet(await signer.jwks('access'))
      for (const { token } of live.filter(t => t.until >= now).filter((_, i) => i % 7 === 0)) await jwtVerify(token, set)
    }
    expect(listKeys(signer).filter(k => k.alg === 'ES256' && k.keyClass === 'access' && k.state === 'retired')).toHaveLength(10)
  })

  test('a stolen key is replaced at once', async () => {
    const store = keyStore()
    const signer = await way()(store)
    const made = await rotateKeys(signer, context, { keyClass: 'access', now: true })
    expect(made.map(k => [k.alg, k.state])).toEqual([
      ['ES256', 'current'],
      ['RS256', 'current'],
    ])
    expect((await signer.sign('access', 'at+jwt', {}, 'ES256')).kid).toBe(made[0]?.kid)
  })

  test('its age is that of the oldest key in use', async () => {
    const store = keyStore()
    const signer = await way()(store)
    store.pass(100)
    expect(signer.ageSeconds()).toBe(100)
  })

  test('F52: a changed byte, another name or a foreign key under a known name refuses the start, and no key material is told', async () => {
    const load = way()
    const damages: [string, (row: SealedKey, others: readonly SealedKey[]) => SealedKey][] = [
      ['a changed byte', row => ({ ...row, sealed: flip(row.sealed) })],
      ['a shortened text', row => ({ ...row, sealed: row.sealed.slice(0, -30) })],
      ['another format', row => ({ ...row, sealed: row.sealed.replace('s1.', 's2.') })],
      ['nothing', row => ({ ...row, sealed: '' })],
      ['the sealed key of another class', (row, others) => ({ ...row, sealed: others.find(o => o.kid !== row.kid)?.sealed as string })],
      ['another class on the row (T69)', row => ({ ...row, keyClass: row.keyClass === 'task' ? 'access' : 'task' })],
      [
        'a foreign public key',
        row => ({ ...row, publicJwk: generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'jwk' }) as SealedKey['publicJwk'] }),
      ],
    ]
    for (const [, damage] of damages) {
      const store = keyStore()
      await load(store)
      const all = store.rows()
      store.damage(row => damage(row, all))
      const fault = await load(store).then(
        () => null,
        (e: unknown) => e,
      )
      expect(fault).toBeInstanceOf(CurfewError)
      expect((fault as CurfewError).code).toBe('unavailable')
    }
  })

  test('H15: a key that turns foreign while we run stops signing news from the store, and the good one goes on', async () => {
    const store = keyStore()
    const signer = await way()(store)
    const { kid } = await signer.sign('access', 'at+jwt', {}, 'ES256')
    store.damage(row => ({
      ...row,
      publicJwk: generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'jwk' }) as SealedKey['publicJwk'],
    }))
    await expect(signer.refresh()).rejects.toMatchObject({ facts: { reason: 'kid_mismatch' } })
    expect((await signer.sign('access', 'at+jwt', {}, 'ES256')).kid).toBe(kid)
  })
})

const flip = (text: string) => text.slice(0, -5) + (text.at(-5) === 'A' ? 'B' : 'A') + text.slice(-4)

describe('the master key', () => {
  test.each([
    '',
    'short',
    Buffer.alloc(31).toString('base64'),
    Buffer.alloc(33).toString('base64'),
    `${Buffer.alloc(32).toString('base64')}!`,
    'x'.repeat(44),
    Buffer.alloc(32).toString('hex'),
  ])('%j is no master key', text => {
    const secret = { reveal: () => ({ token: text }) } as unknown as Secret
    expect(() => masterKeyWrapper(secret)).toThrow(expect.objectContaining({ code: 'malformed' }))
  })
  test('is accepted in both alphabets, with or without padding', () => {
    const bytes = Buffer.alloc(32, 0xfb)
    for (const text of [bytes.toString('base64'), bytes.toString('base64url'), bytes.toString('base64').replace('=', '')])
      expect(() => masterKeyWrapper(Secret.token(text))).not.toThrow()
  })

  test('K1: a stolen store without it opens nothing, and holds no private member', async () => {
    const store = keyStore()
    await sealedOn(store, master())
    await expect(sealedOn(store, master())).rejects.toMatchObject({ code: 'unavailable', facts: { reason: 'key_unreadable' } })
    for (const row of store.rows()) {
      expect(JSON.stringify(row.publicJwk)).not.toMatch(/"(d|p|q|dp|dq|qi)":/)
      for (const part of row.sealed.split('.')) {
        const bytes = Buffer.from(part, 'base64url')
        expect(bytes.includes(Buffer.from(row.publicJwk.x ?? row.publicJwk.n ?? '', 'base64url'))).toBe(false)
      }
    }
  })
  test('is in no error and no inspection of the signer (K6)', async () => {
    const key = randomBytes(32)
    const store = keyStore()
    const signer = await sealedOn(store, Secret.token(key.toString('base64')))
    const shown = inspect(signer, { depth: 10, showHidden: true })
    const fault = await sealedOn(store, master()).catch((e: unknown) => inspect(e, { depth: 10 }))
    for (const text of [shown, fault as string]) {
      expect(text).not.toContain(key.toString('base64'))
      expect(text).not.toContain('PRIVATE KEY')
    }
  })
})

describe('transit', () => {
  test('without Vault nothing loads, the twin with it does; what Vault said stays in the cause', async () => {
    let down = false
    const transit = transitKey(() => down)
    const store = keyStore()
    const options = { keys: store.keys, clock: store.clock, transit, publishAheadSeconds: 600, retainSeconds: RETAIN, refreshMs: 0 }
    const signer = await loadTransitSigner(options)
    down = true
    const fault = await loadTransitSigner(options).catch((e: unknown) => e)
    expect(fault).toMatchObject({ code: 'unavailable', facts: { reason: 'transit_failed' } })
    expect((fault as Error).message).not.toContain('vault.internal')
    // Until a restart, signing goes on (security.md 6.1): no request waits for Vault.
    await signer.refresh()
    expect((await signer.sign('access', 'at+jwt', {}, 'ES256')).token).toBeTruthy()
    down = false
    await expect(loadTransitSigner(options)).resolves.toBeTruthy()
  })
})

describe('digests of credentials', () => {
  const wrappers: [string, () => DataKeyWrapper, () => DataKeyWrapper][] = [
    [
      'sealed',
      () => masterKeyWrapper(Secret.token(Buffer.alloc(32, 7).toString('base64'))),
      () => masterKeyWrapper(Secret.token(Buffer.alloc(32, 8).toString('base64'))),
    ],
    [
      'transit',
      (
        t => () =>
          transitWrapper(t)
      )(transitKey()),
      () => transitWrapper(transitKey()),
    ],
  ]
  test.each(wrappers)('%s: the same after a restart, others with another key, and never the plain digest', async (_, same, other) => {
    const digest = Secret.token('a').digest()
    const [a, b, c] = [(await sealDigest(same()))(digest), (await sealDigest(same()))(digest), (await sealDigest(other()))(digest)]
    expect(b).toBe(a)
    expect(c).not.toBe(a)
    expect(a).not.toBe(digest)
    expect(a).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect((await sealDigest(same()))(Secret.token('b').digest())).not.toBe(a)
  })
})

describe('the timer', () => {
  test('reads the store again by itself, tells its faults, and ends with close', async () => {
    const store = keyStore()
    const faults: unknown[] = []
    let failing = false
    const keys: KeyStore = {
      ...store.keys,
      list: async () => {
        if (failing) throw new Error('store down')
        return store.keys.list()
      },
    }
    const signer = await openRing({
      keys,
      clock: store.clock,
      wrapper: masterKeyWrapper(master()),
      publishAheadSeconds: 0,
      retainSeconds: RETAIN,
      refreshMs: 10,
      onFault: f => faults.push(f),
    })
    failing = true
    await new Promise(resolve => setTimeout(resolve, 60))
    expect(faults.length).toBeGreaterThan(0)
    expect((await signer.sign('access', 'at+jwt', {}, 'ES256')).token).toBeTruthy()
    signer.close()
    const told = faults.length
    await new Promise(resolve => setTimeout(resolve, 40))
    expect(faults.length).toBeLessThanOrEqual(told + 1)
  })
})
