import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { compactVerify, type JWK } from 'jose'
import { describe, expect, it } from 'vitest'
import { CurfewError } from '../../src/domain/errors.js'
import { parseStrictBytes } from '../../src/domain/json.js'
import { type AdmittedKey, admitKeys } from '../../src/domain/jwk.js'
import { verifySignature } from '../../src/domain/jws.js'
import { vectors } from '../vectors.js'

const data = vectors()
const skipped = data === null ? ' (skipped: the vectors are not here)' : ''

const ALGS = ['ES256', 'ES384', 'ES512', 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'EdDSA']

interface Vector {
  readonly tcId: number
  readonly jws?: string
  readonly result: 'valid' | 'invalid' | 'acceptable'
}
interface Group {
  readonly comment: string
  readonly private?: JWK | { keys: JWK[] }
  readonly public?: JWK | { keys: JWK[] }
  readonly tests: readonly Vector[]
}

function keyFor(group: Group, jws: string): AdmittedKey | null {
  try {
    const source = group.public ?? group.private
    const set = source && 'keys' in source ? (source as { keys: JWK[] }).keys : [source as JWK]
    // A relying party has the public halves; a symmetric key has none, and is left as it is so that the profile must refuse it.
    const keys = admitKeys({ keys: set.map(publicHalf) }, { use: 'sig', algs: ALGS })
    const { kid } = JSON.parse(Buffer.from(jws.split('.')[0] as string, 'base64url').toString()) as { kid?: string }
    return keys.find(k => k.kid === kid) ?? (keys.length === 1 ? (keys[0] as AdmittedKey) : null)
  } catch {
    return null
  }
}

/** `signature`: the strict reading let it pass, and what was refused is the signature. */
async function verdictOf(group: Group, jws: string): Promise<'accepted' | 'refused' | 'signature'> {
  const key = keyFor(group, jws)
  if (!key) return 'refused'
  try {
    await verifySignature(jws, key, { algorithms: ALGS, types: ['', 'jwt'] })
    return 'accepted'
  } catch (error) {
    return error instanceof CurfewError && error.facts.reason === 'signature_invalid' ? 'signature' : 'refused'
  }
}

/** Of the same text by the same key. */
async function joseAccepts(group: Group, jws: string): Promise<boolean> {
  const { alg } = JSON.parse(Buffer.from(jws.split('.')[0] as string, 'base64url').toString()) as { alg: string }
  try {
    await compactVerify(jws, await (keyFor(group, jws) as AdmittedKey).verifier(alg), { algorithms: ALGS })
    return true
  } catch {
    return false
  }
}

function publicHalf(jwk: JWK): JWK {
  if (jwk.kty === 'oct') return jwk
  const { d: _d, p: _p, q: _q, dp: _dp, dq: _dq, qi: _qi, ...rest } = jwk
  return rest
}

describe.skipIf(data === null)(`Wycheproof${skipped}`, () => {
  for (const [name, count] of [
    ['signature', 401],
    ['key', 26],
    ['crypto', 83],
  ] as const) {
    it(`T01–T12 P20–P28 ${name}: nothing invalid is accepted, and of what is valid only the explained is refused`, async () => {
      const { testGroups } = JSON.parse(readFileSync(join(data as string, 'wycheproof', `json_web_${name}_test.json`), 'utf8')) as { testGroups: Group[] }
      const wronglyAccepted: number[] = []
      const refusedValid: { tcId: number; comment: string }[] = []
      const unlikeJose: number[] = []
      let seen = 0
      let accepted = 0
      for (const group of testGroups) {
        for (const vector of group.tests) {
          seen++
          const verdict = vector.jws === undefined ? 'refused' : await verdictOf(group, vector.jws)
          const ok = verdict === 'accepted'
          if (ok) accepted++
          // Whatever came as far as its signature has of us the verdict that jose has of it.
          if (verdict !== 'refused' && (await joseAccepts(group, vector.jws as string)) !== ok) unlikeJose.push(vector.tcId)
          if (ok && vector.result === 'invalid') wronglyAccepted.push(vector.tcId)
          if (!ok && vector.result === 'valid' && vector.jws !== undefined && !isSymmetric(group))
            refusedValid.push({ tcId: vector.tcId, comment: group.comment })
        }
      }
      expect(seen).toBe(count)
      expect(wronglyAccepted).toEqual([])
      expect(unlikeJose).toEqual([])
      expect({ name, refusedValid: refusedValid.map(r => r.tcId) }).toEqual({ name, refusedValid: EXPECTED_REFUSALS[name] })
      // The suite can fail: a profile that refuses everything would pass all of the above but this.
      expect(accepted).toBeGreaterThanOrEqual({ signature: 20, key: 0, crypto: 2 }[name])
    })
  }
})

