import { describe, expect, it } from 'vitest'
import { statementNames } from '../../../src/store/prepared.js'

describe('names of statements', () => {
  it('are one a text', () => {
    const names = statementNames()
    const first = names.of('select 1')
    expect(first).toMatch(/^curfew_\d+$/)
    expect(names.of('select 1')).toBe(first)
    expect(names.of('select 2')).not.toBe(first)
  })
  it('are renewed for all texts by the first who was told, and by nobody who was told by an old one', () => {
    const names = statementNames()
    const old = [names.of('select 1') as string, names.of('select 2') as string]
    names.renew('select 1', old[0] as string)
    const fresh = [names.of('select 1'), names.of('select 2')]
    expect(new Set([...old, ...fresh]).size).toBe(4)
    names.renew('select 2', old[1] as string)
    expect([names.of('select 1'), names.of('select 2')]).toEqual(fresh)
  })
  it('are given to 256 texts: what filters put together fills no server', () => {
    const names = statementNames()
    const given = Array.from({ length: 1_000 }, (_, i) => names.of(`select ${i}`))
    expect(given.filter(name => name !== null)).toHaveLength(256)
    expect(names.of('select 0')).toBe(given[0])
  })
})
