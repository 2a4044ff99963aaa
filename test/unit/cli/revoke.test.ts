/** `revoke`: preview, plan, agreement, act, newcomers, quarantine, and the honest end. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { claims, type Desk, desk, person } from './desk.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
  at.env = { ...at.env, CURFEW_OPERATOR_TOKEN: at.broker.operatorToken }
})
afterEach(() => at.close())

const IDENTITY = 'github:repository_id=456789'
const WIDE = ['--identity', IDENTITY, '--reason', 'INC-204']

async function issued(capability = 'demo/orders-bearer'): Promise<{ task: string; credential: string }> {
  const { out } = await at.type('token', capability, '--json', '--id-token-file', at.evidenceFile)
  return JSON.parse(out) as { task: string; credential: string }
}
const posted = (path: string) => at.broker.seen.filter(s => s.method === 'POST' && s.path === path)
const bodies = (path: string) => posted(path).map(s => JSON.parse(s.text) as Record<string, unknown>)
const alive = () => [...at.broker.credentials.values()].filter(c => c.state === 'active').length
/** Ids and times differ from run to run, and nothing else does. */
const golden = (text: string) => text.replace(/([a-z]{3})_[0-9a-z]{26}/g, '$1_X').replace(/\d\d:\d\d:\d\d(\.\d+)?Z/g, 'TZ')

describe('a plan', () => {
  test('counts by class, names what executes it, and ends nothing', async () => {
    await issued()
    await issued()
    await issued('demo/legacy')
    const { exit, out, err } = await at.type('revoke', ...WIDE, '--preview')
    expect(exit).toBe(0)
    expect(golden(out)).toBe(
      [
        'plan pln_X: 3 credentials, 2 capabilities, 3 tasks running, owner @orders-team',
        '  instant 2   backend 0   expiry-only 1: exposed until TZ (demo/legacy)',
        '  engines jwt 3',
        '  nothing is ended yet; good until TZ',
        '',
      ].join('\n'),
    )
    expect(golden(err)).toBe('execute it: curfew revoke pln_X\n')
    expect(bodies('/v1/plans')).toEqual([{ selector: { identity: IDENTITY }, reason: 'INC-204' }])
    expect(alive()).toBe(3)
    expect(posted('/v1/revocations')).toEqual([])
  })

  test('is shown by its id, and by --json and -o name', async () => {
    await issued()
    const id = (await at.type('revoke', ...WIDE, '--preview', '-o', 'name', '-q')).out.trim()
    expect(golden((await at.type('show', id)).out)).toContain('plan pln_X: 1 credential, 1 capability, 1 task running')
    expect(JSON.parse((await at.type('show', id, '--json')).out)).toMatchObject({ plan: { id, reach: { credentials: 1 } } })
    const again = JSON.parse((await at.type('revoke', ...WIDE, '--preview', '--json')).out)
    expect(again).toMatchObject({ reason: 'INC-204', revocation: null, reach: { credentials: 1, instant: 1, exposed: [] } })
  })

  test('is executed by its id; what came after it is told and ended too', async () => {
    await issued()
    const id = (await at.type('revoke', ...WIDE, '--preview', '-o', 'name', '-q')).out.trim()
    const { credential } = await issued()
    at.broker.responder.guards = { applied: 12, of: 12 }
    const { exit, out, err } = await at.type('revoke', id.toUpperCase(), '--quarantine', '2h')
    expect(exit).toBe(0)
    expect(golden(out)).toBe('confirmed dead 2/2, guards 12/12 at seq 88121\n')
    expect(golden(err)).toBe(
      [
        'refused since TZ, rev_X',
        'newcomers, which the plan had not seen: crd_X',
        `quarantine qrn_X: nothing new for identity=${IDENTITY}`,
        'receipt rcp_X: curfew receipt show rcp_X',
        '',
      ].join('\n'),
    )
    expect(err).toContain(credential)
    expect(bodies('/v1/revocations')).toEqual([{ plan: id, quarantine: { ttl_seconds: 7200 } }])
    expect(alive()).toBe(0)
  })

  test('that has lapsed is exit 11, an unknown one 6', async () => {
    const id = (await at.type('revoke', ...WIDE, '--preview', '-o', 'name', '-q')).out.trim()
    Object.assign(at.broker.responder.plans.get(id) ?? {}, { valid_until: '2026-01-01T00:00:00.000Z' })
    expect((await at.type('revoke', id)).exit).toBe(11)
    expect((await at.type('revoke', `pln_${'0'.repeat(26)}`)).exit).toBe(6)
  })
})

