/** Owns paths under another's control (H29): what a hostile broker, and whoever may write where the command line writes, can make it leave outside of its own folders or over something of the user's. */
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { deliver } from '../../src/cli/deliver.js'
import type { Held, Issued } from '../../src/cli/holder.js'
import { newProofKey } from '../../src/cli/proof.js'
import { writeSecret } from '../../src/cli/secret-file.js'
import { type KeptTask, stateIn, writePrivate } from '../../src/cli/state.js'
import { writePrivate as writeOfDev } from '../../src/dev/folder.js'
import { type Desk, desk } from '../unit/cli/desk.js'

const TASK = `tsk_${'0'.repeat(26)}`
const CREDENTIAL = `crd_${'0'.repeat(26)}`
/** Each would be another file, if it became part of a path. */
const HOSTILE_IDS = [
  '../../../outside',
  '/tmp/curfew-outside',
  `${TASK}/../../../outside`,
  `../${TASK}`,
  `${TASK}\u0000`,
  `${TASK}\n`,
  `${TASK}.json`,
  TASK.toUpperCase(),
  '.',
  '..',
  '',
  'tsk_',
  '__proto__',
  '-rf',
  '\u2025/outside',
  `tsk_${'0'.repeat(4_000)}`,
]

let at: Desk
let victim: string
const KEPT = 'what the user would miss'
beforeEach(async () => {
  at = await desk()
  at.env = { ...at.env, CURFEW_OPERATOR_TOKEN: at.broker.operatorToken }
  victim = join(at.home, 'victim')
  writeFileSync(victim, KEPT)
})
afterEach(() => at.close())

/** Every file below the user's home, by its path there. */
function files(dir = at.home): string[] {
  return readdirSync(dir, { withFileTypes: true })
    .flatMap(e => (e.isDirectory() ? files(join(dir, e.name)) : [relative(at.home, join(dir, e.name))]))
    .sort()
}
const stateFolder = () => join(at.home, '.local', 'state', 'curfew')
const isOurs = (path: string) => path.startsWith(relative(at.home, stateFolder()))
const untouched = () => expect(readFileSync(victim, 'utf8')).toBe(KEPT)

const proofKey = await newProofKey()
const kept = (task: string): KeptTask => ({
  server: at.broker.url,
  task,
  token: 'token',
  key: proofKey.exportPrivate(),
  capabilities: ['demo/orders-ro'],
  deadlineAt: new Date(Date.now() + 60_000).toISOString(),
})

/** As a broker answers that has opened a task and issued a token under it, in one request or in two. */
function answersWith(id: string): void {
  const task = { id, token: 'task-token', state: 'open', deadline_at: new Date(Date.now() + 60_000).toISOString() }
  const credential = { id, capability: 'demo/orders-bearer', expires_at: task.deadline_at, task: id }
  const says = (to: (path: string) => boolean, body: object) =>
    at.broker.faults.push({ when: s => s.method === 'POST' && to(s.path), times: 9, status: 200, body })
  says(path => path === '/oauth2/token', { task, access_token: 'token', token_type: 'Bearer', expires_in: 60, credential: id })
  says(path => path === '/v1/tasks', { task, token: 'task-token' })
  says(path => path.endsWith('/credentials'), { credential, secret: { token: 'token' }, token_type: 'Bearer' })
}
const asked = (...more: string[]) => at.type('token', 'demo/orders-bearer', '--id-token-file', at.evidenceFile, ...more)

