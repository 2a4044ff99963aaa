/** The feed of one replica over a log that a test writes: what stands and what follows are together the log, whoever comes and goes when. */
import fc from 'fast-check'
import { afterEach, expect, it, vi } from 'vitest'
import type { FeedEntry } from '../../src/domain/revocation.js'
import { RevocationIndex } from '../../src/domain/revocation-index.js'
import { type Replica, startReplica } from '../../src/feed/replica.js'
import type { Follower } from '../../src/ports.js'

const FAR = new Date(Date.now() + 3_600_000)
const entry = (seq: number, key: string, until = FAR): FeedEntry => ({ seq, kind: 'task', key, issuedBefore: null, until })

/** A log with hands on its answers. */
function logOf() {
  const acts: FeedEntry[][] = []
  let rings = () => {}
  const seen: { guard: string; instance: string; seq: number }[] = []
  const faults = { next: 0 }
  const disabled: string[] = []
  return {
    acts,
    seen,
    faults,
    disabled,
    commit(keys: readonly string[]) {
      acts.push(keys.map(key => entry(acts.length + 1, key)))
      rings()
      return acts.length
    },
    start: (more: Partial<Parameters<typeof startReplica>[0]> = {}) =>
      startReplica({
        revocations: {
          seq: async () => acts.length,
          async since(seq, limit) {
            await new Promise(setImmediate)
            if (faults.next > 0) {
              faults.next--
              throw new Error('the store is away')
            }
            return acts
              .filter((own, i) => i + 1 > seq && own.length > 0)
              .slice(0, limit)
              .flat()
          },
        },
        guards: {
          async seen(rows) {
            seen.push(...rows)
            return disabled.map(guard => ({ guard: guard as never, isDisabled: true, instances: 1 }))
          },
        },
        clock: { now: () => new Date() },
        pollMs: 50,
        listen: onRing => {
          rings = onRing
          return () => {}
        },
        log: { warn: () => {} },
        ...more,
      }),
  }
}

interface Listening extends Follower {
  readonly keys: string[]
  readonly seqs: number[]
  ready: boolean
  ended: boolean
  last: number | null
  beats: { seq: number; stale_ms: number }[]
}

/** Reads what it is sent as a guard does. */
function listening(options: { refuseAfter?: number; slow?: boolean } = {}): Listening {
  let left = options.refuseAfter ?? Number.POSITIVE_INFINITY
  const me: Listening = {
    guard: 'grd_1' as never,
    instance: 'one',
    keys: [],
    seqs: [],
    ready: false,
    ended: false,
    last: null,
    beats: [],
    send(text) {
      if (me.ended || left-- <= 0) return false
      const lines = text.toString().split('\n')
      const of = (name: string) => lines.find(l => l.startsWith(`${name}: `))?.slice(name.length + 2)
      const data = JSON.parse(of('data') as string)
      for (const e of data.entries ?? []) me.keys.push(e.key)
      if (of('event') === 'ready') me.ready = true
      if (of('event') === 'revoked') me.seqs.push(data.seq)
      if (of('event') === 'beat') me.beats.push(data)
      if (of('id')) me.last = Number(of('id'))
      return true
    },
    drained: () => (options.slow ? new Promise(setImmediate) : Promise.resolve()),
    end() {
      me.ended = true
    },
  }
  return me
}

const replicas: Replica[] = []
const track = (r: Replica) => {
  replicas.push(r)
  return r
}
afterEach(async () => {
  for (const r of replicas.splice(0)) await r.stop()
})
const turns = async (n: number) => {
  for (let i = 0; i < n; i++) await new Promise(setImmediate)
}
const until = (what: () => boolean) => vi.waitFor(() => expect(what()).toBe(true), { timeout: 15_000, interval: 5 })

it('what stands and what follows are the log, whoever joins, leaves and comes back when', async () => {
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ do: fc.constant('commit' as const), n: fc.nat({ max: 3 }) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('join' as const), n: fc.nat({ max: 1 }) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('leave' as const), n: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('fault' as const), n: fc.nat({ max: 2 }) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('turns' as const), n: fc.nat({ max: 5 }) }) },
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async steps => {
      const log = logOf()
      const replica = log.start({ pollMs: 5 })
      const held: { f: Listening; keys: Set<string>; stop: () => void }[] = []
      let named = 0
      for (const { do: what, n } of steps) {
        if (what === 'commit') log.commit(Array.from({ length: n }, () => `k${named++}`))
        if (what === 'fault') log.faults.next = n
        if (what === 'turns') await turns(n)
        if (what === 'join') {
          const f = listening({ slow: n === 1 })
          held.push({ f, keys: new Set(), stop: replica.follow(f, null) })
        }
        const one = held[n % Math.max(1, held.length)]
        if (what === 'leave' && one) {
          one.stop()
          one.f.ended = true
          for (const key of one.f.keys) one.keys.add(key)
          // It comes back where it stopped, if it ever was somewhere.
          const f = listening()
          one.stop = replica.follow(f, one.f.last)
          one.f = f
        }
      }
      log.faults.next = 0
      log.commit(['the last'])
      await until(() => held.every(({ f }) => f.keys.includes('the last')))
      const all = log.acts.flat().map(e => e.key)
      for (const { f, keys } of held) {
        expect(new Set([...keys, ...f.keys])).toEqual(new Set(all))
        expect(f.seqs).toEqual([...f.seqs].sort((a, b) => a - b))
      }
      await until(() => replica.seq === log.acts.length)
      await replica.stop()
    }),
    { numRuns: 150 },
  )
}, 60_000)

