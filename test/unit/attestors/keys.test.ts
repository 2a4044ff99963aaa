import { describe, expect, it } from 'vitest'
import { issuerKeys, type KeySource, type KeySourceAnswer } from '../../../src/attestors/keys.js'
import { CurfewError } from '../../../src/domain/errors.js'
import { newKeyPair } from '../../../src/domain/key-pair.js'

const make = async (kid: string, more: object = {}) => ({
  ...(await newKeyPair('ec', { namedCurve: 'P-256' })).publicKey.export({ format: 'jwk' }),
  kid,
  ...more,
})
const A = await make('a')
const B = await make('b')
const DOWN = () => Promise.reject(new CurfewError('unavailable', 'down', { reason: 'status_unexpected' }))

/** A source with hands on its answer, its clock and its count. */
function bench(more: Partial<KeySource> = {}) {
  const state = { now: 1_000_000, asked: 0, answer: async (): Promise<KeySourceAnswer> => ({ set: { keys: [A] } }), alarms: [] as string[] }
  const keys = issuerKeys(
    {
      issuer: 'ci',
      rules: { use: 'sig', algs: ['ES256'] },
      fetch: () => {
        state.asked++
        return state.answer()
      },
      ...more,
    },
    {
      monotonic: () => state.now,
      log: { warn: (_f, message) => state.alarms.push(`warn ${message}`), error: (_f, message) => state.alarms.push(`error ${message}`) },
    },
  )
  const find = async (kid: string | undefined, signal = new AbortController().signal) => {
    try {
      return (await keys.find(kid, signal)).kid
    } catch (error) {
      if (!(error instanceof CurfewError)) throw error
      return `${error.code} ${error.facts.reason}`
    }
  }
  return { state, find }
}

describe("a trust issuer's keys", () => {
  it('are fetched once and kept', async () => {
    const { state, find } = bench()
    expect(await Promise.all(Array.from({ length: 50 }, () => find('a')))).toEqual(Array(50).fill('a'))
    state.now += 299_000
    expect(await find('a')).toBe('a')
    expect(state.asked).toBe(1)
    state.now += 2_000
    expect(await find('a')).toBe('a')
    expect(state.asked).toBe(2)
  })

  it('H16 P41 two hundred unknown names cost one request, and a real rotation inside the pause is found after it', async () => {
    const { state, find } = bench()
    await find('a')
    state.now += 31_000
    const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => find(`x${i}`)))
    expect(new Set(answers)).toEqual(new Set(['attestation_refused key_unknown']))
    expect(state.asked).toBe(2)
    state.answer = async () => ({ set: { keys: [A, B] } })
    state.now += 15_000
    expect(await find('b')).toBe('attestation_refused key_unknown')
    expect(await find('a')).toBe('a')
    state.now += 16_000
    expect(await find('b')).toBe('b')
    expect(state.asked).toBe(3)
  })

  it.each([
    ['an outage', DOWN],
    ['a crash', () => Promise.reject(new TypeError('relation of nothing'))],
    ['an empty set', async () => ({ set: { keys: [] } })],
    ['no set', async () => ({ set: '<html>' })],
    ['a weak key', async () => ({ set: { keys: [{ kty: 'RSA', kid: 'w', e: 'AQ', n: 'AQAB' }] } })],
  ])('H15 P42 %s is bridged with the last good keys for ten minutes, then refused, and mends itself', async (_name, answer) => {
    const { state, find } = bench()
    await find('a')
    state.answer = answer
    state.now += 301_000
    expect(await find('a')).toBe('a')
    state.now += 298_000
    expect(await find('a')).toBe('a')
    expect(state.alarms.some(a => a.startsWith('warn'))).toBe(true)
    state.now += 2_000
    expect(await find('a')).toMatch(/^(unavailable|attestation_refused) /)
    expect(state.alarms.some(a => a.startsWith('error'))).toBe(true)
    state.answer = async () => ({ set: { keys: [A] } })
    state.now += 3_000
    expect(await find('a')).toBe('a')
  })

  it('H15 while the source is silent nobody with a good key waits for it, and it is not asked by every request', async () => {
    const { state, find } = bench()
    await find('a')
    state.now += 301_000
    state.answer = DOWN
    await find('a')
    state.answer = () => new Promise(() => {})
    state.now += 3_000
    for (let i = 0; i < 100; i++) expect(await find('a')).toBe('a')
    expect(state.asked).toBe(3)
  })

  it('H15 a removed key is refused at the next refresh; another key under the same name refuses the set and raises an alarm', async () => {
    const { state, find } = bench()
    state.answer = async () => ({ set: { keys: [A, B] } })
    await find('a')
    state.answer = async () => ({ set: { keys: [A] } })
    state.now += 301_000
    expect(await find('b')).toBe('attestation_refused key_unknown')
    state.answer = async () => ({ set: { keys: [await make('a')] } })
    state.now += 301_000
    expect(await find('a')).toBe('a')
    expect(state.alarms).toContainEqual('error a trust issuer published another key under a known kid; the set is refused')
    state.now += 300_000
    expect(await find('a')).toBe('attestation_refused key_swapped')
  })

  it('P42 an empty SPIFFE bundle revokes everything at once, and its hint shortens the wait', async () => {
    const { state, find } = bench({ emptyRevokes: true })
    state.answer = async () => ({ set: { keys: [A] }, refreshSeconds: 30 })
    await find('a')
    state.answer = async () => ({ set: { keys: [] }, refreshSeconds: 30 })
    state.now += 29_000
    expect(await find('a')).toBe('a')
    state.now += 2_000
    expect(await find('a')).toBe('attestation_refused key_unknown')
  })

  it('T08 a token without a name is good for the only key, and for none of several', async () => {
    const { state, find } = bench()
    expect(await find(undefined)).toBe('a')
    state.answer = async () => ({ set: { keys: [A, B] } })
    state.now += 301_000
    expect(await find(undefined)).toBe('attestation_refused key_ambiguous')
  })

  it('T06 T07 names that JavaScript gives a meaning are unknown', async () => {
    const { find } = bench()
    for (const kid of ['__proto__', 'constructor', 'size', '']) expect(await find(kid)).toBe('attestation_refused key_unknown')
  })

  it('a caller whose time is up waits no longer, and the others still get their keys', async () => {
    const { state, find } = bench()
    let arrive: (answer: KeySourceAnswer) => void = () => {}
    state.answer = () => new Promise(resolve => (arrive = resolve))
    const hurried = find('a', AbortSignal.timeout(20))
    const patient = find('a')
    expect(await hurried).toBe('unavailable deadline')
    arrive({ set: { keys: [A] } })
    expect(await patient).toBe('a')
    expect(state.asked).toBe(1)
  })
})
