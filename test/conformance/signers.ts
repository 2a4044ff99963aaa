/** Owns what every signer must hold (ports.ts, Signer), whoever keeps its keys shut and whichever store they lie in. */
import { calculateJwkThumbprint, createLocalJWKSet, decodeProtectedHeader, exportJWK, generateKeyPair, jwtVerify } from 'jose'
import { describe, expect, it } from 'vitest'
import { CurfewError } from '../../src/domain/errors.js'
import { byBroker, FOR_GOOD } from '../../src/domain/revocation.js'
import type { SealedKey, SigningAlg } from '../../src/domain/signing-key.js'
import type { Context, KeyStore } from '../../src/ports.js'
import type { DataKeyWrapper } from '../../src/signers/envelope.js'
import { KEY_KINDS, type LoadedSigner, openRing } from '../../src/signers/key-ring.js'
import { listKeys, retireKey, rotateKeys, withdrawKey } from '../../src/signers/keys.js'
import type { MakeStore } from './store/fixtures.js'

const context: Context = { requestId: null, actor: byBroker('test') }
const RETAIN = { access: 3_600, task: 21_600, receipt: 86_400 }
const AHEAD = 600
/** A signer may keep a retired key somewhat longer than its last token needs it. Seconds. */
const MARGIN = 60
/** The store's time runs on while a test waits for it to pass. Seconds. */
const SLACK = 20