describe('what is wide', () => {
  test('is asked about at a terminal, and done by the plan that was shown', async () => {
    await issued()
    const { exit, out, err } = await at.typeWith(person(' yes '), 'revoke', ...WIDE)
    expect(exit).toBe(0)
    expect(out).toBe('confirmed dead 1/1\n')
    expect(err).toContain('type yes to end 1 credential and 1 task: ')
    const [plan] = [...at.broker.responder.plans.keys()]
    expect(bodies('/v1/revocations')).toEqual([{ plan, reason: 'INC-204' }])
  })

  test.each(['y', 'no', '', null])('is left alone after the answer %j: exit 5, with the way to do it still', async answer => {
    await issued()
    const { exit, out, err } = await at.typeWith(person(answer), 'revoke', ...WIDE)
    expect({ exit, out }).toEqual({ exit: 5, out: '' })
    expect(golden(err)).toMatch(/error\[not_agreed\] nothing was ended\n {2}try +curfew revoke pln_X, until TZ/)
    expect(posted('/v1/revocations')).toEqual([])
  })

  test.each([
    ['without a terminal', {}, []],
    ['with --no-input', person('yes'), ['--no-input']],
    ['when nobody watches stderr', { ...person('yes'), watched: false }, []],
  ])('is exit 2 %s, and says what to type', async (_name, io, more) => {
    const { exit, err } = await at.typeWith(io, 'revoke', ...WIDE, ...more)
    expect({ exit, asked: at.broker.seen }).toEqual({ exit: 2, asked: [] })
    expect(err).toContain('say --preview or --now')
  })

  test('is done at once with --now, without a plan', async () => {
    await issued()
    const { exit } = await at.type('revoke', '--all', '--now', '--reason', 'r')
    expect(exit).toBe(0)
    expect(posted('/v1/plans')).toEqual([])
    expect(bodies('/v1/revocations')).toEqual([{ selector: { all: true }, reason: 'r' }])
  })
})

describe('the act', () => {
  test('is one act, however often it must be sent: the same key, the same revocation', async () => {
    const { credential } = await issued()
    at.broker.faults.push({ when: s => s.path === '/v1/revocations', times: 1, drop: 'after' })
    const { exit, out } = await at.type('revoke', '--credential', credential, '--reason', 'r')
    expect({ exit, out }).toEqual({ exit: 0, out: 'confirmed dead 1/1\n' })
    const keys = posted('/v1/revocations').map(s => s.headers['idempotency-key'])
    expect(keys).toHaveLength(2)
    expect(new Set(keys).size).toBe(1)
    await at.type('revoke', '--credential', credential, '--reason', 'r', '--idempotency-key', 'INC-204/1')
    expect(posted('/v1/revocations').at(-1)?.headers['idempotency-key']).toBe('INC-204/1')
  })

  test('tells itself to programs with every number', async () => {
    await issued('demo/legacy')
    at.broker.responder.guards = { applied: 2, of: 2 }
    const { exit, out } = await at.type('revoke', ...WIDE, '--now', '--quarantine', '2h', '--json')
    expect(exit).toBe(10)
    const told = JSON.parse(out) as Record<string, unknown>
    expect(Object.keys(told).sort()).toEqual([
      'confirmed_dead',
      'exposed',
      'exposed_until',
      'final',
      'guards',
      'newcomers',
      'not_confirmed',
      'quarantine',
      'receipt',
      'revocation',
      'revoking',
      'stuck',
    ])
    expect(told).toMatchObject({ final: false, confirmed_dead: 0, exposed: [{ capability: 'demo/legacy' }], guards: { applied: 2, of: 2, seq: 88121 } })
    expect(told.quarantine).toBe([...at.broker.responder.quarantines.keys()][0])
  })

  test('progress goes to whoever watches, a line a second, and to others only with -v', async () => {
    at.broker.deadAfterMs = null
    const { credential } = await issued()
    const act = ['revoke', '--credential', credential, '--reason', 'r', '--wait', '2s']
    const watched = await at.typeWith({ watched: true }, ...act)
    expect(watched.exit).toBe(10)
    expect(watched.err.match(/^\d s: confirmed dead 0\/1$/gm)).toHaveLength(1)
    expect(watched.err).toMatch(/receipt rcp_\w+, not final yet/)
    expect((await at.typeWith({ watched: true }, ...act, '-q')).err).toBe('')
  })

  test('with -v where nobody watches, and without it not', async () => {
    at.broker.deadAfterMs = 1_400
    const [one, two] = [await issued(), await issued()]
    const flags = (c: string) => ['revoke', '--credential', c, '--reason', 'r']
    const [loud, still] = await Promise.all([at.type(...flags(one.credential), '-v'), at.type(...flags(two.credential))])
    expect(loud.err).toMatch(/^1 s: confirmed dead 0\/1$/m)
    expect(still.err).not.toMatch(/ s: /)
    expect([loud.exit, still.exit]).toEqual([0, 0])
  })

  test('waits for the guards too, and says who has not heard', async () => {
    const { credential } = await issued()
    at.broker.responder.guards = { applied: 11, of: 12 }
    setTimeout(() => {
      at.broker.responder.guards = { applied: 12, of: 12 }
    }, 300)
    expect((await at.type('revoke', '--credential', credential, '--reason', 'r')).out).toBe('confirmed dead 1/1, guards 12/12 at seq 88121\n')
  })

  test('done, and what became of it cannot be read: said so, exit 10', async () => {
    const { credential } = await issued()
    at.broker.faults.push({ when: s => s.path.startsWith('/v1/receipts/'), times: 9, status: 403, body: { code: 'forbidden', detail: 'not yours' } })
    const { exit, err } = await at.type('revoke', '--credential', credential, '--reason', 'r')
    expect(exit).toBe(10)
    expect(golden(err)).toContain('refused, and what became of it cannot be read: not yours; later: curfew receipt show rev_X')
  })

  test('a receipt that lacks a number is no good news', async () => {
    const { credential } = await issued()
    const { guards: _, ...lacking } = claims({}, { final: true })
    at.broker.faults.push({ when: s => s.path.startsWith('/v1/receipts/'), times: 9, status: 200, body: { claims: lacking } })
    const { exit, err } = await at.type('revoke', '--credential', credential, '--reason', 'r')
    expect(exit).toBe(10)
    expect(err).toContain('not a receipt as Curfew writes it')
  })

  test('many that are exposed are a number with its end', async () => {
    const { credential } = await issued('demo/legacy')
    const exposed = ['1', '2', '3', '4'].map(n => ({ credential: `crd_${n}`, capability: 'npm/publish', until: `2026-11-24T10:3${n}:00.000Z` }))
    const told = claims({ selected: 5, revoked: 1, revoking: 4 }, { exposed, exposed_until: '2026-11-24T10:34:00.000Z' })
    at.broker.faults.push({ when: s => s.path.startsWith('/v1/receipts/'), times: 9, status: 200, body: { claims: told } })
    const { exit, out } = await at.type('revoke', '--credential', credential, '--reason', 'r')
    expect({ exit, out }).toEqual({ exit: 10, out: 'confirmed dead 1/5, 4 exposed until 10:34:00Z\n' })
  })
})

