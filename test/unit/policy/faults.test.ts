/** Owns the second line: what the rules of loading keep out is put in behind their backs, and still denies. */
import { beforeEach, expect, test, vi } from 'vitest'
import type { PolicyEst } from '../../../src/policy/est.js'
import type { PolicySet } from '../../../src/policy/load.js'
import { engineAt, forbid, permit, request } from './house.js'

const { planted } = vi.hoisted(() => ({ planted: { text: '', break: false } }))

vi.mock('../../../src/policy/load.js', async () => {
  const { freshCedar } = await import('../../../src/policy/wasm.js')
  const { needOf } = await import('../../../src/policy/need.js')
  const { ruleOf } = await import('../../../src/policy/explain.js')
  const loadPolicies = async (): Promise<PolicySet> => {
    const cedar = freshCedar()
    const parts = cedar.policySetTextToParts(planted.text)
    if (parts.type === 'failure') throw new Error('the test itself does not parse')
    const ests = parts.policies.map(text => {
      const json = cedar.policyToJson(text)
      if (json.type === 'failure') throw new Error('the test itself does not parse')
      return json.json as unknown as PolicyEst
    })
    const texts = Object.fromEntries(parts.policies.map((text, i) => [ests[i]?.annotations?.id ?? '', text]))
    if (!planted.break) cedar.preparsePolicySet('decide', { staticPolicies: texts })
    const slice = {
      need: needOf(ests),
      rules: ests.map(est => ruleOf(est.annotations?.id ?? '', est)),
      decide: 'decide',
      conditions: 'decide',
      forbids: 'decide',
    }
    return { cedar, digest: 'pol_test' as PolicySet['digest'], obligations: new Map(), slices: new Map([['db/orders-ro', slice]]) }
  }
  return { loadPolicies }
})

beforeEach(() => Object.assign(planted, { text: '', break: false }))

async function planting(text: string) {
  planted.text = text
  return engineAt('nowhere')
}

const OVERFLOW = 'context.ttl * 9223372036854775807 > 1'

test('a forbid that errs is skipped by Cedar, which would allow; here it denies', async () => {
  const { policy, log } = await planting(permit('a') + forbid('errs', OVERFLOW))
  expect(policy.decide(request({ ttl: 300 }))).toMatchObject({ allowed: false, policies: [], fault: 'policy_error' })
  expect(log[0]?.fields).toMatchObject({ cause: 'error', policies: ['errs'] })
  // Twin: the same forbid where it does not err, and does not match.
  expect(policy.decide(request({ ttl: 1 }))).toMatchObject({ allowed: false, policies: ['errs'], fault: null })
})

test('a permit that errs beside one that holds denies', async () => {
  const { policy } = await planting(permit('a') + permit('errs', OVERFLOW))
  expect(policy.decide(request())).toMatchObject({ allowed: false, fault: 'policy_error' })
  expect(policy.decide(request({ ttl: 1 }))).toMatchObject({ allowed: true, policies: ['a', 'errs'] })
})

test('an answer of failure denies', async () => {
  planted.break = true
  const { policy, log } = await planting(permit('a'))
  expect(policy.decide(request())).toMatchObject({ allowed: false, fault: 'policy_error' })
  expect(log[0]?.fields).toMatchObject({ cause: 'failure' })
})

test('a fault is not remembered as an answer', async () => {
  planted.break = true
  const house = await planting(permit('a'))
  expect(house.policy.decide(request()).fault).toBe('policy_error')
  planted.break = false
  await house.policy.reload()
  expect(house.policy.decide(request())).toMatchObject({ allowed: true, fault: null })
})

test('a call that Cedar throws on denies, and the instance goes on', async () => {
  const { policy, log } = await planting(permit('a'))
  expect(policy.decide(request({ identity: 'github:\udfff' }))).toMatchObject({ allowed: false, fault: 'policy_error' })
  expect(log[0]?.fields).toMatchObject({ cause: 'thrown' })
  expect(policy.decide(request())).toMatchObject({ allowed: true })
})