/** @param makeWrapper what keeps one deployment's keys shut; a second call is another deployment. */
export function testSigner(name: string, makeWrapper: () => Promise<DataKeyWrapper>, makeStore: MakeStore): void {
  async function house() {
    const { store, advance } = await makeStore()
    const wrapper = await makeWrapper()
    let seen = (row: SealedKey, _all: readonly SealedKey[]): SealedKey => row
    const keys: KeyStore = {
      ...store.keys,
      async list() {
        const all = await store.keys.list()
        return all.map(row => seen(row, all))
      },
    }
    const open = (publishAheadSeconds = AHEAD, by: DataKeyWrapper = wrapper): Promise<LoadedSigner> =>
      openRing({ keys, clock: store.clock, wrapper: by, publishAheadSeconds, retainSeconds: RETAIN, refreshMs: 0 })
    return {
      store,
      advance,
      open,
      /** What the store gives back is not what was put there. */
      damage(change: typeof seen) {
        seen = change
      },
    }
  }
  const signs = async (signer: LoadedSigner, alg: SigningAlg = 'ES256') => (await signer.sign('access', 'at+jwt', { sub: 'x' }, alg)).kid
  const kids = async (signer: LoadedSigner, alg: SigningAlg = 'ES256') => (await signer.jwks('access')).keys.filter(k => k.alg === alg).map(k => k.kid)
  const kinds = (signer: LoadedSigner) => listKeys(signer).map(k => [k.keyClass, k.alg, k.state])

  describe(`the signer ${name}`, () => {
    it('makes its first keys at start: one a class and algorithm, named by their thumbprint (K1, K3)', async () => {
      const { store, open } = await house()
      const signer = await open()
      expect(kinds(signer)).toEqual([
        ['access', 'ES256', 'current'],
        ['access', 'RS256', 'current'],
        ['receipt', 'ES256', 'current'],
        ['task', 'ES256', 'current'],
      ])
      const rows = await store.keys.list()
      for (const row of rows) expect(row.kid).toBe(await calculateJwkThumbprint(row.publicJwk))
      expect(new Set(rows.map(r => r.kid)).size).toBe(KEY_KINDS.length)
    })

    it('signs what a library that we did not write verifies, and the classes never meet', async () => {
      const signer = await (await house()).open()
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

    it('publishes public members only, and keeps no private one where the store can be read', async () => {
      const { store, open } = await house()
      const { keys } = await (await open()).jwks('access')
      expect(keys.map(k => Object.keys(k).sort().join())).toEqual(['alg,crv,kid,kty,use,x,y', 'alg,e,kid,kty,n,use'])
      for (const row of await store.keys.list()) {
        expect(JSON.stringify(row.publicJwk)).not.toMatch(/"(d|p|q|dp|dq|qi)":/)
        for (const part of row.sealed.split('.'))
          expect(Buffer.from(part, 'base64url').includes(Buffer.from(row.publicJwk.x ?? row.publicJwk.n ?? '', 'base64url'))).toBe(false)
      }
    })

    it('a second process reads the same keys; two that begin at once end with one set; another deployment opens none of them', async () => {
      const { store, open } = await house()
      const [a, b] = (await Promise.all([open(), open()])) as [LoadedSigner, LoadedSigner]
      const c = await open()
      expect(await store.keys.list()).toHaveLength(KEY_KINDS.length)
      await Promise.all([a.refresh(), b.refresh()])
      for (const other of [b, c]) expect(listKeys(other)).toEqual(listKeys(a))
      const { token } = await a.sign('access', 'at+jwt', { sub: 'x' }, 'ES256')
      await expect(jwtVerify(token, createLocalJWKSet(await c.jwks('access')))).resolves.toBeTruthy()
      await expect(open(AHEAD, await makeWrapper())).rejects.toMatchObject({ code: 'unavailable' })
    })

    it('rotation: the next key is published, signs when due, and the former stays until its last token is dead (K2, P43)', async () => {
      const { store, advance, open } = await house()
      const signer = await open()
      const before = await signs(signer)
      const next = await signer.rotate('access', 'ES256', context)
      expect(next.state).toBe('next')
      expect((next.activatesAt.getTime() - next.createdAt.getTime()) / 1000).toBeCloseTo(AHEAD, 1)
      expect((await signer.rotate('access', 'ES256', context)).kid).toBe(next.kid)
      expect(await kids(signer)).toEqual([before, next.kid])

      await advance(AHEAD - SLACK)
      await signer.refresh()
      expect(await signs(signer)).toBe(before)
      await advance(SLACK)
      await signer.refresh()
      expect(await signs(signer)).toBe(next.kid)
      expect(await kids(signer)).toEqual([before, next.kid])
      await advance(RETAIN.access + MARGIN - SLACK)
      expect(await kids(signer)).toEqual([before, next.kid])
      await advance(SLACK)
      expect(await kids(signer)).toEqual([next.kid])
      await signer.refresh()
      expect(await kids(signer)).toEqual([next.kid])
      const told = (await store.audit.list({ subject: before, limit: 9 })).map(r => r.kind)
      expect(told).toEqual(['key.retired', 'key.created'])
    })

    it('R08 through ten rotations no live token is refused, and a replica that lags still signs what verifies (K2)', async () => {
      const { advance, open } = await house()
      const [signer, lagging] = [await open(60), await open(60)]
      const live: { token: string; until: number }[] = []
      for (let step = 0; step < 100; step++) {
        if (step % 10 === 0) await signer.rotate('access', 'ES256', context)
        await advance(30)
        await signer.refresh()
        if (step % 2 === 0) await lagging.refresh()
        for (const from of [signer, lagging]) live.push({ token: (await from.sign('access', 'at+jwt', {}, 'ES256')).token, until: step * 30 + RETAIN.access })
        const set = createLocalJWKSet(await signer.jwks('access'))
        for (const { token } of live.filter((t, i) => t.until >= step * 30 && i % 7 === step % 7)) await jwtVerify(token, set)
      }
      const used = new Set(live.map(t => decodeProtectedHeader(t.token).kid))
      expect(used.size).toBe(11)
    })

    it('a key is replaced at once: by the one that waits, or else by a new one', async () => {
      const { open } = await house()
      const signer = await open()
      const waiting = await signer.rotate('access', 'ES256', context)
      const made = await rotateKeys(signer, context, { keyClass: 'access', now: true })
      expect(made.map(k => [k.alg, k.state])).toEqual([
        ['ES256', 'current'],
        ['RS256', 'current'],
      ])
      expect(made[0]?.kid).toBe(waiting.kid)
      expect(await signs(signer)).toBe(waiting.kid)
      expect(await signs(signer, 'RS256')).toBe(made[1]?.kid)
    })

    it('is not retired while nothing could take its place, and then by its successor alone', async () => {
      const { advance, open } = await house()
      const signer = await open()
      const first = await signs(signer)
      await expect(retireKey(signer, 'A'.repeat(43))).rejects.toMatchObject({ code: 'not_found' })
      await expect(retireKey(signer, first)).rejects.toMatchObject({ code: 'conflict', facts: { reason: 'no_successor' } })
      const next = await signer.rotate('access', 'ES256', context)
      await expect(retireKey(signer, first)).rejects.toMatchObject({ code: 'conflict', facts: { reason: 'successor_too_new' } })
      await expect(retireKey(signer, next.kid)).rejects.toMatchObject({ code: 'conflict', facts: { reason: 'not_in_use' } })
      expect(await signs(signer)).toBe(first)
      await advance(AHEAD)
      const retired = await retireKey(signer, first)
      expect(retired).toMatchObject({ kid: first, state: 'retired' })
      expect(await signs(signer)).toBe(next.kid)
      // Its tokens live on.
      expect(await kids(signer)).toEqual([first, next.kid])
      expect(await retireKey(signer, first)).toEqual(retired)
    })

    it('is withdrawn by one act: another signs, it is not published, and what bears it is refused for good (K2)', async () => {
      const { store, open } = await house()
      const [signer, other] = [await open(), await open()]
      const stolen = await signs(signer)
      const act = { actor: { kind: 'operator', id: 'local:test' } as const, message: 'INC-204' }
      await expect(store.revocations.commit({ kind: 'key', key: stolen }, 'requested', { ...act, withdraw: true })).rejects.toMatchObject({
        code: 'conflict',
        facts: { reason: 'no_successor' },
      })
      await expect(withdrawKey(signer, store.revocations, 'A'.repeat(43), act)).rejects.toMatchObject({ code: 'not_found' })
      expect(await store.revocations.list(9)).toEqual([])

      const { key, revocation } = await withdrawKey(signer, store.revocations, stolen, act)
      expect(key).toMatchObject({ kid: stolen, state: 'retired' })
      expect(revocation).toMatchObject({ selector: { kind: 'key', key: stolen, issuedBefore: FOR_GOOD }, reason: 'requested', ...act })
      const successor = await signs(signer)
      expect(successor).not.toBe(stolen)
      // A process's idea of the store's time is late by a journey at most, and with it the end of a publication.
      await expect.poll(() => kids(signer)).toEqual([successor])
      expect(await store.revocations.since(0, 9)).toMatchObject([{ kind: 'key', key: stolen, issuedBefore: FOR_GOOD }])
      expect((await store.audit.list({ subject: stolen, limit: 9 })).map(r => [r.kind, r.actor.id])).toEqual([
        ['key.withdrawn', 'local:test'],
        ['key.retired', 'local:test'],
        ['key.created', 'signer'],
      ])
      // A replica that has not heard signs with it still; once it has, it does as the others.
      expect(await signs(other)).toBe(stolen)
      await other.refresh()
      expect(await signs(other)).toBe(successor)
      await expect.poll(() => kids(other)).toEqual([successor])
      // A restart does not bring it back, and to say it again is no fault.
      const restarted = await open()
      await expect.poll(() => kids(restarted)).toEqual([successor])
      expect((await withdrawKey(signer, store.revocations, stolen, act)).key.state).toBe('retired')
      expect(await signs(signer)).toBe(successor)
    })

    it('one that waits is withdrawn like any other, and the twin that signs stays', async () => {
      const { store, advance, open } = await house()
      const signer = await open()
      const current = await signs(signer)
      const next = await signer.rotate('access', 'ES256', context)
      await withdrawKey(signer, store.revocations, next.kid, { actor: byBroker('test'), message: 'INC-204' })
      await advance(AHEAD)
      await signer.refresh()
      expect([await signs(signer), await kids(signer)]).toEqual([current, [current]])
      // Its place is free again.
      expect((await signer.rotate('access', 'ES256', context)).kid).not.toBe(next.kid)
    })

    it('its age is that of the oldest key in use', async () => {
      const { advance, open } = await house()
      const signer = await open()
      await advance(100)
      expect(signer.ageSeconds()).toBeGreaterThanOrEqual(99)
      expect(signer.ageSeconds()).toBeLessThan(100 + SLACK)
    })

    const foreign = async () => exportJWK((await generateKeyPair('ES256', { extractable: true })).publicKey)
    const flip = (text: string) => text.slice(0, -5) + (text.at(-5) === 'A' ? 'B' : 'A') + text.slice(-4)
    it.each<[string, (stranger: SealedKey['publicJwk']) => (row: SealedKey, all: readonly SealedKey[]) => SealedKey]>([
      ['a changed byte', () => row => ({ ...row, sealed: flip(row.sealed) })],
      ['a shortened text', () => row => ({ ...row, sealed: row.sealed.slice(0, -30) })],
      ['another format', () => row => ({ ...row, sealed: row.sealed.replace('s1.', 's2.') })],
      ['nothing', () => row => ({ ...row, sealed: '' })],
      ['the sealed key of another class', () => (row, all) => ({ ...row, sealed: all.find(o => o.kid !== row.kid)?.sealed as string })],
      ['another class on the row (T69)', () => row => ({ ...row, keyClass: row.keyClass === 'task' ? 'access' : 'task' })],
      ['a foreign public key', stranger => row => ({ ...row, publicJwk: stranger })],
    ])('F52: %s refuses the start, and no key material is told', async (_, damageBy) => {
      const { store, open, damage } = await house()
      await open()
      damage(damageBy(await foreign()))
      const fault = await open().catch((e: unknown) => e)
      expect(fault).toBeInstanceOf(CurfewError)
      expect((fault as CurfewError).code).toBe('unavailable')
      for (const row of await store.keys.list()) expect((fault as CurfewError).message).not.toContain(row.sealed)
    })

    it('H15: a key that turns foreign while we run stops news from the store, and the good one goes on', async () => {
      const { open, damage } = await house()
      const signer = await open()
      const kid = await signs(signer)
      const publicJwk = await foreign()
      damage(row => ({ ...row, publicJwk }))
      await expect(signer.refresh()).rejects.toMatchObject({ facts: { reason: 'kid_mismatch' } })
      expect(await signs(signer)).toBe(kid)
    })
  })
}