describe('usage', () => {
  const PLAN = `pln_${'0'.repeat(26)}`
  test.each<[string, string[], string]>([
    ['no reason', ['--task', 'tsk_1'], 'say why: --reason T'],
    ['preview and now', [...WIDE, '--preview', '--now'], '--preview or --now, not both'],
    ['a quarantine of a preview', [...WIDE, '--preview', '--quarantine', '2h'], '--quarantine belongs to the act'],
    ['a quarantine of labels', ['--label', 'a=b', '--now', '--quarantine', '2h', '--reason', 'r'], 'a quarantine cannot look at --label'],
    ['a quarantine of the past', ['--all', '--issued-before', '10m', '--now', '--quarantine', '2h', '--reason', 'r'], 'cannot look at --issued-before'],
    ['a plan and a selector', [PLAN, '--task', 'tsk_1'], 'a plan has its selector'],
    ['a preview of a plan', [PLAN, '--preview'], 'curfew show'],
    ['another kind of id', ['crd_1'], 'this is no id of a plan'],
    ['a short key', ['--task', 'tsk_1', '--reason', 'r', '--idempotency-key', 'short'], '--idempotency-key has 8 to 128'],
    ['no number', ['--task', 'tsk_1', '--reason', 'r', '--wait', 'long'], "'--wait <time>'"],
  ])('%s is exit 2, and asks nothing', async (_name, flags, wanted) => {
    const { exit, err } = await at.type('revoke', ...flags)
    expect({ exit, asked: at.broker.seen }).toEqual({ exit: 2, asked: [] })
    expect(err).toContain(wanted)
  })

  test('what a broker says is harmless on a terminal', async () => {
    const { credential } = await issued()
    at.broker.deadAfterMs = null
    setTimeout(() => Object.assign(at.broker.credentials.get(credential) ?? {}, { state: 'stuck', failure: 'no\u001b[2Jway' }), 50)
    const { exit, out } = await at.type('revoke', '--credential', credential, '--reason', 'r')
    expect(exit).toBe(10)
    expect(out).toContain('stuck: no?[2Jway')
  })
})
