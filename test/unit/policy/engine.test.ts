/** Owns how the policy engine answers: no by default, strictest obligations, and no again whenever something is not as it should be. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { PolicyRequest } from '../../../src/domain/decision.js'
import { engineOf, forbid, GITHUB, permit, request, shipped } from './house.js'

describe('answers', () => {
  test('nothing is allowed that no permit allows', async () => {
    const { policy } = await engineOf(permit('other', 'context.github.ref == "refs/heads/other"'))
    expect(policy.decide(request())).toEqual({
      allowed: false,
      policies: [],
      obligations: { maxTtlSeconds: null, requireProof: false },
      digest: policy.digest,
      fault: null,
    })
    expect(policy.decide(request({ attributes: { ref: 'refs/heads/other' } })).allowed).toBe(true)
  })

  test('a forbid outweighs every permit and is named as what determined the answer', async () => {
    const { policy } = await engineOf(permit('a') + permit('b') + forbid('no-deep', 'context.depth > 1'))
    expect(policy.decide(request({ depth: 2 }))).toMatchObject({
      allowed: false,
      policies: ['no-deep'],
      obligations: { maxTtlSeconds: null, requireProof: false },
    })
    expect(policy.decide(request({ depth: 1 }))).toMatchObject({ allowed: true, policies: ['a', 'b'] })
  })

  test('of the permits that determine an answer the strictest obligations win', async () => {
    const { policy } = await engineOf(
      permit('long', '', '@max_ttl("1h")') +
        permit('short', 'context.github.ref == "refs/heads/main"', '@max_ttl("90")') +
        permit('proof', 'context.github.ref == "refs/heads/main"', '@require_proof("true")') +
        permit('not-this-one', 'context.github.ref == "refs/heads/other"', '@max_ttl("5")'),
    )
    expect(policy.decide(request()).obligations).toEqual({ maxTtlSeconds: 90, requireProof: true })
    expect(policy.decide(request({ attributes: { ref: 'refs/heads/x' } })).obligations).toEqual({ maxTtlSeconds: 3_600, requireProof: false })
  })

  test('a policy for one capability says nothing about another', async () => {
    const { policy } = await engineOf(`@id("one") permit (principal, action, resource == Capability::"db/orders-ro") when { ${GITHUB} };`)
    expect(policy.decide(request()).allowed).toBe(true)
    expect(policy.decide(request({ capability: 'demo/orders-ro' })).allowed).toBe(false)
    expect(policy.explain(request({ capability: 'demo/orders-ro' })).nearestRule).toBeNull()
  })

  test('a rule for several capabilities is found for each of them and for no other', async () => {
    const { policy } = await engineOf(permit('two', 'resource in [Capability::"db/orders-ro", Capability::"demo/orders-ro"]'))
    const allowed = (capability: string) => policy.decide(request({ capability })).allowed
    expect([allowed('db/orders-ro'), allowed('demo/orders-ro'), allowed('demo/orders-bearer'), allowed('deploy/prod')]).toEqual([true, true, false, false])
  })

  test('the same question is answered from memory, and one that differs in any fact is not', async () => {
    const { policy } = await engineOf(permit('a', 'context.evidence_age < 60 && context.labels.contains("team=orders")'))
    const first = policy.decide(request({ labels: { team: 'orders' } }))
    expect(policy.decide(request({ labels: { team: 'orders' } }))).toBe(first)
    expect(policy.decide(request({ labels: { team: 'orders' }, evidenceAge: 60 })).allowed).toBe(false)
    expect(policy.decide(request({ labels: { team: 'billing' } })).allowed).toBe(false)
  })

  test('claims of generic issuers are there by their configured names, and no others', async () => {
    const { policy } = await engineOf(
      '@id("forge") permit (principal, action, resource) when { context.issuer == "forge" && context has oidc && context.oidc.claims has project_id && context.oidc.claims.project_id == "42" && context.oidc.claims has "https://example.org/tier" && context.oidc.claims["https://example.org/tier"] == "gold" };',
    )
    const tier = (value: unknown) => policy.decide(request({ caller: 'forge', attributes: { 'https://example.org/tier': value, unconfigured: 'x' } })).allowed
    expect(tier('gold')).toBe(true)
    expect(tier('silver')).toBe(false)
  })

  test('only the owner that the configuration names is an owner: a task may name any', async () => {
    const { policy } = await engineOf(permit('owned', 'context has owner && context.owner == "dana"'))
    const claimed = request()
    const task = { ...claimed.task, owner: 'dana' }
    expect(policy.decide({ ...claimed, task }).allowed).toBe(false)
    expect(policy.decide(request({ owner: 'dana' })).allowed).toBe(true)
  })
})

describe('what cannot be judged is denied', () => {
  const broken: Readonly<Record<string, PolicyRequest>> = {
    'half a character (a lone surrogate)': request({ purpose: 'report \ud800' }),
    'half a character in the identity, on which Cedar throws': request({ identity: 'github:\ud800' }),
    'an attribute nested a thousand deep': request({ attributes: { ref: JSON.parse(`${'['.repeat(1_000)}${']'.repeat(1_000)}`) } }),
    'an entity in the place of a text': request({ attributes: { ref: { __entity: { type: 'Workload', id: 'x' } } } }),
    'an attribute that every token of the profile has, missing': request({ attributes: { ref: null } }),
    'a life that is not a whole number': request({ ttl: 1.5 }),
    'a life beyond what a number can hold exactly': request({ ttl: 2 ** 60 }),
    'a label key that could pass for another pair': request({ labels: { 'team=orders': 'x' } }),
    'a capability that the policies were not loaded for': request({ capability: 'db/unheard-of' }),
  }
  for (const [what, asked] of Object.entries(broken)) {
    test(`${what} (twin: the same request without it)`, async () => {
      const { policy, log } = await engineOf(permit('a'))
      expect(policy.decide(asked)).toMatchObject({ allowed: false, policies: [], fault: 'policy_error' })
      expect(policy.explain(asked)).toEqual({ nearestRule: null, failed: [], forbiddenBy: [] })
      expect(log).toHaveLength(1)
      expect(JSON.stringify(log)).not.toContain('report')
      // One bad request spoils nothing for the next.
      expect(policy.decide(request())).toMatchObject({ allowed: true, fault: null })
    })
  }

  test('T66 an unknown value of anything with a closed vocabulary denies, whatever it is', async () => {
    const { policy } = await engineOf(permit('a'))
    const good = request()
    const odd = fc.oneof(
      fc.string(),
      fc.constantFrom('READ', 'read ', 'Github', 'hIgh', 'toString', '__proto__', ''),
      fc.integer(),
      fc.constant(null),
      fc.boolean(),
    )
    const known = ['read', 'write', 'destructive', 'low', 'medium', 'high', 'github', 'kubernetes', 'spiffe', 'registered', 'generic', 1, 2, 3]
    fc.assert(
      fc.property(odd, value => {
        fc.pre(!known.includes(value as string))
        const spoilt = [
          { ...good, capability: { ...good.capability, intent: value } },
          { ...good, capability: { ...good.capability, sensitivity: value } },
          { ...good, attestation: { ...good.attestation, profile: value } },
          { ...good, attestation: { ...good.attestation, strength: value } },
        ] as unknown as PolicyRequest[]
        for (const one of spoilt) expect(policy.decide(one)).toMatchObject({ allowed: false, fault: 'policy_error' })
      }),
      { numRuns: 300 },
    )
    expect(policy.decide(good).allowed).toBe(true)
  })
})

describe('names', () => {
  test('T60 a text decides byte for byte: case, spaces, width, composition, invisible and directional characters make another text', async () => {
    const { policy } = await engineOf(permit('a', 'context.github.ref == "refs/heads/café"'))
    const ref = (value: string) => policy.decide(request({ attributes: { ref: value } })).allowed
    expect(ref('refs/heads/caf\u00e9')).toBe(true)
    const others = [
      'cafe\u0301',
      'CAF\u00c9',
      'caf\u00e9 ',
      ' caf\u00e9',
      'caf\u00e9\n',
      'caf\u00e9\0',
      'caf\u200d\u00e9',
      '\u202ecaf\u00e9',
      '\uff43af\u00e9',
      'c\u0430f\u00e9',
    ]
    for (const other of others) expect(ref(`refs/heads/${other}`), JSON.stringify(other)).toBe(false)
  })

  test('T60 the caller is told its own text as it came', async () => {
    const { policy } = await shipped()
    const ref = 'refs/heads/Ma\u200din\u0000'
    expect(policy.explain(request({ attributes: { ref } })).failed).toEqual([{ claim: 'ref', actual: ref }])
  })

  test('T63 capability names are exact: case, look-alikes and names of the language are other names', async () => {
    const { policy } = await engineOf(permit('a'))
    for (const name of ['DB/orders-ro', 'db/Orders-ro', 'db/orders-r\u043e', 'db/orders-ro ', 'db//orders-ro', 'root', '__proto__', 'constructor', '*', '']) {
      expect(policy.decide(request({ capability: name })), name).toMatchObject({ allowed: false, fault: 'policy_error' })
    }
    expect(policy.decide(request({ capability: 'db/orders-ro' })).allowed).toBe(true)
  })
})

describe('explanations', () => {
  test('a caller never hears the value that a rule wants', async () => {
    const { policy } = await shipped()
    const told = JSON.stringify(policy.explain(request({ attributes: { ref: 'refs/heads/x', workflow_ref: 'y', repository_owner_id: 'z' } })))
    for (const wanted of ['refs/heads/main', '123456', 'ci.yml', 'workflow_dispatch']) expect(told).not.toContain(wanted)
    expect(told).toContain('"actual":"z"')
  })

  test('guards count with the condition that they guard, and a guard that guards nothing counts by itself', async () => {
    const { policy } = await engineOf(permit('a', 'context has owner && context.github has environment && context.github.environment == "production"'))
    expect(policy.explain(request())).toMatchObject({ nearestRule: { id: 'a', held: 2, of: 4 }, failed: [{ claim: 'owner', actual: null }] })
    expect(policy.explain(request({ owner: 'dana' }))).toMatchObject({ nearestRule: { held: 3, of: 4 }, failed: [{ claim: 'environment', actual: null }] })
    expect(policy.decide(request({ owner: 'dana', attributes: { environment: 'production' } })).allowed).toBe(true)
  })

  test('the parts of an unless are conditions, too', async () => {
    const { policy } = await engineOf(`@id("a") permit (principal, action, resource) when { ${GITHUB} } unless { context.depth > 0 || context.ttl > 600 };`)
    expect(policy.explain(request({ depth: 1 }))).toMatchObject({ nearestRule: { held: 3, of: 4 }, failed: [{ claim: 'depth', actual: '1' }] })
    expect(policy.explain(request({ ttl: 900 }))).toMatchObject({ nearestRule: { held: 3, of: 4 }, failed: [{ claim: 'ttl', actual: '900' }] })
  })

  test('a condition that holds only behind its guard is not counted without it', async () => {
    const { policy } = await engineOf(permit('a', 'context has owner && (context.ttl < 600 || context.owner == "dana")'))
    expect(policy.decide(request()).allowed).toBe(false)
    expect(policy.explain(request())).toMatchObject({ nearestRule: { held: 2, of: 3 }, failed: [{ claim: 'ttl' }] })
  })

  test('of two rules the one with more true conditions is nearer, and rules that believe another issuer are not near', async () => {
    const { policy } = await engineOf(
      permit('far', 'context.github.ref == "refs/heads/x" && context.depth == 9') +
        permit('near', 'context.github.ref == "refs/heads/x" && context.depth == 0') +
        '@id("foreign") permit (principal, action, resource) when { context.issuer == "agents" && context has registered && context.depth == 0 && context.proof && context.ttl < 900 && context.strength > 0 };',
    )
    expect(policy.explain(request()).nearestRule).toEqual({ id: 'near', held: 3, of: 4 })
  })
})
