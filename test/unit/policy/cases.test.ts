/** Owns the shipped policies' behaviour: every case is data, `cases/*.yaml`, and says what is asked and what is wanted. */
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { type Asked, request, shipped } from './house.js'

interface Case {
  readonly name: string
  readonly asked: Asked
  readonly wanted: {
    readonly allowed: boolean
    readonly policies?: readonly string[]
    readonly maxTtl?: number
    readonly requireProof?: boolean
    readonly fault?: string
    readonly nearest?: string | null
    readonly held?: number
    readonly of?: number
    /** The first of the caller's own facts that differs, and its value. */
    readonly claim?: string
    readonly actual?: string | null
    readonly forbiddenBy?: readonly string[]
  }
}

const DIR = 'test/unit/policy/cases'
const { policy } = await shipped()

for (const file of readdirSync(DIR)) {
  describe(file, () => {
    const cases = parse(readFileSync(`${DIR}/${file}`, 'utf8'), { merge: true }) as readonly Case[]
    test.each(cases)('$name', ({ asked, wanted }) => {
      const answer = policy.decide(request(asked))
      expect(answer.allowed).toBe(wanted.allowed)
      expect(answer.fault).toBe(wanted.fault ?? null)
      if (wanted.policies) expect(answer.policies).toEqual(wanted.policies)
      if (wanted.maxTtl !== undefined) expect(answer.obligations.maxTtlSeconds).toBe(wanted.maxTtl)
      if (wanted.requireProof !== undefined) expect(answer.obligations.requireProof).toBe(wanted.requireProof)
      if (wanted.allowed) return

      const { nearestRule, failed, forbiddenBy } = policy.explain(request(asked))
      if (wanted.forbiddenBy) expect(forbiddenBy).toEqual(wanted.forbiddenBy)
      if (wanted.nearest !== undefined) expect(nearestRule?.id ?? null).toBe(wanted.nearest)
      if (wanted.held !== undefined) expect(nearestRule?.held).toBe(wanted.held)
      if (wanted.of !== undefined) expect(nearestRule?.of).toBe(wanted.of)
      if (wanted.claim !== undefined) expect(failed[0]?.claim).toBe(wanted.claim)
      if (wanted.actual !== undefined) expect(failed[0]?.actual).toBe(wanted.actual)
    })
  })
}
