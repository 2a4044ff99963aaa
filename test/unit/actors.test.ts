/** The chain of delegation as tokens and tasks tell it. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type ActClaim, type Acting, actOf, actorsBelow, principalOf } from '../../src/domain/actors.js'
import { namedId } from '../../src/domain/ids.js'

const acting = (identity: string, issuer = 'github'): Acting => ({ identity, issuer: namedId('issuer', issuer) })
const [a, b, c, d] = ['a', 'b', 'c', 'd'].map(name => acting(name)) as [Acting, Acting, Acting, Acting]

describe('actors', () => {
  it('are above, nearest first, the principal last', () => {
    expect(actorsBelow(a, [], b)).toEqual([a])
    expect(actorsBelow(b, [a], c)).toEqual([b, a])
  })
  it('do not repeat the same workload below itself', () => {
    expect(actorsBelow(a, [], a)).toEqual([])
    expect(actorsBelow(b, [a], b)).toEqual([a])
  })
  it('are of one issuer or another: the same name elsewhere is somebody else', () => {
    expect(actorsBelow(a, [], acting('a', 'gitlab'))).toEqual([a])
  })
  it('never form a circle', () => {
    expect(() => actorsBelow(b, [a], a)).toThrow(expect.objectContaining({ code: 'policy_denied', facts: expect.objectContaining({ reason: 'actor_cycle' }) }))
    expect(() => actorsBelow(c, [b, a], b)).toThrow()
    expect(actorsBelow(c, [b, a], d)).toEqual([c, b, a])
  })
})

describe('act', () => {
  it('is absent where nobody acts for another', () => {
    expect(actOf(a, [])).toBeNull()
    expect(principalOf(a, [])).toBe(a)
  })
  it('has the current actor outermost and the oldest deepest; the principal is the subject', () => {
    expect(principalOf(c, [b, a])).toBe(a)
    expect(actOf(b, [a])).toEqual({ sub: 'b', iss: b.issuer })
    expect(actOf(d, [c, b, a])).toEqual({ sub: 'd', iss: d.issuer, act: { sub: 'c', iss: c.issuer, act: { sub: 'b', iss: b.issuer } } })
  })
  it('property: a chain of workloads is told without a gap, a repetition, or anything but names', () => {
    const names = fc.array(fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'), { minLength: 1, maxLength: 6 })
    fc.assert(
      fc.property(names, list => {
        let self = acting(list[0] as string)
        let actors: readonly Acting[] = []
        const told = [list[0] as string]
        for (const name of list.slice(1)) {
          const next = acting(name)
          if (name !== self.identity && told.includes(name)) {
            expect(() => actorsBelow(self, actors, next)).toThrow()
            return
          }
          actors = actorsBelow(self, actors, next)
          if (name !== self.identity) told.push(name)
          self = next
        }
        const heard: string[] = []
        for (let act: ActClaim | undefined = actOf(self, actors) ?? undefined; act; act = act.act) {
          heard.push(act.sub)
          expect(Object.keys(act).filter(key => !['sub', 'iss', 'act'].includes(key))).toEqual([])
        }
        expect([...heard.reverse()]).toEqual(told.slice(1))
        expect(principalOf(self, actors).identity).toBe(told[0])
      }),
    )
  })
})