describe('H29 ids of a hostile broker', () => {
  it.each(HOSTILE_IDS)('a task that it calls %j leaves no file', async id => {
    const before = files()
    answersWith(id)
    for (const flags of [[], ['--resource', 'https://orders.example/']]) expect((await asked(...flags)).exit).not.toBe(0)
    expect(files()).toEqual(before)
    untouched()
  })

  it('the twin: a task that is called as tasks are is kept in the folder for them, by that name', async () => {
    const before = files()
    answersWith(TASK)
    for (const flags of [[], ['--resource', 'https://orders.example/']]) {
      expect(await asked(...flags)).toMatchObject({ exit: 0, out: 'token\n' })
      expect(files().filter(f => !before.includes(f))).toEqual([relative(at.home, join(stateFolder(), 'tasks', `${TASK}.json`))])
      stateIn(at.env).forget(TASK)
    }
  })

  it.each(HOSTILE_IDS)('neither kept, nor read, nor forgotten by the name %j', id => {
    const state = stateIn(at.env)
    state.keep(kept(TASK), [])
    // What such a name would lead to from the folder of tasks.
    mkdirSync(join(at.home, '.local'), { recursive: true })
    for (const path of [join(at.home, '.local', 'outside.json'), join(stateFolder(), `${TASK}.json`)]) writeFileSync(path, JSON.stringify(kept(id)))
    const before = files()
    expect(() => state.keep(kept(id), [])).toThrow('an id of its own form')
    expect(state.get(id)).toBeNull()
    state.forget(id)
    expect(files()).toEqual(before)
    // The twin.
    expect(state.get(TASK)).toMatchObject({ task: TASK })
    state.forget(TASK)
    expect(files()).toEqual(before.filter(f => !f.endsWith(`tasks/${TASK}.json`)))
  })

  it.each(['https://curfew.example/../../../../outside', '/etc', '../../outside', 'a\u0000b', '\n', 'x'.repeat(4_000)])(
    'keys that it signs for %j are remembered under a digest',
    server => {
      const state = stateIn(at.env)
      state.pin(server, ['thumbprint'])
      expect(files().filter(isOurs)).toEqual([expect.stringMatching(/\/receipt-keys\/[0-9a-f]{32}\.json$/)])
      expect(state.pins(server)).toEqual(['thumbprint'])
    },
  )
})

describe('H29 credentials of a hostile broker', () => {
  const held = { task: { id: TASK }, token: 'token', key: proofKey } as unknown as Held
  const issued = (capability: string, secret: Record<string, string>) =>
    ({ credential: { id: CREDENTIAL, capability }, secret, tokenType: null }) as unknown as Issued
  const handed = (list: readonly Issued[]) => {
    const runtime = join(at.home, 'runtime')
    mkdirSync(runtime, { recursive: true })
    return deliver({ ...at.env, XDG_RUNTIME_DIR: runtime }, held, list, { proofKey: false })
  }

  it.each(['../../outside', '/outside', '..', '.', 'a/b', 'certificate\u0000', 'certificate\n', 'constructor', '__proto__', 'has_own_property', 'to_string'])(
    'a field that is called %j is no file outside of the private folder',
    field => {
      const hand = () => handed([issued('demo/x509', JSON.parse(`{${JSON.stringify(field)}:"content","private_key":"key"}`))])
      if (!/^[a-z_]+$/.test(field)) {
        expect(hand).toThrow('would set')
        expect(files(join(at.home, 'runtime'))).toEqual([])
        return untouched()
      }
      const given = hand()
      const made = files(join(at.home, 'runtime'))
      expect(made.filter(f => !/^runtime\/curfew-run-\w{6}\/demo_x509\/[a-z_]+\.pem$/.test(f))).toEqual([])
      expect(made).toHaveLength(2)
      given.remove()
      expect(files(join(at.home, 'runtime'))).toEqual([])
      untouched()
    },
  )

  it.each(['../../outside', '/outside', 'demo/../../x', 'demo\u0000', 'demo\n/x', '..'])('a capability that comes back as %j neither', capability => {
    const given = handed([issued(capability, { certificate: 'content' })])
    expect(files(join(at.home, 'runtime')).filter(f => !/^runtime\/curfew-run-\w{6}\/[a-z0-9_]+\/certificate\.pem$/.test(f))).toEqual([])
    given.remove()
  })

  it('the twin: a key and its certificate stand beside each other, for their owner alone, until the end', () => {
    const given = handed([issued('ssh/ops', { ssh_key: 'key', ssh_certificate: 'certificate' })])
    const path = given.env.CURFEW_SSH_KEY_FILE as string
    expect([readFileSync(path, 'utf8'), readFileSync(`${path}-cert.pub`, 'utf8')]).toEqual(['key', 'certificate'])
    expect([lstatSync(path).mode & 0o777, lstatSync(dirname(dirname(path))).mode & 0o777]).toEqual([0o600, 0o700])
    given.remove()
    expect(files(join(at.home, 'runtime'))).toEqual([])
  })
})