function isSymmetric(group: Group): boolean {
  const source = group.public ?? group.private
  return source !== undefined && !('keys' in source) && source.kty === 'oct'
}

/**
 * The valid vectors that are refused on purpose, by number, so that a new one is noticed. Groups of one symmetric key are left out:
 * no HMAC algorithm is ever configured, since a shared secret cannot prove who signed.
 */
const EXPECTED_REFUSALS: Record<string, number[]> = {
  signature: [
    // An empty payload: its segment is empty, and a JWT has a payload.
    259, 264, 268, 272, 320, 325,
    // The key names an algorithm that it cannot be (ES521), or another than the header's (PS256 and PS384).
    346, 347, 350, 351,
  ],
  // HMAC keys inside key sets.
  key: [2, 13, 14, 15],
  crypto: [48],
}

/** `i_` files: the standard leaves them open. Ours, by what they hold. */
const VERDICTS: readonly [RegExp, 'parse' | 'refuse', string][] = [
  [/^i_number_(real_|neg_int_huge|pos_double_huge|huge_exp|double_huge|too_)/, 'parse', 'a number that a double holds, with its usual loss'],
  [/^i_number_/, 'refuse', 'a number that overflows is not a number that anybody compares'],
  [/^i_string_/, 'refuse', 'not UTF-8, or half a character'],
  [/^i_object_key_lone/, 'refuse', 'half a character'],
  [/^i_structure_500_nested/, 'refuse', 'deeper than anything we accept'],
  [/^i_structure_UTF-8_BOM/, 'refuse', 'a byte-order mark'],
]

describe.skipIf(data === null)(`JSONTestSuite${skipped}`, () => {
  const dir = data === null ? '' : join(data, 'json-test-suite', 'test_parsing')
  const parses = (name: string): boolean => {
    try {
      parseStrictBytes(readFileSync(join(dir, name)), { maxDepth: 64, maxMembers: 10_000 })
      return true
    } catch {
      return false
    }
  }
  const files = data === null ? [] : readdirSync(dir)

  it('H04 what must parse parses, except an object with a member twice', () => {
    const refused = files.filter(n => n.startsWith('y_') && !parses(n))
    expect(refused.sort()).toEqual(['y_object_duplicated_key.json', 'y_object_duplicated_key_and_value.json'])
  })
  it('H04 what must be refused is refused', () => {
    expect(files.filter(n => n.startsWith('n_') && parses(n))).toEqual([])
  })
  it('H04 what the standard leaves open has a verdict here', () => {
    for (const name of files.filter(n => n.startsWith('i_'))) {
      const verdict = VERDICTS.find(([pattern]) => pattern.test(name))
      const number = /^i_number_/.test(name) ? Number.isFinite(Number(readFileSync(join(dir, name), 'utf8').replace(/^\[|\]\s*$/g, ''))) : undefined
      const expected = number ?? verdict?.[1] === 'parse'
      expect([name, parses(name)]).toEqual([name, expected])
      expect(verdict, name).toBeDefined()
    }
  })
})
