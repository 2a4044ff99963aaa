/** `quarantine`: set, listed, lifted, shown. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Desk, desk } from './desk.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
  at.env = { ...at.env, CURFEW_OPERATOR_TOKEN: at.broker.operatorToken }
})
afterEach(() => at.close())

const set = (...flags: string[]) => at.type('quarantine', ...flags, '--ttl', '2h', '--message', 'INC-204, ask @security')

test('set without a subcommand, listed, lifted, shown', async () => {
  const made = await set('--identity', 'github:repository_id=456789')
  expect(made.exit).toBe(0)
  const id = /qrn_\w+/.exec(made.out)?.[0] as string
  expect(made.out).toMatch(
    /^ID +STATE +UNTIL +SELECTOR +MESSAGE\nqrn_\w+ {2}in force {2}\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ {2}identity=github:repository_id=456789 {2}INC-204, ask @security\n$/,
  )
  expect(made.err).toBe(`lift it early: curfew quarantine lift ${id} --reason T\n`)
  expect(JSON.parse(at.broker.seen.at(-1)?.text as string)).toEqual({
    selector: { identity: 'github:repository_id=456789' },
    ttl_seconds: 7200,
    message: 'INC-204, ask @security',
  })
  expect((await at.type('quarantine', 'list', '-o', 'name')).out).toBe(`${id}\n`)

  const lifted = await at.type('quarantine', 'lift', id.toUpperCase(), '--reason', 'closed')
  expect(lifted.exit).toBe(0)
  expect(lifted.out).toContain('lifted: closed')
  expect(at.broker.seen.at(-1)).toMatchObject({ method: 'DELETE', text: '{"reason":"closed"}' })
  expect(await at.type('quarantine', 'list')).toEqual({ exit: 0, out: '', err: 'none\n' })
  expect((await at.type('quarantine', 'list', '--all')).out).toContain('lifted: closed')
  expect((await at.type('show', id)).out).toMatch(/lift_reason +closed/)
  expect(JSON.parse((await at.type('show', id, '--json')).out)).toMatchObject({ quarantine: { id, lift_reason: 'closed' } })
})

test('--json is the quarantine, and the list of them', async () => {
  const made = JSON.parse((await set('--repository-id', '1', '--actor', 'dana', '--json')).out)
  expect(made).toMatchObject({ selector: { repository_id: '1', actor: 'dana' }, lifted_at: null })
  expect(JSON.parse((await at.type('quarantine', 'list', '--json')).out)).toEqual([made])
})

test('one whose time is up is lapsed by the clock of the broker', async () => {
  await set('--all')
  at.broker.faults.push({
    when: s => s.path === '/v1/quarantines',
    times: 1,
    status: 200,
    body: { quarantines: [...at.broker.responder.quarantines.values()] },
    headers: { Date: 'Tue, 24 Nov 2099 12:10:00 GMT' },
  })
  expect((await at.type('quarantine', 'list', '--all')).out).toContain('  lapsed  ')
})

test.each<[string, string[], string]>([
  ['nothing named', ['--ttl', '2h', '--message', 'm'], 'name what is meant'],
  ['no time', ['--owner', 'a', '--message', 'm'], '--ttl'],
  ['no message', ['--owner', 'a', '--ttl', '2h'], '--message'],
  ['what a quarantine cannot look at', ['--label', 'a=b', '--ttl', '2h', '--message', 'm'], '--label'],
  ['a time in the past', ['--identity', 'a', '--issued-before', '10m', '--ttl', '2h', '--message', 'm'], '--issued-before'],
  ['another id', ['lift', 'crd_1', '--reason', 'r'], 'no id of a quarantine'],
  ['lifting without a reason', ['lift', `qrn_${'0'.repeat(26)}`], '--reason'],
])('%s is exit 2', async (_name, flags, wanted) => {
  const { exit, err } = await at.type('quarantine', ...flags)
  expect({ exit, asked: at.broker.seen }).toEqual({ exit: 2, asked: [] })
  expect(err).toContain(wanted)
})

test('an unknown one is exit 6, to lift and to show', async () => {
  expect((await at.type('quarantine', 'lift', `qrn_${'0'.repeat(26)}`, '--reason', 'r')).exit).toBe(6)
  expect((await at.type('show', `qrn_${'0'.repeat(26)}`)).exit).toBe(6)
})
