/** Owns what keeps signing keys shut: the master key, Vault's transit key, and the timer that reads the store again. What signers promise is in test/conformance/signers.ts. */
import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import { describe, expect, test } from 'vitest'
import { Secret } from '../../src/domain/secret.js'
import type { KeyStore, Store } from '../../src/ports.js'
import type { DataKeyWrapper } from '../../src/signers/envelope.js'
import { type LoadedSigner, openRing } from '../../src/signers/key-ring.js'
import { loadSigner, masterKeyWrapper, sealDigest } from '../../src/signers/sealed.js'
import { loadTransitSigner, transitWrapper } from '../../src/signers/transit.js'
import { memoryStore } from '../../src/store/memory.js'
import { localTransit } from '../local-transit.js'

const RETAIN = { access: 3_600, task: 21_600, receipt: 86_400 }

const memory = () => memoryStore({ now: () => new Date(), sealDigest: digest => digest })
const master = () => Secret.token(randomBytes(32).toString('base64'))
const sealedOn = (store: Store, masterKey: Secret): Promise<LoadedSigner> =>
  loadSigner({ keys: store.keys, clock: store.clock, masterKey, publishAheadSeconds: 600, retainSeconds: RETAIN, refreshMs: 0 })

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

  test('K1: a stolen store without it opens nothing', async () => {
    const store = memory()
    await sealedOn(store, master())
    await expect(sealedOn(store, master())).rejects.toMatchObject({ code: 'unavailable', facts: { reason: 'key_unreadable' } })
  })
  test('is in no error and no inspection of the signer (K6)', async () => {
    const key = randomBytes(32)
    const store = memory()
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
    const transit = localTransit(() => down)
    const store = memory()
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
      )(localTransit()),
      () => transitWrapper(localTransit()),
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
    const store = memory()
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
