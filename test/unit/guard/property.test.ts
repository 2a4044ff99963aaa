import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type FeedEntry, SELECTOR_KINDS, type SelectorKind } from '../../../src/domain/revocation.js'
import { RevocationIndex } from '../../../src/domain/revocation-index.js'
import { createGuard, type Guard } from '../../../src/guard/guard.js'
import { liveTokens } from '../../../src/guard/live.js'
import { type TestIssuer, testIssuer } from '../../../src/guard/testing.js'
import { readToken, type Verified } from '../../../src/guard/token.js'

/** Few names, so that tokens and entries meet. */
const TASKS = [0, 1, 2, 3].map(n => `tsk_${String(n).repeat(26)}`)
const IDENTITIES = ['a', 'b', 'c', 'd']
const ISSUERS = ['iss_1', 'iss_2', 'iss_3']
const CAPABILITIES = ['x/r', 'x/w', 'y/r']
const BASE = Math.floor(Date.now() / 1000)

interface Described {
  readonly task: string
  readonly ancestors: readonly string[]
  readonly subject: string
  readonly actors: readonly (readonly [string, string])[]
  readonly trustIssuer: string
  readonly subIssuer: string | null
  readonly capability: string
  readonly age: number
}
const token: fc.Arbitrary<Described> = fc.record({
  task: fc.constantFrom(...TASKS),
  ancestors: fc.array(fc.constantFrom(...TASKS), { maxLength: 3 }),
  subject: fc.constantFrom(...IDENTITIES),
  actors: fc.array(fc.tuple(fc.constantFrom(...IDENTITIES), fc.constantFrom(...ISSUERS)), { maxLength: 3 }),
  trustIssuer: fc.constantFrom(...ISSUERS),
  subIssuer: fc.option(fc.constantFrom(...ISSUERS)),
  capability: fc.constantFrom(...CAPABILITIES),
  age: fc.integer({ min: 0, max: 5 }),
})
interface Cut {
  readonly kind: SelectorKind
  readonly pick: number
  /** Seconds before now; null: none. */
  readonly before: number | null
}
const cut: fc.Arbitrary<Cut> = fc.record({ kind: fc.constantFrom(...SELECTOR_KINDS), pick: fc.nat(3), before: fc.option(fc.integer({ min: -1, max: 6 })) })

let iss: TestIssuer
beforeAll(async () => {
  iss = await testIssuer()
})
afterAll(() => iss.close())

const act = (actors: Described['actors']): Record<string, unknown> | undefined =>
  actors.reduceRight<Record<string, unknown> | undefined>((inner, [sub, issuer]) => ({ sub, iss: issuer, ...(inner ? { act: inner } : {}) }), undefined)

const mint = (t: Described) => {
  const acting = act(t.actors)
  return iss.mint({
    bound: false,
    task: t.task,
    ancestors: t.ancestors,
    subject: t.subject,
    trustIssuer: t.trustIssuer,
    capability: t.capability,
    ...(acting ? { act: acting } : {}),
    claims: { iat: BASE - t.age, nbf: BASE - t.age, ...(t.subIssuer ? { sub_issuer: t.subIssuer } : {}) },
  })
}

/** The rule of standards.md 4.4, written as it reads, over the claims. */
function isHit(t: Described, own: { credential: string; kid: string }, c: Cut, key: string): boolean {
  const isOld = c.before === null || BASE - t.age <= BASE - c.before
  const named = {
    credential: key === own.credential,
    task: t.task === key || t.ancestors.includes(key),
    identity: t.subject === key || t.actors.some(([sub]) => sub === key),
    issuer: t.trustIssuer === key || t.subIssuer === key || t.actors.some(([, issuer]) => issuer === key),
    key: key === own.kid,
    capability: t.capability === key,
    all: true,
  }[c.kind]
  return isOld && named
}