describe('H29 links that somebody laid', () => {
  const link = (path: string, to = victim) => {
    mkdirSync(dirname(path), { recursive: true })
    symlinkSync(to, path)
  }
  const nowhere = () => join(at.home, 'not-there-yet')

  it.each(['victim', 'not-there-yet'])('a secret is not written through a link to %s, and the twin beside it is', name => {
    link(join(at.home, 'operator.token'), join(at.home, name))
    expect(() => writeSecret(join(at.home, 'operator.token'), 'secret')).toThrow('is there already')
    untouched()
    expect(files()).not.toContain('not-there-yet')
    writeSecret(join(at.home, 'other.token'), 'secret')
    expect([readFileSync(join(at.home, 'other.token'), 'utf8'), lstatSync(join(at.home, 'other.token')).mode & 0o777]).toEqual(['secret\n', 0o600])
  })

  it('at the name that a draft will have: the link is replaced and not followed, and the file is whole', () => {
    for (const to of [victim, nowhere()]) {
      link(join(at.home, `.receipt.json.${process.pid}`), to)
      expect(writePrivate(at.home, 'receipt.json', { is: to })).toBe(true)
      expect(JSON.parse(readFileSync(join(at.home, 'receipt.json'), 'utf8'))).toEqual({ is: to })
    }
    untouched()
    expect(files()).not.toContain('not-there-yet')
    expect(files().filter(f => f.startsWith('.receipt'))).toEqual([])
  })

  it('at the name of a kept task: the link is replaced, and what it led to is as it was', () => {
    const path = join(stateFolder(), 'tasks', `${TASK}.json`)
    link(path)
    const state = stateIn(at.env)
    expect(state.get(TASK)).toBeNull()
    state.keep(kept(TASK), [])
    untouched()
    expect(lstatSync(path).isSymbolicLink()).toBe(false)
    expect(state.get(TASK)).toMatchObject({ task: TASK })
  })

  it('a receipt is kept where the user says, by any way there, and neither through a link nor over a file', async () => {
    const { out } = await at.type('token', 'demo/orders-bearer', '--json', '--id-token-file', at.evidenceFile)
    const { receipt } = JSON.parse((await at.type('revoke', '--task', JSON.parse(out).task, '--reason', 'INC-204', '--json')).out) as { receipt: string }
    const save = (path: string) => at.type('receipt', 'show', receipt, '--save', path)
    for (const to of [victim, nowhere()]) {
      const path = join(at.home, `to-${to === victim ? 'victim' : 'nowhere'}.json`)
      link(path, to)
      expect(await save(path)).toMatchObject({ exit: 2, err: expect.stringContaining('is there already') })
      expect(readlinkSync(path)).toBe(to)
    }
    expect(await save(victim)).toMatchObject({ exit: 2 })
    untouched()
    expect(files()).not.toContain('not-there-yet')
    // The twin: with .. in it, which is the user's own word.
    expect((await save(join(at.home, 'a', '..', 'mine.json'))).exit).toBe(0)
    expect(Object.keys(JSON.parse(readFileSync(join(at.home, 'mine.json'), 'utf8')))).toEqual(['receipt', 'keys'])
    for (const id of HOSTILE_IDS) expect([id, (await at.type('receipt', 'show', '--save', join(at.home, 'other.json'), '--', id)).exit]).toEqual([id, 2])
    expect(files()).not.toContain('other.json')
  })

  it('what `curfew dev` keeps is not written through one, and is its owner’s alone whatever was there before', () => {
    const path = join(at.home, 'dev.json')
    link(path)
    writeOfDev(path, 'secret')
    untouched()
    expect([readFileSync(path, 'utf8'), lstatSync(path).isSymbolicLink(), lstatSync(path).mode & 0o777]).toEqual(['secret', false, 0o600])
    writeFileSync(join(at.home, 'open.json'), 'old', { mode: 0o644 })
    writeOfDev(join(at.home, 'open.json'), 'new')
    expect([readFileSync(join(at.home, 'open.json'), 'utf8'), lstatSync(join(at.home, 'open.json')).mode & 0o777]).toEqual(['new', 0o600])
  })
})
