/** Owns the proof that no refusal leads to a page that does not know it. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { ERROR_CODES, type ErrorCode } from '../../src/domain/errors.js'
import { ERROR_PAGES } from '../../src/http/error-pages.js'

const SRC = join(import.meta.dirname, '../../src')
/** Rooms whose refusals never reach a caller of ours through HTTP: a guard has codes of its own (docs/guard.md), the CLI exits. */
const OTHERS = /^(?:guard|cli|dev)\//

/** Every refusal that is written out with its code and its reason. */
function written(): { file: string; code: ErrorCode; reason: string }[] {
  return (readdirSync(SRC, { recursive: true }) as string[])
    .filter(file => file.endsWith('.ts') && !OTHERS.test(file))
    .flatMap(file =>
      [...readFileSync(join(SRC, file), 'utf8').matchAll(/new CurfewError\(\s*'(\w+)',(?:(?!new CurfewError)[\s\S]){0,260}?\breason: '(\w+)'/g)].map(m => ({
        file,
        code: m[1] as ErrorCode,
        reason: m[2] as string,
      })),
    )
}

describe('the pages of errors', () => {
  test('there is something to judge', () => expect(written().length).toBeGreaterThan(80))
  test('every code has one that says what it means and what to do', () => {
    for (const code of ERROR_CODES) {
      expect(ERROR_PAGES[code].means, code).toMatch(/\.$/)
      expect(ERROR_PAGES[code].next, code).toMatch(/\.$/)
    }
  })
  test('every reason that stands in the code is explained on the page of its code', () => {
    expect(written().filter(({ code, reason }) => !Object.hasOwn(ERROR_PAGES[code].reasons, reason))).toEqual([])
  })
})
