/** How a responder says what is meant: the rule of docs/http-api.md, "Selectors", word by word. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { moment } from '../../../src/cli/selectors.js'
import { type Desk, desk } from './desk.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
  at.env = { ...at.env, CURFEW_OPERATOR_TOKEN: at.broker.operatorToken }
})
afterEach(() => at.close())

/** What a preview sends: one that makes no difference to what exists. */
async function sent(...flags: string[]): Promise<unknown> {
  const { exit, err } = await at.type('revoke', ...flags, '--preview', '--reason', 'r')
  if (exit !== 0) return err.split('\n')[0]
  return (JSON.parse(at.broker.seen.find(s => s.path === '/v1/plans')?.text as string) as { selector: unknown }).selector
}

const T = '2026-11-24T12:00:00.000Z'

const GOOD: [string, string[], unknown][] = [
  ['a credential', ['--credential', 'crd_1'], { credential: 'crd_1' }],
  ['a task', ['--task', 'tsk_1'], { task: 'tsk_1' }],
  ['an identity with a cut-off', ['--identity', 'a:b', '--issued-before', T], { identity: 'a:b', issued_before: T }],
  ['an issuer', ['--issuer', 'github'], { issuer: 'github' }],
  ['a key', ['--key', 'k7'], { key: 'k7' }],
  ['a capability', ['--capability', 'db/x'], { capability: 'db/x' }],
  ['all until a time, said with an offset', ['--all', '--issued-before', '2026-11-24T14:00:00+02:00'], { all: true, issued_before: T }],
  [
    'attributes',
    ['--repository-id', '1', '--workflow-ref', 'a/b@c', '--workflow-sha', 'ff', '--run-id', '2', '--actor', 'dana', '--owner', '@o'],
    { repository_id: '1', workflow_ref: 'a/b@c', workflow_sha: 'ff', run_id: '2', actor: 'dana', owner: '@o' },
  ],
  ['labels, repeated', ['--label', 'team=data', '--label', 'tier=1'], { label: { team: 'data', tier: '1' } }],
  [
    'attributes with an identity, an issuer and a capability',
    ['--audience', 'https://x', '--engine', 'jwt', '--identity', 'a:b', '--issuer', 'github', '--capability', 'db/x'],
    { identity: 'a:b', issuer: 'github', capability: 'db/x', audience: 'https://x', engine: 'jwt' },
  ],
  [
    'a window',
    ['--workflow-ref', 'r', '--issued-after', '2026-11-24T09:00:00Z', '--issued-before', '2026-11-24T10:00:00Z'],
    { workflow_ref: 'r', issued_after: '2026-11-24T09:00:00.000Z', issued_before: '2026-11-24T10:00:00.000Z' },
  ],
]

const BAD: [string, string[], RegExp][] = [
  ['nothing', [], /name what is meant: one of --credential/],
  ['two scopes', ['--identity', 'a', '--capability', 'b'], /--identity, --capability: name exactly one/],
  ['a credential and a task', ['--credential', 'a', '--task', 'b'], /--credential, --task: name exactly one/],
  ['a credential with a cut-off', ['--credential', 'a', '--issued-before', T], /--issued-before does not go with --credential/],
  ['a task with a cut-off', ['--task', 'a', '--issued-before', T], /--issued-before does not go with --task/],
  ['a task beside attributes', ['--task', 'a', '--owner', 'b'], /--task cannot stand beside --owner/],
  ['all beside attributes', ['--all', '--label', 'a=b'], /--all cannot stand beside --label/],
  ['a key beside attributes', ['--key', 'a', '--engine', 'jwt', '--identity', 'x'], /--key cannot stand beside --identity, --engine/],
  ['a window that is none', ['--owner', 'a', '--issued-after', T, '--issued-before', '2026-11-24T09:00:00Z'], /--issued-after lies behind --issued-before/],
  ['the same flag twice', ['--identity', 'a', '--identity', 'b'], /--identity <uri>.*given twice/],
  ['the same label twice', ['--label', 'a=b', '--label', 'a=c'], /--label <k=v>.*given twice/],
  ['a flag that swallows the next', ['--owner', '--now'], /--owner <name>.*no value/],
  ['an empty value', ['--owner', ''], /--owner <name>.*no value/],
  ['a label without a value', ['--label', 'a'], /--label <k=v>.*like team=data/],
  ['a date without a time', ['--all', '--issued-before', '2026-11-24'], /--issued-before <time>.*like 2026-11-24T12:00:00Z/],
]

describe('a selector', () => {
  test.each(GOOD)('%s', async (_name, flags, wanted) => {
    expect(await sent(...flags)).toEqual(wanted)
  })
  test.each(BAD)('%s is exit 2, names the flag, and asks nothing', async (_name, flags, wanted) => {
    const { exit, err } = await at.type('revoke', ...flags, '--preview', '--reason', 'r')
    expect({ exit, asked: at.broker.seen }).toEqual({ exit: 2, asked: [] })
    expect(err).toMatch(wanted)
  })
})

describe('a time', () => {
  test.each(['2026-11-24T12:00:00Z', '2026-11-24t12:00:00.123456z', '2028-02-29T00:00:00-07:30'])('%s is one', text => {
    expect(moment(text)).toHaveProperty('at')
  })
  test.each([
    ['90s', 90],
    ['10m', 600],
    ['2h', 7_200],
    ['1d12h', 129_600],
    ['0s', 0],
  ])('%s is so long ago', (text, agoSeconds) => {
    expect(moment(text)).toEqual({ agoSeconds })
  })
  test.each([
    '',
    '10',
    'm',
    '-10m',
    '10m ago',
    'now',
    '2026-11-24',
    '2026-11-24 12:00:00Z',
    '2026-11-24T12:00:00',
    '2026-02-30T00:00:00Z',
    '2026-13-01T00:00:00Z',
    '2026-11-24T24:00:00Z',
  ])('"%s" is none', text => {
    expect(() => moment(text)).toThrow('Say it like 2026-11-24T12:00:00Z')
  })

  const metadata = (headers: Record<string, string>) =>
    at.broker.faults.push({ when: s => s.path.startsWith('/.well-known'), times: 1, status: 200, body: { issuer: at.broker.issuer }, headers })

  test('"ago" is counted by the clock of the broker, whatever this machine thinks', async () => {
    metadata({ Date: 'Tue, 24 Nov 2026 12:10:00 GMT' })
    expect(await sent('--all', '--issued-before', '10m')).toEqual({ all: true, issued_before: T })
    expect(at.broker.seen[0]?.headers['cache-control']).toBe('no-cache')
  })
  test.each([
    ['says no time', { Date: 'soon' }],
    ['is a cache', { Date: 'Tue, 24 Nov 2026 12:10:00 GMT', Age: '86400' }],
  ])('"ago" is refused when what answers %s', async (_name, headers) => {
    metadata(headers as unknown as Record<string, string>)
    const { exit, err } = await at.type('revoke', '--all', '--issued-before', '10m', '--preview', '--reason', 'r')
    expect(exit).toBe(2)
    expect(err).toContain('say --issued-before and --issued-after as RFC 3339')
    expect(at.broker.seen).toHaveLength(1)
  })
  test('RFC 3339 needs no clock of anybody', async () => {
    await sent('--all', '--issued-before', T)
    expect(at.broker.seen.map(s => s.path)).toEqual(['/v1/plans'])
  })
})
