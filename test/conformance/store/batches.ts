/** The suite of what CredentialStore does to many rows at once: closing and confirming in sets, as exactly told as one by one. */
import { describe, expect, it } from 'vitest'
import { CLAIM_MS, type Credential, type Probe } from '../../../src/domain/credential.js'
import { newId } from '../../../src/domain/ids.js'
import { byAttributes, byBroker } from '../../../src/domain/revocation.js'
import type { Store } from '../../../src/ports.js'
import { credentialClosed, credentialDead } from '../../../src/store/events.js'
import { alive } from './credentials.js'
import { active, attestation, type MakeStore, openTask, operator, pending } from './fixtures.js'

const looked: Probe = { outcome: 'dead', looked: ['introspection'], detail: null }
const jwt = { engine: 'jwt', revocation: 'instant' } as const
const got = async (store: Store, c: { id: Credential['id'] }) => (await store.credentials.get(c.id)) as Credential

/** What was told of it since it was issued, without its number and time. */
async function told(store: Store, subject: string) {
  const rows = await store.audit.list({ subject, limit: 50 })
  return rows
    .toReversed()
    .filter(r => r.kind !== 'credential.issued')
    .map(({ id: _, at: __, ...event }) => event)
}

async function expired(store: Store, advance: (seconds: number) => Promise<void>, n: number) {
  const task = await openTask(store)
  const made = await Promise.all(Array.from({ length: n }, () => active(store, task, { ...jwt, ttl: 10 })))
  await advance(12)
  await store.credentials.expire(n)
  return made
}

export function testBatches(name: string, makeStore: MakeStore): void {
  describe(`many credentials at once in ${name}`, () => {
    it('closing a set and confirming it leaves the same row and the same evidence of each as one by one', async () => {
      const { store, advance } = await makeStore()
      const made = await expired(store, advance, 30)
      const due = await store.credentials.due(100, 'jwt')
      expect(new Set(due.map(c => c.id))).toEqual(new Set(made.map(c => c.id)))
      const confirmed = await store.credentials.confirmMany(due.map(credential => ({ credential, probe: looked })))
      expect(new Set(confirmed)).toEqual(new Set(made.map(c => c.id)))
      for (const before of due) {
        const after = await got(store, before)
        expect(after).toMatchObject({ state: 'revoked', version: before.version + 1, probe: looked, failure: null, nextAttemptAt: null, reason: 'expired' })
        expect(after.revokedAt?.getTime()).toBeGreaterThanOrEqual(before.revokingAt?.getTime() ?? Number.NaN)
        const asOne = [credentialClosed(before, byBroker('expire'), null), credentialDead({ credential: before, version: before.version }, looked)]
        expect(await told(store, before.id)).toEqual(asOne.map(event => ({ ...event })))
      }
      expect(await store.credentials.due(100)).toEqual([])
    })

    it('an act tells of each row who ended it, by which request, for which revocation', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      const made = [await active(store, task), await active(store, task, jwt), await pending(store, task)]
      const act = await store.revocations.commit({ kind: 'task', key: task.id }, 'risk_signal', { actor: operator, requestId: 'req-9' })
      for (const c of made) expect(await told(store, c.id)).toContainEqual({ ...credentialClosed(await got(store, c), operator, 'req-9') })
      expect((await got(store, made[0] as Credential)).revocation).toBe(act.id)
    })

    it('is confirmed only at the version that was looked at, once, and only by a probe that found it dead', async () => {
      const { store, advance } = await makeStore()
      await expired(store, advance, 3)
      const [first, second, third] = (await store.credentials.due(10)) as [Credential, Credential, Credential]
      const all = [first, second, third].map(credential => ({ credential, probe: looked }))
      await expect((async () => store.credentials.confirmMany([...all.slice(1), { credential: first, probe: alive }]))()).rejects.toThrow(TypeError)
      const claim = await store.credentials.claim(first.id, null)
      // Of a claim the version is moved on; whoever reads the row then may still not take it from the one who has it.
      expect(await store.credentials.confirmMany([...all.slice(0, 1), { credential: await got(store, first), probe: looked }])).toEqual([])
      expect(new Set(await store.credentials.confirmMany(all))).toEqual(new Set([second.id, third.id]))
      expect(await store.credentials.confirmMany(all)).toEqual([])
      expect(await store.credentials.confirmMany([])).toEqual([])
      expect((await got(store, first)).state).toBe('revoking')
      expect((await told(store, second.id)).map(e => e.kind)).toEqual(['credential.revoking', 'credential.revoked'])
      await advance(CLAIM_MS / 1000 + 1)
      expect(await store.credentials.confirmMany([{ credential: await got(store, first), probe: looked }])).toEqual([first.id])
      expect(await store.credentials.confirm(claim as never, looked)).toBe(false)
    })

    it('an active or pending row is never confirmed', async () => {
      const { store } = await makeStore()
      const task = await openTask(store)
      for (const c of [await active(store, task, jwt), await pending(store, task)]) {
        expect(await store.credentials.confirmMany([{ credential: c, probe: looked }])).toEqual([])
        expect((await got(store, c)).state).toBe(c.state)
      }
    })

    it('says of many which are live as it says of one', async () => {
      const { store, advance } = await makeStore()
      const [standing, ended, cut] = [await openTask(store), await openTask(store), await openTask(store)]
      const short = await active(store, standing, { ...jwt, ttl: 10 })
      const made = [
        await active(store, standing, jwt),
        await active(store, ended, jwt),
        await active(store, cut, jwt),
        await active(store, standing, jwt),
        await pending(store, standing),
        short,
      ]
      await store.revocations.commit({ kind: 'task', key: ended.id }, 'completed', { actor: operator })
      await store.revocations.commit({ kind: 'identity', key: cut.attestation.identity }, 'requested', { actor: operator })
      await store.revocations.commit({ kind: 'credential', key: (made[3] as Credential).id }, 'requested', { actor: operator })
      await advance(12)
      const ids = [...made.map(c => c.id), newId('credential')]
      expect(await store.credentials.liveAmong(ids)).toEqual(new Set([(made[0] as Credential).id]))
      for (const id of ids) expect((await store.credentials.live(id)) !== null).toBe(id === made[0]?.id)
      expect(await store.credentials.liveAmong([])).toEqual(new Set())
    })

    it('what is behind an act closes batch by batch until none is left, and nothing is answered only then', async () => {
      const { store } = await makeStore()
      const identity = 'github:repository_id=42'
      const a = attestation(store, { identity })
      const tasks = await Promise.all(Array.from({ length: 12 }, () => openTask(store, { attestation: a })))
      // Most have nothing to close: they must not hide those behind them.
      const holders = tasks.filter((_, i) => i % 4 === 3)
      const made = (await Promise.all(holders.map(t => Promise.all(Array.from({ length: 80 }, () => active(store, t, jwt)))))).flat()
      await store.revocations.commit(byAttributes({ identity }), 'requested', { actor: operator })
      const seen: string[] = []
      for (let batch = await store.credentials.closeOverdue(7); batch.length > 0; batch = await store.credentials.closeOverdue(7)) {
        expect(batch.length).toBeLessThanOrEqual(7)
        seen.push(...batch.map(c => c.id))
      }
      expect(new Set(seen).size).toBe(seen.length)
      const states = await Promise.all(made.map(async c => (await got(store, c)).state))
      expect(new Set(states)).toEqual(new Set(['revoking']))
      expect(seen.length).toBe(made.length - 200)
    })
  })
}
