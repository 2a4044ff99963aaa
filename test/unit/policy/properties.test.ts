/** Owns what holds of every set of policies: Cedar and a second opinion agree, and no change that takes away ever gives. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { engineOf, request } from './house.js'
import { type Drawn, drawnArb, forbidArb, judged, type Rule, rulesArb, ruleText } from './reference.js'

/** CURFEW_POLICY_RUNS=10000 makes a million cases of them. */
const RUNS = Number(process.env.CURFEW_POLICY_RUNS ?? 40)
const TIMEOUT = 120_000 + RUNS * 1_000
const text = (rules: readonly Rule[]) => rules.map(ruleText).join('')
const requests = (n: number) => fc.array(drawnArb, { minLength: n, maxLength: n })

test(
  `P-diff the engine and a reference evaluator agree on answer, policies, obligations and forbids (${RUNS * 100} cases)`,
  async () => {
    const seen = { allowed: 0, denied: 0, forbidden: 0 }
    await fc.assert(
      fc.asyncProperty(rulesArb, requests(100), async (rules, drawn) => {
        const { policy, log } = await engineOf(text(rules))
        for (const { asked, world } of drawn) {
          const wanted = judged(rules, world)
          const answer = policy.decide(request(asked))
          expect(answer).toMatchObject({ allowed: wanted.allowed, policies: wanted.policies, obligations: wanted.obligations, fault: null })
          seen[answer.allowed ? 'allowed' : wanted.forbiddenBy.length > 0 ? 'forbidden' : 'denied']++
          if (!answer.allowed) {
            const { nearestRule, forbiddenBy } = policy.explain(request(asked))
            expect(forbiddenBy).toEqual(wanted.forbiddenBy)
            // A permit that held in full would have permitted, unless something forbade it.
            if (nearestRule && forbiddenBy.length === 0) expect(nearestRule.held).toBeLessThan(nearestRule.of)
          }
        }
        expect(log).toEqual([])
      }),
      { numRuns: RUNS, seed: 20_260_401, endOnFailure: true },
    )
    // The pools are small enough that every kind of answer is met often.
    for (const count of Object.values(seen)) expect(count).toBeGreaterThan(150)
  },
  TIMEOUT,
)

test(
  'P-diff adding a forbid never allows',
  async () => {
    await fc.assert(
      fc.asyncProperty(rulesArb, forbidArb, requests(60), async (rules, added, drawn) => {
        const before = await engineOf(text(rules))
        const after = await engineOf(text([...rules, added]))
        for (const { asked } of drawn) {
          if (after.policy.decide(request(asked)).allowed) expect(before.policy.decide(request(asked)).allowed).toBe(true)
        }
      }),
      { numRuns: 12, seed: 20_260_402, endOnFailure: true },
    )
  },
  TIMEOUT,
)

test(
  'P-diff asking for less time never turns a yes into a no',
  async () => {
    let allowed = 0
    await fc.assert(
      fc.asyncProperty(rulesArb, requests(60), async (rules, drawn) => {
        const { policy } = await engineOf(text(rules))
        for (const { asked } of drawn) {
          if (!policy.decide(request(asked)).allowed) continue
          allowed++
          for (const ttl of [1, 5, 59, 60, 299, 300, 900].filter(shorter => shorter < (asked.ttl ?? 0))) {
            expect(policy.decide(request({ ...asked, ttl })).allowed).toBe(true)
          }
        }
      }),
      { numRuns: 15, seed: 20_260_403, endOnFailure: true },
    )
    expect(allowed).toBeGreaterThan(50)
  },
  TIMEOUT,
)

test(
  'P-diff renaming callers and rules changes nothing but the names',
  async () => {
    // Identities are opaque: another text for the same caller, here and in the rules, and the answer is the same.
    const renamed = (name: string) => `zz-${[...name].reverse().join('')}`
    await fc.assert(
      fc.asyncProperty(rulesArb, requests(60), async (rules, drawn) => {
        const plain = await engineOf(text(rules))
        const other = await engineOf(text(rules.map(r => ({ ...r, id: `x${r.id}`, identity: r.identity === null ? null : renamed(r.identity) }))))
        for (const { asked } of drawn as readonly Drawn[]) {
          const { digest: _, policies, ...answer } = plain.policy.decide(request(asked))
          const twin = other.policy.decide(request({ ...asked, identity: renamed(asked.identity as string) }))
          expect(twin).toMatchObject({ ...answer, policies: policies.map(id => `x${id}`) })
        }
      }),
      { numRuns: 12, seed: 20_260_404, endOnFailure: true },
    )
  },
  TIMEOUT,
)