it('says how stale it is when the truth cannot be read, and recovers by itself', async () => {
  const log = logOf()
  const replica = track(log.start({ pollMs: 10 }))
  await replica.ready()
  expect(replica.staleMs()).toBeLessThan(1_000)
  log.faults.next = 1_000
  await new Promise(resolve => setTimeout(resolve, 300))
  expect(replica.staleMs()).toBeGreaterThan(250)
  log.commit(['late'])
  log.faults.next = 0
  await until(() => [...replica.entries()].some(e => e.key === 'late'))
  expect(replica.staleMs()).toBeLessThan(250)
})

it('a poll finds what nobody rang for', async () => {
  const log = logOf()
  const replica = track(log.start({ listen: () => () => {} }))
  await replica.ready()
  log.commit(['unheard'])
  await until(() => [...replica.entries()].some(e => e.key === 'unheard'))
})

it('a follower that cannot keep up is ended, and the others are not', async () => {
  const log = logOf()
  const replica = track(log.start())
  await replica.ready()
  const [slow, quick] = [listening({ refuseAfter: 3 }), listening()]
  replica.follow(slow, null)
  replica.follow(quick, null)
  for (let i = 0; i < 5; i++) log.commit([`k${i}`])
  await until(() => quick.keys.length === 5)
  expect(slow.ended).toBe(true)
  expect(quick.ended).toBe(false)
})

it('whoever goes while it is sent what stands is not followed after its end', async () => {
  const log = logOf()
  log.commit(['a'])
  const replica = track(log.start())
  await replica.ready()
  const gone = listening({ slow: true })
  const stop = replica.follow(gone, null)
  stop()
  gone.end()
  await turns(3)
  log.commit(['b'])
  await until(() => replica.seq === 2)
  expect(replica.followers).toBe(0)
})

it('whoever was away for longer than acts are kept is sent everything', async () => {
  const log = logOf()
  for (let i = 0; i < 10_050; i++) log.acts.push([entry(i + 1, `k${i}`)])
  const replica = track(log.start())
  await replica.ready()
  const [old, recent] = [listening(), listening()]
  replica.follow(old, 10)
  replica.follow(recent, 10_040)
  await until(() => old.ready)
  expect(old.keys).toHaveLength(10_050)
  expect(recent.seqs).toEqual([10_041, 10_042, 10_043, 10_044, 10_045, 10_046, 10_047, 10_048, 10_049, 10_050])
})

it('one that is ahead of this replica is sent everything, and hears what comes', async () => {
  const log = logOf()
  log.commit(['a'])
  const replica = track(log.start())
  await replica.ready()
  const f = listening()
  replica.follow(f, 99)
  await until(() => f.ready)
  expect(f.keys).toEqual(['a'])
  log.commit(['b'])
  await until(() => f.seqs.includes(2))
})

it('what can hit nobody any more leaves the memory, and the later of two cut-offs stands', () => {
  const index = new RevocationIndex()
  const token = { credential: 'c', task: 't', ancestors: [], identities: ['i'], issuers: [], capabilities: [], kid: null, issuedAt: 100 }
  const cut = (seq: number, before: number): FeedEntry => ({ seq, kind: 'identity', key: 'i', issuedBefore: new Date(before * 1000), until: FAR })
  index.apply(cut(2, 100))
  index.apply(cut(1, 50))
  expect(index.hit(token)).toEqual({ seq: 2, kind: 'identity', key: 'i' })
  expect(index.hit({ ...token, issuedAt: 101 })).toBeNull()
  index.apply(entry(3, 't', new Date(1_000)))
  expect(index.hit({ ...token, issuedAt: 101 })).toMatchObject({ kind: 'task' })
  expect(index.drop(2_000)).toBe(1)
  expect(index.hit({ ...token, issuedAt: 101 })).toBeNull()
  expect([index.size, index.seq]).toEqual([1, 3])
})
