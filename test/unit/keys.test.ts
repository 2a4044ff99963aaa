import { describe, expect, it } from 'vitest'
import { issuerKeys, type KeySourceAnswer } from '../../src/attestors/keys.js'
import { CurfewError } from '../../src/domain/errors.js'
import { newKeyPair } from '../../src/domain/key-pair.js'

/** What a stream of requests, one after the other, costs a source that is well, slow or down. */

const key = async (kid: string) => ({ ...(await newKeyPair('ec', { namedCurve: 'P-256' })).publicKey.export({ format: 'jwk' }), kid })
const A = await key('a')
const B = await key('b')
const never = new AbortController().signal

function bench(answer: () => Promise<KeySourceAnswer>, emptyRevokes = false) {
  const state = { now: 5_000_000, asked: 0, answer, errors: [] as object[], warnings: 0 }
  const keys = issuerKeys(
    {
      issuer: 'ci',
      rules: { use: 'sig', algs: ['ES256'] },
      emptyRevokes,
      fetch: () => {
        state.asked++
        return state.answer()
      },
    },
    { monotonic: () => state.now, log: { warn: () => state.warnings++, error: fields => state.errors.push(fields) } },
  )
  const find = (kid: string) =>
    keys.find(kid, never).then(
      found => found.thumbprint,
      error => {
        if (!(error instanceof CurfewError)) throw error
        return `${error.code} ${error.facts.reason}`
      },
    )
  return { state, find }
}
const set =
  (...keys: object[]) =>
  async () => ({ set: { keys } })
const down = () => Promise.reject(new Error('ECONNREFUSED'))

describe('the keys of a trust issuer, asked for one after the other', () => {
  it('H16 P41 two hundred unknown names cost one request each 30 s, and good names none', async () => {
    const { state, find } = bench(set(A))
    const good = await find('a')
    for (const [step, expected] of [
      [29_999, 1],
      [1, 2],
      [29_999, 2],
      [1, 3],
    ] as const) {
      state.now += step
      for (let i = 0; i < 200; i++) expect(await find(`x${i}`)).toBe('attestation_refused key_unknown')
      expect(await find('a')).toBe(good)
      expect(state.asked).toBe(expected)
    }
  })

  it('H16 P41 a cold start into an outage does not ask once per request, and mends itself within 30 s', async () => {
    const { state, find } = bench(down)
    for (let i = 0; i < 200; i++) expect(await find('a')).toMatch(/^unavailable /)
    expect(state.asked).toBe(1)
    state.answer = set(A)
    state.now += 30_000
    expect(await find('a')).not.toMatch(/ /)
    expect(state.asked).toBe(2)
  })

  it('H16 a fetch that hangs for the sake of an invented name holds up nobody who has a good one', async () => {
    const { state, find } = bench(set(A))
    const good = await find('a')
    state.now += 31_000
    let arrive: (answer: KeySourceAnswer) => void = () => {}
    state.answer = () =>
      new Promise(resolve => {
        arrive = resolve
      })
    const invented = find('x')
    expect(await find('a')).toBe(good)
    arrive({ set: { keys: [A, B] } })
    expect(await invented).toBe('attestation_refused key_unknown')
    expect(state.asked).toBe(2)
  })

  it('H15 P42 the last good keys end after exactly ten minutes of silence, as unavailable', async () => {
    const { state, find } = bench(set(A))
    const good = await find('a')
    state.answer = down
    state.now += 600_000
    expect(await find('a')).toBe(good)
    state.now += 1
    expect(await find('a')).toMatch(/^unavailable /)
    expect(state.warnings + state.errors.length).toBeGreaterThan(0)
  })

  it('H15 a key swapped under a known name is never handed out, and is told with the name; the twin is a new name', async () => {
    const { state, find } = bench(set(A))
    const good = await find('a')
    const swapped = await key('a')
    state.answer = set(swapped, B)
    state.now += 301_000
    expect(await find('a')).toBe(good)
    expect(await find('b')).toBe('attestation_refused key_unknown')
    expect(state.errors).toContainEqual({ issuer: 'ci', kid: 'a' })
    state.answer = set(A, B)
    state.now += 31_000
    expect(await find('b')).not.toMatch(/ /)
    expect(await find('a')).toBe(good)
  })

  it.each([1, 60, 300, 86_400])('P42 a hint of %i s is honoured, but never beyond five minutes', async refreshSeconds => {
    const fresh = Math.min(refreshSeconds, 300) * 1_000
    const { state, find } = bench(async () => ({ set: { keys: [A, B] }, refreshSeconds }), true)
    await find('b')
    state.answer = async () => ({ set: { keys: [A] }, refreshSeconds })
    state.now += fresh
    expect(await find('b')).not.toMatch(/ /)
    state.now += 1
    expect(await find('b')).toBe('attestation_refused key_unknown')
    state.answer = async () => ({ set: { keys: [] }, refreshSeconds })
    state.now += fresh + 1
    expect(await find('a')).toBe('attestation_refused key_unknown')
  })
})