function keyOf({ kind, pick }: Cut, own: { credential: string; kid: string }): string {
  const from = {
    credential: [own.credential, 'crd_0'],
    task: TASKS,
    identity: IDENTITIES,
    issuer: ISSUERS,
    key: [own.kid, 'k'],
    capability: CAPABILITIES,
    all: ['*'],
  }[kind]
  return from[pick % from.length] as string
}
const entryOf = (c: Cut, key: string, seq: number): FeedEntry => ({
  seq,
  kind: c.kind,
  key,
  issuedBefore: c.before === null ? null : new Date((BASE - c.before) * 1000),
  until: new Date(8e15),
})

test('a guard refuses exactly what the rule says, all kinds, with and without a cut-off, and ends exactly what then runs', async () => {
  const keys = ((await (await iss.fetch(`${iss.issuer}/.well-known/jwks.json`, {})).json()) as { keys: { kid: string }[] }).keys
  const { admitKeys } = await import('../../../src/domain/jwk.js')
  const admitted = admitKeys({ keys }, { use: 'sig', algs: ['ES256'] })
  const find = async () => admitted[0] as (typeof admitted)[number]
  const hits = new Map<string, number>()
  await fc.assert(
    fc.asyncProperty(token, fc.array(cut, { minLength: 1, maxLength: 4 }), async (t, cuts) => {
      const minted = await mint(t)
      const verified: Verified = await readToken(minted.token, { issuer: iss.issuer, audience: iss.audience, now: new Date() }, { find })
      const named = cuts.map(c => ({ c, key: keyOf(c, minted) }))
      const wanted = named.some(({ c, key }) => isHit(t, minted, c, key))
      // Of two cut-offs for one name the later stands, and one without a cut-off stands above all: in any order the same.
      const index = new RevocationIndex()
      for (const [i, { c, key }] of named.entries()) index.apply(entryOf(c, key, i + 1))
      const live = liveTokens({ max: 10, now: Date.now })
      let ended = 0
      live.add(verified, why => why === 'revoked' && ended++)
      live.apply(named.map(({ c, key }, i) => entryOf(c, key, i + 1)))
      live.close()
      expect([index.hit(verified.names) !== null, ended]).toEqual([wanted, wanted ? 1 : 0])
      for (const { c, key } of named) if (isHit(t, minted, c, key)) hits.set(`${c.kind} ${c.before === null}`, 1)
    }),
    { numRuns: 400 },
  )
  // All fourteen were met, not merely possible.
  expect(hits.size).toBe(SELECTOR_KINDS.length * 2)
}, 60_000)

test('the same by the wire: through the feed, the cache warm or cold', async () => {
  await fc.assert(
    fc.asyncProperty(token, cut, fc.boolean(), async (t, c, isWarm) => {
      const own = await testIssuer()
      const g: Guard = createGuard({ issuer: own.issuer, audience: own.audience, guardKey: 'k', proof: 'off', fetch: own.fetch })
      await g.ready()
      const minted = await own.mint({
        bound: false,
        task: t.task,
        ancestors: t.ancestors,
        subject: t.subject,
        trustIssuer: t.trustIssuer,
        capability: t.capability,
        ...(t.actors.length > 0 ? { act: act(t.actors) as Record<string, unknown> } : {}),
        claims: { iat: BASE - t.age, nbf: BASE - t.age, ...(t.subIssuer ? { sub_issuer: t.subIssuer } : {}) },
      })
      const request = await minted.request('https://orders.test/')
      const seen = isWarm ? await g.verify(request) : null
      const signal = seen?.signal
      const key = keyOf(c, minted)
      await own.revoke({ [c.kind]: c.kind === 'all' ? true : key, issuedBefore: c.before === null ? null : new Date((BASE - c.before) * 1000) })
      await expect.poll(() => g.health().seq).toBe(1)
      const got = await g.verify(request).then(
        () => 'passes',
        e => e.code,
      )
      const wanted = isHit(t, minted, c, key)
      expect([got, signal?.aborted]).toEqual([wanted ? 'revoked' : 'passes', isWarm ? wanted : undefined])
      g.close()
      own.close()
    }),
    { numRuns: 60 },
  )
}, 60_000)
