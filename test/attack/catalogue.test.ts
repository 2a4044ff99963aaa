/** Owns that the catalogue and the tests speak of the same attacks. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { CATALOGUE, IDS } from './catalogue.js'

const TEST = join(import.meta.dirname, '..')
/** Ids as they stand in the tests, tables of cases included. */
const seen = new Set(
  (readdirSync(TEST, { recursive: true }) as string[])
    .filter(file => file.endsWith('.ts') && !file.startsWith('attack/catalogue') && !file.startsWith('attack/main'))
    .flatMap(file => readFileSync(join(TEST, file), 'utf8').match(IDS) ?? []),
)

describe('the catalogue of attacks', () => {
  it('is whole: T01 to T73, R01 to R13, H01 to H32', () => {
    const upTo = (letter: string, n: number) => Array.from({ length: n }, (_, i) => `${letter}${String(i + 1).padStart(2, '0')}`)
    expect(Object.keys(CATALOGUE)).toEqual([...upTo('T', 73), ...upTo('R', 13), ...upTo('H', 32)])
  })
  it('knows every id that a test carries', () => expect([...seen].filter(id => !CATALOGUE[id])).toEqual([]))
  it.each(Object.entries(CATALOGUE))('%s has a case, or says why it has none', (id, attack) => {
    expect([id, seen.has(id) ? 'a case' : (attack.none ?? 'nothing')]).toEqual([id, seen.has(id) ? 'a case' : expect.stringMatching(/\w+ \w+/)])
    if (attack.none !== undefined) expect([id, seen.has(id)]).toEqual([id, false])
  })
})
