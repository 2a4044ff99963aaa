/** Which files a broker runs as an engine of its own, and which it does not. */
import { chmodSync, chownSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type EngineEntry, loadEngine } from '../../src/compose-modules.js'
import { defineEngine } from '../../src/contract/engine.js'
import { Secret } from '../../src/domain/secret.js'

const deps = { clock: { now: () => new Date() }, log: { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} } }
const shared = globalThis as { defineForTest?: typeof defineEngine; created?: unknown[] }
let dir: string
let count = 0

/** As a module would import it; a file outside the repository has no other way to this copy. */
shared.defineForTest = defineEngine
afterAll(() => {
  delete shared.defineForTest
  delete shared.created
})
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'curfew-engine-'))
  shared.created = []
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

const GOOD = `{ kind: 'mine', revocation: 'backend', local: false, check() {}, prepare() {}, mint() {}, destroy() {}, probe() {}, close() { globalThis.created.push('closed') } }`
const moduleOf = (engine = GOOD, kind = 'mine') =>
  `export default globalThis.defineForTest({ kind: '${kind}', create(settings, context) { globalThis.created.push({ settings, context }); return ${engine} } })`
function file(text: string, mode = 0o644): string {
  const path = join(dir, `engine-${++count}.mjs`)
  writeFileSync(path, text)
  chmodSync(path, mode)
  return path
}
const entry = (module: string, over: Partial<EngineEntry> = {}): EngineEntry => ({
  kind: 'mine',
  module,
  revocation: 'backend',
  settings: {},
  secrets: {},
  ...over,
})
const refused = (at: string, words: string) =>
  expect.objectContaining({ code: 'malformed', facts: expect.objectContaining({ field: `engines.0.${at}` }), message: expect.stringContaining(words) })

describe('a module of an engine', () => {
  it('is loaded with its settings and secrets, and closed at the end', async () => {
    const secrets = { admin: Secret.token('t') }
    const loaded = await loadEngine(entry(file(moduleOf()), { settings: { host: 'h' }, secrets }), 0, deps)
    expect(loaded.engine.kind).toBe('mine')
    expect(shared.created).toEqual([{ settings: { host: 'h' }, context: { clock: deps.clock, log: deps.log, secrets } }])
    await loaded.close()
    expect(shared.created?.at(-1)).toBe('closed')
  })

  it('is not loaded when it is not there, or when it does not load', async () => {
    await expect(loadEngine(entry(join(dir, 'none.mjs')), 0, deps)).rejects.toEqual(refused('module', 'no such file'))
    await expect(loadEngine(entry(file('export default {')), 0, deps)).rejects.toEqual(refused('module', 'cannot be loaded'))
    await expect(loadEngine(entry(file("throw new Error('a secret story')")), 0, deps)).rejects.toEqual(refused('module', 'cannot be loaded'))
    await expect(loadEngine(entry(file("throw new Error('a secret story')")), 0, deps)).rejects.not.toThrow('secret')
  })

  it.each([0o646, 0o664, 0o666])('is not run when others can write it (%o)', async mode => {
    await expect(loadEngine(entry(file(moduleOf(), mode)), 0, deps)).rejects.toEqual(refused('module', 'written by others'))
    expect(shared.created).toEqual([])
  })

  it('is not run when others can write its folder, or what a link leads to', async () => {
    const path = file(moduleOf())
    chmodSync(dir, 0o777)
    await expect(loadEngine(entry(path), 0, deps)).rejects.toEqual(refused('module', 'written by others'))
    chmodSync(dir, 0o755)
    const open = file(moduleOf(), 0o666)
    symlinkSync(open, join(dir, 'link.mjs'))
    await expect(loadEngine(entry(join(dir, 'link.mjs')), 0, deps)).rejects.toEqual(refused('module', 'written by others'))
  })

  const isRoot = process.getuid?.() === 0
  it.skipIf(!isRoot)(`is not run when it belongs to somebody else${isRoot ? '' : ' (skipped: only root can give a file away)'}`, async () => {
    const path = file(moduleOf())
    chownSync(path, 65_534, 65_534)
    await expect(loadEngine(entry(path), 0, deps)).rejects.toEqual(refused('module', 'somebody else'))
  })

  it('is refused when it is none, or another than it is named', async () => {
    await expect(loadEngine(entry(file(`export default { kind: 'mine', create() { return ${GOOD} } }`)), 0, deps)).rejects.toEqual(
      refused('module', 'defineEngine'),
    )
    await expect(loadEngine(entry(file('export const engine = 1')), 0, deps)).rejects.toEqual(refused('module', 'defineEngine'))
    await expect(loadEngine(entry(file(moduleOf(GOOD, 'other'))), 0, deps)).rejects.toEqual(refused('kind', 'another kind'))
    await expect(loadEngine(entry(file(moduleOf(GOOD.replace("'mine'", "'other'")))), 0, deps)).rejects.toEqual(refused('kind', 'calls itself otherwise'))
  })

  it('is refused when it dies otherwise than the configuration says, lives nowhere, or cannot be traced after a crash', async () => {
    await expect(loadEngine(entry(file(moduleOf()), { revocation: 'expiry-only' }), 0, deps)).rejects.toEqual(refused('revocation', 'another class'))
    await expect(loadEngine(entry(file(moduleOf(GOOD.replace('local: false', 'local: true')))), 0, deps)).rejects.toEqual(
      refused('module', 'lives at a target'),
    )
    await expect(loadEngine(entry(file(moduleOf(GOOD.replace('prepare() {}, ', '')))), 0, deps)).rejects.toEqual(refused('module', 'prepares a handle'))
  })

  it('that does not start is refused by its settings, in its own words only when they are for us', async () => {
    await expect(loadEngine(entry(file(moduleOf("(() => { throw new Error('redis://:secret@host') })()"))), 0, deps)).rejects.toEqual(
      refused('settings', 'the engine did not start'),
    )
  })
})
